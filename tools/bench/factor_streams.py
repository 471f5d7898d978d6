"""The codes of the factors in a file, stream by stream as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import tvcodec
from tvcodec.decoding.stored_task import load_entry
from tvcodec.file import entropy, index
from tvcodec.maths import lowrank

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stream:
    """Codes [components, rows] that are stored together in `length` bytes."""

    codes: Ints
    scales: Floats  # [components], of the factors
    alphabet: int
    length: int

    def packed(self, alphabet: int = 0, codes: Ints | None = None) -> entropy.Bytes:
        """The codes as bytes, in the alphabet that they are stored in or another one."""
        alphabet = alphabet or self.alphabet
        symbols = (self.codes if codes is None else codes).reshape(-1) + alphabet // 2
        return entropy.pack_symbols(symbols.astype(np.uint8), alphabet)

    @property
    def own(self) -> int:
        """The least alphabet that holds the codes."""
        return max(2 * int(np.abs(self.codes).max()) + 1, 3)


Side = Sequence[Stream]  # all of one matrix


def sides(bank: tvcodec.Bank, tasks: Sequence[str]) -> Iterator[Side]:
    """The codes of all factors of tasks, those of matrices' left and right sides by turns."""
    for task in tasks:
        for entry, offset in bank.archive.sections(task):
            if not isinstance(entry, index.Entry) or not entry.parts:
                continue
            contents = load_entry(bank.archive, task, entry, offset).contents
            both = [
                (part, content)
                for part, content in zip(entry.parts, contents, strict=True)
                if isinstance(part, index.Factors) and isinstance(content, lowrank.Factors)
            ]
            for name in ("left", "right"):
                side = [_stream(getattr(a, name), getattr(b, name), b.scales) for a, b in both]
                if side:
                    yield side


def _stream(stream: index.Stream, codes: Tensor, scales: Tensor) -> Stream:
    """What is stored of one side; integers of codes beyond a byte do not occur at steps of use."""
    assert stream.kind == index.SYMBOLS
    numbers = codes.T.to(torch.int64).numpy()
    return Stream(numbers, scales.double().abs().numpy(), stream.size, stream.length)
