"""How tests run: their order, their settings, a file to go through and back."""

import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from round_trip import Coder

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a shell runs behind itself
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or tests could interrupt nothing

settings.register_profile(
    "tvcodec",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("tvcodec")

pytest.register_assert_rewrite("by_hand", "round_trip", "small_models")

LONGEST = (  # which begin first, so that no process has one left when the others are through
    *("test_faults.py", "test_demo.py", "test_sharing.py", "test_cli.py", "test_encoder.py"),
    *("test_merging.py", "test_report.py", "test_tuning.py", "test_determinism.py"),
    *("test_auto.py", "test_docs.py", "test_adapters.py", "test_published.py", "test_rate.py"),
)
collect_ignore = [] if shutil.which("chromium") else ["test_report_browser.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Imports torch where tests run: with several processes, not in the one that waits for them."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        import torch

        torch.set_num_threads(1)  # small tensors: threads would only wait for each other


def pytest_report_header() -> list[str]:
    """What is left out here, and why."""
    return [f"not collected, for want of chromium on PATH: {name}" for name in collect_ignore]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of LONGEST, then the others, each as it is."""
    turns = {name: turn for turn, name in enumerate(LONGEST)}
    items.sort(key=lambda item: turns.get(item.path.name, len(turns)))


@pytest.fixture
def coded(tmp_path: Path) -> "Coder":
    """Encodes, checks every checksum, and decodes all tasks through .safetensors files."""
    from round_trip import coder

    return coder(tmp_path)
