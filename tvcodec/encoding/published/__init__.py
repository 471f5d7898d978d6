"""Systems from papers, written into the same file as everything else: each as published where that
is sound, and where it is not, repaired as its module says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvcodec.encoding.published.bitdelta import BitDelta
from tvcodec.encoding.published.settings import Published, from_settings
from tvcodec.encoding.published.svd_hybrid import SvdHybrid
from tvcodec.encoding.published.tall import Consensus, Tall
from tvcodec.encoding.published.tsv_c import TsvC
from tvcodec.encoding.published.tvq import Rtvq, Tvq
from tvcodec.errors import TvqError

RECIPES: dict[str, type[Published]] = {
    kind.name: kind for kind in (SvdHybrid, Tvq, Rtvq, Tall, Consensus, TsvC, BitDelta)
}

__all__ = [
    "RECIPES",
    "BitDelta",
    "Consensus",
    "Published",
    "Rtvq",
    "SvdHybrid",
    "Tall",
    "TsvC",
    "Tvq",
    "published",
]


def published(name: str, settings: Mapping[str, Any] | None = None) -> Published:
    """The recipe of that name with settings, which may be text; TvqError where there is none such
    or it cannot have them."""
    if name not in RECIPES:
        raise TvqError(f"no recipe {name!r:.40}", hint=f"there are: {', '.join(RECIPES)}")
    return from_settings(RECIPES[name], settings or {})
