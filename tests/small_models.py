"""Small models, what fine-tunes do to them, and whether tensors are the same."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

State = dict[str, Tensor]
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
CHANGES = ("frozen", "noise", "constant", "outlier", "one value", "low rank")


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
