"""python tools/make_picture.py RESULTS.json PICTURE.svg

Draws what `tools/demo --json RESULTS.json` measured: sizes as bars, accuracies as dots.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from demo_job import Accuracies, Results

WIDTH, ROW, LABEL, MARGIN = 860, 26, 190, 20
LOWEST, HIGHEST = 40, 100  # of the accuracy axis, %
INK, PALE, GRID = "#1f2328", "#6e7781", "#e4e7eb"
BASE_MODEL, FINE_TUNE, DECODED, MERGED = "#9aa4af", INK, "#1f77d0", "#e07b1a"
LEGEND = (
    ("base model", BASE_MODEL),
    ("fine-tune", FINE_TUNE),
    ("from the lossy archive", DECODED),
    ("merge of all eight", MERGED),
)


def draw(results: Results) -> str:
    """The picture, as SVG."""
    rows = [*results.tasks.items(), ("mean", results.mean)]
    top = 5 * ROW + MARGIN
    height = top + (len(rows) + 3) * ROW
    shapes = [*_sizes(results), *_accuracies(rows, top)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
            ' font-family="system-ui, sans-serif" font-size="14">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def _sizes(results: Results) -> Iterator[str]:
    count = len(results.tasks)
    yield _text(MARGIN, ROW, f"{count} fine-tunes of one model, without the base model", weight=600)
    bars = (
        ("bfloat16 checkpoints", results.fine_tunes, BASE_MODEL),
        ("exact .tvq", results.exact, FINE_TUNE),
        ("lossy .tvq", results.lossy, DECODED),
    )
    longest = WIDTH - LABEL - 180
    for row, (what, size, colour) in enumerate(bars):
        y = (row + 2) * ROW
        width = longest * size / results.fine_tunes
        yield _text(MARGIN, y, what)
        yield f'<rect x="{LABEL}" y="{y - 13}" width="{width:.1f}" height="16" fill="{colour}"/>'
        smaller = f", {results.fine_tunes / size:.1f} times smaller" if row else ""
        yield _text(LABEL + width + 8, y, f"{size / 1e6:.2f} MB{smaller}", PALE)


def _accuracies(rows: list[tuple[str, Accuracies]], top: int) -> Iterator[str]:
    yield _text(MARGIN, top, "accuracy, %", weight=600)
    x = float(LABEL)
    for what, colour in LEGEND:
        yield _dot(x, top - 5, colour)
        yield _text(x + 10, top, what, PALE)
        x += 40 + 7.2 * len(what)
    bottom = top + len(rows) * ROW + 12
    for tick in range(LOWEST, HIGHEST + 1, 10):
        yield f'<path d="M{_x(tick):.1f} {top + 10}V{bottom}" stroke="{GRID}"/>'
        yield _text(_x(tick), bottom + 18, str(tick), PALE, anchor="middle")
    for row, (task, shares) in enumerate(rows):
        y = top + (row + 1) * ROW
        yield _text(MARGIN, y, task, weight=600 if task == "mean" else 400)
        dots = (
            (shares.base_model, BASE_MODEL),
            (shares.merged, MERGED),
            (shares.fine_tuned, FINE_TUNE),
            (shares.decoded, DECODED),
        )
        ends = _x(100 * shares.base_model), _x(100 * shares.fine_tuned)
        yield f'<path d="M{ends[0]:.1f} {y - 5}H{ends[1]:.1f}" stroke="{GRID}" stroke-width="4"/>'
        for share, colour in dots:
            yield _dot(_x(100 * share), y - 5, colour)


def _x(percent: float) -> float:
    return LABEL + (WIDTH - LABEL - 2 * MARGIN) * (percent - LOWEST) / (HIGHEST - LOWEST)


def _dot(x: float, y: float, colour: str) -> str:
    """A ring for the fine-tune, which dots that meet it then do not hide."""
    look = f'fill="{colour}"' if colour != FINE_TUNE else f'fill="none" stroke="{colour}"'
    return f'<circle cx="{x:.1f}" cy="{y}" r="{5 if colour != FINE_TUNE else 7}" {look}/>'


def _text(
    x: float, y: float, text: str, colour: str = INK, weight: int = 400, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" fill="{colour}" font-weight="{weight}"'
        f' text-anchor="{anchor}">{text}</text>'
    )


def read(path: Path) -> Results:
    """What `tools/demo --json` wrote."""
    loaded = json.loads(path.read_text())
    tasks = {task: Accuracies(**shares) for task, shares in loaded.pop("tasks").items()}
    return Results(**loaded, tasks=tasks)


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    results, picture = map(Path, sys.argv[1:])
    picture.write_text(draw(read(results)))


if __name__ == "__main__":
    main()
