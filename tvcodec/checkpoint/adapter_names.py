"""What an adapter calls a parameter -> what the base model's checkpoint calls it.

An adapter was trained on a model with a head, whose names may have a prefix (bert., model.) more
or less than those of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tvcodec.errors import CheckpointError


class BaseNames:
    """Finds names of the base model; `label` is the adapter's, for messages."""

    def __init__(self, names: Sequence[str], label: str) -> None:
        self._names, self._label = frozenset(names), label
        self._ending: dict[str, list[str]] = {}
        for name in names:
            for end in _endings(name):
                self._ending.setdefault(end, []).append(name)
        self._prefixes: set[tuple[str, str]] = set()  # (the adapter's, the base model's instead)
        self._taken: dict[str, str] = {}

    def of_factors(self, name: str) -> str:
        """The parameter that LoRA is of: of that name, or the only one whose name ends so or is the
        end of it. CheckpointError where there is none, or several."""
        if name in self._names:
            found = [name]
        else:
            found = [*self._ending.get(name, ()), *(e for e in _endings(name) if e in self._names)]
        if len(found) != 1:
            shown = " and ".join(map(repr, found[:2])) or "none"
            raise CheckpointError(
                f"{self._label}: expected one parameter {name!r} of the base model, got {shown}",
                "is this an adapter of that base model?",
            )
        end = min(name, found[0], key=len)
        self._prefixes.add((name.removesuffix(end), found[0].removesuffix(end)))
        return self._once(found[0], name)

    def of_saved(self, name: str) -> str:
        """The parameter that was saved whole, by the prefixes of those with factors; the name as it
        is, where the base model lacks it."""
        if name in self._names:
            return self._once(name, name)
        found = {
            instead + name.removeprefix(prefix)
            for prefix, instead in self._prefixes
            if name.startswith(prefix)
        } & self._names
        return self._once(min(found) if len(found) == 1 else name, name)

    def _once(self, parameter: str, name: str) -> str:
        if self._taken.setdefault(parameter, name) != name:
            raise CheckpointError(
                f"{self._label}: expected parameter {parameter!r} once, got it as {name!r} and"
                f" {self._taken[parameter]!r}"
            )
        return parameter


def _endings(name: str) -> Iterator[str]:
    """What is left of a dotted name without its first components."""
    while "." in name:
        name = name.partition(".")[2]
        yield name
