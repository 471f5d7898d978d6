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
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from processes import Command, Runs, launched, read
from roofline import Roofline, of_gram_matrices
from safetensors import safe_open
from tabulate import tabulate

HERE = Path(__file__).parent
RECIPES = {
    "step 2": ("--step", "2"),
    "small": ("--quality", "small"),
    "balanced": ("--quality", "balanced"),
    "high": ("--quality", "high"),
    "exact": ("--exact",),
}
SVD = "full SVD (TSV-C)"


@dataclass
class Encoded(Runs):
    """Runs of one way to encode, and the bytes of its file."""

    output_bytes: int = 0


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
    rows = {name: Encoded(name) for name in commands}
    idle = (sys.executable, "-c", "import tvcodec.cli.encode, tvcodec.encoding.encoder")
    imports = min(launched(idle) for _ in range(2))
    for _ in range(options.repeat):
        for name, command in commands.items():
            for path in (base, *tunes):
                read(path)
            rows[name].runs.append(launched(command))
            rows[name].idle = imports
            kind = "safetensors" if name == SVD else "tvq"
            rows[name].output_bytes = Path(f"{out}.{kind}").stat().st_size
    print(table(list(rows.values()), base, options.tasks))
    machine, moved = Roofline.measured(), (options.tasks + 1) * base.stat().st_size
    multiplied = options.tasks * of_gram_matrices(base)
    print(f"\nbound {machine.seconds(moved, multiplied):.2f} s at {machine}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows.values()], indent=1) + "\n")
    for kind in ("tvq", "safetensors"):
        Path(f"{out}.{kind}").unlink(missing_ok=True)


def table(rows: list[Encoded], base: Path, tasks: int) -> str:
    """Medians, and the time beside that of the full decompositions."""
    with safe_open(base, framework="pt") as opened:
        counts = [
            math.prod(opened.get_slice(name).get_shape())
            for name in opened.keys()  # noqa: SIM118 - no mapping
        ]
    values, largest = sum(counts) * tasks, 4 * max(counts)
    svd = next((row for row in rows if row.name == SVD), None)
    cells = []
    for row in rows:
        memory, processors = row.median("memory"), row.median("processors")
        cells.append(
            [
                row.name,
                row.spread(),
                f"{row.median('seconds') / svd.median('seconds'):.2f}" if svd else "",
                f"{processors:.1f}",
                f"{processors / svd.median('processors'):.2f}" if svd else "",
                f"{values / processors / 1e6:.2f} M",
                f"{memory / 1e6:.0f}",
                f"{(memory - row.idle.memory) / largest:.1f}",
                f"{row.moved('read') / 1e6:.0f}",
                f"{row.output_bytes / 1e6:.1f}",
                f"{8 * row.output_bytes / values:.3f}",
            ]
        )
    titles = [
        "",
        "seconds (range)",
        "of full SVD",
        "cpu s",
        "of full SVD",
        "values/s",
        "peak MB",
        "above",
        "read MB",
        "written MB",
        "bits",
    ]
    return tabulate(cells, titles, disable_numparse=True)


if __name__ == "__main__":
    main()
