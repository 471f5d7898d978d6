"""The accuracy of a model on the sample's tasks, and which models are the same bit for bit.

python -m sample.evaluate MODEL.safetensors TASK
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from sample.model import ViT
from torch import Tensor

SAMPLE = Path(__file__).parent
BASE_MODEL = SAMPLE / "base.safetensors"
FINE_TUNES = SAMPLE / "fine-tunes.tvq"
PERFORMANCE = SAMPLE / "perf.json"
DIGESTS = SAMPLE / "digests.json"
HEADS = SAMPLE / "heads.safetensors"
TEST = SAMPLE / "test.safetensors"
BATCH = 50


def accuracy(
    state: Mapping[str, Tensor],
    task: str,
    rows: int | None = None,
    heads: Path = HEADS,
    test: Path = TEST,
) -> float:
    """The share of a task's first `rows` test rows (all by default) that the model, in float32 and
    under the task's frozen head, gets right."""
    model = ViT().eval()
    model.load_state_dict({name: _widened(state[name]) for name in state})
    with safe_open(heads, "pt") as file:
        weight, bias = file.get_tensor(f"{task}.weight"), file.get_tensor(f"{task}.bias")
    with safe_open(test, "pt") as file:
        images, labels = file.get_tensor(f"{task}.images"), file.get_tensor(f"{task}.labels")
    images, labels = images[:rows], labels[:rows]
    hits = 0
    with torch.inference_mode():
        for some, wanted in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            hits += int((F.linear(model(some), weight, bias).argmax(1) == wanted).sum())
    return hits / len(labels)


def digest(state: Mapping[str, Tensor]) -> str:
    """The same for two models if, and but for chance only if, every bit of every tensor is."""
    hashed = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def digests() -> dict[str, str]:
    """The digest of each fine-tune before it went into the archive, by task."""
    loaded: dict[str, str] = json.loads(DIGESTS.read_text())
    return loaded


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


if __name__ == "__main__":
    print(accuracy(load_file(sys.argv[1]), sys.argv[2]))
