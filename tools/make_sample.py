"""python tools/make_sample.py CORPUS [--rows N]

Makes the data files of tools/sample from the corpus that they are taken from: a directory with
base.safetensors, tasks/TASK.safetensors, heads.safetensors, test.safetensors and perf.json. Models
are rounded to bfloat16, and the fine-tunes archived bit for bit; the first N test rows of each task
are kept. Prints what rounding does to accuracy on those rows and what each file takes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from sample.evaluate import (
    BASE_MODEL,
    DIGESTS,
    FINE_TUNES,
    HEADS,
    PERFORMANCE,
    SAMPLE,
    TEST,
    accuracy,
    digest,
)
from tabulate import tabulate
from torch import Tensor

import tvcodec

ROWS = 400
MOST_BYTES = 14_000_000
MOST_LOST = 0.005  # of the mean accuracy, by rounding


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    make(arguments.corpus, arguments.rows)
    sizes = {path.name: path.stat().st_size for path in sorted(SAMPLE.iterdir()) if path.is_file()}
    print(tabulate(sizes.items(), headers=("file", "bytes"), tablefmt="simple"))
    if sum(sizes.values()) > MOST_BYTES:
        raise SystemExit(f"expected at most {MOST_BYTES:,} bytes, got {sum(sizes.values()):,}")


def make(corpus: Path, rows: int) -> None:
    """Writes all data files, once rounding has shown itself harmless."""
    performance = json.loads((corpus / "perf.json").read_text())
    full = {task: load_file(corpus / f"tasks/{task}.safetensors") for task in sorted(performance)}
    rounded = {task: _rounded(state) for task, state in full.items()}
    full_base = load_file(corpus / "base.safetensors")
    base_model = _rounded(full_base)
    _write(HEADS, load_file(corpus / "heads.safetensors"))
    test = load_file(corpus / "test.safetensors")
    _write(TEST, {name: tensor[:rows].contiguous() for name, tensor in test.items()})
    _check_rounding((full_base, base_model), {task: (full[task], rounded[task]) for task in full})

    _write(BASE_MODEL, base_model)
    PERFORMANCE.write_text(json.dumps(performance, indent=1) + "\n")
    tvcodec.encode(BASE_MODEL, rounded, FINE_TUNES, recipe=tvcodec.EXACT, force=True)
    digests = {task: digest(state) for task, state in rounded.items()}
    DIGESTS.write_text(json.dumps(digests, indent=1) + "\n")
    with tvcodec.open(FINE_TUNES) as bank:
        for task in bank.tasks:
            if digest(bank.decode(task, BASE_MODEL)) != digests[task]:
                raise SystemExit(f"task {task}: not what went into the archive")


Pair = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]  # a model, and the same rounded


def _check_rounding(base_model: Pair, fine_tunes: Mapping[str, Pair]) -> None:
    table = [
        [task, *(100 * accuracy(state, task) for state in (*base_model, *pair))]
        for task, pair in fine_tunes.items()
    ]
    means = [sum(column) / len(table) for column in zip(*(row[1:] for row in table), strict=True)]
    headers = ("accuracy, %", "base float32", "base bfloat16", "float32", "bfloat16")
    print(tabulate([*table, ["mean", *means]], headers=headers, floatfmt=".2f"), "\n")
    if means[3] < means[2] - 100 * MOST_LOST:
        raise SystemExit("rounding to bfloat16 costs accuracy")


def _rounded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _write(path: Path, state: dict[str, Tensor]) -> None:
    path.write_bytes(save(state, {"format": "pt"}))


if __name__ == "__main__":
    main()
