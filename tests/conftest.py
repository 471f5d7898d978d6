"""What tests of the coding chain share: small models, strategies, reading back through a file."""

import importlib.util
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import zstandard
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

import tvcodec
from tvcodec.encoding.published import Published
from tvcodec.file import index
from tvcodec.file.index import Stream

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
torch.set_num_threads(1)  # small tensors: threads would only wait for each other

LONGEST = (  # which begin first, so that no process has one left when the others are through
    *("test_faults.py", "test_demo.py", "test_sharing.py", "test_cli.py", "test_encoder.py"),
    *("test_merging.py", "test_report.py", "test_tuning.py", "test_determinism.py"),
    *("test_auto.py", "test_docs.py", "test_adapters.py", "test_published.py", "test_rate.py"),
)
collect_ignore = [] if shutil.which("chromium") else ["test_report_browser.py"]

State = dict[str, Tensor]
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
CHANGES = ("frozen", "noise", "constant", "outlier", "one value", "low rank")


def pytest_report_header() -> list[str]:
    """What is left out here, and why."""
    return [f"not collected, for want of chromium on PATH: {name}" for name in collect_ignore]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of LONGEST, then the others, each as it is."""
    turns = {name: turn for turn, name in enumerate(LONGEST)}
    items.sort(key=lambda item: turns.get(item.path.name, len(turns)))


def normal(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """White noise, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def bits(tensor: Tensor) -> bytes:
    """The elements as they lie in memory."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(one: Tensor, other: Tensor) -> None:
    """Same dtype, shape and bits."""
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert bits(one) == bits(other)


def relative_error(decoded: Tensor, wanted: Tensor) -> float:
    """In float64, by numpy."""
    a, b = decoded.double().numpy(), wanted.double().numpy()
    return float(np.linalg.norm((a - b).ravel()) / np.linalg.norm(b.ravel()))


def changed(seed: int, kind: str, base: Tensor, scale: float = 0.01) -> Tensor:
    """`base` after one of CHANGES, in its own dtype."""
    tau = torch.zeros(base.shape)
    if kind in ("noise", "outlier") and base.numel():
        tau = normal(seed, *base.shape, scale=scale)
    if kind == "constant":
        tau = torch.full(base.shape, scale)
    if kind == "low rank" and base.dim() >= 2 and base.numel():
        flat = tau.reshape(base.shape[0], -1)
        tau = torch.outer(normal(seed, len(flat)), normal(seed + 1, flat.shape[1], scale=scale))
    if kind in ("outlier", "one value") and base.numel():
        tau.view(-1)[seed % base.numel()] = 100 * scale
    return (base.double() + tau.reshape(base.shape).double()).to(base.dtype)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[State, dict[str, State]]:
    """A base model of one to four parameters and one to three fine-tunes of it."""
    shapes = st.lists(st.integers(0, 6) | st.sampled_from([17, 40]), max_size=4)
    base: State = {}
    for number in range(draw(st.integers(1, 4))):
        shape, seed = draw(shapes), draw(st.integers(0, 99))
        base[f"p{number}"] = normal(seed, *shape).to(draw(st.sampled_from(FLOATS)))
    tunes = {}
    for task in draw(st.sampled_from(["a", "ab", "abc"])):
        seed = draw(st.integers(100, 103))  # so few that tasks repeat
        kinds = [draw(st.sampled_from(CHANGES)) for _ in base]
        scale = draw(st.sampled_from([0.01, 1.0]))
        tunes[task] = {
            name: changed(seed, kind, tensor, scale)
            for kind, (name, tensor) in zip(kinds, base.items(), strict=True)
        }
    return base, tunes


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


@pytest.fixture
def coded(tmp_path: Path) -> Coder:
    """Encodes, checks every checksum, and decodes all tasks through .safetensors files."""

    def run(
        base: State,
        tunes: Mapping[str, State],
        recipe: tvcodec.Recipe | Published | None = None,
        goal: tvcodec.Goal | None = None,
        name: str = "bank.tvq",
    ) -> Coded:
        path = tmp_path / name
        summary = tvcodec.encode(base, tunes, path, recipe=recipe, goal=goal, force=True)
        restored, task_vectors = {}, {}
        with tvcodec.open(path) as bank:
            bank.archive.verify()
            assert bank.tasks == tuple(sorted(tunes))
            for task in bank.tasks:
                out = tmp_path / f"{task}.safetensors"
                bank.decode(task, base).save(out, force=True)
                restored[task] = load_file(out)
                task_vectors[task] = dict(bank.task_vector(task, base))
        assert path.stat().st_size == summary.bytes
        return Coded(path, summary, restored, task_vectors)

    return run


def second_reader() -> Any:
    """spec/reader.py, which shares no code with the first."""
    path = Path(__file__).parent.parent / "spec" / "reader.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The format by hand: what spec/tvq.md says of streams, in numpy and Python's integers.


def unframed(stream: Stream, data: bytes, length: int) -> bytes:
    """The packed bytes of one stream: zstd frames, or as they are."""
    assert len(data) == stream.length
    if len(data) == length:
        return data
    reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
    packed: bytes = reader.read(length + 1)
    assert len(packed) == length
    return packed


def symbols_by_hand(packed: bytes, alphabet: int, count: int) -> npt.NDArray[np.int64]:
    """Digits of each byte in base `alphabet`, the lowest first."""
    per_byte = 1
    while alphabet ** (per_byte + 1) <= 256:
        per_byte += 1
    digits = [byte // alphabet**place % alphabet for byte in packed for place in range(per_byte)]
    assert not any(digits[count:])
    return np.array(digits[:count], np.int64)


def codes_by_hand(stream: Stream, data: bytes, count: int) -> npt.NDArray[np.int64]:
    """Signed codes from a stream of symbols or of integers."""
    if stream.kind == index.SYMBOLS:
        per_byte = max(n for n in range(1, 9) if stream.size**n <= 256)
        packed = unframed(stream, data, -(-count // per_byte))
        return symbols_by_hand(packed, stream.size, count) - (stream.size - 1) // 2
    assert stream.kind == index.INTEGERS
    packed = unframed(stream, data, count * stream.size)
    folded = [
        sum(packed[plane * count + at] << 8 * plane for plane in range(stream.size))
        for at in range(count)
    ]
    return np.array([n // 2 if n % 2 == 0 else -(n + 1) // 2 for n in folded], np.int64)


def floats_by_hand(stream: Stream, data: bytes, count: int) -> npt.NDArray[np.float64]:
    """Floats from byte planes."""
    width = 2 if stream.kind == index.FLOAT16 else 4
    packed = unframed(stream, data, count * width)
    joined = bytes(packed[plane * count + at] for at in range(count) for plane in range(width))
    return np.frombuffer(joined, f"<f{width}").astype(np.float64)
