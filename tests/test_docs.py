"""The documents of spec/ tell the truth: their examples run, and print what is shown."""

import re
from pathlib import Path

import pytest
from refresh_readme import FENCED, refreshed
from test_architecture import loosened

SPEC = Path(__file__).parent.parent / "spec"
NAMED = re.compile(r"# (\S+\.yaml)\n")


@pytest.mark.parametrize("name", ["migration.md"])
def test_examples_run_and_print_what_is_shown(name, tmp_path):
    """On the sample, in order; a block of YAML becomes the file that its first line names."""
    text = (SPEC / name).read_text()
    for language, body in FENCED.findall(text):
        if language == "yaml" and (file := NAMED.match(body)):
            (tmp_path / file[1]).write_text(body)
    assert text.count("\n$ tvcodec ") >= 5
    assert loosened(refreshed(text, tmp_path)) == loosened(text)
