"""Outputs that tvcodec writes over older ones: archives, models as files and directories."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

import tvcodec
from faults.oplog import Tree, tree_of
from tvcodec.adding import add
from tvcodec.file.container import PROLOGUE_SIZE
from tvcodec.file.editing import remove
from tvcodec.file.salvaging import salvage

LEFT_OVER = re.compile(r"\..+-[0-9a-f]{8}\.(tmp|old)")
SHARD = 9000  # bytes: two parameters of three


@dataclass(frozen=True)
class Job:
    """A program that writes `name` into a directory: `old` is what an earlier run of another
    version put there, `new` what this one is to put there."""

    name: str
    run: Callable[[Path, bool], object]  # where, and whether with force
    old: Tree
    new: Tree
    in_place: bool = False  # whether it needs what is there

    def prepare(self, place: Path, keep_temporaries: bool = False) -> None:
        """Puts the old output, and nothing else, into a directory."""
        for entry in place.iterdir():
            if not keep_temporaries or entry.name == self.name:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for path, data in self.old.items():
            if data is None:
                (place / path).mkdir()
            else:
                (place / path).write_bytes(data)

    def seen(self, tree: Tree) -> str:
        """What stands under the output's name: the old one, the new one, or what else."""
        own = {p: d for p, d in tree.items() if p == self.name or p.startswith(self.name + "/")}
        if own in (self.old, self.new):
            return "old" if own == self.old else "new"
        return "a half" if own else "nothing"


def left_over(place: Path, job: Job) -> list[Path]:
    """Temporaries; any other foreign name is an error."""
    found = [entry for entry in place.iterdir() if entry.name != job.name]
    strange = [entry.name for entry in found if not LEFT_OVER.fullmatch(entry.name)]
    if strange:
        raise ValueError(f"{strange} in the directory of an output")
    return found


def age(entry: Path) -> None:
    """Makes a temporary old enough to be removed."""
    os.utime(entry, (0, 0))


def jobs(scratch: Path) -> list[Job]:
    """Encode, decode to a file and to a directory, merge to both, salvage; and in the place of the
    file that they read: add, remove."""
    base = scratch / "base"
    base.mkdir()
    save_file(_model(0), base / "model.safetensors")
    (base / "config.json").write_text('{"model_type": "none"}')
    banks = [scratch / "one.tvq", scratch / "two.tvq"]
    tunes = []
    for number in range(2):
        tunes.append({f"t{n}": _model(0, 10 * number + n + 1) for n in range(2)})
        tvcodec.encode(base, tunes[number], banks[number])
    damaged = [bank.with_suffix(".damaged") for bank in banks]
    for bank, path in zip(banks, damaged, strict=True):
        data = bytearray(bank.read_bytes())
        data[PROLOGUE_SIZE] ^= 1  # in the first task
        path.write_bytes(data)

    def encode(number: int, path: Path, force: bool) -> None:
        tvcodec.encode(base, tunes[number], path, force=force)

    def decode(number: int, path: Path, force: bool) -> None:
        with tvcodec.open(banks[number]) as bank:
            bank.decode("t0", base).save(path, force=force, max_shard_size=SHARD)

    def merge(number: int, path: Path, force: bool) -> None:
        with tvcodec.open(banks[number]) as bank:
            bank.merge(base).save(path, force=force, max_shard_size=SHARD)

    def saved(number: int, path: Path, force: bool) -> None:
        salvage(damaged[number], path, force=force)

    def added(path: Path) -> None:
        add(path, base, {"t2": _model(0, 30)})

    def removed(path: Path) -> None:
        remove(path, ["t1"])

    kinds = {
        "bank.tvq": encode,
        "decoded.safetensors": decode,
        "decoded": decode,
        "merged.safetensors": merge,
        "merged": merge,
        "saved.tvq": saved,
    }
    apart = [_job(scratch, name, write) for name, write in kinds.items()]
    changes = {"added.tvq": added, "removed.tvq": removed}
    return apart + [_change(scratch, name, banks[0], run) for name, run in changes.items()]


def _job(scratch: Path, name: str, write: Callable[[int, Path, bool], None]) -> Job:
    trees = []
    for number in range(2):
        place = scratch / f"{name}-{number}"
        place.mkdir()
        write(number, place / name, False)
        trees.append(tree_of(place))
    return Job(name, lambda place, force: write(1, place / name, force), trees[0], trees[1])


def _change(scratch: Path, name: str, bank: Path, run: Callable[[Path], object]) -> Job:
    place = scratch / name
    place.mkdir()
    shutil.copyfile(bank, place / name)
    old = tree_of(place)
    run(place / name)
    return Job(name, lambda place, force: run(place / name), old, tree_of(place), in_place=True)


def _model(seed: int, change: int = 0) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    model = {name: torch.randn(64, 32, generator=made) for name in "abc"}
    made = torch.Generator().manual_seed(change)
    for tensor in model.values() if change else ():
        tensor += 0.01 * torch.randn(64, 32, generator=made)
    return model
