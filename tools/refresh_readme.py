"""Runs the examples of README.md and spec/ on the sample, and puts what they print under them.

python tools/refresh_readme.py
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from click.testing import CliRunner

from tvcodec.cli import main

TOP = Path(__file__).parent.parent
README, MIGRATION = TOP / "README.md", TOP / "spec/migration.md"
NAMED = re.compile(r"# (\S+\.yaml)\n")
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = "|<>&;$`"  # what a shell alone understands
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*\n)", re.MULTILINE)


def refreshed(text: str, directory: Path) -> str:
    """`text` with the output of its console examples as they print it now.

    Examples in Python and command lines of tvcodec run in order, in `directory`, beside a copy of
    the sample; a block of YAML becomes the file that its first line names. CalledProcessError where
    one fails.
    """
    shutil.copytree(TOP / "tools/sample", directory / "tools/sample")

    def block(match: re.Match[str]) -> str:
        language, body = match.groups()
        if language == "yaml" and (file := NAMED.match(body)):
            (directory / file[1]).write_text(body)
        if language == "python":
            _run([sys.executable, "-c", body], directory)
        if language != "console" or "$ tvcodec " not in body:
            return match[0]
        shown = [f"$ {line}{_tvcodec(line, directory)}" for line in COMMAND.findall(body)]
        return f"```console\n{''.join(shown)}```"

    return FENCED.sub(block, text)


def _tvcodec(line: str, directory: Path) -> str:
    """What a command line prints, messages behind data; tvcodec's in this process, which has
    imported what takes longest."""
    program, *words = shlex.split(line.replace("\\\n", " "), comments=True)
    if program != "tvcodec" or set(line) & set(SHELL):
        return _run(["sh", "-c", line], directory)
    before = Path.cwd()
    os.chdir(directory)
    try:
        done = CliRunner().invoke(main, words, prog_name=program)
    finally:
        os.chdir(before)
    if done.exit_code:
        raise subprocess.CalledProcessError(done.exit_code, line, done.stdout, done.stderr)
    return done.stdout + done.stderr


def _run(command: list[str], directory: Path) -> str:
    """What a command prints, messages behind data."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()
    return done.stdout + done.stderr


if __name__ == "__main__":
    for document in (README, MIGRATION):
        with tempfile.TemporaryDirectory() as work:
            document.write_text(refreshed(document.read_text(), Path(work)))
