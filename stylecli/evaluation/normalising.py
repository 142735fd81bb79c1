"""Numbers of several methods on one scale, whatever each metric's own is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stylecli.evaluation.statistics import std

# Where nothing tells the methods apart.
MIDDLE = 0.5

Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """A mean over metrics, and what it was made of.

    Attributes:
        name: `overall` or `overall_z`.
        methods: Those it compares; anchors take no part.
        parts: Metric -> method -> value on the common scale.
        left_out: Metric -> why it takes no part.
        ranges: Where they were fixed.
        correlations: Metric -> metric -> Spearman's over the methods; positive where both prefer
            the same ones, nan where one prefers none.
    """

    name: str
    methods: tuple[str, ...]
    parts: Mapping[str, Mapping[str, float]]
    left_out: Mapping[str, str]
    ranges: Ranges = field(default_factory=dict)
    correlations: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def value(self, method: str) -> float:
        """The mean for a method; nan for an anchor, or where no metric takes part."""
        found = [by_method[method] for by_method in self.parts.values() if method in by_method]
        return math.fsum(found) / len(found) if found else math.nan


def to_unit(
    values: Sequence[float], *, is_higher_better: bool, limits: tuple[float, float] | None = None
) -> list[float]:
    """From 0, the worst of the values, to 1, the best; all equal are 0.5.

    Args:
        values: Of one metric, by method.
        is_higher_better: Else the scale is turned round.
        limits: A fixed range in the metric's own units instead; a value outside it stays outside.

    >>> to_unit([3.0, 1.0, 2.0], is_higher_better=True)
    [1.0, 0.0, 0.5]
    >>> to_unit([3.0, 1.0, 2.0], is_higher_better=False, limits=(0.0, 4.0))
    [0.25, 0.75, 0.5]
    """
    low, high = limits or (min(values), max(values))
    if low == high:
        return [MIDDLE for _ in values]
    shares = [(value - low) / (high - low) for value in values]
    return shares if is_higher_better else [1 - share for share in shares]


def z_scores(values: Sequence[float], *, is_higher_better: bool) -> list[float]:
    """Deviations from the mean of the values, better ones positive; all equal are 0.

    >>> z_scores([3.0, 1.0, 2.0], is_higher_better=False)
    [-1.0, 1.0, 0.0]
    """
    mean, spread = math.fsum(values) / len(values), std(values)
    if min(values) == max(values) or not spread:
        return [0.0 for _ in values]
    above = [value - mean if is_higher_better else mean - value for value in values]
    return [distance / spread for distance in above]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, equal values sharing their mean rank; nan where one side is all equal.

    >>> rank_correlation([1.0, 2.0, 3.0], [10.0, 0.0, 5.0])
    -0.5
    """
    ranks = [_ranks(values) for values in (first, second)]
    middle = (len(first) + 1) / 2
    ours, theirs = ([rank - middle for rank in of] for of in ranks)
    norm = math.sqrt(math.fsum(r * r for r in ours) * math.fsum(r * r for r in theirs))
    product = math.fsum(a * b for a, b in zip(ours, theirs, strict=True))
    return product / norm if norm else math.nan


def _ranks(values: Sequence[float]) -> list[float]:
    return [
        sum(other < value for other in values) + (1 + sum(other == value for other in values)) / 2
        for value in values
    ]
