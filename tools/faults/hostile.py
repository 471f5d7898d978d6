"""Campaigns of hostile files: each case is read, and must be refused or give the right content."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import torch

from faults import bombs, damage
from faults.comparison import compared
from faults.mutations import mutated
from faults.outcome import READINGS, VECTORS, Outcome, Tally, outcome
from tvcodec.checkpoint import open_checkpoint

SMALL = ("y_smallest.tvq", "y_three_tasks.tvq", "y_all_parts.tvq")
TOO_LARGE = {"y_frames.tvq"}  # takes longer than the others together


def flips(scratch: Path, amount: int) -> Tally:
    """Every bit of the first `amount` of the small files."""
    return _damaged(scratch, SMALL[:amount], damage.flips)


def cuts(scratch: Path, amount: int) -> Tally:
    return _damaged(scratch, SMALL[:amount], damage.all_but_flips)


def _damaged(scratch: Path, names: Iterable[str], kind: object) -> Tally:
    assert callable(kind)
    tally, path = Tally(), scratch / "bank.tvq"
    for name in names:
        whole = [outcome(read, VECTORS / name) for read in READINGS]
        for what, data in kind((VECTORS / name).read_bytes()):
            path.write_bytes(data)
            for read, right in zip(READINGS, whole, strict=True):
                found = outcome(read, path)
                other = not found.refused and found.content != right.content
                problem = found.problem or ("other content" if other else None)
                tally.add(f"{name}, {what}, {read.__name__}", problem, bool(found.refused))
    return tally


def rules(scratch: Path, amount: int) -> Tally:
    """The files of spec/vectors."""
    tally = Tally()
    for path in sorted(VECTORS.glob("*.tvq")):
        found = compared(path)
        wrong = bool(found.refused) != path.name.startswith("n_")
        tally.add(path.name, found.problem or ("read" if wrong else None), bool(found.refused))
    return tally


def mutations(scratch: Path, amount: int) -> Tally:
    """`amount` files that were bent by somebody who knows the format."""
    tally, path = Tally(), scratch / "bank.tvq"
    sound = [
        file.read_bytes() for file in sorted(VECTORS.glob("y_*.tvq")) if file.name not in TOO_LARGE
    ]
    for seed in range(amount):
        path.write_bytes(mutated(sound[seed % len(sound)], seed))
        found = compared(path)
        tally.add(f"seed {seed}", found.problem, bool(found.refused))
    return tally


def noise(scratch: Path, amount: int) -> Tally:
    """`amount` times several bytes of a vector changed at once, checksums left alone."""
    tally, path, rng = Tally(), scratch / "bank.tvq", random.Random(1)
    sound = [(VECTORS / name).read_bytes() for name in SMALL]
    for number in range(amount):
        data = bytearray(rng.choice(sound))
        for at in rng.sample(range(len(data)), rng.randint(2, 40)):
            data[at] ^= rng.randint(1, 255)
        path.write_bytes(data)
        found = outcome(READINGS[0], path)
        problem = found.problem or (None if found.refused else "read")
        tally.add(f"number {number}", problem, bool(found.refused))
    return tally


def claims(scratch: Path, amount: int) -> Tally:
    """Archives that ask for more than there is."""
    return _bombs(scratch / "bank.tvq", bombs.archives(), refuse_all=True)


def checkpoints(scratch: Path, amount: int) -> Tally:
    """Checkpoints that do."""
    tally = _bombs(scratch / "model.pt", bombs.pickles(), refuse_all=True)
    more = _bombs(scratch / "model.safetensors", bombs.headers(), refuse_all=True)
    return Tally(tally.cases + more.cases, tally.refused + more.refused, tally.wrong + more.wrong)


def _bombs(path: Path, files: Iterable[bombs.Bomb], refuse_all: bool) -> Tally:
    tally = Tally()
    for what, data in files:
        path.write_bytes(data)
        found = outcome(READINGS[0] if path.suffix == ".tvq" else _checkpoint, path)
        problem = found.problem or ("read" if refuse_all and not found.refused else None)
        tally.add(what, problem, bool(found.refused))
    return tally


def _checkpoint(path: Path) -> str:
    tensors = open_checkpoint(path)
    return str([torch.Tensor.sum(tensors.tensor(name)) for name in tensors])


__all__ = ["Outcome", "checkpoints", "claims", "cuts", "flips", "mutations", "noise", "rules"]
