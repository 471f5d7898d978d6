"""Figures as inline SVG whose colours the page decides, and as PNG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
HREF = "{http://www.w3.org/1999/xlink}href"
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tvcodec",
    "text.parse_math": False,  # names are names
    "axes.unicode_minus": False,
    "font.size": 9,
    "axes.titlesize": 9,
    "grid.linestyle": "-",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
INKED = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
FAINT = ("axes.edgecolor", "grid.color", "xtick.color", "ytick.color")


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of a chart: of text and axes, of faint lines, of what lies behind, of its series."""

    ink: str
    faint: str
    paper: str
    series: tuple[str, ...]


LIGHT = Palette(
    "#1c2128",
    "#8c959f",
    "#ffffff",
    (
        *("#1f6fc4", "#c2571a", "#2f8f4e", "#8a4fbf", "#a67c00"),
        *("#128a9a", "#c23b6b", "#6b7280", "#7a5230", "#4b5fd1"),
    ),
)
# Each stands for a variable of the page's style sheet.
_VARIABLES = {"#010101": "ink", "#010102": "faint", "#010103": "paper"}
_VARIABLES.update({f"#0102{number:02x}": f"series-{number}" for number in range(10)})
VARIABLE = Palette("#010101", "#010102", "#010103", tuple(list(_VARIABLES)[3:]))

Draw = Callable[[Palette], Figure]


def svg(draw: Draw, name: str, title: str, description: str) -> str:
    """The figure as an <svg> element for a page of HTML, its text as text, its ids beginning with
    `name`, with no size of its own; the same figure gives the same text."""
    with _drawing(VARIABLE):
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        draw(VARIABLE).savefig(buffer, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _adapt(element, name)
    for size in ("width", "height"):
        del root.attrib[size]
    texts = (("title", title), ("desc", description))
    for at, (tag, text) in enumerate(texts):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(at, element)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    ElementTree.register_namespace("", SVG)
    return ElementTree.tostring(root, encoding="unicode")


def png(draw: Draw) -> bytes:
    """The figure on white, 200 dots per inch."""
    with _drawing(LIGHT):
        buffer = io.BytesIO()
        figure = draw(LIGHT)
        figure.set_facecolor(LIGHT.paper)
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def _adapt(element: ElementTree.Element, name: str) -> None:
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key == HREF:
            del element.attrib[key]
            element.set("href", re.sub("^#", f"#{name}-", value))
        elif key == "style":
            value = re.sub(r"#[0-9a-f]{6}", lambda found: f"var(--{_VARIABLES[found[0]]})", value)
            element.set(key, re.sub(r"font: ([0-9.]+px) [^;]*", r"font-size: \1", value))
        elif value.startswith("url(#"):
            element.set(key, value.replace("url(#", f"url(#{name}-", 1))


@contextmanager
def _drawing(palette: Palette) -> Iterator[None]:
    """Matplotlib as it is by itself, whatever its user has set up, and silent about letters that
    its own font lacks: the page has others."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        settings: Any = SETTINGS | dict.fromkeys(INKED, palette.ink)
        settings |= dict.fromkeys(FAINT, palette.faint)
        matplotlib.rcParams.update(settings)
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield
