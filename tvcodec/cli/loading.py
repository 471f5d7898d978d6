"""Torch, imported without what makes that slower than it is."""

from __future__ import annotations

import gc
import sys


def load_torch() -> None:
    """Imports torch, for a command that imports what needs it next. The garbage collector looks at
    none of its quarter of a million objects, neither now nor later nor when the process ends, which
    would take a fifth of the time again."""
    if "torch" in sys.modules:
        return
    collects = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.freeze()
        if collects:
            gc.enable()
