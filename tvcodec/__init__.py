"""Many fine-tunes of one base model in one small file; any of them, or a merge, back on demand."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tvcodec.errors import (
    BaseModelMismatch,
    CheckpointError,
    FormatError,
    TvqError,
    UnknownTaskError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from tvcodec.adding import add
    from tvcodec.decoding.decoder import Bank
    from tvcodec.decoding.decoder import Bank as open
    from tvcodec.decoding.model import Model
    from tvcodec.encoding.encoder import encode
    from tvcodec.encoding.summary import Summary
    from tvcodec.file.editing import remove
    from tvcodec.file.salvaging import salvage
    from tvcodec.parameter.rate import Goal
    from tvcodec.parameter.recipes import EXACT, QUALITIES, Recipe
    from tvcodec.tuning.tune import tune

__version__ = "0.1.0"

_HOMES = {
    "add": ("adding", "add"),
    "Bank": ("decoding.decoder", "Bank"),
    "open": ("decoding.decoder", "Bank"),
    "remove": ("file.editing", "remove"),
    "Summary": ("encoding.summary", "Summary"),
    "encode": ("encoding.encoder", "encode"),
    "Model": ("decoding.model", "Model"),
    "Goal": ("parameter.rate", "Goal"),
    "EXACT": ("parameter.recipes", "EXACT"),
    "QUALITIES": ("parameter.recipes", "QUALITIES"),
    "Recipe": ("parameter.recipes", "Recipe"),
    "salvage": ("file.salvaging", "salvage"),
    "tune": ("tuning.tune", "tune"),
}

__all__ = [
    "EXACT",
    "QUALITIES",
    "Bank",
    "BaseModelMismatch",
    "CheckpointError",
    "FormatError",
    "Goal",
    "Model",
    "Recipe",
    "Summary",
    "TvqError",
    "UnknownTaskError",
    "UnsupportedError",
    "add",
    "encode",
    "open",
    "remove",
    "salvage",
    "tune",
]


def __getattr__(name: str) -> object:
    """Loads what needs torch when it is first asked for: `import tvcodec` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tvcodec' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(f"tvcodec.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """With what is loaded when it is first asked for."""
    return sorted({*globals(), *__all__})
