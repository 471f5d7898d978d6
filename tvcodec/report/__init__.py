"""An open file as one page for people, or as single pictures: what is where, at what error, and
how alike its tasks are. Nothing is decoded but some factors, and no model is needed."""

from __future__ import annotations

from importlib.util import find_spec

from tvcodec.errors import TvqError

PLOTS = ("size", "depth", "spectra", "similarity", "tuning")
NEEDED = ("matplotlib", "scipy")


def check_libraries() -> None:
    """TvqError where a library that `tvcodec.report.build` draws with is not there."""
    for name in NEEDED:
        if find_spec(name) is None:
            raise TvqError(f"a report needs {name}", hint="pip install 'tvcodec[report]'")
