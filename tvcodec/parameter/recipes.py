"""What to do with task vectors: presets of the auto codec, and settings as a file keeps them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

from tvcodec.parameter.judging import Target

LEAST_STEP = 2.0**-20


@dataclass(frozen=True, slots=True)
class Recipe:
    """How each task is coded. `step` and `factor_step` are in units of the root mean square of the
    task vector; `exact` stores bit-exact differences instead. With `share`, tasks have vectors in
    common where that pays, under the metric "mse". ValueError for settings out of range."""

    name: ClassVar[str] = "auto"
    uses_masks: ClassVar[bool] = False

    step: float = 2.0
    metric: str = "mse"
    gain: float = 0.0
    factor_step: float | None = None
    exact: bool = False
    share: bool = True

    def __post_init__(self) -> None:
        _check("step", self.step, LEAST_STEP, 1000)
        _check("gain", self.gain, 0, 1)
        if self.factor_step is not None:
            _check("factor_step", self.factor_step, LEAST_STEP, 1000)
        if self.metric not in ("mse", "function"):
            raise ValueError(f"metric: expected mse or function, got {self.metric!r:.40}")

    def target(self, rms: float) -> Target:
        """The same in absolute terms, for a task vector of root mean square `rms`."""
        factor_step = self.factor_step * rms if self.factor_step else None
        return Target(self.step * rms, self.metric, self.gain, factor_step, rms)

    def at_step(self, step: float) -> Recipe:
        """The same at another step."""
        return replace(self, step=step)

    def as_metadata(self) -> dict[str, str]:
        """Text that says how a task was coded; readers may ignore it."""
        if self.exact:
            return {"recipe": json.dumps({"name": "exact"})}
        settings: dict[str, object] = {"name": "auto", "metric": self.metric, "step": self.step}
        if self.gain:
            settings["gain"] = self.gain
        if self.factor_step:
            settings["factor_step"] = self.factor_step
        return {"recipe": json.dumps(settings, sort_keys=True)}


def _check(name: str, value: float, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: expected a number, got {value!r:.40}")
    if not least <= value <= most:
        raise ValueError(f"{name}: expected {least:g}..{most:g}, got {value:g}")


QUALITIES = {
    "small": Recipe(step=2.2, metric="function"),
    "balanced": Recipe(step=1.0, metric="function", factor_step=6.0),
    "high": Recipe(step=1.0),
}
EXACT = Recipe(exact=True)
