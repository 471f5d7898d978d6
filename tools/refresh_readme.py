"""Runs the examples of README.md and spec/ on the sample, and puts what they print under them.

python tools/refresh_readme.py
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from doc_examples import DOCUMENTS, FENCED, README, TOP, command_lines, python, run

__all__ = ["README", "REFRESHED", "refreshed"]

NAMED = re.compile(r"# (\S+\.yaml)\n")
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*\n)", re.MULTILINE)
REFRESHED = tuple(path for path in DOCUMENTS if "\n$ tvcodec " in path.read_text())


def refreshed(text: str, directory: Path) -> str:
    """`text` with the output of its console examples as they print it now.

    Examples in Python and command lines run in order, in `directory`, beside a copy of the sample;
    a block of YAML becomes the file that its first line names. Raises what one fails with.
    """
    shutil.copytree(TOP / "tools/sample", directory / "tools/sample")

    def block(match: re.Match[str]) -> str:
        language, body = match.groups()
        if language == "yaml" and (file := NAMED.match(body)):
            (directory / file[1]).write_text(body)
        if language == "python":
            python(body, directory)
        lines = COMMAND.findall(body)
        if language != "console" or not command_lines("".join(lines)):
            return match[0]
        return f"```console\n{''.join(f'$ {line}{run(line, directory)}' for line in lines)}```"

    return FENCED.sub(block, text)


if __name__ == "__main__":
    for document in REFRESHED:
        with tempfile.TemporaryDirectory() as work:
            document.write_text(refreshed(document.read_text(), Path(work)))
