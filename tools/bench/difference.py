"""How far two models are apart, relative to how far the second is from a third.

usage: difference.py MODEL OTHER BASE

Models are directories; prints the ratio of norms over all parameters.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor


def main() -> None:
    models = [load_file(Path(path) / "model.safetensors") for path in sys.argv[1:4]]
    print(difference(*models))


def difference(
    model: Mapping[str, Tensor], other: Mapping[str, Tensor], base: Mapping[str, Tensor]
) -> float:
    """||model - other|| / ||other - base||, in float64; the three have the same parameters."""
    if not set(model) == set(other) == set(base):
        raise SystemExit(f"parameters differ: {sorted(set(model) ^ set(other))[:5]}")
    apart = moved = 0.0
    for name, tensor in other.items():
        exact = tensor.double()
        apart += float((model[name].double() - exact).square().sum())
        moved += float((base[name].double() - exact).square().sum())
    return math.sqrt(apart / moved)


if __name__ == "__main__":
    main()
