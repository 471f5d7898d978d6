"""Merges by tvcodec beside those by the packages that people use: TSV-Merge by FusionBench and
weighted by mergekit, of the same eight fine-tunes of 87 million parameters.

usage: peers.py --cache DIR --text4 DIR [--methods tsvm,weighted]
                [--archives "exact,step 2,balanced"] [--repeat N] [--json FILE]

Everything is made under DIR and taken from there when it is there: models (see models.py), archives
and an environment for each peer. Runs are whole commands, each in a process of its own, ours and
the peer's in turn; files have been read before, so that all come from memory. Peak memory is the
resident set. `difference` is that of the merged models relative to what the merge adds to the base
model: from a bit-exact archive, where it is that of the merges, and from others that of coding too.
`start` is the time that a command which does nothing takes, to import what the merge needs; `bound`
what the machine could do at best (roofline.py: inputs read, output written, products of factors).
`read` and `written` are by system calls beyond those of `start`; mapped files are not in `read`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import roofline
from processes import Command, Runs, launched, quietly, read, size
from roofline import Roofline
from tabulate import tabulate

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"
PEERS = {"tsvm": "fusion-bench==0.2.33", "weighted": "mergekit==0.1.5"}
ARCHIVES = {
    "exact": ("--exact",),
    "step 2": ("--step", "2"),
    "balanced": ("--quality", "balanced"),
}
OURS = {"tsvm": ("step 2", "exact"), "weighted": ("balanced", "step 2", "exact")}
SCALING = 0.5


@dataclass
class Merged(Runs):
    """Runs of one way to merge, with the size of its inputs in bytes, the least seconds that its
    work takes, where that is known, and how far its result is from the peer's."""

    method: str = ""
    input_bytes: int = 0
    bound: float | None = None
    difference: float | None = None


@dataclass(frozen=True)
class Side:
    """One way to merge: the command, where it writes, and one that only imports what it needs."""

    name: str
    command: Command
    output: Path
    idle: Command
    inputs: tuple[Path, ...]
    multiply_adds: int | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--text4", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(PEERS))
    parser.add_argument("--archives", default=",".join(ARCHIVES))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cache = options.cache.resolve()
    models = cache / "models"
    quietly([sys.executable, HERE / "models.py", models, "--text4", options.text4.resolve()])
    rows: list[Merged] = []
    for method in options.methods.split(","):
        sides = [
            *ours(method, options.archives.split(","), models, cache),
            peer(method, models, cache),
        ]
        rows += measure(method, sides, models, options.repeat)
        print(table(rows), flush=True)
        if options.json:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def ours(method: str, archives: Sequence[str], models: Path, cache: Path) -> Iterator[Side]:
    """`tvcodec merge` of each of the archives that the method can use, which are made where they
    are not there."""
    base, tunes = models / "base", fine_tunes(models)
    (cache / "merged").mkdir(exist_ok=True)
    tvcodec = (sys.executable, "-m", "tvcodec")
    idle = (sys.executable, "-c", "import tvcodec.cli.merge, tvcodec.decoding.decoder")
    for archive in (name for name in OURS[method] if name in archives):
        bank = cache / f"{archive.replace(' ', '-')}.tvq"
        if not bank.exists():
            named = [f"{path.name}={path}" for path in tunes]
            quietly([*tvcodec, "encode", base, *named, "-o", bank, *ARCHIVES[archive]])
        output = cache / "merged" / f"{method}-{bank.stem}"
        weights = ("--weights", "uniform") if method == "weighted" else ()
        command = (*tvcodec, "merge", str(bank), "--base-model", str(base), "-o", str(output))
        chosen = ("--method", method, "--scaling", str(SCALING), *weights)
        name, words, inputs = f"tvcodec, {archive}", (*command, *chosen), (bank, base)
        counted = None
        if method == "weighted":
            counted = sum(roofline.of_factors(bank, path.name) for path in tunes)
        yield Side(name, words, output, idle, inputs, counted)


def peer(method: str, models: Path, cache: Path) -> Side:
    """The same by the package that people use."""
    base, tunes = models / "base", fine_tunes(models)
    folder, output = environment(cache, PEERS[method]), cache / "merged" / f"{method}-peer"
    python, inputs = str(folder / "bin/python"), (base, *tunes)
    if method == "tsvm":
        script = str(HERE / "fusion_bench_tsvm.py")
        idle = (python, "-c", "import fusion_bench.method, fusion_bench.modelpool")
        paths = [str(path) for path in inputs]
        return Side(
            PEERS[method], (python, script, str(SCALING), str(output), *paths), output, idle, inputs
        )
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [
            {"model": str(path), "parameters": {"weight": SCALING / len(tunes)}} for path in tunes
        ],
        "parameters": {"normalize": False},
        "dtype": "float32",
    }
    config = cache / "mergekit.yaml"
    config.write_text(json.dumps(recipe))  # JSON is YAML
    program = str(folder / "bin/mergekit-yaml")
    return Side(
        PEERS[method],
        (program, str(config), str(output), "--no-copy-tokenizer"),
        output,
        (program, "--help"),
        inputs,
    )


def environment(cache: Path, requirement: str) -> Path:
    """An environment with one peer in it and our version of torch, made where it is not there."""
    folder = cache / requirement.replace("==", "-")
    ready = folder / "ready"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        quietly([sys.executable, "-m", "venv", folder])
        install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet"]
        quietly([*install, TORCH])
        quietly([*install, TORCH, requirement])
        ready.touch()
    return folder


def measure(method: str, sides: Sequence[Side], models: Path, repeat: int) -> list[Merged]:
    """The sides in turn, `repeat` times; the last one is the peer."""
    rows = {side.name: Merged(side.name, method=method) for side in sides}
    for side in sides:
        rows[side.name].idle = min(launched(side.idle) for _ in range(2))
        rows[side.name].input_bytes = sum(map(size, side.inputs))
    for turn in range(repeat):
        for side in sides:
            print(f"{method}: {side.name}, run {turn + 1} of {repeat}", file=sys.stderr)
            shutil.rmtree(side.output, ignore_errors=True)
            for path in side.inputs:
                read(path)
            rows[side.name].runs.append(launched(side.command))
    machine = Roofline.measured()
    print(f"bounds: {machine}", file=sys.stderr)
    for side in sides:
        if side.multiply_adds is not None:
            moved = sum(map(size, (*side.inputs, side.output)))
            rows[side.name].bound = machine.seconds(moved, side.multiply_adds)
    for side in sides[:-1]:
        rows[side.name].difference = difference(side.output, sides[-1].output, models / "base")
    return list(rows.values())


def difference(ours: Path, theirs: Path, base: Path) -> float:
    """Of two merged models, relative to what theirs adds to the base model. In a process of its
    own: whoever measures stays small."""
    script = (sys.executable, str(HERE / "difference.py"), str(ours), str(theirs), str(base))
    return float(subprocess.run(script, check=True, capture_output=True, text=True).stdout)


def fine_tunes(models: Path) -> list[Path]:
    """The directories of the fine-tunes, in order."""
    return sorted((models / "tasks").iterdir())


def table(rows: Sequence[Merged]) -> str:
    """Medians and ranges for people; ratios are to the peer."""
    peers = {row.method: row for row in rows if row.difference is None}
    cells = []
    for row in rows:
        seconds, memory = row.median("seconds"), row.median("memory")
        other = peers[row.method]
        cells.append(
            [
                row.method,
                row.name,
                row.spread(),
                f"{row.median('processors'):.1f}",
                f"{row.idle.seconds:.2f}",
                "" if row.bound is None else f"{row.bound:.2f}",
                f"{seconds / other.median('seconds'):.2f}",
                f"{memory / 1e6:.0f}",
                f"{memory / other.median('memory'):.2f}",
                f"{row.input_bytes / 1e6:.1f}",
                f"{row.moved('read') / 1e6:.0f}",
                f"{row.moved('written') / 1e6:.0f}",
                "" if row.difference is None else f"{row.difference:.1e}",
            ]
        )
    titles = [
        "method",
        "by",
        "seconds (range)",
        "cpu s",
        "start s",
        "bound s",
        "of peer",
        "peak MB",
        "of peer",
        "inputs MB",
        "read MB",
        "written MB",
        "difference",
    ]
    return tabulate(cells, titles, disable_numparse=True)


if __name__ == "__main__":
    main()
