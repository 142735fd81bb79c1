"""Distances between two sets of features: Fréchet (FID), kernel (KID), and what is built on them.

All sums are float64. Neither distance of small sets means much by itself: the Fréchet distance is
biased upwards by an amount that falls with the number of pictures, so two values compare only at
equal numbers; the kernel distance is unbiased, and may therefore be slightly negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from stylecli.errors import ItemError

# Rounding may leave this much of the traces below zero; more is a fault.
ROUNDING = 1e-6
# Binkowski et al. 2018 and those who followed draw subsets of 1000 at any size; up to here we need
# no chance.
KID_EXACT_UP_TO = 5000
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
# Chong & Forsyth 2020: 15 sizes, the smallest 5000. With fewer pictures than `INFINITY_MIN`
# they lie too close together to tell a slope.
INFINITY_SIZES, INFINITY_FIRST, INFINITY_MIN = 15, 5000, 8000


@runtime_checkable
class Table(Protocol):
    """Features of many pictures, by stretches or numbers of rows; a tensor, or a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What a set leaves behind: enough for a Gaussian, and for adding more of the set.

    Attributes:
        m2: Scatter about the mean, not divided by anything.
    """

    n: int
    mean: Float64[Tensor, " d"]
    m2: Float64[Tensor, "d d"]

    @classmethod
    def of(cls, features: Float[Tensor, "n d"]) -> Self:
        """Those of one batch, in two passes; an empty batch changes nothing it is merged into."""
        rows = in_double(features)
        mean = rows.sum(dim=0) / max(1, len(rows))
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Both sets as one (Chan, Golub & LeVeque 1983).

        There is no way back, since a subtraction would leave mostly rounding: who wants to leave
        groups out keeps the moments of each and merges the others.
        """
        n = self.n + other.n
        shift = other.mean - self.mean
        share = other.n / max(1, n)
        between = torch.outer(shift, shift) * self.n * share
        return Moments(n, self.mean + shift * share, self.m2 + other.m2 + between)

    def covariance(self) -> Float64[Tensor, "d d"]:
        """Divided by n - 1.

        Raises:
            ItemError: Fewer than two rows.
        """
        _need_two(self.n)
        return self.m2 / (self.n - 1)


def frechet_distance(
    outputs: Moments, references: Moments, *, factor: Float64[Tensor, "_r d"] | None = None
) -> float:
    """FID of two Gaussians (Heusel et al. 2017, eq. 6), squared as always; symmetric.

    Args:
        factor: That of the references, where one set is compared with many.

    Raises:
        ItemError: A set of fewer than two rows, or features out of all range.
    """
    theirs = factor_of(references) if factor is None else factor
    return _distance(outputs.mean, factor_of(outputs), references.mean, theirs)


def frechet_distance_features(
    outputs: Float[Tensor, "n d"], references: Float[Tensor, "m d"]
) -> float:
    """FID straight from features: exact and fast where a set has fewer rows than columns.

    Raises:
        ItemError: A set of fewer than two rows, or features out of all range.
    """
    ours, theirs = in_double(outputs), in_double(references)
    factors = _factor_of_rows(ours), _factor_of_rows(theirs)
    return _distance(ours.mean(dim=0), factors[0], theirs.mean(dim=0), factors[1])


def kid(
    outputs: Table,
    references: Table,
    *,
    block: int = 2048,
    exact_up_to: int = KID_EXACT_UP_TO,
    generator: torch.Generator | None = None,
) -> float:
    """Unbiased squared MMD under the kernel (x·y / d + 1)³ (Binkowski et al. 2018, sec. 4).

    Tables print a thousand times this. It may be negative. Repeated references bias it: give each
    once.

    Args:
        block: Rows in memory at a time, of either set.
        exact_up_to: Where a set is larger, the mean over random subsets is returned.
        generator: Draws the subsets. Without one the value is exact at any size, and costs as many
            kernel values as there are pairs.

    Raises:
        ItemError: A set of fewer than two rows, or features that are not finite.
    """
    _need_two(min(len(outputs), len(references)))
    if generator is None or max(len(outputs), len(references)) <= exact_up_to:
        return _mmd(outputs, references, block)
    draws = [
        _mmd(_draw(outputs, generator), _draw(references, generator), block)
        for _ in range(KID_SUBSETS)
    ]
    return sum(draws) / KID_SUBSETS


def fid_infinity(features: Table, references: Moments, generator: torch.Generator) -> float:
    """FID that infinitely many outputs would have (Chong & Forsyth 2020); may be negative.

    Each of 15 sizes sees the first rows of a permutation of its own.

    Raises:
        ItemError: Fewer than 8000 outputs, where the relation to 1/n is no line.
    """
    total = len(features)
    if total < INFINITY_MIN:
        raise ItemError(
            f"FID∞ needs {INFINITY_MIN} outputs or more, and there are {total}",
            fix="use FID, and compare sets of equal size only",
        )
    sizes = torch.linspace(INFINITY_FIRST, total, INFINITY_SIZES).round().long().tolist()
    values = []
    for size in sizes:
        chosen = torch.zeros(total, dtype=torch.bool)
        chosen[torch.randperm(total, generator=generator)[:size]] = True
        values.append(frechet_distance(_moments(features, chosen), references))
    return intercept(sizes, values)


def intercept(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Where the least-squares line of `values` over 1/n meets 1/n = 0.

    >>> round(intercept([10, 20, 40], [3.5, 3.25, 3.125]), 9)
    3.0
    """
    x = 1 / torch.tensor(sizes, dtype=torch.float64)
    y = torch.tensor(values, dtype=torch.float64)
    apart = x - x.mean()
    slope = (apart * y).sum() / apart.square().sum()
    return float(y.mean() - slope * x.mean())


def art_fid(lpips: float, fid: float) -> float:
    """Content times style (Wright & Ommer 2022), of a whole set; 1 is best.

    Args:
        lpips: Mean over the set's pairs of output and content.
        fid: Between outputs and styles, of art-Inception's features.

    >>> art_fid(0.5, 3.0)
    6.0
    """
    return (1 + lpips) * (1 + fid)


def at_least_zero(value: float, traces: float) -> float:
    """A distance that rounding put below zero, as zero.

    Raises:
        ItemError: It is farther below than rounding could put it.
    """
    if value < -ROUNDING * traces or not math.isfinite(value):
        raise ItemError(
            f"the Fréchet distance came out as {value}, at variances of {traces}",
            fix="look at the pictures and the weights: some features are far out of range",
        )
    return max(0.0, value)


def _distance(
    mean_a: Float64[Tensor, " d"],
    factor_a: Float64[Tensor, "_ra d"],
    mean_b: Float64[Tensor, " d"],
    factor_b: Float64[Tensor, "_rb d"],
) -> float:
    """Of Gaussians with covariances AᵀA and BᵀB.

    The trace of their product's root is the sum of the singular values of ABᵀ, which is as small as
    the sets are and needs no matrix root.
    """
    traces = float(factor_a.square().sum() + factor_b.square().sum())
    cross = float(torch.linalg.svdvals(factor_a @ factor_b.T).sum())
    return at_least_zero(float((mean_a - mean_b).square().sum()) + traces - 2 * cross, traces)


def factor_of(moments: Moments) -> Float64[Tensor, "_r d"]:
    """A matrix whose square is the covariance: the costly part of a distance."""
    values, vectors = torch.linalg.eigh(moments.covariance())
    # n rows span n - 1 directions about their mean. Further eigenvalues are rounding, and the root
    # of rounding is not small.
    rank = min(moments.n - 1, len(values))
    roots = values[-rank:].clamp_min(0).sqrt()
    factor: Tensor = roots[:, None] * vectors[:, -rank:].T
    return factor


def _factor_of_rows(rows: Float64[Tensor, "n d"]) -> Float64[Tensor, "_r d"]:
    n, d = rows.shape
    if n >= d:
        return factor_of(Moments.of(rows))
    _need_two(n)
    return (rows - rows.mean(dim=0)) / math.sqrt(n - 1)


def _mmd(a: Table, b: Table, block: int) -> float:
    between = sum(
        float(_kernel(_tile(a, i), _tile(b, j)).sum())
        for i in spans(len(a), block)
        for j in spans(len(b), block)
    )
    return _within(a, block) + _within(b, block) - 2 * between / (len(a) * len(b))


def _within(table: Table, block: int) -> float:
    """Mean over ordered pairs of different rows; a row is no evidence about itself."""
    tiles, total = spans(len(table), block), 0.0
    for index, span in enumerate(tiles):
        rows = _tile(table, span)
        own = _kernel(rows, rows)
        total += float(own.sum() - own.diagonal().sum())
        total += sum(2 * float(_kernel(rows, _tile(table, j)).sum()) for j in tiles[index + 1 :])
    return total / (len(table) * (len(table) - 1))


def _kernel(x: Float64[Tensor, "a d"], y: Float64[Tensor, "b d"]) -> Float64[Tensor, "a b"]:
    return (x @ y.T / x.shape[1] + 1) ** 3


def spans(rows: int, block: int) -> list[slice]:
    """All rows in order, so many at a time."""
    return [slice(start, min(start + block, rows)) for start in range(0, rows, block)]


def _tile(table: Table, span: slice) -> Float64[Tensor, "_n _d"]:
    return in_double(table[span])


def in_double(features: Float[Tensor, "n d"]) -> Float64[Tensor, "n d"]:
    """Features to be summed.

    Raises:
        ItemError: Some are not finite.
    """
    if not torch.isfinite(features).all():
        raise ItemError(
            "some features are not finite",
            fix="look at the pictures and the weights: the network overflowed",
        )
    return features.double()


def _draw(table: Table, generator: torch.Generator) -> Float64[Tensor, "_n _d"]:
    chosen = torch.randperm(len(table), generator=generator)[:KID_SUBSET_SIZE]
    return in_double(table[chosen])


def _moments(table: Table, chosen: Tensor, block: int = 2048) -> Moments:
    parts = [Moments.of(_tile(table, span)[chosen[span]]) for span in spans(len(table), block)]
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


def _need_two(rows: int) -> None:
    if rows < 2:
        raise ItemError(
            f"a distance between sets needs two pictures of each, and there is {rows}",
            fix="score more pictures",
        )
