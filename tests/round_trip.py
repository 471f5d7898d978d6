"""Through a file and back: a file, and what `encode` and `decode` say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from small_models import State

import tvcodec
from tvcodec.encoding.published import Published


@dataclass(frozen=True)
class Coded:
    """A file, what `encode` said of it, and the fine-tunes as they came back through files."""

    path: Path
    summary: tvcodec.Summary
    restored: dict[str, State]
    task_vectors: dict[str, State]

    def stored_bytes(self, task: str) -> int:
        """What the sections of a task take."""
        with tvcodec.open(self.path) as bank:
            return int(bank.archive.record(task).sections_length)


Coder = Callable[..., Coded]


def coder(folder: Path) -> Coder:
    """Encodes, checks every checksum, and decodes all tasks through .safetensors files."""

    def run(
        base: State,
        tunes: Mapping[str, State],
        recipe: tvcodec.Recipe | Published | None = None,
        goal: tvcodec.Goal | None = None,
        name: str = "bank.tvq",
    ) -> Coded:
        path = folder / name
        summary = tvcodec.encode(base, tunes, path, recipe=recipe, goal=goal, force=True)
        restored, task_vectors = {}, {}
        with tvcodec.open(path) as bank:
            bank.archive.verify()
            assert bank.tasks == tuple(sorted(tunes))
            for task in bank.tasks:
                out = folder / f"{task}.safetensors"
                bank.decode(task, base).save(out, force=True)
                restored[task] = load_file(out)
                task_vectors[task] = dict(bank.task_vector(task, base))
        assert path.stat().st_size == summary.bytes
        return Coded(path, summary, restored, task_vectors)

    return run
