"""The main job on the sample: archive eight fine-tunes, get each back, merge them, measure."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file
from sample.evaluate import BASE_MODEL, FINE_TUNES, PERFORMANCE, accuracy, digest, digests
from tabulate import tabulate

import tvcodec
from tvcodec.cli import main

SCALING = "0.4"  # of the merge; chosen on rows that are not in the sample
THREADS = 2
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Accuracies:
    """On one task's test rows: of the base model, of the fine-tune, of what comes back of it from
    the lossy archive, and of the merge of all tasks from the exact archive and the lossy one."""

    base_model: float
    fine_tuned: float
    decoded: float
    merged_exact: float
    merged: float


@dataclasses.dataclass(frozen=True)
class Results:
    """Sizes in bytes, values of a model, how many fine-tunes were restored bit for bit, and
    accuracies by task."""

    values: int
    base_model: int
    fine_tunes: int
    exact: int
    lossy: int
    restored: int
    tasks: dict[str, Accuracies]

    @property
    def mean(self) -> Accuracies:
        """Of all tasks."""
        columns = zip(*map(dataclasses.astuple, self.tasks.values()), strict=True)
        return Accuracies(*(sum(column) / len(column) for column in columns))

    def bits(self, size: int) -> float:
        """Bits per parameter and task of something that holds all tasks."""
        return 8 * size / self.values / len(self.tasks)


def run(rows: int | None = None, say: Say = lambda line: None) -> Results:
    """Does it all on the first `rows` test rows of each task; `say` hears of every step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small models: one a thread is faster than all threads on one
    try:
        with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(THREADS) as pool:
            return _run(Path(work), rows, pool, say)
    finally:
        torch.set_num_threads(threads)


def _run(work: Path, rows: int | None, pool: ThreadPoolExecutor, say: Say) -> Results:
    with tvcodec.open(FINE_TUNES) as bank:
        originals = {task: work / f"{task}.safetensors" for task in bank.tasks}
        for task, path in originals.items():
            bank.decode(task, BASE_MODEL).save(path)
    same = [digest(load_file(path)) == digests()[task] for task, path in originals.items()]
    say(f"# {sum(same)} of {len(same)} fine-tunes restored bit for bit from {FINE_TUNES.name}\n")

    lossy = work / "bank.tvq"
    _tvcodec(say, "encode", BASE_MODEL, *(f"{t}={p}" for t, p in originals.items()), "-o", lossy)
    decoded = {task: work / f"{task}-decoded.safetensors" for task in originals}
    merged = {
        archive: work / f"merged-{archive.stem}.safetensors" for archive in (FINE_TUNES, lossy)
    }
    base_model = ("--base-model", BASE_MODEL)
    weights = ("--weights", PERFORMANCE, "--scaling", SCALING)
    for task, path in decoded.items():
        _tvcodec(say, "decode", lossy, task, *base_model, "-o", path)
    for archive, path in merged.items():
        _tvcodec(say, "merge", archive, *base_model, *weights, "-o", path)

    say("\n# measuring accuracy")
    models = {
        task: (BASE_MODEL, originals[task], decoded[task], *merged.values()) for task in originals
    }
    measured = pool.map(
        lambda job: accuracy(load_file(job[1]), job[0], rows),
        [(task, path) for task, paths in models.items() for path in paths],
    )
    accuracies = {
        task: Accuracies(*(next(measured) for _ in paths)) for task, paths in models.items()
    }
    return Results(
        values=sum(tensor.numel() for tensor in load_file(BASE_MODEL).values()),
        base_model=BASE_MODEL.stat().st_size,
        fine_tunes=sum(path.stat().st_size for path in originals.values()),
        exact=FINE_TUNES.stat().st_size,
        lossy=lossy.stat().st_size,
        restored=sum(same),
        tasks=accuracies,
    )


def _tvcodec(say: Say, *arguments: str | Path) -> None:
    """Runs the command line, without a process of its own, and says so with paths cut to names."""
    words = [str(argument) for argument in arguments]
    shown = " ".join(words)
    for folder in {f"{path.parent}/" for path in arguments if isinstance(path, Path)}:
        shown = shown.replace(folder, "")
    say(f"$ tvcodec {shown}")
    messages = io.StringIO()
    with contextlib.redirect_stdout(messages), contextlib.redirect_stderr(messages):
        code = main(words, prog_name="tvcodec", standalone_mode=False)
    if code:
        raise SystemExit(messages.getvalue())


def report(results: Results) -> str:
    """Two tables: sizes and accuracies."""
    count, lossy = len(results.tasks), results.lossy
    sizes = [
        (f"{count} fine-tunes, bfloat16 checkpoints", results.fine_tunes),
        (f"{count} fine-tunes, exact archive", results.exact),
        (f"{count} fine-tunes, lossy archive", lossy),
    ]
    size_rows = [
        (
            what,
            f"{size / 1e6:.2f} MB",
            f"{results.bits(size):.2f}",
            f"{results.fine_tunes / size:.1f}",
        )
        for what, size in sizes
    ]
    size_rows.append(("(base model)", f"{results.base_model / 1e6:.2f} MB", "", ""))
    accuracy_rows = [
        (task, *(f"{100 * share:.1f}" for share in dataclasses.astuple(shares)))
        for task, shares in [*results.tasks.items(), ("mean", results.mean)]
    ]
    right = ("left", "right", "right", "right")
    size_table = tabulate(
        size_rows,
        headers=("", "size", "bits per parameter", "times smaller"),
        colalign=right,
        disable_numparse=True,
    )
    accuracy_table = tabulate(
        accuracy_rows,
        headers=("accuracy, %", "base model", "fine-tune", "decoded", "merge, exact", "merge"),
        colalign=(*right, "right", "right"),
        disable_numparse=True,
    )
    mean = results.mean
    kept = f"accuracy kept by the lossy archive: {100 * mean.decoded / mean.fine_tuned:.1f} %"
    return f"{size_table}\n\n{accuracy_table}\n\n{kept}"


def demo() -> None:
    """Runs it as a program."""
    parser = argparse.ArgumentParser(prog="tools/demo", description=__doc__)
    parser.add_argument("--rows", type=int, help="test rows of each task [default: all]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    arguments = parser.parse_args()
    start = time.monotonic()
    results = run(arguments.rows, say=lambda line: print(line, flush=True))
    print(f"\n{report(results)}\n({time.monotonic() - start:.0f} s)")
    if arguments.json:
        text = json.dumps(dataclasses.asdict(results), indent=1)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    demo()
