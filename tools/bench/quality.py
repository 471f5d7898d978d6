"""Accuracy per bit on the real corpora: the auto codec at presets and steps, and published systems.

usage: quality.py --text4 DIR --vit8 DIR [--only NAME ...] [--json FILE]

Sizes are real file bytes of everything in the .tvq; nominal bits are what a paper counts.
Retained = accuracy / accuracy of the fine-tune; gain =
share of the fine-tune's improvement over the base model that is kept; merged = mean accuracy of
base model + 0.3 (text4) or 0.05 (vit8) x sum of task vectors.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import corpora
import torch
from safetensors.torch import load_file
from tabulate import tabulate
from torch import Tensor

import tvcodec
from tvcodec.encoding.published import (
    BitDelta,
    Consensus,
    Published,
    Rtvq,
    SvdHybrid,
    Tall,
    TsvC,
    Tvq,
)

SCALING = {"text4": 0.3, "vit8": 0.05}
STEPS = (1.0, 2.0, 3.0)
PUBLISHED: dict[str, tuple[Published, Callable[[int], float] | None]] = {  # nominal by tasks
    "TVQ-4": (Tvq(bits=4), lambda tasks: 4),
    "TVQ-3": (Tvq(bits=3), lambda tasks: 3),
    "TVQ-2": (Tvq(bits=2), lambda tasks: 2),
    "TVQ-2 group 128": (Tvq(bits=2, group=128, fp16=True), lambda tasks: 2.25),
    "RTVQ B3O2": (Rtvq(), lambda tasks: 2 + 3 / tasks),
    "RTVQ B3O2 no EC": (Rtvq(error_correction=False), lambda tasks: 2 + 3 / tasks),
    "SVD-Hybrid fp16": (SvdHybrid(), None),
    "SVD-Hybrid coded": (SvdHybrid(basis="coded"), None),
    "SVD-Hybrid coded, no residual": (SvdHybrid(basis="coded", stages=0), None),
    "SVD-Hybrid coded, all ranks": (SvdHybrid(basis="coded", energy_threshold=1.0), None),
    "TALL": (Tall(fp16=True), lambda tasks: 1 + 16 / tasks),
    "TALL fitted": (Tall(mask_lambda="fit", fp16=True), lambda tasks: 1 + 16 / tasks),
    "Consensus": (Consensus(fp16=True), lambda tasks: 16 / tasks),
    "TSV-C fp16": (TsvC(fp16=True), None),
    "BitDelta": (BitDelta(fp16=True), lambda tasks: 1),
}


@dataclass
class Row:
    """One method on one corpus; shares are fractions, `bits` are per parameter and task."""

    corpus: str
    method: str
    nominal: float | None
    bits: float
    error: float
    retained: float
    worst: float
    gain: float
    merged: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text4", type=Path)
    parser.add_argument("--vit8", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    for name in ("text4", "vit8"):
        if root := getattr(options, name):
            rows += measure(corpora.load(name, root), options.only)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def measure(corpus: corpora.Corpus, only: list[str]) -> list[Row]:
    """All methods (or those named in `only`) on one corpus."""
    bench = Bench(corpus)
    methods: dict[str, Callable[[], Row]] = {"fine-tunes": bench.raw}
    for quality, preset in tvcodec.QUALITIES.items():
        methods[quality] = partial(bench.ours, quality, preset)
    for step in STEPS:
        name = f"step {step:g}"
        methods[name] = partial(bench.ours, name, tvcodec.Recipe(step=step))
    gain = tvcodec.Recipe(step=3.0, gain=0.5)
    methods["step 3 gain 0.5"] = partial(bench.ours, "step 3 gain 0.5", gain)
    for name, (recipe, nominal) in PUBLISHED.items():
        bits = nominal(len(bench.tau)) if nominal else None
        methods[name] = partial(bench.ours, name, recipe, bits)
    rows = []
    for name, method in methods.items():
        if not only or name in only:
            rows.append(method())
            print(table(rows[-1:], header=len(rows) == 1), flush=True)
    return rows


class Bench:
    """One corpus with its reference accuracies."""

    def __init__(self, corpus: corpora.Corpus) -> None:
        self.corpus = corpus
        self.base = load_file(corpus.base_model)
        self.floats = [name for name in self.base if self.base[name].is_floating_point()]
        self.values = sum(tensor.numel() for tensor in self.base.values())
        tunes = {task: load_file(path) for task, path in corpus.fine_tunes.items()}
        self.tau = {
            task: {name: tune[name].float() - self.base[name].float() for name in self.floats}
            for task, tune in tunes.items()
        }
        self.tuned = {t: corpus.evaluate(tune, [t])[t] for t, tune in tunes.items()}
        self.untuned = corpus.evaluate(self.base, list(self.tau))

    def raw(self) -> Row:
        return self._row("fine-tunes", 32.0, 32.0, self.tau, time.monotonic())

    def ours(
        self, method: str, recipe: tvcodec.Recipe | Published, nominal: float | None = None
    ) -> Row:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bank.tvq"
            tvcodec.encode(self.corpus.base_model, self.corpus.fine_tunes, path, recipe=recipe)
            bits = 8 * path.stat().st_size / self.values / len(self.tau)
            with tvcodec.open(path) as bank:
                decoded = {task: dict(bank.task_vector(task)) for task in bank.tasks}
        return self._row(method, nominal, bits, decoded, start)

    def _row(
        self,
        method: str,
        nominal: float | None,
        bits: float,
        decoded: Mapping[str, Mapping[str, Tensor]],
        start: float,
    ) -> Row:
        seconds = time.monotonic() - start
        errors, retained, gains = [], [], []
        for task, tau in self.tau.items():
            errors.append(relative_error(tau, decoded[task]))
            accuracy = self.corpus.evaluate(self._add([decoded[task]], 1.0), [task])[task]
            retained.append(accuracy / self.tuned[task])
            improved = self.tuned[task] - self.untuned[task]
            gains.append((accuracy - self.untuned[task]) / improved)
        merged = self._add(list(decoded.values()), SCALING[self.corpus.name])
        together = self.corpus.evaluate(merged, list(self.tau)).values()
        return Row(
            self.corpus.name,
            method,
            nominal,
            bits,
            mean(errors),
            mean(retained),
            min(retained),
            mean(gains),
            mean(list(together)),
            seconds,
        )

    def _add(self, taus: list[Mapping[str, Tensor]], scaling: float) -> dict[str, Tensor]:
        state = dict(self.base)
        for name in self.floats:
            for tau in taus:
                if name in tau:
                    state[name] = state[name] + scaling * tau[name]
        return state


def relative_error(tau: Mapping[str, Tensor], decoded: Mapping[str, Tensor]) -> float:
    """||decoded - tau|| / ||tau|| over all parameters."""
    lost = energy = 0.0
    for name, values in tau.items():
        other = decoded.get(name, torch.zeros_like(values))
        lost += float((other - values).double().square().sum())
        energy += float(values.double().square().sum())
    return (lost / energy) ** 0.5 if energy else 0.0


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def table(rows: list[Row], header: bool = True) -> str:
    """The rows for people: shares as percentages."""
    titles = [
        "corpus",
        "method",
        "nominal",
        "bits",
        "error",
        "retained",
        "worst",
        "gain",
        "merged",
        "seconds",
    ]
    cells = [
        [
            row.corpus,
            row.method,
            "-" if row.nominal is None else f"{row.nominal:.2f}",
            f"{row.bits:.4f}",
            f"{row.error:.3f}",
            *(f"{100 * share:.2f}" for share in (row.retained, row.worst, row.gain, row.merged)),
            f"{row.seconds:.1f}",
        ]
        for row in rows
    ]
    return tabulate(cells, titles if header else (), disable_numparse=True)


if __name__ == "__main__":
    main()
