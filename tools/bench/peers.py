"""Merges by tvcodec beside those by the packages that people use: TSV-Merge by FusionBench and
weighted by mergekit, of the same eight fine-tunes of 87 million parameters.

usage: peers.py --cache DIR --text4 DIR [--methods tsvm,weighted]
                [--archives "exact,step 2,balanced"] [--repeat N] [--json FILE]

Everything is made under DIR and taken from there when it is there: models (see models.py), archives
and an environment for each peer. Runs are whole commands, each in a process of its own, ours and
the peer's in turn; files have been read before, so that all come from memory. Peak memory is the
resident set. `difference` is that of the merged models relative to what the merge adds to the base
model: from a bit-exact archive, where it is that of the merges, and from others that of coding too.
`start` is the time that a command which does nothing takes, to import what the merge needs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

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
# the kernel counts the memory of whoever starts a process as the process's own, so: somebody small
LAUNCHER = """
import os, subprocess, sys, time
start = time.monotonic()
status = subprocess.Popen(sys.argv[2:], stdout=2)
_, code, used = os.wait4(status.pid, 0)
seconds = time.monotonic() - start
with open(sys.argv[1], "w") as report:
    report.write(f"{seconds} {used.ru_maxrss * 1024} {used.ru_utime + used.ru_stime}")
sys.exit(os.waitstatus_to_exitcode(code))
"""

Command = Sequence[str]


@dataclass
class Runs:
    """What runs of one command took: seconds of wall time, of processors, and bytes."""

    method: str
    name: str
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    start: float = 0.0
    input_bytes: int = 0
    difference: float | None = None


@dataclass(frozen=True)
class Side:
    """One way to merge: the command, where it writes, and one that only imports what it needs."""

    name: str
    command: Command
    output: Path
    idle: Command
    inputs: tuple[Path, ...]


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
    rows: list[Runs] = []
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
        yield Side(f"tvcodec, {archive}", (*command, *chosen), output, idle, (bank, base))


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


def measure(method: str, sides: Sequence[Side], models: Path, repeat: int) -> list[Runs]:
    """The sides in turn, `repeat` times; the last one is the peer."""
    rows = {side.name: Runs(method, side.name) for side in sides}
    for side in sides:
        rows[side.name].start = min(launched(side.idle)[0] for _ in range(2))
        rows[side.name].input_bytes = sum(map(size, side.inputs))
    for turn in range(repeat):
        for side in sides:
            print(f"{method}: {side.name}, run {turn + 1} of {repeat}", file=sys.stderr)
            shutil.rmtree(side.output, ignore_errors=True)
            for path in side.inputs:
                read(path)
            seconds, memory, processors = launched(side.command)
            rows[side.name].seconds.append(seconds)
            rows[side.name].memory.append(int(memory))
            rows[side.name].processor_seconds.append(processors)
    for side in sides[:-1]:
        rows[side.name].difference = difference(side.output, sides[-1].output, models / "base")
    return list(rows.values())


def difference(ours: Path, theirs: Path, base: Path) -> float:
    """Of two merged models, relative to what theirs adds to the base model. In a process of its
    own: whoever measures stays small."""
    script = (sys.executable, str(HERE / "difference.py"), str(ours), str(theirs), str(base))
    return float(subprocess.run(script, check=True, capture_output=True, text=True).stdout)


def launched(command: Command) -> tuple[float, float, float]:
    """Seconds of wall time, peak bytes, and seconds of processors of a command."""
    report = Path(os.environ.get("TMPDIR", "/tmp"), f"peers-{os.getpid()}")
    launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(report), *command]
    quietly(launch)
    seconds, memory, processors = map(float, report.read_text().split())
    report.unlink()
    return seconds, memory, processors


def quietly(command: Sequence[str | Path]) -> None:
    """Runs a command, whose words are shown if it fails."""
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environ,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}")


def fine_tunes(models: Path) -> list[Path]:
    """The directories of the fine-tunes, in order."""
    return sorted((models / "tasks").iterdir())


def files(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else [entry for entry in path.iterdir() if entry.is_file()]


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in files(path))


def read(path: Path) -> None:
    """So that the next who reads it has it from memory."""
    for file in files(path):
        with open(file, "rb", buffering=0) as handle:
            while handle.read(1 << 20):
                pass


def table(rows: Sequence[Runs]) -> str:
    """Medians and ranges for people; ratios are the peer's over ours."""
    peers = {row.method: row for row in rows if row.difference is None}
    cells = []
    for row in rows:
        seconds, memory = statistics.median(row.seconds), statistics.median(row.memory)
        other = peers[row.method]
        faster = statistics.median(other.seconds) / seconds
        smaller = statistics.median(other.memory) / memory
        cells.append(
            [
                row.method,
                row.name,
                f"{row.input_bytes / 1e6:.1f}",
                f"{seconds:.2f} ({min(row.seconds):.2f}-{max(row.seconds):.2f})",
                f"{statistics.median(row.processor_seconds):.1f}",
                f"{row.start:.2f}",
                f"{memory / 1e6:.0f}",
                f"{faster:.1f}x",
                f"{smaller:.1f}x",
                "" if row.difference is None else f"{row.difference:.1e}",
            ]
        )
    titles = [
        "method",
        "by",
        "input MB",
        "seconds (range)",
        "cpu s",
        "start s",
        "peak MB",
        "time ratio",
        "memory ratio",
        "difference",
    ]
    return tabulate(cells, titles, disable_numparse=True)


if __name__ == "__main__":
    main()
