"""Runs the fault campaigns and writes what came of them to spec/faults.md.

usage: run_faults.py [--only KIND]... [--quick] [--json] [--write] | --minutes N
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from subprocess import run

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP), str(TOP / "spec"), str(TOP / "tools")]

MEMORY = 256 << 20  # that a campaign of hostile files may take beyond what the program itself does
TABLE = TOP / "spec" / "faults.md"
CORES = 2


@dataclass(frozen=True)
class Kind:
    """A kind of fault: the campaign, how much of it is run, and how much by `--quick`."""

    title: str
    campaign: str
    amount: int
    quick: int
    capped: bool = True  # whether MEMORY holds


KINDS = {
    "rules": Kind("a file for every rule, read as another reader reads it", "hostile.rules", 1, 1),
    "flips": Kind("every bit of three files flipped, three readings each", "hostile.flips", 3, 1),
    "cuts": Kind("cut, prolonged, blocks lost, doubled, exchanged", "hostile.cuts", 3, 1),
    "noise": Kind("2 to 40 bytes changed at once", "hostile.noise", 20_000, 300),
    "mutations": Kind(
        "indexes and sections bent, all checksums right", "hostile.mutations", 12_000, 400
    ),
    "claims": Kind("archives that ask for memory, objects, time", "hostile.claims", 1, 1),
    "checkpoints": Kind("checkpoints that do, or run code", "hostile.checkpoints", 1, 1),
    "gate": Kind(
        "each check of the reader switched off: a file must tell", "gate.survivors", 1, 12, False
    ),
    "kills": Kind("kill -9 at random moments", "crash.kills", 300, 10, False),
    "steps": Kind(
        "kill -9 before each operation on files", "crash.kills_at_each_step", 1, 9, False
    ),
    "sizes": Kind("no file beyond a limit (RLIMIT_FSIZE)", "crash.file_size_limits", 60, 4, False),
    "full": Kind("a file system of 4 MiB that is full", "crash.full_disk", 1, 5, False),
    "reads": Kind("reads that fail, from the first to the last", "crash.read_errors", 1, 2, False),
    "calls": Kind("fsync, rename or link fails once, at each call", "calls.failing", 1, 5, False),
    "power": Kind("power cuts, every state that may be left", "power.cuts", 1, 1, False),
    "control": Kind(
        "the same without an fsync: the simulator must object",
        "power.without_fsync",
        1,
        1,
        False,
    ),
}


HEAD = """\
# What must not go wrong, and how often it was tried

Written by `tools/fuzz --write`, which runs all of it; `tools/fuzz --only KIND` runs one kind.

*Wrong* is anything but the right outcome. Of a hostile file that is a `TvqError` that a terminal
can show, or exactly what the undamaged file gives; where there is none, what `spec/reader.py`
gives. It has to come within a second of processor time, and one more for each MiB of the file, and
within {memory} MiB of address space beyond what the program has when a kind begins (RLIMIT_AS).
Memory is what became resident since then, at its peak; it may be a little more than that limit, for
pages of libraries that were mapped before become resident too. Of an output that is interrupted it
is the old one or the new one, whole, and no other file once the next run has ended.

| kind of fault | cases | wrong | memory | rerun |
|---|---:|---:|---:|---|
"""


@dataclass(frozen=True)
class Row:
    """What came of one kind: `memory` is in bytes, beyond the program's own."""

    kind: str
    cases: int
    refused: int
    wrong: list[str]
    memory: int
    seconds: float


def campaign(kind: str, quick: bool) -> Row:
    """Runs one kind in this process, whose memory is limited from then on."""
    import torch
    from faults import calls, crash, gate, hostile, power
    from faults.outcome import Tally

    torch.set_num_threads(1)
    modules = {"hostile": hostile, "crash": crash, "calls": calls, "gate": gate, "power": power}
    module, name = KINDS[kind].campaign.split(".")
    function: Callable[[Path, int], Tally] = getattr(modules[module], name)
    if KINDS[kind].capped:
        limit = _status("VmSize") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    begin, before = time.monotonic(), _status("VmRSS")
    with tempfile.TemporaryDirectory() as scratch:
        amount = KINDS[kind].quick if quick else KINDS[kind].amount
        tally = function(Path(scratch).resolve(), amount)
    memory = max(_status("VmHWM") - before, 0)
    seconds = round(time.monotonic() - begin, 1)
    print(f"{kind}: {tally.cases} cases, {len(tally.wrong)} wrong, {seconds} s", file=sys.stderr)
    return Row(kind, tally.cases, tally.refused, tally.wrong, memory, seconds)


def _status(field: str) -> int:
    """Bytes that this process has, by /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise LookupError(field)


def apart(halves: list[list[str]], quick: bool) -> list[Row]:
    """Runs the kinds of each half in a process of its own, both at a time."""
    from faults.crash import ended, forked

    def work(kinds: list[str], report: Path) -> None:
        report.write_text(json.dumps([asdict(campaign(kind, quick)) for kind in kinds]))

    with tempfile.TemporaryDirectory() as scratch:
        reports = [Path(scratch, str(number)) for number in range(len(halves))]
        children = [
            forked(partial(work, kinds, report))
            for kinds, report in zip(halves, reports, strict=True)
        ]
        if any([ended(child) for child in children]):
            raise SystemExit("a campaign did not come to its end")
        return [Row(**row) for report in reports for row in json.loads(report.read_text())]


def fuzz(minutes: float) -> int:
    """Fuzzes on all cores; not 0 if something was found, and says where it is."""
    found = Path(tempfile.mkdtemp(prefix="tvq-found-"))
    command = [sys.executable, str(TOP / "tools" / "fuzz_target.py"), f"-artifact_prefix={found}/"]
    command += [f"-max_total_time={minutes * 60:.0f}", "-timeout=10", "-max_len=65536"]
    corpora = [Path(tempfile.mkdtemp(prefix="tvq-corpus-")) for _ in range(CORES)]
    with ThreadPoolExecutor(CORES) as pool:
        runs = [
            pool.submit(
                run, [*command, f"-seed={seed}", str(corpus), str(TOP / "spec" / "vectors")]
            )
            for seed, corpus in enumerate(corpora, 1)
        ]
    bad = any(one.result().returncode for one in runs)
    if bad:
        print(f"what was found lies in {found}: make vectors of it", file=sys.stderr)
    return int(bad)


def table(rows: list[Row]) -> str:
    """The report as Markdown."""
    lines = HEAD.format(memory=MEMORY >> 20).splitlines()
    for row in rows:
        memory = f"{row.memory / 2**20:.0f} MiB" if KINDS[row.kind].capped else ""
        title = KINDS[row.kind].title
        lines.append(
            f"| {title} | {row.cases:,} | {len(row.wrong)} | {memory} | `--only {row.kind}` |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=KINDS, metavar="KIND", default=[])
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(TOP)}")
    parser.add_argument("--minutes", type=float, help="fuzz for so long instead")
    options = parser.parse_args()
    if options.minutes:
        sys.exit(fuzz(options.minutes))
    if options.only:
        rows = [campaign(kind, options.quick) for kind in options.only]
    else:
        halves = [[k for k in KINDS if KINDS[k].capped is capped] for capped in (True, False)]
        rows = apart(halves, options.quick)
    print(json.dumps([asdict(row) for row in rows]) if options.json else table(rows))
    if options.write:
        TABLE.write_text(table(rows))
    wrong = [f"{row.kind}: {what}" for row in rows for what in row.wrong]
    if not options.json:
        print(*wrong[:50], sep="\n", file=sys.stderr)
        sys.exit(os.EX_SOFTWARE if wrong else 0)


if __name__ == "__main__":
    main()
