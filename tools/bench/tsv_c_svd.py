"""TSV-Compress as its authors write it, for comparison: a full singular value decomposition of each
matrix of each task vector, of which min(m, n) / T triplets are kept in float16.

usage: tsv_c_svd.py OUT BASE FINE_TUNE [FINE_TUNE ...]

Gargiulo et al., "Task Singular Vectors" (CVPR 2025). Files are .safetensors.
"""

from __future__ import annotations

import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def main() -> None:
    out, base, *tunes = sys.argv[1:]
    kept: dict[str, torch.Tensor] = {}
    with safe_open(base, framework="pt") as original:
        for task, path in enumerate(tunes):
            with safe_open(path, framework="pt") as tuned:
                for name in tuned.keys():  # noqa: SIM118 - no mapping
                    tau = tuned.get_tensor(name) - original.get_tensor(name)
                    if tau.dim() != 2:
                        kept[f"{task}.{name}"] = tau.half()
                        continue
                    rank = min(tau.shape) // len(tunes)
                    left, sigma, right = torch.linalg.svd(tau, full_matrices=False)
                    kept[f"{task}.{name}.left"] = left[:, :rank].half().contiguous()
                    kept[f"{task}.{name}.sigma"] = sigma[:rank].half()
                    kept[f"{task}.{name}.right"] = right[:rank].half().contiguous()
    save_file(kept, out)


if __name__ == "__main__":
    main()
