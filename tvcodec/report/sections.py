"""What the page says, section by section: words, a chart, and the same as tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tvcodec.report import charts
from tvcodec.report.facts import REST, Depth, Facts, TaskFacts
from tvcodec.report.likeness import Likeness
from tvcodec.report.spectra import MOST_TASKS, Spectrum
from tvcodec.report.style import Draw
from tvcodec.wording import amount, bits, percent, recipe

KINDS = (  # each with a colour of its own
    *("factors", "rotated", "stages", "exact", "kept whole"),
    *("coefficients", "values", "small parameters", "masks", REST),
)
MOST_BARS = 30
MOST_ROWS = 40
MOST_COLUMNS = 12
PAIRS = 20
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, called `name` on the command line; `says` is for who cannot see it."""

    name: str
    title: str
    says: str
    draw: Draw


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under headers; the first cell of a row says what the row is about."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One heading's worth. Its tables are folded away where `chart` shows the same."""

    name: str
    title: str
    words: tuple[str, ...]
    chart: Chart | None = None
    tables: tuple[Table, ...] = ()


def tasks(facts: Facts) -> Section:
    """Every task in a row, of many tasks the largest."""
    largest = sorted(facts.tasks, key=lambda task: (-task.bytes, task.name))[:MOST_ROWS]
    shown = sorted(largest, key=lambda task: task.name)
    words = ["Errors are relative to the norm of the task vector (fine-tune minus base model)."]
    if any(task.error > 0.9 for task in facts.tasks):
        words.append(
            "An error near or above 100 % is not a fault: coarse, unbiased coding trades it for"
            " noise that a network averages out."
        )
    chosen = {task.name for task in largest}
    rest = [task for task in facts.tasks if task.name not in chosen]
    if rest:
        words.append(f"Shown are the {len(shown)} largest of {len(facts.tasks):,} tasks.")
    headers: tuple[str, ...] = ("task", "size", "bits per parameter", "error", "recipe")
    rows = [_task_row(task) for task in shown]
    if rest:
        rows.append(_mean_row(rest))
    if len({task.recipe for task in facts.tasks}) == 1:
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    return Section("tasks", "Tasks", tuple(words), tables=(Table("Tasks", headers, tuple(rows)),))


def _task_row(task: TaskFacts) -> tuple[str, ...]:
    size = amount(task.bytes)
    return task.name, size, bits(task.bits), percent(task.error), recipe(task.recipe)


def _mean_row(rest: Sequence[TaskFacts]) -> tuple[str, ...]:
    size, per_parameter, error = (
        sum(values) / len(rest)
        for values in zip(*((task.bytes, task.bits, task.error) for task in rest), strict=True)
    )
    said = f"mean of {len(rest):,} others"
    return said, amount(round(size)), bits(per_parameter), percent(error), ""


def sizes(facts: Facts) -> Section:
    """Bytes by task and by kind."""
    largest = sorted(facts.tasks, key=lambda task: (-task.bytes, task.name))
    named, rest = largest[:MOST_BARS], largest[MOST_BARS:]
    kinds = [
        (kind, colour)
        for colour, kind in enumerate(KINDS)
        if any(task.kinds.get(kind) for task in facts.tasks)
    ]
    bars = [(task.name, [task.kinds.get(kind, 0) for kind, _ in kinds]) for task in named]
    if rest:
        means = [sum(task.kinds.get(kind, 0) for task in rest) // len(rest) for kind, _ in kinds]
        bars.append((f"mean of {len(rest):,} others", means))
    by_kind = sorted(facts.kinds.items(), key=lambda item: (-item[1], item[0]))
    table = tuple(
        (kind, amount(size), percent(size / facts.bytes)) for kind, size in by_kind if size
    )
    by_task = tuple((name, *map(amount, (sum(parts), *parts))) for name, parts in bars)
    words = ["Each bar is a task, in pieces by what the bytes are for."]
    if rest:
        words.append(f"The {len(named)} largest tasks have a bar each, the others one together.")
    says = (
        f"Bars of {len(bars)} rows; the largest task is {largest[0].name} with"
        f" {amount(largest[0].bytes)}."
        if largest
        else "No task."
    )
    return Section(
        "size",
        "Where the bytes are",
        tuple(words),
        Chart("size", "Bytes by task and kind", says, lambda p: charts.sizes(p, kinds, bars)),
        (
            Table("Whole file by kind", ("kind", "size", "share"), table),
            Table("Bytes by task", ("task", "all", *(kind for kind, _ in kinds)), by_task),
        ),
    )


def depth(facts: Facts) -> Section:
    """Error and bits along the network."""
    along, names = facts.depth, [task.name for task in facts.tasks]
    words = [
        "Parameters of one layer together, in the natural order of their names. A gap is a layer"
        " of which a task stores nothing that has an error.",
    ]
    if len(names) > charts.MOST_LINES:
        words.append(
            f"Of {len(names):,} tasks, the median and the highest of each layer, and the band that"
            " holds 80 % of them."
        )
    says = f"Lines over {len(along.layers)} layers. " + _extremes(along)
    return Section(
        "depth",
        "Along the depth of the network",
        tuple(words),
        Chart(
            "depth",
            "Error and bits along the depth",
            says,
            lambda palette: charts.depth(palette, names, along),
        ),
        tuple(_depth_tables(names, along)),
    )


def _extremes(along: Depth) -> str:
    if not along.errors.size or np.isnan(along.errors).all():
        return "No errors are stored."
    _, column = np.unravel_index(int(np.nanargmax(along.errors)), along.errors.shape)
    worst = percent(float(np.nanmax(along.errors)))
    return f"The greatest error, {worst}, is in {along.layers[int(column)]}."


def _depth_tables(names: Sequence[str], along: Depth) -> Iterator[Table]:
    for title, values, said in (
        ("Error by layer", along.errors, percent),
        ("Bits per value by layer", along.bits, bits),
    ):
        headers: Sequence[str] = names
        if len(names) > charts.MOST_LINES:
            headers = ("10 % of tasks below", "median", "90 % of tasks below", "highest")
            values = np.array(charts.spread(values))
        rows = tuple(
            (layer, *("" if math.isnan(value) else said(value) for value in column))
            for layer, column in zip(along.layers, values.T.tolist(), strict=True)
        )
        yield Table(title, ("layer", *headers), rows)


def spectra(facts: Facts, found: Sequence[Spectrum]) -> Section:
    """Energy by rank of the matrices that changed most."""
    title = "Energy of the stored factors"
    if not found:
        words = ("No task of this file stores low-rank factors.",)
        return Section("spectra", title, words)
    of = "all tasks" if len(facts.tasks) <= MOST_TASKS else f"at most {MOST_TASKS} of the tasks"
    words = (
        "Share of a task vector's energy (its squared norm) that the strongest stored directions of"
        f" a matrix hold, the mean over {of}. Shown are the {len(found)} matrices with factors that"
        " changed most. A line that ends low leaves the rest to other parts, or to the error.",
    )
    ends = "; ".join(
        f"{one.parameter}: {percent(float(one.shares[-1]))} in {len(one.shares)} directions"
        for one in found
    )
    ranks = [rank for rank in RANKS if rank <= max(len(one.shares) for one in found)]
    rows = tuple(
        (
            one.parameter,
            str(len(one.shares)),
            *(percent(float(one.shares[min(rank, len(one.shares)) - 1])) for rank in ranks),
            percent(float(one.shares[-1])),
        )
        for one in found
    )
    headers = ("matrix", "directions", *(f"first {rank}" for rank in ranks), "all")
    return Section(
        "spectra",
        title,
        words,
        Chart("spectra", title, ends, lambda palette: charts.spectra(palette, found)),
        (Table("Share of energy by number of directions", headers, rows),),
    )


def likeness(facts: Facts, found: Likeness | None) -> Section:
    """Cosines between task vectors, like ones side by side."""
    title = "How alike the tasks are"
    if found is None:
        few = len(facts.tasks) < 2
        reason = "There is one task." if few else "The file does not say, or has too many tasks."
        return Section("similarity", title, (reason,))
    deviation = found.deviation
    estimated = f", standard deviation {deviation:.2f} near 0" if deviation else ""
    words = (
        f"Cosines between whole task vectors. They are estimates from sketches{estimated}. Tasks"
        " are in the order of a hierarchical clustering (average linkage), so that like ones are"
        " neighbours.",
        "Blue is alike, orange is opposed; the scale ends at the largest cosine of two tasks, or"
        f" {charts.LEAST_SCALE:g} if that is more.",
    )
    closest = found.closest(PAIRS)
    cosine, one, other = closest[0]
    pairs = tuple((a, b, charts.rounded(value)) for value, a, b in closest)
    tables = [Table("The most similar pairs", ("task", "task", "cosine"), pairs)]
    if len(found.tasks) <= MOST_COLUMNS:
        rows = tuple(
            (task, *(charts.rounded(value) for value in row))
            for task, row in zip(found.tasks, found.cosines.tolist(), strict=True)
        )
        tables.append(Table("All cosines", ("task", *found.tasks), rows))
    alike = f"{one} and {other}: {charts.rounded(cosine)}"
    says = f"A square of {len(found.tasks)} tasks; most alike are {alike}."
    return Section(
        "similarity",
        title,
        words,
        Chart("similarity", "Cosines between tasks", says, lambda p: charts.likeness(p, found)),
        tuple(tables),
    )


def tuning(facts: Facts) -> Section | None:
    """Size against accuracy of the tasks that were tuned; None where none was."""
    found = [(task.name, task.curve) for task in facts.tasks if task.curve]
    if not found:
        return None
    shown = found[: charts.MOST_LINES]
    words = [
        "What tvcodec tune tried: bits per parameter against the share of the fine-tune's own"
        " metric that came back. A ring is what was chosen, a dashed line what was asked for."
    ]
    if len(shown) < len(found):
        words.append(f"Shown are the first {len(shown)} of {len(found):,} tuned tasks.")
    rows = tuple(
        (task, f"{point.bits:.3f}", percent(point.share), "chosen" if point is curve.choice else "")
        for task, curve in shown
        for point in curve.points
    )
    says = "; ".join(
        f"{task}: {percent(curve.choice.share)} at {curve.choice.bits:.3f} bits"
        for task, curve in shown
    )
    return Section(
        "tuning",
        "Size against accuracy",
        tuple(words),
        Chart(
            "tuning",
            "Metric retained against bits",
            f"Chosen: {says or 'nothing known'}.",
            lambda palette: charts.tuning(palette, shown),
        ),
        (Table("Settings tried", ("task", "bits per parameter", "retained", ""), rows),),
    )
