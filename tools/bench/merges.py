"""Accuracy of every merge method on the real corpora: from the fine-tunes, and from archives.

usage: merges.py --text4 DIR --vit8 DIR [--only METHOD ...] [--work DIR] [--json FILE]

The reference of each method is the same merge of a bit-exact archive, which is that of the
fine-tunes themselves; `lost` is what another archive loses against it, in points. Merged accuracy
is the mean over all tasks of one merged encoder under each task's own head. Archives are kept in
the directory `--work` and taken from there where it has them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import corpora
import torch
from safetensors.torch import load_file
from tabulate import tabulate

import tvcodec

ARCHIVES = {
    "fine-tunes": tvcodec.EXACT,
    "balanced": tvcodec.QUALITIES["balanced"],
    "step 2": tvcodec.Recipe(step=2.0),
    "step 3": tvcodec.Recipe(step=3.0),
}
# Near the best of each method for the fine-tunes, so that a difference counts. text4's are the best
# of sweeps of three or four values on the first 500 rows of each task: weighted 0.8 to 2, ties 0.5
# to 2, dare 0.8 to 1.6, consensus 0.2 to 0.8, model-stock 1 to 3, iso-c 0.5 to 1.5, magmax 0.3 to
# 1.1. Of weighted, dare, consensus and iso-c the largest was the best.
SCALING = {
    "text4": {
        "weighted": 2.0,
        "tsvm": 1.5,
        "ties": 1.0,
        "dare": 1.6,
        "consensus": 0.8,
        "model-stock": 2.0,
        "iso-c": 1.5,
        "magmax": 0.8,
    },
    "vit8": {
        "weighted": 0.4,
        "tsvm": 0.3,
        "ties": 0.3,
        "dare": 0.3,
        "consensus": 0.1,
        "model-stock": 0.6,
        "iso-c": 0.3,
        "magmax": 0.2,
    },
}


@dataclass
class Row:
    """One method from one archive; accuracies are fractions, None where the archive is refused."""

    corpus: str
    method: str
    scaling: float
    archive: str
    merged: float | None
    lost: float | None
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text4", type=Path)
    parser.add_argument("--vit8", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        for name in ("text4", "vit8"):
            if root := getattr(options, name):
                for row in measure(corpora.load(name, root), work, options.only):
                    rows.append(row)
                    print(table([row]), flush=True)
    print(table(rows, header=True))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def measure(corpus: corpora.Corpus, work: Path, only: list[str]) -> Iterator[Row]:
    """All methods (or those named in `only`) on one corpus, from each archive."""
    base = load_file(corpus.base_model)
    with ExitStack() as stack:
        banks = {name: stack.enter_context(archived(corpus, work, name)) for name in ARCHIVES}
        for method, scaling in SCALING[corpus.name].items():
            if only and method not in only:
                continue
            reference = None
            for name, bank in banks.items():
                start = time.monotonic()
                try:
                    state = dict(bank.merge(base, method=method, scaling=scaling))
                except tvcodec.TvqError as refusal:
                    print(f"{corpus.name}, {name}: {refusal}")
                    yield Row(corpus.name, method, scaling, name, None, None, 0.0)
                    continue
                seconds = time.monotonic() - start
                found = corpus.evaluate(state, list(bank.tasks))
                merged = sum(found.values()) / len(found)
                reference = merged if reference is None else reference
                lost = reference - merged
                yield Row(corpus.name, method, scaling, name, merged, lost, seconds)


def archived(corpus: corpora.Corpus, work: Path, name: str) -> tvcodec.Bank:
    """The corpus as an archive, encoded where it is not there yet."""
    path = work / f"{corpus.name}-{name.replace(' ', '-')}.tvq"
    if not path.exists():
        tvcodec.encode(corpus.base_model, corpus.fine_tunes, path, recipe=ARCHIVES[name])
    return tvcodec.open(path)


def table(rows: list[Row], header: bool = False) -> str:
    """The rows for people: shares as percentages."""
    titles = ["corpus", "method", "scaling", "archive", "merged", "lost", "seconds"]
    cells = [
        [
            f"{row.corpus:<6}",
            f"{row.method:<11}",
            f"{row.scaling:g}",
            f"{row.archive:<10}",
            *("refused" if x is None else f"{100 * x:.2f}" for x in (row.merged, row.lost)),
            f"{row.seconds:.1f}",
        ]
        for row in rows
    ]
    style = "simple" if header else "plain"
    return tabulate(cells, titles if header else (), tablefmt=style, disable_numparse=True)


if __name__ == "__main__":
    main()
