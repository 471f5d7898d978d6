"""What tuning by accuracy finds on the real corpora, beside the presets.

usage: tune.py --text4 DIR --vit8 DIR [--retain SHARE ...] [--presets NAME ...] [--keep DIR]
    [--json FILE]

Bits are those of the whole file per parameter and task, retained is accuracy over that of the
fine-tune: mean, and of the worst task. Evaluations count decoded models that were measured for a
row; those that an earlier row has measured are not measured again. With --keep, scores stay there,
and a run that was ended goes on. All test rows decide and report: the share kept is flattered.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import corpora
from tabulate import tabulate

import tvcodec
from tvcodec.tuning.curve import Curve
from tvcodec.tuning.tune import tune

RETAIN = (0.99, 0.98)


@dataclass
class Row:
    """One file of one corpus; shares are fractions, `settings` say what each task was coded by."""

    corpus: str
    method: str
    bits: float
    retained: float
    worst: float
    evaluations: int
    seconds: float
    settings: dict[str, str]


class Bench:
    """One corpus; accuracies are counted as they are measured."""

    def __init__(self, corpus: corpora.Corpus, keep: Path) -> None:
        self.corpus = corpus
        self.bank = keep / f"{corpus.name}.tvq"
        self.evaluations = 0
        self.fine_tuned: dict[str, float] = {}

    def accuracy(self, model: tvcodec.Model, task: str) -> float:
        self.evaluations += 1
        return self.corpus.evaluate(dict(model), [task])[task]

    def tuned(self, retain: float) -> Row:
        start, before = time.monotonic(), self.evaluations
        found = tune(
            self.corpus.base_model,
            self.corpus.fine_tunes,
            self.accuracy,
            path=self.bank,
            retain=retain,
            label=f"accuracy on {self.corpus.name}",
            force=True,
            progress=lambda task, point: print(f"  {task}: {point}", flush=True),
        )
        self.fine_tuned = {task: curve.reference for task, curve in found.curves.items()}
        shares = [curve.choice.share for curve in found.curves.values()]
        return self._row(f"tune {retain:g}", shares, before, start, found.curves)

    def preset(self, quality: str) -> Row:
        start, before = time.monotonic(), self.evaluations
        recipe = tvcodec.QUALITIES[quality]
        base, tunes = self.corpus.base_model, self.corpus.fine_tunes
        tvcodec.encode(base, tunes, self.bank, recipe=recipe, force=True)
        with tvcodec.open(self.bank) as bank:
            shares = [
                self.accuracy(bank.decode(task, base), task) / self.fine_tuned[task]
                for task in bank.tasks
            ]
        return self._row(quality, shares, before, start, {})

    def _row(
        self,
        method: str,
        shares: list[float],
        before: int,
        start: float,
        curves: dict[str, Curve],
    ) -> Row:
        with tvcodec.open(self.bank) as bank:
            bits = 8 * bank.archive.container.size / bank.archive.values / len(bank.tasks)
        settings = {
            task: f"{curve.choice.metric} {curve.choice.step:g} gain {curve.choice.gain:g}"
            f" factor_step {curve.choice.factor_step:g}"
            for task, curve in curves.items()
        }
        count, seconds = self.evaluations - before, time.monotonic() - start
        mean = sum(shares) / len(shares)
        row = Row(self.corpus.name, method, bits, mean, min(shares), count, seconds, settings)
        print(table([row]), flush=True)
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text4", type=Path)
    parser.add_argument("--vit8", type=Path)
    parser.add_argument("--retain", type=float, nargs="*", default=list(RETAIN))
    parser.add_argument("--presets", nargs="*", default=["small", "balanced"])
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("vit8", "text4"):
            if root := getattr(options, name):
                bench = Bench(corpora.load(name, root), options.keep or Path(scratch))
                rows += measure(bench, options.retain, options.presets)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def measure(bench: Bench, retain: list[float], presets: list[str]) -> list[Row]:
    """What is found for each share to retain, and what the presets make of the same fine-tunes."""
    rows = [bench.tuned(share) for share in retain]
    return rows + [bench.preset(quality) for quality in presets]


def table(rows: list[Row]) -> str:
    """The rows for people: shares as percentages."""
    titles = ["corpus", "method", "bits", "retained", "worst", "evaluations", "seconds"]
    cells = [
        [
            row.corpus,
            row.method,
            f"{row.bits:.4f}",
            f"{100 * row.retained:.2f}",
            f"{100 * row.worst:.2f}",
            str(row.evaluations),
            f"{row.seconds:.0f}",
        ]
        for row in rows
    ]
    return tabulate(cells, titles, disable_numparse=True)


if __name__ == "__main__":
    main()
