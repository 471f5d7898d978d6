"""tvcodec info"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import click

from tvcodec.cli import completion, options, printing
from tvcodec.file.archive import Archive
from tvcodec.tuning import curve

INDEX_BYTES = 200_000  # of task indexes read without being asked: about 0.1 s
MATRIX_TASKS = 8  # up to which similarities are shown as a matrix 80 columns wide
PAIRS = 10
RECIPE_ROOM = 80 - 38  # columns, the other columns taken off
LEAST_ROOM = 20  # beside long names


@click.command()
@options.bank_argument
@click.option("--parameters", is_flag=True, help="The table of parameters instead, task by task.")
@click.option(
    "--task",
    metavar="TASK",
    shell_complete=completion.tasks,
    help="With --parameters: of this task only.",
)
@click.option(
    "--diagnostics",
    is_flag=True,
    help="Rank, energy, errors and compression of each parameter instead, as JSON in the keys of"
    " SVD-Hybrid's diagnostics.json.",
)
@click.option(
    "--kinds",
    is_flag=True,
    help="Bytes by kind and recipes even in a file of so many tasks that it takes a while.",
)
@options.expect_root
@options.as_json
def info(
    bank: str,
    parameters: bool,
    task: str | None,
    diagnostics: bool,
    kinds: bool,
    expect_root: str | None,
    as_json: bool,
) -> None:
    """Show tasks, sizes, errors and similarities; no model is needed, nothing is decoded.

    Bits per parameter count all bytes of a task and its share of what is common to all. Errors are
    relative to the norm of the task vector. An error above 100 % is not a fault: rotated coding
    trades it for noise that a network averages out; see gain (1 is best) and noise of each
    parameter with --parameters.

    \b
      tvcodec info bank.tvq
      tvcodec info bank.tvq --parameters --task cars
    """
    if task is not None and not parameters:
        raise click.UsageError("--task goes with --parameters")
    if diagnostics and parameters:
        raise click.UsageError("--parameters and --diagnostics exclude each other: give one")
    opened = closing(Archive(bank, expected_root=expect_root))
    archive = click.get_current_context().with_resource(opened)
    chosen = (task,) if task is not None else archive.tasks
    if diagnostics:
        from tvcodec.cli.diagnostics import diagnostics as diagnosed

        printing.print_json(diagnosed(archive), indent=2)
    elif as_json:
        value = _describe(archive, kinds)
        if parameters:
            from tvcodec.cli.parameters import parameter_rows

            value["parameters"] = [row for name in chosen for row in parameter_rows(archive, name)]
        printing.print_json(value)
    elif parameters:
        from tvcodec.cli.parameters import parameters_text

        for name in chosen:
            click.echo(parameters_text(archive, name))
    else:
        click.echo(_text(_describe(archive, kinds)))


def _describe(archive: Archive, kinds: bool) -> dict[str, Any]:
    """What `--json` prints; without `kinds`, a file of many tasks is not read to the end."""
    root = archive.root
    values = sum(parameter.count for parameter in root.base_model)
    read_tasks = kinds or sum(task.index_length for task in root.tasks) <= INDEX_BYTES
    if read_tasks:
        archive.prefetch_indexes()
    shared = archive.container.size - sum(task.group.length for task in root.tasks)
    tasks = []
    for task in root.tasks:
        whole = task.group.length + shared / len(root.tasks)
        tasks.append(
            {
                "task": task.name,
                "bytes": task.group.length,
                "bits_per_parameter": 8 * whole / values if values else 0.0,
                "error": task.error,
                "norm": task.norm,
                "recipe": archive.index(task.name).metadata.get("recipe") if read_tasks else None,
            }
        )
        metadata = archive.index(task.name).metadata if read_tasks else {}
        if found := curve.from_metadata(metadata):
            tasks[-1]["tuning"] = dataclasses.asdict(found)
    return {
        "path": archive.path,
        "bytes": archive.container.size,
        "root": archive.container.root_digest.hex(),
        "base_model": {
            "sha256": archive.base_model_digest.hex(),
            "parameters": len(root.base_model),
            "values": values,
        },
        "tasks": tasks,
        "bytes_by_kind": dict(archive.bytes_by_kind(read_tasks)),
        "similarity": [[round(cosine, 6) for cosine in row] for row in archive.similarity()],
        "similarity_deviation": archive.similarity_deviation() if read_tasks else None,
    }


def _text(value: dict[str, Any]) -> str:
    base = value["base_model"]
    size, tasks = printing.amount(value["bytes"]), printing.counted(len(value["tasks"]), "task")
    blocks = [
        f"{printing.printable(value['path'])}: {tasks}, {size}\n"
        f"base model  {base['parameters']:,} parameters, {base['values']:,} values\n"
        f"  sha256    {base['sha256']}\n"
        f"root        {value['root']}",
        _tasks(value),
        *_tuned(value["tasks"]),
        _kinds(value),
        *_similarity([task["task"] for task in value["tasks"]], value),
    ]
    return "\n\n".join(blocks)


def _tasks(value: dict[str, Any]) -> str:
    """A line for each task, and one for what belongs to no task alone: sizes add up to the file."""
    tasks = value["tasks"]
    room = RECIPE_ROOM - max((len(task["task"]) for task in tasks), default=0)
    rows = []
    for task in tasks:
        first, *more = textwrap.wrap(printing.recipe(task["recipe"]), max(room, LEAST_ROOM)) or [""]
        numbers = (
            printing.bits(task["bits_per_parameter"]),
            printing.amount(task["bytes"]),
            printing.percent(task["error"]),
        )
        rows += [(task["task"], *numbers, first), *(("", "", "", "", line) for line in more)]
    common = value["bytes"] - sum(task["bytes"] for task in tasks)
    rows.append(("(common)", "", printing.amount(common), "", ""))
    return printing.table(("task", "bits/param", "size", "error", "recipe"), rows, left=(0, 4))


def _tuned(tasks: list[dict[str, Any]]) -> Iterator[str]:
    """What tuning kept of the scores of tasks."""
    rows = []
    for task in tasks:
        if (found := task.get("tuning")) is None:
            continue
        point = found["points"][found["chosen"]]
        score = "-" if point["score"] is None else f"{point['score']:.6g}"
        share, wanted = printing.percent(point["share"]), printing.percent(found["retain"])
        rows.append((task["task"], score, share, wanted, str(len(found["points"]))))
    if rows:
        yield printing.table(("tuned", "score", "kept", "at least", "settings tried"), rows)


def _kinds(value: dict[str, Any]) -> str:
    kinds, total = value["bytes_by_kind"], value["bytes"]
    rows = [
        (kind, printing.amount(size), printing.percent(size / total))
        for kind, size in sorted(kinds.items(), key=lambda item: -item[1])
        if size
    ]
    text = printing.table(("kind", "size", "share"), rows)
    if "sections" in kinds:
        text += "\n(sections of many tasks, taken together; --kinds tells them apart)"
    return text


def _similarity(tasks: list[str], value: dict[str, Any]) -> Iterator[str]:
    cosines, deviation = value["similarity"], value["similarity_deviation"]
    estimated = f"\n(estimated, give or take {deviation:.2f})" if deviation else ""
    if len(tasks) < 2 or not cosines:
        return
    if len(tasks) <= MATRIX_TASKS:
        headers = ("similarity", *(str(number + 1) for number in range(len(tasks))))
        rows = [
            (f"{n + 1} {task}", *(f"{cosine:.2f}" for cosine in cosines[n]))
            for n, task in enumerate(tasks)
        ]
        table = printing.table(headers, [(*row, *[""] * (len(headers) - len(row))) for row in rows])
        yield table + estimated
        return
    rows = [(f"{cosine:.2f}", tasks[n], tasks[m]) for cosine, n, m in _closest(cosines)]
    table = printing.table(("similarity", "task", "task"), rows, left=(1, 2), narrow=(1, 2))
    yield f"{table}\n(the {len(rows)} most similar pairs; --json has all){estimated}"


def _closest(cosines: list[list[float]]) -> list[tuple[float, int, int]]:
    """The most similar pairs; in a way that does not mind a hundred thousand of them."""
    flat = [cosine for m, row in enumerate(cosines) for cosine in row[:m]]
    least = sorted(flat)[-PAIRS:][0]
    pairs = [
        (cosine, n, m)
        for m, row in enumerate(cosines)
        if max(row[:m], default=-math.inf) >= least
        for n, cosine in enumerate(row[:m])
        if cosine >= least
    ]
    return sorted(pairs, reverse=True)[:PAIRS]
