"""The merge methods by name, and what each of them may be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvcodec.errors import TvqError

DENSITY = 0.2  # of TIES
RATE = 0.9  # of DARE
LAMBDA = 0.4  # of consensus
VOTES = 2
MODEL, PARAMETER = "model", "parameter"

METHODS: dict[str, dict[str, Any]] = {
    "weighted": {"weights": "uniform", "temperature": None},
    "tsvm": {"exclude": ()},
    "ties": {"density": DENSITY, "scope": MODEL},
    "dare": {"weights": "uniform", "temperature": None, "rate": RATE, "seed": 0},
    "consensus": {"threshold": LAMBDA, "votes": VOTES},
    "model-stock": {"scope": PARAMETER},
    "iso-c": {"exclude": ()},
    "magmax": {},
}
"""Options of each method and their defaults."""


def without_effect(method: str, given: Mapping[str, Any]) -> str | None:
    """The first of the options `given` that the method does not take; None stands for an option
    that is not given. Raises TvqError for an unknown method."""
    if method not in METHODS:
        raise TvqError(f"no merge method {method!r}", hint=f"there is {', '.join(METHODS)}")
    for name, value in given.items():
        if value is not None and name not in METHODS[method]:
            return name
    return None


def settings(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options: as given, or else their defaults. Raises TvqError for what the method
    does not take, and for values that mean nothing."""
    if name := without_effect(method, given):
        takes = ", ".join(METHODS[method]) or "no options"
        raise TvqError(f"{name} has no effect with method {method!r}", hint=f"it takes {takes}")
    chosen = {
        name: default if given.get(name) is None else given[name]
        for name, default in METHODS[method].items()
    }
    _check(chosen)
    return chosen


def _check(chosen: Mapping[str, Any]) -> None:
    for name in ("seed", "votes"):
        if type(chosen.get(name, 0)) is not int:
            raise TvqError(f"{name}: expected a whole number, got {chosen[name]!r:.40}")
    for name in ("density", "rate", "threshold"):
        if type(chosen.get(name, 0)) not in (int, float):
            raise TvqError(f"{name}: expected a number, got {chosen[name]!r:.40}")
    if chosen.get("votes", 0) < 0:
        raise TvqError(f"expected votes from 0, got {chosen['votes']}")
    if isinstance(chosen.get("exclude"), str):
        raise TvqError(
            f"exclude: expected names or globs in a list, got {chosen['exclude']!r:.40}",
            hint=f"write [{chosen['exclude']!r:.40}]",
        )
    if not 0 < chosen.get("density", 1) <= 1:
        raise TvqError(f"expected a density above 0 and up to 1, got {chosen['density']}")
    if not 0 <= chosen.get("rate", 0) < 1:
        raise TvqError(f"expected a drop rate of at least 0 and below 1, got {chosen['rate']}")
    if not 0 <= chosen.get("threshold", 0) < float("inf"):
        raise TvqError(f"expected a finite threshold from 0, got {chosen['threshold']}")
    if chosen.get("scope", MODEL) not in (MODEL, PARAMETER):
        raise TvqError(f"expected the scope {MODEL!r} or {PARAMETER!r}, got {chosen['scope']!r}")
