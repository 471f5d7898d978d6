"""Python programs in processes of their own, forked from one that has imported torch already."""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess

TOP = Path(__file__).parent.parent
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["torch", "safetensors.torch"])  # nothing of what is tested


class Child:
    """A program with words for its command line, in the directory that this process is in."""

    def __init__(self, program: str, *words: object, **environment: str) -> None:
        self._words = [str(word) for word in words]
        self._said = tempfile.TemporaryDirectory()
        self._printed: list[str] = []
        self._files = [Path(self._said.name, name) for name in ("stdout", "stderr")]
        settings = {**os.environ, **environment}
        given = (program, self._words, os.getcwd(), settings, self._files)
        self._process = FORKED.Process(target=_run, args=given)
        self._process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def send_signal(self, number: int) -> None:
        if self.running and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def wait(self) -> "CompletedProcess[str]":
        """Its exit code and what it printed, once it has ended."""
        self._process.join()
        code = self._process.exitcode
        assert code is not None
        if not self._printed:
            self._printed = [path.read_text() for path in self._files]
            self._said.cleanup()
        return CompletedProcess(self._words, code, *self._printed)


def run(program: str, *words: object, **environment: str) -> "CompletedProcess[str]":
    """Exit code and output of a program, see `Child`."""
    return Child(program, *words, **environment).wait()


def _run(
    program: str,
    words: list[str],
    directory: str,
    environment: Mapping[str, str],
    files: list[Path],
) -> None:
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(files, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["-c", *words]
    sys.path[:0] = [str(TOP)]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
