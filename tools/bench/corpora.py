"""The two real corpora that benchmarks run on: where their models are and how accuracy is measured.

text4: `unpack.py DEST` of the corpus builds it; vit8 is used as it lies. Both carry an evaluate.py,
which is loaded from there, so that accuracy is never measured by code of this repository.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import Tensor

Evaluate = Callable[[Mapping[str, Tensor], list[str]], dict[str, float]]


@dataclass(frozen=True)
class Corpus:
    """A base model, its fine-tunes, and accuracy of a state dict on some tasks."""

    name: str
    base_model: Path
    fine_tunes: dict[str, Path]
    evaluate: Evaluate


def load(name: str, root: Path) -> Corpus:
    """The corpus `name` ("text4" or "vit8") under `root`."""
    return {"text4": _text4, "vit8": _vit8}[name](root)


def _text4(root: Path) -> Corpus:
    module = _module("text4_evaluate", root / "evaluate.py")
    tunes = {p.parent.name: p for p in sorted(root.glob("tasks/*/model.safetensors"))}

    def evaluate(state: Mapping[str, Tensor], tasks: list[str]) -> dict[str, float]:
        measured: dict[str, float] = module.evaluate_state(dict(state), tasks, str(root))
        return measured

    return Corpus("text4", root / "base/model.safetensors", tunes, evaluate)


def _vit8(root: Path) -> Corpus:
    module = _module("vit8_evaluate", root / "evaluate.py")
    tasks = sorted(json.loads((root / "perf.json").read_text()))
    tunes = {task: root / f"tasks/{task}.safetensors" for task in tasks}

    def evaluate(state: Mapping[str, Tensor], tasks: list[str]) -> dict[str, float]:
        measured: dict[str, float] = module.accuracy(dict(state), tasks)
        return measured

    return Corpus("vit8", root / "base.safetensors", tunes, evaluate)


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: expected the corpus's evaluate.py, got nothing")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
