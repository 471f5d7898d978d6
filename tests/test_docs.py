"""The documents of spec/ tell the truth: their examples run, and print what is shown."""

from pathlib import Path

import pytest
from refresh_readme import refreshed
from test_architecture import loosened

SPEC = Path(__file__).parent.parent / "spec"


@pytest.mark.parametrize("name", ["migration.md"])
def test_examples_run_and_print_what_is_shown(name, tmp_path):
    """On the sample, in order."""
    text = (SPEC / name).read_text()
    assert text.count("\n$ tvcodec ") >= 5
    assert loosened(refreshed(text, tmp_path)) == loosened(text)
