"""A command of the user's as a function of a model: the last number that it prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from contextlib import suppress

from tvcodec.decoding.model import Model
from tvcodec.errors import TvqError
from tvcodec.file.durable import scratch_directory

STDERR_LINES = 5  # of a command that failed: the last ones, where tracebacks say what it was
LINE = 300


class Command:
    """Runs `text`, split into words as a shell does but by no shell, with {model} and {task}
    replaced: by the path of the model, written beside `place` for as long as it takes, and by the
    name of the task. A model that has a directory is written as one, else as a .safetensors file.

    ValueError for a text that cannot be split or has no {model}. A call raises TvqError where the
    command cannot be run, fails, or prints no line that is a number.
    """

    def __init__(self, text: str, place: str | os.PathLike[str]) -> None:
        self.words = shlex.split(text)
        self.place = place
        if not any("{model}" in word for word in self.words):
            raise ValueError(f"expected a command with {{model}} in it, got {text!r}")

    def __call__(self, model: Model, task: str) -> float:
        with scratch_directory(self.place) as scratch:
            path = scratch / ("model" if model.directory else "model.safetensors")
            model.save(path)
            given = {"{model}": str(path), "{task}": task}
            return _number(
                [
                    re.sub(r"\{model\}|\{task\}", lambda match: given[match[0]], word)
                    for word in self.words
                ],
                f"task {task!r}: {shlex.join(self.words)}",
            )


def _number(words: list[str], where: str) -> float:
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise TvqError(
            f"{where}: cannot be run: {error.strerror}",
            hint="it is no shell's command line: write sh -c '...' for one that needs a shell",
        ) from None
    if done.returncode:
        how = f"exit code {done.returncode}"
        if done.returncode < 0:
            how = f"an end by signal {-done.returncode}"
        raise TvqError(f"{where}: expected exit code 0, got {how}", hint=_said(done.stderr))
    lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
    for line in reversed(lines):
        with suppress(ValueError):
            return float(line)
    got = repr(lines[-1].strip()[:80]) if lines else "nothing"
    raise TvqError(
        f"{where}: expected a line with a number and nothing else on stdout, got {got}",
        hint=_said(done.stderr),
    )


def _said(stderr: bytes) -> str:
    """The end of what a command complained of, as one line."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines()]
    last = [line[:LINE] for line in lines if line][-STDERR_LINES:]
    return "its stderr ends with: " + " | ".join(last) if last else "it wrote nothing to stderr"
