"""The charts, each a figure in the colours of a palette."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from tvcodec.report.facts import Depth, Matrix
from tvcodec.report.likeness import Likeness
from tvcodec.report.spectra import Spectrum
from tvcodec.report.style import Palette
from tvcodec.tuning.curve import Curve
from tvcodec.wording import amount

WIDTH = 8.0
MOST_LINES = 8  # tasks with a line of their own
MOST_LABELS = 40  # tasks with a row of their own
MOST_CELLS = 12  # tasks whose cosines are written into the cells
LOG_SPREAD = 30.0
MOST_TICKS = 48  # layers with their name below
MARKERS = "osD^vPX*"
ALIKE, OPPOSED = "#3d8ce6", "#eb7a28"  # seen on white and on black, as more or less of them
LEAST_SCALE = 0.2

Bar = tuple[str, Sequence[int]]
Item = TypeVar("Item")


def short(name: str, most: int = 28) -> str:
    """A name with its middle left out where it is long."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def sizes(palette: Palette, kinds: Sequence[tuple[str, int]], bars: Sequence[Bar]) -> Figure:
    """A bar per task, of the bytes of each kind; a kind comes with the number of its colour."""
    figure, axes = _figure(0.9 + 0.27 * len(bars) + 0.2 * math.ceil(len(kinds) / 5))
    places, left = range(len(bars)), np.zeros(len(bars))
    for at, (kind, colour) in enumerate(kinds):
        lengths = np.array([lengths[at] for _, lengths in bars], np.float64)
        axes.barh(
            places, lengths, 0.72, left, label=kind, color=palette.series[colour], linewidth=0
        )
        left += lengths
    for place, total in zip(places, left.tolist(), strict=True):
        axes.annotate(
            amount(round(total)), (total, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(places, [short(name) for name, _ in bars])
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, max(left.max() * 1.12, 1.0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: amount(round(size))))
    figure.legend(loc="outside upper left", ncols=5, handlelength=1.0)
    return figure


def depth(palette: Palette, tasks: Sequence[str], along: Depth) -> Figure:
    """Error above bits, layer after layer: a line per task, or of many tasks their spread."""
    count = len(along.layers)
    places = range(0, count, math.ceil(count / MOST_TICKS) or 1)
    labels = [short(along.layers[at]) for at in places]
    figure, (above, below) = _figures(2, 4.6 + 0.07 * max(map(len, labels), default=0))
    _lines(palette, above, tasks, along.errors)
    _lines(palette, below, tasks, along.bits)
    above.set_title("error, relative to the norm of the task vector", loc="left")
    below.set_title("bits per value", loc="left")
    for axes in (above, below):
        axes.set_ylim(bottom=0)
    _log_where_wide(above, along.errors)
    above.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    below.set_xticks(places, labels, rotation=90)
    above.tick_params(axis="x", length=0)
    below.set_xlim(-0.5, count - 0.5)
    handles, names = above.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=4)
    return figure


def spectra(palette: Palette, found: Sequence[Spectrum]) -> Figure:
    """Share of the energy held by the strongest directions, a line per matrix."""
    figure, axes = _figure(3.9)
    for one, colour, marker in _styled(palette, found):
        ranks = np.arange(1, len(one.shares) + 1)
        axes.plot(
            ranks,
            one.shares,
            color=colour,
            marker=marker,
            markevery=_rarely(len(ranks)),
            label=short(one.parameter, 44),
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rank, _: f"{rank:g}"))
    axes.set_xlim(0.9, max(2.0, 1.1 * max(len(one.shares) for one in found)))
    axes.set_ylim(0, 1.04 * max(1.0, *(float(one.shares[-1]) for one in found)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("directions, the strongest first")
    axes.set_ylabel("share of energy")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def likeness(palette: Palette, found: Likeness) -> Figure:
    """Cosines as cells, more or less of one colour or, below 0, of the other; the tree beside."""
    count = len(found.tasks)
    labelled = count <= MOST_LABELS
    height = max(3.0, 1.2 + 0.27 * count) if labelled else 6.5
    figure = Figure(figsize=(WIDTH, height))
    ratios = [1, 5] if labelled else [0.01, 5]
    tree, cells = figure.subplots(1, 2, sharey=labelled, width_ratios=ratios)
    scale = max(LEAST_SCALE, float(np.abs(np.tril(found.cosines, -1)).max()))
    extent = (0, count, 10 * count, 0)
    cells.imshow(_washed(found.cosines, scale), extent=extent, aspect="auto", interpolation="none")
    if labelled:
        _draw_tree(palette, tree, found)
        middles = [10 * at + 5 for at in range(count)]
        cells.set_yticks(middles, [short(task) for task in found.tasks])
        cells.tick_params(labelleft=False, labelright=True)
    else:
        cells.set_yticks([])
    tree.set_axis_off()
    cells.set_xticks([])
    for axes in (tree, cells):
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    if count <= MOST_CELLS:
        for (row, column), cosine in np.ndenumerate(found.cosines):
            place = (column + 0.5, 10 * row + 5)
            cells.text(*place, rounded(cosine), ha="center", va="center")
    return figure


def tuning(palette: Palette, curves: Sequence[tuple[str, Curve]]) -> Figure:
    """What was retained of each task's metric against size; what was chosen is ringed."""
    figure, axes = _figure(3.9)
    for (task, curve), colour, marker in _styled(palette, curves):
        bits = [point.bits for point in curve.points]
        kept = [point.share for point in curve.points]
        axes.plot(bits, kept, color=colour, marker=marker, label=short(task))
        for point in curve.points:
            if point is curve.choice:
                axes.plot(
                    [point.bits],
                    [point.share],
                    marker="o",
                    color=palette.ink,
                    markersize=11,
                    markeredgecolor=palette.ink,
                    markerfacecolor="none",
                )
    for wanted in sorted({curve.retain for _, curve in curves}):
        axes.axhline(wanted, color=palette.faint, linestyle="--", linewidth=1)
    everything = np.array([point.bits for _, curve in curves for point in curve.points])
    _log_where_wide(axes, everything, across=True)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set_xlabel("bits per parameter")
    axes.set_ylabel("retained of the fine-tune's metric")
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure, (axes,) = _figures(1, height)
    return figure, axes


def _figures(rows: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height))
    found = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for axes in found:
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, list(found)


def _lines(palette: Palette, axes: Axes, tasks: Sequence[str], values: Matrix) -> None:
    """[tasks, layers] as a line per task or, of many, as median, worst and what is between."""
    places = np.arange(values.shape[1])
    if len(tasks) <= MOST_LINES:
        for (task, row), colour, marker in _styled(palette, zip(tasks, values, strict=True)):
            axes.plot(places, row, color=colour, marker=marker, label=short(task))
        return
    low, median, high, most = spread(values)
    first, second = palette.series[:2]
    axes.fill_between(
        places, low, high, color=first, alpha=0.25, linewidth=0, label="80 % of tasks"
    )
    axes.plot(places, median, color=first, marker="o", label="median")
    axes.plot(places, most, color=second, marker="^", label="highest")


def rounded(cosine: float) -> str:
    """To two places, without a minus before nothing."""
    return f"{round(cosine, 2) + 0.0:.2f}"


def spread(values: Matrix) -> list[np.ndarray]:
    """10th, 50th, 90th and 100th percentile of each column [4, layers]; NaN where it has no
    number."""
    known = [column[~np.isnan(column)] for column in values.T]
    return [
        np.array([np.percentile(column, share) if len(column) else math.nan for column in known])
        for share in (10, 50, 90, 100)
    ]


def _log_where_wide(axes: Axes, values: Matrix, across: bool = False) -> None:
    known = values[~np.isnan(values)]
    if not known.size or known.min() <= 0 or known.max() < LOG_SPREAD * known.min():
        return
    (axes.set_xscale if across else axes.set_yscale)("log")
    if not across:
        axes.set_ylim(known.min() / 1.2, known.max() * 1.2)
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    (axes.xaxis if across else axes.yaxis).set_minor_formatter(NullFormatter())


def _styled(palette: Palette, items: Iterable[Item]) -> Iterator[tuple[Item, str, str]]:
    """Each item with a colour and a marker of its own, as long as there are any."""
    return zip(items, cycle(palette.series), cycle(MARKERS), strict=False)


def _draw_tree(palette: Palette, axes: Axes, found: Likeness) -> None:
    from scipy.cluster.hierarchy import dendrogram

    drawn = dendrogram(found.tree, no_plot=True)
    lines = [
        list(zip(across, along, strict=True))
        for across, along in zip(drawn["dcoord"], drawn["icoord"], strict=True)
    ]
    axes.add_collection(LineCollection(lines, colors=palette.ink, linewidths=1))
    axes.set_xlim(max(max(across) for across in drawn["dcoord"]) * 1.02 or 1.0, 0)


def _washed(cosines: Matrix, scale: float) -> Matrix:
    """RGBA of cosines from -scale to scale: nothing of a colour at 0."""
    image = np.empty((*cosines.shape, 4))
    image[..., :3] = np.where(cosines[..., None] < 0, to_rgb(OPPOSED), to_rgb(ALIKE))
    image[..., 3] = np.clip(np.abs(cosines) / scale, 0, 1)
    return image


def _rarely(count: int) -> int:
    return max(1, count // 12)
