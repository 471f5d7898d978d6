"""What a root index may say; Malformed where it says anything else."""

from __future__ import annotations

from tvcodec.file.container import INDEX_MAX, aligned
from tvcodec.file.index.fields import (
    DIMENSION_MAX,
    U32,
    Malformed,
    array,
    digest,
    dimensions,
    increasing,
    integer,
    items,
    mapping,
    metadata,
    one_of,
    parameter_name,
    size,
    task_name,
)
from tvcodec.file.index.records import DTYPES, OPTIONAL, BaseParameter, Group, Root, TaskRecord


def read(value: object) -> Root:
    """The root index that msgpack's `value` stands for."""
    keys = mapping(value, Root.__slots__, OPTIONAL)
    tasks = items(keys["tasks"], ".tasks", _task)
    increasing([task.name for task in tasks], ".tasks")
    _check_folded([task.name for task in tasks])
    base_model = items(keys["base_model"], ".base_model", _base_parameter)
    increasing([parameter.name for parameter in base_model], ".base_model")
    shared, companions = keys["shared"], None
    if "companions" in keys:
        companions = _beside(keys["companions"], ".companions")
    gram_length, triangle = keys["gram_length"], len(tasks) * (len(tasks) + 1) // 2 * 4
    if type(gram_length) is not int or gram_length not in (0, triangle):
        raise Malformed(f"expected 0 or {triangle}, got {gram_length!r:.40}", ".gram_length")
    gram_sha256 = digest(keys["gram_sha256"], ".gram_sha256")
    if not gram_length and any(gram_sha256):
        raise Malformed("expected zeros where nothing is told of, got others", ".gram_sha256")
    return Root(
        base_model=base_model,
        companions=companions,
        gram_length=gram_length,
        gram_sha256=gram_sha256,
        metadata=metadata(keys["metadata"]),
        shared=None if shared is None else _beside(shared, ".shared"),
        tasks=tasks,
    )


def _base_parameter(value: object) -> BaseParameter:
    name, dtype, dims, sha256, crc32 = array(value, 5)
    return BaseParameter(
        parameter_name(name),
        one_of(DTYPES, dtype, ".dtype"),
        dimensions(dims),
        digest(sha256, ".sha256"),
        integer(crc32, ".crc32", U32),
    )


def _beside(value: object, path: str) -> Group:
    """A group that is no task's."""
    try:
        return Group(*_group(array(value, 3)))
    except Malformed as problem:
        raise problem.under(path) from None


def _task(value: object) -> TaskRecord:
    name, sections_length, index_length, index_sha256, norm, error = array(value, 6)
    return TaskRecord(
        task_name(name),
        *_group([sections_length, index_length, index_sha256]),
        size(norm, ".norm"),
        size(error, ".error"),
    )


def _group(value: list[object]) -> tuple[int, int, bytes]:
    sections_length = integer(value[0], ".sections_length", DIMENSION_MAX)
    if sections_length != aligned(sections_length):
        raise Malformed(f"expected a multiple of 8, got {sections_length}", ".sections_length")
    index_length = integer(value[1], ".index_length", INDEX_MAX, least=1)
    return sections_length, index_length, digest(value[2], ".index_sha256")


def _check_folded(names: list[str]) -> None:
    """Malformed if two names would be one file where upper and lower case are the same."""
    seen: dict[str, str] = {}
    for number, name in enumerate(names):
        if (other := seen.setdefault(name.casefold(), name)) != name:
            message = f"expected a name other than {other!r}, got {name!r}"
            raise Malformed(message, f".tasks[{number}].name")
