"""Files as somebody would bend them who knows the format: values of an index changed, moved and
multiplied, sections altered, spellings varied - and every checksum right again."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

from faults.anatomy import Anatomy, Group, taken_apart

INTEGERS = [0, 1, 2, 3, 7, 8, 16, 17, 255, 256, 257, 65535, 65536, 2**31, 2**32 - 1, 2**32]
INTEGERS += [
    2**40 - 1,
    2**40,
    2**48 - 1,
    2**48,
    2**53,
    2**63,
    2**64 - 1,
    -1,
    -2,
    -(2**31),
    -(2**63),
]
FLOATS = [0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 3e38, 1e-45, 0.5]
TEXTS = [
    "",
    "a",
    "b",
    "A",
    "../x",
    "/etc/x",
    "C:\\x",
    "con",
    "a\nb",
    "\x1b[2J",
    "a\u202eb",
    "e\u0301",
]
TEXTS += ["x" * 513, "float32", "float16", "bfloat16", "float64", "int64", "bool", "\ue000", "\0"]
OTHERS: list[Any] = [
    None,
    True,
    False,
    b"",
    b"x" * 32,
    b"x" * 33,
    [],
    {},
    [[]],
    {"a": "b"},
    {"a": 1},
]
MOST = 3  # changes to one file

Place = tuple[Any, Any]  # a list or map, and an index or key of it


def mutated(data: bytes, seed: int) -> bytes:
    """The file `data` with one to three changes; ValueError where it cannot be taken apart."""
    rng = random.Random(seed)
    anatomy = copy.deepcopy(taken_apart(data))
    for _ in range(rng.randint(1, MOST)):
        rng.choices(CHANGES, WEIGHTS)[0](rng, anatomy)
    return anatomy.assembled()


def _places(value: Any) -> list[Place]:
    """Every value below this one."""
    found: list[Place] = []
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    for key in list(keys):
        found.append((value, key))
        found += _places(value[key])
    return found


def _index(rng: random.Random, anatomy: Anatomy) -> Any:
    return rng.choice([anatomy.root, *(group.index for group in anatomy.groups)])


def _place(rng: random.Random, anatomy: Anatomy) -> Place | None:
    places = _places(_index(rng, anatomy))
    return rng.choice(places) if places else None


def _value(rng: random.Random, anatomy: Anatomy) -> None:
    """Another value of the same type, mostly."""
    if place := _place(rng, anatomy):
        holder, key = place
        old = holder[key]
        kinds: dict[type, list[Any]] = {int: INTEGERS, float: FLOATS, str: TEXTS}
        new = rng.choice(kinds.get(type(old), OTHERS))
        if type(old) is int and rng.random() < 0.5:
            new = old + rng.choice([-8, -1, 1, 8])
        if rng.random() < 0.1:
            new = rng.choice([*INTEGERS, *FLOATS, *TEXTS, *OTHERS])
        holder[key] = copy.deepcopy(new)


def _list(rng: random.Random, anatomy: Anatomy) -> None:
    """A list in another order, longer or shorter."""
    lists = [h[k] for h, k in _places(_index(rng, anatomy)) if isinstance(h[k], list) and h[k]]
    if not lists:
        return
    chosen = rng.choice(lists)
    one, other = rng.randrange(len(chosen)), rng.randrange(len(chosen))
    match rng.randrange(4):
        case 0:
            chosen[one], chosen[other] = chosen[other], chosen[one]
        case 1:
            chosen.insert(other, copy.deepcopy(chosen[one]))
        case 2:
            del chosen[one]
        case 3:
            chosen.append(copy.deepcopy(rng.choice(OTHERS)))


def _moved(rng: random.Random, anatomy: Anatomy) -> None:
    """A value from one place at another."""
    source, target = _place(rng, anatomy), _place(rng, anatomy)
    if source and target:
        target[0][target[1]] = copy.deepcopy(source[0][source[1]])


def _key(rng: random.Random, anatomy: Anatomy) -> None:
    """A map with a key less, or more, or in another order."""
    index = _index(rng, anatomy)
    maps = [index, *(h[k] for h, k in _places(index) if isinstance(h[k], dict))]
    chosen = rng.choice([item for item in maps if isinstance(item, dict)] or [{}])
    if not chosen or rng.random() < 0.5:
        chosen[rng.choice(TEXTS)] = copy.deepcopy(rng.choice(OTHERS))
    else:
        key = rng.choice(list(chosen))
        value = chosen.pop(key)
        if rng.random() < 0.5:
            chosen[key] = value


def _payload(rng: random.Random, anatomy: Anatomy) -> None:
    """Other bytes in a section."""
    group = _group(rng, anatomy)
    if group is None:
        return
    at = rng.randrange(len(group.sections))
    data = bytearray(group.sections[at])
    for _ in range(rng.randint(1, 4) if data else 0):
        data[rng.randrange(len(data))] = rng.choice([0, 255, 0x7F, 0x80, rng.randrange(256)])
    group.sections[at] = bytes(data)


def _length(rng: random.Random, anatomy: Anatomy) -> None:
    """A section of another length, and its streams with it, so that their sum is right."""
    group = _group(rng, anatomy)
    if group is None:
        return
    at = rng.randrange(len(group.sections))
    data = group.sections[at]
    by = max(rng.choice([-9, -8, -1, 1, 2, 8, 99]), -len(data))
    group.sections[at] = data[:by] if by < 0 else data + rng.randbytes(by)
    streams = [h[k] for h, k in _places(group.index) if _is_stream(h[k])]
    if streams:
        rng.choice(streams)[1] += by


def _is_stream(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 2 <= len(value) <= 3
        and all(type(number) is int for number in value)
    )


def _group(rng: random.Random, anatomy: Anatomy) -> Group | None:
    groups = [group for group in anatomy.groups if group.sections]
    return rng.choice(groups) if groups else None


def _spelling(rng: random.Random, anatomy: Anatomy) -> None:
    """A bit of the packed index, which may then be another index, or none."""
    holders: list[Anatomy | Group] = [anatomy, *anatomy.groups]
    rng.choice(holders).noise[rng.randrange(1 << 16)] = 1 << rng.randrange(8)


def _gram(rng: random.Random, anatomy: Anatomy) -> None:
    """Other inner products."""
    count = len(anatomy.gram) + rng.choice([-4, 0, 0, 0, 4])
    anatomy.gram = rng.choice([rng.randbytes(max(count, 0)), anatomy.gram[::-1]])


CHANGES = [_value, _list, _moved, _key, _payload, _length, _spelling, _gram]
WEIGHTS = [8, 4, 3, 1, 4, 3, 3, 1]
