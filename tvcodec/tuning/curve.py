"""What tuning tried for a task and which setting it chose, as the task's metadata keep it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

KEY = "tuning"  # of a task's metadata
MOST_POINTS = 200
MOST_BITS = 1000.0  # per parameter
MOST_SHARE = 100.0  # of the fine-tune's score


@dataclass(frozen=True, slots=True)
class Point:
    """A setting of the auto codec and what became of a task: bits per parameter that it takes by
    itself, its score (None where that is no finite number), and the share that this is of the
    fine-tune's. `metric` is "exact" for a task that is kept bit for bit."""

    metric: str
    step: float
    gain: float
    factor_step: float
    bits: float
    score: float | None
    share: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Points from few bits to many; `chosen` is the number of the one that the file holds, the
    smallest that keeps the share `retain` of `reference`, the fine-tune's own score."""

    retain: float
    reference: float
    lower_is_better: bool
    points: tuple[Point, ...]
    chosen: int

    @property
    def choice(self) -> Point:
        """The point that the file holds."""
        return self.points[self.chosen]


def as_metadata(curve: Curve) -> dict[str, str]:
    """A curve as metadata of its task: JSON, a list of numbers for each point, rounded, and no
    further out than `from_metadata` takes them."""
    points = [
        [
            point.metric,
            *(_short(point.step, 6), _short(point.gain, 6), _short(point.factor_step, 6)),
            _short(min(point.bits, MOST_BITS), 4),
            None if point.score is None else _short(point.score, 6),
            _short(min(max(point.share, -MOST_SHARE), MOST_SHARE), 5),
        ]
        for point in curve.points
    ]
    value = {
        "chosen": curve.chosen,
        "lower_is_better": curve.lower_is_better,
        "points": points,
        "reference": _short(curve.reference, 6),
        "retain": curve.retain,
    }
    return {KEY: json.dumps(value, separators=(",", ":"))}


def from_metadata(metadata: Mapping[str, str]) -> Curve | None:
    """The curve in a task's metadata, which anybody may have written there; None where there is
    none, or something else."""
    try:
        value = json.loads(metadata[KEY])
        if len(value["points"]) > MOST_POINTS:
            return None
        points = tuple(_point(*row) for row in value["points"])
        curve = Curve(
            _number(value["retain"], 0.0, 1.0),
            _number(value["reference"]),
            value["lower_is_better"] is True,
            points,
            range(len(points))[value["chosen"]],
        )
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    return curve


def _point(
    metric: object,
    step: object,
    gain: object,
    factor_step: object,
    bits: object,
    score: object,
    share: object,
) -> Point:
    if not isinstance(metric, str):
        raise ValueError
    return Point(
        metric,
        _number(step),
        _number(gain),
        _number(factor_step),
        _number(bits, 0.0, MOST_BITS),
        None if score is None else _number(score),
        _number(share, -MOST_SHARE, MOST_SHARE),
    )


def _number(value: object, least: float = -math.inf, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    if not least <= value <= most:
        raise ValueError
    return float(value)


def _short(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
