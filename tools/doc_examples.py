"""The examples in documents: fenced blocks, and command lines run as a reader would run them."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from click.testing import CliRunner

from tvcodec.cli import main

TOP = Path(__file__).parent.parent
README = TOP / "README.md"
DOCUMENTS = (README, *sorted((TOP / "spec").glob("*.md")))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"(?:.*\\\n)*.*\n")
ASSIGNED = re.compile(r"([A-Z_]+)=(.*)")
SHELL = "|<>&;$`"  # what a shell alone understands
NEITHER_RUN_NOR_CHECKED = {  # what installs, takes long, or belongs to other programs
    "tools/demo",
    "tools/check",
    "pip install model-signing pyopenssl",
    "openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
    "openssl ec -in key.pem -pubout -out key.pub",
    "model_signing sign key bank.tvq --private_key key.pem --signature bank.tvq.sig",
    "model_signing verify key bank.tvq --signature bank.tvq.sig --public_key key.pub",
}


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and body of each fenced block."""
    return ((found[1], found[2]) for found in FENCED.finditer(text))


def command_lines(body: str) -> list[str]:
    """Those of a block that are to be run, each with the lines that continue it."""
    lines = (line.strip() for line in LINE.findall(body))
    return [line for line in lines if line and line not in NEITHER_RUN_NOR_CHECKED]


def run(line: str, directory: Path, also: tuple[int, ...] = ()) -> str:
    """What a command line prints in `directory`, messages behind data: tvcodec's in this process,
    which has imported what takes longest, all others by bash. CalledProcessError unless it ends
    with 0 or one of `also`."""
    words = shlex.split(line.replace("\\\n", " "), comments=True)
    environment = _environment(directory)
    while found := ASSIGNED.fullmatch(words[0]):
        environment[found[1]] = found[2]
        del words[0]
    if words[0] != "tvcodec" or set(line.partition("'")[0]) & set(SHELL):
        return shell(line, directory)
    with _inside(directory):
        done = CliRunner().invoke(main, words[1:], prog_name=words[0], env=environment)
    if done.exit_code not in (0, *also):
        print(done.output, file=sys.stderr)
        raise subprocess.CalledProcessError(done.exit_code, line, done.stdout, done.stderr)
    return done.stdout + done.stderr


def python(body: str, directory: Path) -> None:
    """Runs an example in Python in `directory`: in this process too, with names of its own."""
    with _inside(directory), redirect_stdout(io.StringIO()):
        exec(compile(body, "<example>", "exec"), {"__name__": "__main__"})


def shell(line: str, directory: Path) -> str:
    """What bash prints for a line, messages behind data. CalledProcessError where it fails."""
    command = ["bash", "-e", "-o", "pipefail", "-c", line]
    environment = {**os.environ, **_environment(directory)}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()
    return done.stdout + done.stderr


@contextmanager
def _inside(directory: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def _environment(directory: Path) -> dict[str, str]:
    """In which `tvcodec` and `python` are those that run this."""
    programs = directory / ".bin"
    programs.mkdir(exist_ok=True)
    for name, words in {"tvcodec": "-m tvcodec", "python": ""}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        program.chmod(0o755)
    return {
        name: os.pathsep.join([first, *filter(None, [os.environ.get(name)])])
        for name, first in {"PATH": str(programs), "PYTHONPATH": str(TOP)}.items()
    }
