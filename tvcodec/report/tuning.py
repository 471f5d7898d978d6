"""What `tvcodec tune` left in a task's metadata: how a metric followed the size."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

KEY = "tuning"  # of a task's metadata
MOST_POINTS = 200
MOST_BITS = 1000.0


@dataclass(frozen=True, slots=True)
class Point:
    """One setting that was tried: bits per parameter, and the metric as a share of that of the
    fine-tune itself."""

    bits: float
    retained: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """The points that were tried, by rising size, and the share of the metric that was wanted."""

    wanted: float | None
    points: tuple[Point, ...]


def curve(metadata: Mapping[str, str]) -> Curve | None:
    """The tuning curve in a task's metadata, which anybody may have written there: what is not
    understood is left out, and None is the answer where nothing is left."""
    try:
        found = json.loads(metadata[KEY])
    except (KeyError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    reference, raw = _number(found.get("reference")), found.get("points")
    if not reference or reference < 0 or not isinstance(raw, list):
        return None
    chosen = found.get("chosen")
    points = [
        point
        for at, value in enumerate(raw[:MOST_POINTS])
        if (point := _point(value, reference, type(chosen) is int and at == chosen))
    ]
    points.sort(key=lambda point: (point.bits, point.retained))
    return Curve(_number(found.get("retain"), most=2.0), tuple(points)) if points else None


def _point(value: object, reference: float, chosen: bool) -> Point | None:
    if not isinstance(value, dict):
        return None
    bits, metric = _number(value.get("bits"), most=MOST_BITS), _number(value.get("metric"))
    if bits is None or metric is None or not metric <= 10 * reference:
        return None
    return Point(bits, metric / reference, chosen)


def _number(value: object, most: float = 1e30) -> float | None:
    """A finite number from 0 to `most`; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and 0 <= number <= most else None
