"""What all published recipes have in common, and how their settings are written and read."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from tvcodec.encoding.family import Family, Sum
from tvcodec.errors import TvqError
from tvcodec.maths import dense
from tvcodec.maths.dense import as_half

_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

R = TypeVar("R", bound="Published")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A system from a paper: how the task vectors of one parameter become shared vectors and each
    task's parts. Settings are the fields; ValueError where one is out of range.

    `fp16` stores floats as float16 where its range holds them, and else as float32.
    """

    name: ClassVar[str]
    uses_masks: ClassVar[bool] = False
    exact: ClassVar[bool] = False  # bits are not kept
    joint: ClassVar[bool] = False  # whether what a task stores depends on the other tasks

    fp16: bool = False

    def share(self, family: Family) -> Tensor | None:
        """Stores what the tasks of a family share; what `code` has to know of it."""
        return None

    def code(self, family: Family, task: int, tau: Tensor, shared: Tensor | None) -> Sum:
        """A task's own parts; `tau` is its whole task vector [rows, columns]."""
        raise NotImplementedError

    def floats(self, values: Tensor) -> Sum:
        """The values themselves."""
        return Sum((dense.Values(as_half(values, self.fp16)),))

    def as_metadata(self) -> dict[str, str]:
        """All settings as text; readers may ignore it."""
        return {"recipe": json.dumps({"name": self.name, **asdict(self)}, sort_keys=True)}


def from_settings(kind: type[R], settings: Mapping[str, Any]) -> R:
    """The recipe of that kind with `settings`, which may be text. TvqError for a setting that it
    does not have, or a value that it cannot take."""
    known = {field.name: field for field in fields(kind)}
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in known:
            raise TvqError(
                f"recipe {kind.name!r} has no setting {key!r}",
                hint=f"its settings: {', '.join(sorted(known))}",
            )
        values[key] = _converted(key, value, hints[key])
    try:
        return kind(**values)
    except ValueError as error:
        raise TvqError(f"recipe {kind.name!r}: {error}") from None


def _converted(key: str, value: object, wanted: Any) -> object:
    """`value` as a setting's type: bool, int, float or str, or one of several."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    for kind in typing.get_args(wanted) or (wanted,):
        if kind is bool and (isinstance(value, bool) or str(value).lower() in _TRUTHS):
            return value if isinstance(value, bool) else _TRUTHS[str(value).lower()]
        if kind is str:
            return str(value)
        if kind in (int, float) and not isinstance(value, bool):
            try:
                number = kind(str(value))
            except ValueError:
                continue
            return number
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    kinds = " or ".join(names[kind] for kind in typing.get_args(wanted) or (wanted,))
    raise TvqError(f"setting {key!r}: expected {kinds}, got {value!r:.40}")


def in_range(name: str, value: float, least: float, most: float) -> None:
    """ValueError unless `value` is a number in least..most; a NaN is not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: expected a number, got {value!r:.40}")
    if not least <= value <= most:
        raise ValueError(f"{name}: expected {least:g}..{most:g}, got {value:g}")


def whole_in_range(name: str, value: int, least: int, most: int) -> None:
    """ValueError unless `value` is a whole number in least..most."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}: expected a whole number, got {value!r:.40}")
    in_range(name, value, least, most)


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """ValueError unless `value` is one of those known."""
    if value not in known:
        raise ValueError(f"{name}: expected {' or '.join(known)}, got {value!r:.40}")
