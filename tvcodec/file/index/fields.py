"""Single values of an index, checked: numbers, names, shapes, digests and arrays of them.

Each function takes what msgpack gave and returns it typed, or raises Malformed. A Malformed starts
with the name of the value at fault and collects the rest of its path on the way out, so the good
case pays nothing for it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection
from typing import TypeVar

U32 = 2**32 - 1
DIMENSION_MAX = 2**48 - 1
RANK_MAX = 8
COUNT_MAX = 2**40 - 1  # values of one parameter
NAME_MAX = 512
METADATA_MAX = 1024  # pairs
TEXT_MAX = 2**16

_TASK_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?")
DEVICE_NAME = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE)

T = TypeVar("T")


class Malformed(Exception):
    """A value that the format does not allow, at `path` inside the index."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path

    def under(self, step: str) -> Malformed:
        """The same, seen from the value that holds this one as `step`."""
        self.path = step + self.path
        return self


def expected(what: str, got: object, path: str = "") -> Malformed:
    """A Malformed that shows `got` where it is text, shortened, and its type where it is not."""
    shown = ascii(got[:80]) if isinstance(got, str) else type(got).__name__
    return Malformed(f"expected {what}, got {shown}", path)


def integer(value: object, path: str, most: int, least: int = 0) -> int:
    """An int (never a bool) in least..most."""
    if type(value) is not int:
        raise Malformed(f"expected int, got {type(value).__name__}", path)
    if not least <= value <= most:
        raise Malformed(f"expected {least}..{most}, got {value}", path)
    return value


def real(value: object, path: str) -> float:
    """A finite float."""
    if type(value) is not float:
        raise Malformed(f"expected float, got {type(value).__name__}", path)
    if value - value != 0:
        raise Malformed(f"expected a finite number, got {value}", path)
    return value


def size(value: object, path: str) -> float:
    """A finite float that is not negative: a norm or an error."""
    number = real(value, path)
    if not number > 0 and math.copysign(1, number) < 0:
        raise Malformed(f"expected a number from 0, got {number}", path)
    return number


def array(value: object, length: int) -> list[object]:
    """A list of exactly `length` values."""
    if type(value) is not list:
        raise Malformed(f"expected an array of {length}, got {type(value).__name__}")
    if len(value) != length:
        raise Malformed(f"expected an array of {length}, got one of {len(value)}")
    return value


def items(value: object, path: str, read: Callable[[object], T]) -> tuple[T, ...]:
    """A list of any length, each of its values read by `read`."""
    if type(value) is not list:
        raise Malformed(f"expected an array, got {type(value).__name__}", path)
    out: list[T] = []
    try:
        for item in value:
            out.append(read(item))
    except Malformed as problem:
        raise problem.under(f"{path}[{len(out)}]") from None
    return tuple(out)


def digest(value: object, path: str) -> bytes:
    """The 32 bytes of a SHA-256."""
    if type(value) is not bytes or len(value) != 32:
        raise Malformed(f"expected 32 bytes, got {type(value).__name__}", path)
    return value


def dimensions(value: object, path: str = ".dims") -> tuple[int, ...]:
    """A shape: at most 8 dimensions, none negative, those that are not 0 of a product below 2^40,
    which bounds the values, and the strides where there are none."""
    dims = items(value, path, lambda dim: integer(dim, "", DIMENSION_MAX))
    if len(dims) > RANK_MAX:
        raise Malformed(f"expected at most {RANK_MAX} dimensions, got {len(dims)}", path)
    if (values := math.prod(dim or 1 for dim in dims)) > COUNT_MAX:
        raise Malformed(f"expected at most {COUNT_MAX} values, got {values}", path)
    return dims


def metadata(value: object) -> dict[str, str]:
    """Sorted text keys and text values; keys follow the rule for parameter names."""
    path = ".metadata"
    if type(value) is not dict:
        raise Malformed(f"expected a map, got {type(value).__name__}", path)
    if len(value) > METADATA_MAX:
        raise Malformed(f"expected at most {METADATA_MAX} pairs, got {len(value)}", path)
    for number, (key, text) in enumerate(value.items()):
        if type(key) is not str or not valid_parameter_name(key):
            raise expected("a printable key", key, f"{path}[{number}]")
        if type(text) is not str:
            raise Malformed(f"expected str, got {type(text).__name__}", f"{path}[{number}]")
    if list(value) != sorted(value):
        raise Malformed("expected sorted keys, got others", path)
    return value


def parameter_name(value: object, path: str = ".name") -> str:
    if type(value) is not str or not valid_parameter_name(value):
        raise expected("a parameter name", value, path)
    return value


def task_name(value: object, path: str = ".name") -> str:
    if type(value) is not str or not valid_task_name(value):
        raise expected("a task name", value, path)
    return value


def valid_parameter_name(name: str) -> bool:
    """Whether a parameter may be called so: 1 to 512 printable characters (so no line breaks,
    escapes or direction marks), in Unicode's composed form."""
    return (
        0 < len(name) <= NAME_MAX
        and name.isprintable()
        and (name.isascii() or unicodedata.is_normalized("NFC", name))
    )


def valid_task_name(name: str) -> bool:
    """Whether a task may be called so: it must be a safe file name on every system, so no device's,
    and without the full stop at its end that some systems take away."""
    return bool(_TASK_NAME.fullmatch(name)) and not DEVICE_NAME.fullmatch(name)


def increasing(values: tuple[T, ...] | list[T], path: str, strictly: bool = True) -> None:
    """Malformed at the first value that is not above (or equal to) the one before it."""
    for number in range(1, len(values)):
        before, value = values[number - 1], values[number]
        if not before < value and (strictly or before != value):  # type: ignore[operator]
            raise Malformed(f"expected more than {before!r}, got {value!r}", f"{path}[{number}]")


def mapping(
    value: object, keys: tuple[str, ...], optional: Collection[str] = ()
) -> dict[str, object]:
    """A map of exactly `keys`, in that order, those that are `optional` there or not."""
    if type(value) is not dict:
        raise Malformed(f"expected a map, got {type(value).__name__}")
    keys = tuple(key for key in keys if key not in optional or key in value)
    if tuple(value) != keys:
        odd = [key for key in value if key not in keys] + [key for key in keys if key not in value]
        problem = f"another set, or order, around {odd[0]!a:.80}" if odd else "another order"
        raise Malformed(f"expected the keys {', '.join(keys)}, got {problem}")
    return value


def one_of(names: Collection[str], value: object, path: str) -> str:
    """One of the `names`."""
    if type(value) is not str or value not in names:
        raise expected(f"one of {', '.join(names)}", value, path)
    return value
