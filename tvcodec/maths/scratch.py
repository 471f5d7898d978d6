"""Memory for what is needed for a moment."""

from __future__ import annotations

import threading

import torch
from torch import Tensor


class Scratch(threading.local):
    """Memory that each thread uses again: the system takes longer to hand out pages than it takes
    to fill them."""

    def __init__(self) -> None:
        self._held = torch.empty(0, dtype=torch.float32, device="cpu")

    def values(self, count: int) -> Tensor:
        """`count` float32 values, uninitialised, good until they are next asked for."""
        if len(self._held) < count:
            with torch.inference_mode(False):  # or nobody could write to it outside that mode
                self._held = torch.empty(0, dtype=torch.float32)  # goes before the larger one comes
                self._held = torch.empty(count, dtype=torch.float32, device="cpu")
        return self._held[:count]
