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
    from tvcodec.decoder import Bank
    from tvcodec.decoder import Bank as open
    from tvcodec.editing import remove
    from tvcodec.encoder import encode
    from tvcodec.model import Model
    from tvcodec.rate import Goal
    from tvcodec.recipes import EXACT, QUALITIES, Recipe
    from tvcodec.salvaging import salvage
    from tvcodec.summary import Summary
    from tvcodec.tuning import tune

__version__ = "0.1.0"

_HOMES = {
    "add": ("adding", "add"),
    "Bank": ("decoder", "Bank"),
    "open": ("decoder", "Bank"),
    "remove": ("editing", "remove"),
    "Summary": ("summary", "Summary"),
    "encode": ("encoder", "encode"),
    "Model": ("model", "Model"),
    "Goal": ("rate", "Goal"),
    "EXACT": ("recipes", "EXACT"),
    "QUALITIES": ("recipes", "QUALITIES"),
    "Recipe": ("recipes", "Recipe"),
    "salvage": ("salvaging", "salvage"),
    "tune": ("tuning", "tune"),
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
