"""Encoding beside TSV-Compress by full singular value decompositions, and how it grows.

usage: encode.py --models DIR [--tasks N] [--qualities "step 2,balanced"] [--repeat N]
                 [--without-svd] [--json FILE]

DIR has base/ and tasks/ as models.py makes them. Runs are whole commands in turn, each in a process
of its own, and take all cores; files have been read before. `values/s` counts the values of all
tasks, by the time of the processors, so it is that of one core. `peak` is the resident set at most,
`above` what that is above a command that only imports what encoding needs, in units of the largest
parameter as float32.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

from peers import HERE, Command, Runs, launched, read
from safetensors import safe_open
from tabulate import tabulate

RECIPES = {
    "step 2": ("--step", "2"),
    "small": ("--quality", "small"),
    "balanced": ("--quality", "balanced"),
    "high": ("--quality", "high"),
    "exact": ("--exact",),
}
SVD = "full SVD (TSV-C)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--qualities", default="step 2,balanced")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--without-svd", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    base = options.models / "base/model.safetensors"
    tunes = [options.models / f"tasks/task{n}/model.safetensors" for n in range(options.tasks)]
    out = options.models / "encoded"
    commands: dict[str, Command] = {}
    for quality in options.qualities.split(","):
        named = [f"{path.parent.name}={path}" for path in tunes]
        words = (sys.executable, "-m", "tvcodec", "encode", str(base), *named)
        commands[quality] = (*words, "-o", f"{out}.tvq", "--force", *RECIPES[quality])
    if not options.without_svd:
        paths = map(str, (base, *tunes))
        commands[SVD] = (sys.executable, str(HERE / "tsv_c_svd.py"), f"{out}.safetensors", *paths)
    rows = {name: Runs("encode", name, input_bytes=0) for name in commands}
    idle = (sys.executable, "-c", "import tvcodec.cli.encode, tvcodec.encoding.encoder")
    start, imports, _ = launched(idle)
    for _ in range(options.repeat):
        for name, command in commands.items():
            for path in (base, *tunes):
                read(path)
            seconds, memory, processors = launched(command)
            row = rows[name]
            row.start = start
            row.seconds.append(seconds)
            row.memory.append(int(memory))
            row.processor_seconds.append(processors)
            kind = "safetensors" if name == SVD else "tvq"
            row.input_bytes = Path(f"{out}.{kind}").stat().st_size  # of the output, here
    print(table(list(rows.values()), base, options.tasks, imports))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows.values()], indent=1) + "\n")
    for kind in ("tvq", "safetensors"):
        Path(f"{out}.{kind}").unlink(missing_ok=True)


def table(rows: list[Runs], base: Path, tasks: int, imports: float) -> str:
    """Medians, and the time beside that of the full decompositions."""
    with safe_open(base, framework="pt") as opened:
        counts = [
            math.prod(opened.get_slice(name).get_shape())
            for name in opened.keys()  # noqa: SIM118 - no mapping
        ]
    values, largest = sum(counts) * tasks, 4 * max(counts)
    svd = [statistics.median(row.processor_seconds) for row in rows if row.name == SVD]
    cells = []
    for row in rows:
        seconds, memory = statistics.median(row.seconds), statistics.median(row.memory)
        processors = statistics.median(row.processor_seconds)
        spread = f"{seconds:.1f} ({min(row.seconds):.1f}-{max(row.seconds):.1f})"
        ratio = f"{processors / svd[0]:.2f}" if svd else ""
        cells.append(
            [
                row.name,
                spread,
                f"{processors:.1f}",
                f"{values / processors / 1e6:.2f} M",
                ratio,
                f"{memory / 1e6:.0f}",
                f"{(memory - imports) / largest:.1f}",
                f"{8 * row.input_bytes / values:.3f}",
            ]
        )
    titles = ["", "seconds", "cpu s", "values/s", "of full SVD", "peak MB", "above", "bits"]
    return tabulate(cells, titles, disable_numparse=True)


if __name__ == "__main__":
    main()
