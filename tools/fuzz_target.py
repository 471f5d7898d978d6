"""A coverage-guided fuzzer of the reader, run by `tools/fuzz --minutes N`.

usage: fuzz_target.py [option of libFuzzer]... CORPUS...

Starts from spec/vectors; most inputs are files bent by somebody who knows the format, checksums
right, the rest what libFuzzer thinks of. Each must be refused or read as spec/reader.py reads it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import atheris
import torch

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP), str(TOP / "spec"), str(TOP / "tools")]

with atheris.instrument_imports(include=["tvcodec"]):
    import_module("tvcodec.decoding.decoder")

from faults.comparison import compared  # noqa: E402
from faults.mutations import mutated  # noqa: E402

SEEDS = 1 << 31
FREELY = 4  # one input of so many is changed without respect for the format


class Wrong(Exception):
    """Neither refused nor read as it should be."""


def one_input(data: bytes) -> None:
    path = Path(SCRATCH, "bank.tvq")
    path.write_bytes(data)
    if problem := compared(path).problem:
        raise Wrong(problem)


def mutator(data: bytes, max_size: int, seed: int) -> bytes:
    if seed % FREELY:
        try:
            return mutated(data, seed % SEEDS)[:max_size]
        except ValueError:
            pass
    changed: bytes = atheris.Mutate(data, max_size)
    return changed


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if os.path.isdir("/dev/shm") else None
    ) as SCRATCH:
        atheris.Setup(sys.argv, one_input, custom_mutator=mutator)
        atheris.Fuzz()
