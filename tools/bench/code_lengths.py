"""Bytes of codes of factors by ideal arithmetic codes, with all that a decoder needs.

entropy         zero-order, by what occurs in a stream or component: bounds, no tables counted
Laplace, Gauss  by a distribution, one byte for the width of each component
by energies     Gauss of widths that the components' scales tell, one byte for each stream
tables before   by counts of the components before, fading: what is stored is codes alone
adaptive        by those, and counts of the component itself (Krichevsky, Trofimov 1981)
; above, beside, row: counts of their own by the size of the same row's code one component before,
                of the code one row before, by quarters of what rows have had so far
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from factor_streams import Floats, Ints, Side, Stream

FLUSH = 4  # bytes of a stream that end an arithmetic code
FADING = 0.7  # of counts, from one component to the next
OTHERS = 100.0  # codes that counts of components before weigh as much as, in adaptive models
EVERYWHERE = 16.0  # the same of all contexts in one of them
ROW_FADING = 0.9  # of what a row has had
QUARTERS = 4
DEAD_ZONE = 0.56  # of a step, in which codes are zero
WIDTHS = np.geomspace(0.02, 200, 256)  # of distributions, in steps
RAREST = 2.0**-14  # probability that a table has
Share = Callable[[Floats], Floats]
Context = Callable[[Ints], Ints]  # sizes of codes -> classes of the same shape


def zero_order(counts: Ints) -> float:
    """Bytes of symbols that occur so often, [.., alphabet], by their frequencies."""
    shares = counts / counts.sum(-1, keepdims=True).clip(1)
    return float(
        -(counts * np.log2(shares, where=counts > 0, out=np.zeros(counts.shape))).sum() / 8
    )


def histogram(codes: Ints, classes: Ints | None = None, most: int = 1) -> Ints:
    """How often each code of a component occurs, least first: [components, classes, alphabet]."""
    peak = int(np.abs(codes).max())
    low = min(int(codes.min()), 0) and -peak
    alphabet = peak - low + 1
    at = np.arange(len(codes))[:, None] * most + (0 if classes is None else classes)
    counts = np.bincount(
        (at * alphabet + codes - low).ravel(), minlength=len(codes) * most * alphabet
    )
    shaped: Ints = counts.reshape(len(codes), most, alphabet)
    return shaped


@functools.cache
def odds(peak: int, share: Share) -> Floats:
    """Of sizes of codes up to `peak`, [widths, peak + 1], where `share` of a distribution of width
    one lies within so much."""
    within = share((np.arange(peak + 1) + DEAD_ZONE) / WIDTHS[:, None])
    found = np.diff(within, axis=1, prepend=0.0) + RAREST
    return np.asarray(found / found.sum(1, keepdims=True))


def by_widths(stream: Stream, share: Share) -> Floats:
    """Bytes [components, widths] by a distribution, a bit for each sign among them."""
    counts = histogram(np.abs(stream.codes))[:, 0]
    lengths = -np.log2(odds(counts.shape[1] - 1, share))
    lengths[:, 1:] += 1
    return np.asarray(counts @ lengths.T) / 8


def laplace(edges: Floats) -> Floats:
    return 1 - np.exp(-edges)


def gauss(edges: Floats) -> Floats:
    return torch.erf(torch.from_numpy(edges)).numpy()


def width_each(share: Share, stream: Stream) -> float:
    return float(by_widths(stream, share).min(1).sum()) + len(stream.codes) + FLUSH


def width_by_energy(stream: Stream) -> float:
    """Scales of factors are inverse to the size of their codes, but for one factor."""
    cost = by_widths(stream, gauss)
    ratio = math.log(WIDTHS[1] / WIDTHS[0])
    places = np.round(-np.log(stream.scales.clip(1e-30)) / ratio).astype(int)
    places -= places.min()
    moved = (places + np.arange(-256, 256)[:, None]).clip(0, 255)
    return float(cost[np.arange(len(cost)), moved].sum(1).min()) + 1 + FLUSH


def above(sizes: Ints) -> Ints:
    return np.concatenate([np.zeros_like(sizes[:1]), sizes[:-1]]).clip(0, 2)


def beside(sizes: Ints) -> Ints:
    return np.concatenate([np.zeros_like(sizes[:, :1]), sizes[:, :-1]], 1).clip(0, 2)


def by_row(sizes: Ints) -> Ints:
    """Quarters of the rows by what they have had, in units of the component's mean."""
    classes, had = np.zeros_like(sizes), np.zeros(sizes.shape[1])
    for number, row in enumerate(sizes[:-1]):
        had = ROW_FADING * had + row / max(row.mean(), 1e-9)
        classes[number + 1, np.argsort(had, kind="stable")] = (
            np.arange(len(had)) * QUARTERS // len(had)
        )
    return classes


def both(sizes: Ints) -> Ints:
    return by_row(sizes) * 3 + beside(sizes)


def by_counts(side: Side, adaptive: bool, context: Context | None = None) -> float:
    """Sizes of codes by counts of components before and, if `adaptive`, by their own so far, that
    of the context in both; a bit for each sign."""
    sizes = np.abs(np.concatenate([one.codes for one in side]))
    classes = context(sizes) if context else np.zeros_like(sizes)
    most = int(classes.max()) + 1
    counts = histogram(sizes, classes, most)
    peaks = np.repeat([one.own // 2 for one in side], [len(one.codes) for one in side])
    seen = np.zeros((most, counts.shape[2]))
    bits = float((sizes > 0).sum()) + 8 * FLUSH * len(side)
    expected = np.empty(counts.shape)
    for number, component in enumerate(counts):
        seen[:, peaks[number] + 1 :] = 0
        common = seen.sum(0) + 0.5 * (np.arange(seen.shape[1]) <= peaks[number])
        mixed = seen + EVERYWHERE * common / common.sum()
        expected[number] = mixed / mixed.sum(1, keepdims=True)
        seen = FADING * (seen + component)
    if adaptive:
        bits += dirichlet(counts, OTHERS * expected) / math.log(2)
    else:
        shares = np.where(expected > 0, expected + RAREST, 0)
        shares = np.where(expected > 0, shares / shares.sum(-1, keepdims=True), 1)
        bits -= float((counts * np.log2(shares)).sum())
    return bits / 8


def dirichlet(counts: Ints, prior: Floats) -> float:
    """Nats of symbols coded by counts that start as `prior` and grow by one for each."""

    def log_gamma(values: Floats) -> Floats:
        return torch.lgamma(torch.from_numpy(values)).numpy()

    start = np.where(prior > 0, prior, 1)
    each = np.where(prior > 0, log_gamma(start + counts) - log_gamma(start), 0).sum(-1)
    return float((log_gamma((prior + counts).sum(-1)) - log_gamma(prior.sum(-1)) - each).sum())
