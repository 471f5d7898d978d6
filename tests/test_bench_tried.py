"""The benchmarks of what was tried for fewer bytes, at toy size."""

import math
from dataclasses import replace

import arithmetic
import code_lengths
import numpy as np
import packing
import pytest
import torch
import tried
from factor_streams import Stream, sides

import tvcodec
from tvcodec.file import entropy

ROWS, COMPONENTS = 300, 12


@pytest.fixture(scope="module")
def matrices():
    """Two whose singular values fall by half every other component."""
    chance = torch.Generator().manual_seed(3)
    found = []
    for rows, columns in ((96, 64), (64, 96)):
        noise = torch.randn(rows, columns, generator=chance)
        left, sigma, right = torch.linalg.svd(noise, full_matrices=False)
        sigma = 200 * 0.7 ** torch.arange(len(sigma)) + 1
        found.append((left * sigma) @ right)
    return found


@pytest.fixture(scope="module")
def stream():
    """Gaussian codes, each component narrower than the one before."""
    sigma = 1.8 * 0.9 ** np.arange(COMPONENTS)
    values = np.random.default_rng(3).normal(size=(COMPONENTS, ROWS)) * sigma[:, None]
    codes = (np.sign(values) * np.floor(np.abs(values) + 0.44)).astype(np.int64)
    found = Stream(codes, 1 / sigma, 0, 0)
    found = replace(found, alphabet=found.own)
    return replace(found, length=len(entropy.compress(found.packed(), entropy.BLOCKS)))


def test_more_refits_take_fewer_bytes_and_none_takes_more(matrices):
    ways = ("1 refit, offset 0.44", "no refit", "5 refits", "all components in one stream", "rate")
    found = tried.compared(matrices, 1.0, {name: tried.WAYS[name] for name in ways})
    assert found["1 refit, offset 0.44"] == 0
    assert found["5 refits"] < 0 < found["no refit"]
    assert found["all components in one stream"] >= 0


def test_streams_are_what_a_file_holds(matrices, tmp_path):
    base = {"one": torch.zeros(96, 64), "two": torch.zeros(64, 96)}
    tune = dict(zip(base, matrices, strict=True))
    path = tmp_path / "bank.tvq"
    tvcodec.encode(base, {"a": tune}, path, recipe=tvcodec.Recipe(step=0.5))
    with tvcodec.open(path) as bank:
        found = list(sides(bank, ["a"]))
        stored = sum(entry.length for entry, _ in bank.archive.sections("a"))
        scales = sum(4 * len(one.codes) for side in found for one in side) // 2
    assert [side[0].codes.shape[1] for side in found] == [96, 64, 64, 96]
    assert sum(one.length for side in found for one in side) == stored - scales
    compared = packing.compared(5 * found, path.stat().st_size)
    assert f"{compared['file']:,.0f}" in packing.table({"step 1": compared})
    # zstd, a real code, takes no less than the entropy; nor do tables that it is sent without
    assert compared["as stored"] > compared["entropy, stream"] > compared["entropy, component"]


def test_rows_of_zeros_left_out_take_their_mask(stream):
    rows = np.zeros((COMPONENTS, 10 * ROWS), np.int64)
    rows[:, ::10] = stream.codes
    found = packing.without_zeros([replace(stream, codes=rows)])
    mask = packing.thorough(np.packbits(rows.any(0)))
    assert 0 < mask < 100
    assert found == stream.length + mask


def test_a_code_that_knows_widths_comes_near_their_entropy(stream):
    entropy_of_components = code_lengths.zero_order(code_lengths.histogram(stream.codes))
    found = code_lengths.width_by_energy(stream)
    assert entropy_of_components < found < 1.04 * entropy_of_components
    assert found < stream.length
    each = code_lengths.width_each(code_lengths.gauss, stream)
    assert found < each < found + 2 * COMPONENTS


def test_counts_that_grow_are_what_coding_one_by_one_gives():
    symbols, prior = [0, 2, 2, 1, 2], np.array([0.5, 1.0, 0.25])
    seen, nats = prior.copy(), 0.0
    for symbol in symbols:
        nats -= math.log(seen[symbol] / seen.sum())
        seen[symbol] += 1
    counts = np.bincount(symbols)
    assert code_lengths.dirichlet(counts[None], prior[None]) == pytest.approx(nats)


def test_contexts_know_only_what_came_before(stream):
    sizes = np.abs(stream.codes)
    for context in (code_lengths.above, code_lengths.beside, code_lengths.by_row):
        classes = context(sizes)
        other = sizes.copy()
        other[7, 100:] += 1
        other[8:] = 0
        changed = context(other) != classes
        assert not changed[:7].any()
        assert not changed[7, :101].any()
        assert changed[7:].any()


def test_what_lanes_decode_takes_as_many_bytes_as_it_should(stream):
    rows = arithmetic.measured([stream], [8, 64], 1, 1)  # asserts the round trip
    ideal = code_lengths.width_each(code_lengths.gauss, stream)
    assert [(row["way"], row["lanes"]) for row in rows] == [
        *(("codes", 8), ("codes", 64), ("packed", 8), ("packed", 64)),
    ]
    for row in rows:
        assert ideal < row["bytes"] < 1.02 * ideal + 4 * row["lanes"]
    assert 2 * rows[2]["symbols"] == rows[0]["symbols"] == stream.codes.size
