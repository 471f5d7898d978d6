"""What the names of a model's parameters say of its modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from tvcodec.errors import TvqError

MATRICES, VECTORS, EMBEDDINGS, OTHERS = "matrices", "vectors", "embeddings", "others"

_EMBEDDING = re.compile(r"embed|^(wte|wpe|shared|relative_attention_bias)$", re.IGNORECASE)


def kind_of(name: str, dims: tuple[int, ...]) -> str:
    """What a parameter is, as far as its name and dimensions tell: MATRICES are the weights of
    linear layers."""
    module, _, last = name.rpartition(".")
    if len(dims) < 2:
        return VECTORS
    if _EMBEDDING.search(module.rpartition(".")[2]):
        return EMBEDDINGS
    return MATRICES if len(dims) == 2 and last == "weight" and module else OTHERS


def target_modules(modules: Iterable[str], parameters: Iterable[str]) -> list[str] | str:
    """The modules' full names; a pattern of them where peft, which looks at the ends of names,
    would take another module for one of them."""
    names = sorted(modules)
    ends = {f".{name}.weight" for name in names}
    for parameter in parameters:
        if any(parameter[at:] in ends for at in _dots(parameter)):
            return "|".join(map(re.escape, names))
    return names


def matching(names: Iterable[str], globs: Sequence[str]) -> tuple[str, ...]:
    """The modules that globs match, without those inside another one; TvqError where a glob matches
    none."""
    modules = {name[:at] for name in names for at in _dots(name)}
    found: set[str] = set()
    for glob in globs:
        matched = {module for module in modules if fnmatchcase(module, glob)}
        if not matched:
            raise TvqError(f"no module matches {glob!r}", hint="such as 'classifier' or '*.norm'")
        found |= matched
    return tuple(sorted(module for module in found if not within(module, found)))


def within(name: str, modules: Iterable[str]) -> bool:
    """Whether a parameter or module lies in one of `modules`."""
    held = set(modules)
    return any(name[:at] in held for at in _dots(name))


def _dots(name: str) -> list[int]:
    return [at for at, char in enumerate(name) if char == "."]
