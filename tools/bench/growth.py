"""How encoding and merging grow with the number of tasks.

usage: growth.py --models DIR [--tasks "1,2,4,8"] [--qualities "step 2"] [--repeat N] [--json FILE]

DIR has base/ and tasks/ as models.py makes them. Whole commands in turn, each in a process of its
own; files have been read before. `cpu s` is the time of processors beyond what the imports take,
`each` that by task; of a merge, the weighted one of all tasks of the file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from encode import RECIPES
from processes import Command, Runs, launched, read
from tabulate import tabulate

IMPORTS = {
    "encode": "import tvcodec.cli.encode, tvcodec.encoding.encoder",
    "merge": "import tvcodec.cli.merge, tvcodec.decoding.decoder",
}


@dataclass
class Grown(Runs):
    """Runs of a command for so many tasks."""

    what: str = ""
    tasks: int = 0

    @property
    def beyond(self) -> float:
        """Seconds of processors beyond the imports."""
        return self.median("processors") - self.idle.processors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--tasks", default="1,2,4,8")
    parser.add_argument("--qualities", default="step 2")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    counts = [int(count) for count in options.tasks.split(",")]
    rows: list[Grown] = []
    for quality in options.qualities.split(","):
        rows += measured(options.models, quality, counts, options.repeat)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def measured(models: Path, quality: str, counts: list[int], repeat: int) -> list[Grown]:
    """Encoding and merging, for each number of tasks."""
    base = models / "base/model.safetensors"
    tunes = [models / f"tasks/task{number}/model.safetensors" for number in range(max(counts))]
    bank, merged = models / "grown.tvq", models / "grown"
    idle = {
        what: min(launched((sys.executable, "-c", words)) for _ in range(2))
        for what, words in IMPORTS.items()
    }
    rows = [
        Grown(quality, idle=idle[what], what=what, tasks=count)
        for count in counts
        for what in IMPORTS
    ]
    for _ in range(repeat):
        for row in rows:
            for path in (base, *tunes[: row.tasks]):
                read(path)
            row.runs.append(launched(_command(row, base, tunes, bank, merged)))
    bank.unlink()
    shutil.rmtree(merged)
    return rows


def _command(row: Grown, base: Path, tunes: list[Path], bank: Path, merged: Path) -> Command:
    """Encodes so many tasks, or merges those that were encoded last."""
    words = (sys.executable, "-m", "tvcodec", row.what)
    if row.what == "merge":
        return (*words, str(bank), "--base-model", str(base), "-o", str(merged), "--force")
    named = [f"{path.parent.name}={path}" for path in tunes[: row.tasks]]
    return (*words, str(base), *named, "-o", str(bank), "--force", *RECIPES[row.name])


def table(rows: list[Grown]) -> str:
    """Medians by command and number of tasks."""
    cells = [
        (
            row.what,
            row.name,
            str(row.tasks),
            row.spread(),
            f"{row.beyond:.1f}",
            f"{row.beyond / row.tasks:.1f}",
            f"{row.median('memory') / 1e6:.0f}",
            f"{row.moved('read') / 1e6:.0f}",
            f"{row.moved('written') / 1e6:.0f}",
        )
        for row in sorted(rows, key=lambda row: (row.what, row.name, row.tasks))
    ]
    titles = (
        "",
        "",
        "tasks",
        "seconds (range)",
        "cpu s",
        "each",
        "peak MB",
        "read MB",
        "written MB",
    )
    return tabulate(cells, titles, disable_numparse=True)


if __name__ == "__main__":
    main()
