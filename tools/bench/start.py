"""How long commands take to start, beside an interpreter that does nothing.

usage: start.py [--repeat N] [--json FILE]

Wall time of whole processes in turn; files have been read before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from processes import launched
from tabulate import tabulate

SAMPLE = str(Path(__file__).parents[1] / "sample/fine-tunes.tvq")
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "tvcodec --help": ("-m", "tvcodec", "--help"),
    "tvcodec info": ("-m", "tvcodec", "info", SAMPLE),
    "import torch": ("-c", "import torch"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.repeat):
        for name, words in COMMANDS.items():
            seconds[name].append(launched((sys.executable, *words)).seconds)
    nothing = statistics.median(seconds["python -c pass"])
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = f"{min(times):.3f}-{max(times):.3f}"
        rows.append((name, f"{median:.3f}", spread, f"{median - nothing:.3f}"))
    print(tabulate(rows, ("", "seconds", "range", "beyond python"), disable_numparse=True))
    if options.json:
        options.json.write_text(json.dumps(seconds, indent=1) + "\n")


if __name__ == "__main__":
    main()
