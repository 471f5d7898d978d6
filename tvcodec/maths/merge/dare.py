"""DARE: drop most values at random, make the others up for them.

Yu et al., Language Models are Super Mario (ICML 2024, arXiv 2311.03099): each value of a task
vector is zeroed with probability p, what is left is divided by 1 - p; then all are added.

Which values are dropped depends on the seed, the task and the parameter by name alone: the same on
every machine, in any order and number of threads.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
from torch import Tensor

from tvcodec.errors import TvqError


def drop(tau: Tensor, rate: float, seed: int, task: str, parameter: str) -> Tensor:
    """The task vector of a parameter with a share of `rate` (below 1) dropped, rescaled."""
    if not 0 <= rate < 1:
        raise TvqError(f"expected a drop rate of at least 0 and below 1, got {rate}")
    kept = _uniform(tau.numel(), seed, task, parameter) >= round(rate * 2**32)
    mask = torch.from_numpy(kept).view(tau.shape).to(tau.device)
    return torch.where(mask, tau / (1 - rate), torch.zeros_like(tau))


def _uniform(count: int, seed: int, task: str, parameter: str) -> np.ndarray:
    """`count` uniform integers below 2^32: halves, low one first, of the outputs of Philox 4x64-10
    with the first 128 bits of a SHA-256 as key."""
    digest = hashlib.sha256(json.dumps([seed, task, parameter]).encode()).digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(-(-count // 2))
    return words.astype("<u8", copy=False).view("<u4")[:count]
