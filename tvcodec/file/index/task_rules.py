"""What a task's index, or the shared one, may say; Malformed where it says anything else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from tvcodec.file.index.companions import read_files, read_weights
from tvcodec.file.index.fields import (
    COUNT_MAX,
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
    real,
    size,
)
from tvcodec.file.index.parts import Coefficients, Exact, Part, read_part
from tvcodec.file.index.records import (
    DTYPES,
    OPTIONAL,
    BaseParameter,
    Entry,
    Kept,
    Rows,
    Small,
    SmallMember,
    TaskIndex,
    kept,
    whole,
)
from tvcodec.file.index.streams import ELEMENTS, SYMBOLS, Stream, read_mask, read_stream

PARTS_MAX = 16
VECTORS_MAX = 512  # that tasks share of one parameter


@dataclass(slots=True)
class Context:
    """What an index is checked against: the base model and each parameter's number of basis
    vectors; `dtypes` are those that differ from the base model's, once they are known."""

    base_model: tuple[BaseParameter, ...]
    vectors: Mapping[int, int]
    shared: bool
    dtypes: dict[int, str] = field(default_factory=dict)

    def number(self, value: object, path: str = ".parameter") -> int:
        """A parameter number."""
        return integer(value, path, len(self.base_model) - 1)

    def dtype(self, parameter: int) -> str:
        """The fine-tune's dtype of a parameter."""
        return self.dtypes.get(parameter) or self.base_model[parameter].dtype

    def floating(self, value: object) -> int:
        """The number of a parameter that can have a task vector: floats, at least one of them."""
        parameter = self.number(value)
        base = self.base_model[parameter]  # another dtype of the task is one of floats if this is
        if "float" not in base.dtype:
            raise Malformed(f"expected a parameter of floats, got {base.dtype}", ".parameter")
        if not whole(base.dims).count:
            raise Malformed("expected a parameter with values, got an empty one", ".parameter")
        return parameter


def read(value: object, context: Context) -> TaskIndex:
    """The index that msgpack's `value` stands for."""
    keys = mapping(value, TaskIndex.__slots__, OPTIONAL)
    dtypes = items(keys["dtypes"], ".dtypes", partial(_dtype, context))
    increasing([parameter for parameter, _ in dtypes], ".dtypes")
    context.dtypes = dict(dtypes)
    small, files = keys["small"], None
    if "files" in keys:
        files = read_files(keys["files"])
    weights = read_weights(keys["weights"], files or ()) if "weights" in keys else None
    index = TaskIndex(
        added=items(keys["added"], ".added", _added),
        aliases=items(keys["aliases"], ".aliases", partial(_alias, context)),
        digest=digest(keys["digest"], ".digest"),
        dtypes=dtypes,
        entries=items(keys["entries"], ".entries", partial(_entry, context)),
        files=files,
        metadata=metadata(keys["metadata"]),
        missing=items(keys["missing"], ".missing", partial(context.number, path="")),
        replaced=items(keys["replaced"], ".replaced", partial(_replaced, context)),
        rows=items(keys["rows"], ".rows", partial(_rows, context)),
        small=None if small is None else _small(context, small),
        weights=weights,
    )
    _check_order(index, context)
    if context.shared:
        _check_shared(index)
    else:
        _check_mentions(index, context)
    return index


def _check_order(index: TaskIndex, context: Context) -> None:
    numbers = [entry.parameter for entry in index.entries]
    increasing(numbers, ".entries", strictly=not context.shared)
    increasing([parameter for parameter, _ in index.aliases], ".aliases")
    increasing(index.missing, ".missing")
    increasing([item.parameter for item in index.replaced], ".replaced")
    increasing([rows.parameter for rows in index.rows], ".rows")
    increasing([item.parameter for item in index.added], ".added")


def _check_shared(index: TaskIndex) -> None:
    """A basis is made of entries; whatever else belongs to one task."""
    for name in TaskIndex.__slots__:
        found = getattr(index, name)
        empty = found is None or (found == () and name != "files")
        if not empty and name not in ("digest", "entries", "metadata"):
            raise Malformed("expected nothing in the shared index, got something", f".{name}")
    for parameter, count in index.vectors().items():
        if count > VECTORS_MAX:
            message = f"expected at most {VECTORS_MAX} of parameter {parameter}, got {count}"
            raise Malformed(message, ".entries")


def _check_mentions(index: TaskIndex, context: Context) -> None:
    """Every parameter is told one thing; only extra rows and a dtype may come on top."""
    aliases = {parameter for parameter, _ in index.aliases}
    gone = {item.parameter for item in index.replaced} | set(index.missing)
    changed = [entry.parameter for entry in index.entries]
    changed += [member.parameter for member in index.small.members] if index.small else []
    mentions = [*aliases, *index.missing, *(item.parameter for item in index.replaced), *changed]
    if len(set(mentions)) != len(mentions):
        [(twice, _)] = Counter(mentions).most_common(1)
        raise Malformed(f"expected every parameter once, got {twice} twice")
    _refuse(".aliases", (of for _, of in index.aliases), aliases | gone)
    _refuse(".aliases", aliases, context.dtypes)
    _refuse(".rows", (rows.parameter for rows in index.rows), aliases | gone)
    _refuse(".dtypes", context.dtypes, gone)
    if index.added:
        known = {parameter.name for parameter in context.base_model}
        _refuse(".added", (item.parameter for item in index.added), known)


def _refuse(path: str, values: Iterable[object], others: Iterable[object]) -> None:
    for number, value in enumerate(values):
        if value in others:
            message = f"expected a parameter that nothing else speaks of, got {value!r}"
            raise Malformed(message, f"{path}[{number}]")


def _entry(context: Context, value: object) -> Entry:
    raw_parameter, norm, error, gain, raw_mask, raw_parts, raw_length, crc = array(value, 8)
    parameter = context.floating(raw_parameter)
    dims = context.base_model[parameter].dims
    mask = read_mask(raw_mask, whole(dims))
    extent = kept(dims, mask)
    vectors = context.vectors.get(parameter, 0)
    width = DTYPES[context.dtype(parameter)]
    parts = items(raw_parts, ".parts", lambda part: read_part(part, extent, vectors, width))
    _check_parts(parts, masked=mask is not None, shared=context.shared)
    length = mask.bits.length if mask else 0
    for part in parts:
        for stream in part.streams():
            length += stream.length
    if type(raw_length) is not int or raw_length != length:
        message = f"expected the sum of the streams, {length}, got {raw_length!r:.40}"
        raise Malformed(message, ".length")
    return Entry(
        parameter,
        size(norm, ".norm"),
        size(error, ".error"),
        real(gain, ".gain"),
        mask,
        parts,
        length,
        integer(crc, ".crc", U32),
    )


def _check_parts(parts: tuple[Part, ...], masked: bool, shared: bool) -> None:
    if not 1 <= len(parts) <= PARTS_MAX:
        raise Malformed(f"expected 1..{PARTS_MAX} parts, got {len(parts)}", ".parts")
    kinds = [part.kind for part in parts]
    if Exact.kind in kinds and shared:
        raise Malformed("expected what tasks can share, got exact differences", ".parts")
    if Exact.kind in kinds and (masked or len(parts) > 1):
        raise Malformed("expected exact differences alone, got a mask or other parts", ".parts")
    if kinds.count(Coefficients.kind) > 1:
        raise Malformed("expected coefficients once, got them again", ".parts")


def _small(context: Context, value: object) -> Small:
    try:
        raw_length, raw_crc, raw_symbols, raw_members = array(value, 4)
        members = items(raw_members, ".members", partial(_member, context))
        if not members:
            raise Malformed("expected at least one parameter, got none", ".members")
        increasing([member.parameter for member in members], ".members")
        count = sum(context.base_model[member.parameter].count for member in members)
        symbols = read_stream(raw_symbols, ".symbols", (SYMBOLS,), count)
        length, crc = _section(raw_length, raw_crc, symbols)
    except Malformed as problem:
        raise problem.under(".small") from None
    return Small(length, crc, symbols, members)


def _member(context: Context, value: object) -> SmallMember:
    parameter, norm, error, gain, scale = array(value, 5)
    return SmallMember(
        context.floating(parameter),
        size(norm, ".norm"),
        size(error, ".error"),
        real(gain, ".gain"),
        real(scale, ".scale"),
    )


def _added(value: object) -> Kept:
    name, *rest = array(value, 6)
    return _kept(parameter_name(name), rest)


def _replaced(context: Context, value: object) -> Kept:
    parameter, *rest = array(value, 6)
    return _kept(context.number(parameter), rest)


def _kept(parameter: int | str, rest: list[object]) -> Kept:
    raw_dtype, raw_dims, raw_length, raw_crc, raw_values = rest
    dtype = one_of(DTYPES, raw_dtype, ".dtype")
    dims = dimensions(raw_dims)
    values = _elements(raw_values, dtype, whole(dims).count)
    length, crc = _section(raw_length, raw_crc, values)
    return Kept(parameter, dtype, dims, length, crc, values)


def _rows(context: Context, value: object) -> Rows:
    raw_parameter, raw_count, raw_length, raw_crc, raw_values = array(value, 5)
    parameter = context.number(raw_parameter)
    dims = context.base_model[parameter].dims
    if not dims:
        raise Malformed("expected a parameter with rows, got a single value", ".parameter")
    most = COUNT_MAX // math.prod(dim or 1 for dim in dims[1:]) - dims[0]
    count = integer(raw_count, ".count", most, least=1)
    values = _elements(raw_values, context.dtype(parameter), count * whole(dims).columns)
    length, crc = _section(raw_length, raw_crc, values)
    return Rows(parameter, count, length, crc, values)


def _section(length: object, crc: object, stream: Stream) -> tuple[int, int]:
    """Length and CRC-32 of a section that holds just this stream."""
    if type(length) is not int or length != stream.length:
        raise Malformed(
            f"expected that of its stream, {stream.length}, got {length!r:.40}", ".length"
        )
    return length, integer(crc, ".crc", U32)


def _elements(value: object, dtype: str, count: int) -> Stream:
    """The stream of `count` values of `dtype`."""
    stream = read_stream(value, ".values", (ELEMENTS,), count)
    if stream.size != DTYPES[dtype]:
        raise Malformed(f"expected {DTYPES[dtype]}, got {stream.size}", ".values.size")
    return stream


def _alias(context: Context, value: object) -> tuple[int, int]:
    raw_parameter, raw_of = array(value, 2)
    parameter = context.number(raw_parameter)
    of = integer(raw_of, ".of", parameter - 1)
    tied, other = context.base_model[parameter], context.base_model[of]
    if (tied.dtype, tied.dims) != (other.dtype, other.dims):
        got = f"{other.dtype} {list(other.dims)}"
        raise Malformed(f"expected a {tied.dtype} {list(tied.dims)}, got a {got}", ".of")
    return parameter, of


def _dtype(context: Context, value: object) -> tuple[int, str]:
    raw_parameter, raw_dtype = array(value, 2)
    parameter = context.number(raw_parameter)
    dtype, before = one_of(DTYPES, raw_dtype, ".dtype"), context.base_model[parameter].dtype
    if "float" not in dtype or "float" not in before or dtype == before:
        message = f"expected a dtype of floats, other than the base model's, got {dtype}"
        raise Malformed(message, ".dtype")
    return parameter, dtype
