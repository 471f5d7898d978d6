"""Mistakes in paths, found before what takes long to import."""

from __future__ import annotations

import os
from pathlib import Path

from tvcodec.file.location import is_url


def check(*inputs: str | None, output: str | None = None) -> None:
    """OSError for the first input that is not there, or where there is no directory for `output`.
    An address on a network is left to whoever reads it."""
    for path in inputs:
        if path is not None and not is_url(path):
            os.stat(path)
    if output is None or is_url(output) or Path(output).parent.is_dir():
        return
    there = [Path(path).resolve() for path in inputs if path is not None]
    if not any(Path(output).resolve().is_relative_to(path) for path in there):  # said better later
        raise FileNotFoundError(2, "no such directory", str(Path(output).parent))
