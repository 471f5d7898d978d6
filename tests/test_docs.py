"""The documents of spec/ tell the truth: their examples run, and print what is shown."""

import pytest
from refresh_readme import README, REFRESHED, refreshed
from test_architecture import loosened


@pytest.mark.parametrize("name", ["migration.md", "using.md"])
def test_examples_run_and_print_what_is_shown(name, tmp_path):
    """On the sample, in order."""
    (path,) = (path for path in REFRESHED if path.name == name)
    text = path.read_text()
    assert loosened(refreshed(text, tmp_path)) == loosened(text)


def test_no_document_with_examples_is_left_out():
    assert [path.name for path in REFRESHED] == [README.name, "migration.md", "using.md"]
