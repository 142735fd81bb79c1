"""Is one method better than another, on the same items?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stylecli.errors import UsageError
from stylecli.evaluation import statistics, votes
from stylecli.evaluation.statistics import Interval

MIN_SHARED = 0.9
# Differences that vary by less than this share of their size do so by rounding.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The first method against the second on one metric.

    Attributes:
        n: Pairs that were compared; for a set metric, outputs of each method.
        dropped: Ids that only one method has.
        missing: Shared ids without a finite difference: a value is NaN, or infinite.
        difference: First minus second, whichever way is better.
        p: Two-sided; the larger of the tests that flip whole contents and whole styles, or of
            rates McNemar's.
        least_p: What `p` would be if every cluster agreed: few contents or styles cannot say less.
        p_holm: `p` adjusted for all that was tested with it; NaN until someone does.
        wilcoxon_p: Of the signed ranks, for information: it takes rows for independent.
        effect: d_z: the mean difference in standard deviations of the differences.
        win_rate: Share of pairs in which the first is better; a tie is half a win.
    """

    metric: str
    n: int
    difference: Interval
    p: float
    dropped: int = 0
    missing: int = 0
    least_p: float = math.nan
    p_holm: float = math.nan
    wilcoxon_p: float = math.nan
    effect: float = math.nan
    win_rate: float = math.nan


def compare(
    a: Mapping[str, float],
    b: Mapping[str, float],
    content_keys: Mapping[str, str],
    style_keys: Mapping[str, str],
    *,
    metric: str,
    better: Literal["higher", "lower"],
    seed: int,
    is_rate: bool = False,
    resamples: int = 10_000,
    flips: int = 10_000,
    allow_partial: bool = False,
) -> Comparison:
    """Compare two methods' rows of one metric, id by id; the order of ids does not matter.

    Args:
        a: Id -> value; NaN is a row without a value.
        content_keys: Id -> content, for every shared id.
        is_rate: Values are 1 or 0.

    Raises:
        UsageError: No id is shared, or under 90 % of either method's and not `allow_partial`.
    """
    shared = sorted(a.keys() & b.keys())
    most = max(len(a), len(b))
    if not shared or (len(shared) < MIN_SHARED * most and not allow_partial):
        raise UsageError(
            f"{metric}: the two methods share {len(shared)} of {most} items",
            fix="score both on the same items"
            + (", or `--set evaluate.allow_partial=true`" if shared else ""),
        )
    ids = [id_ for id_ in shared if math.isfinite(a[id_] - b[id_])]
    contents, styles = [content_keys[i] for i in ids], [style_keys[i] for i in ids]
    differences = [float(a[i] - b[i]) for i in ids]
    wins = [(d > 0) if better == "higher" else (d < 0) for d in differences]
    ties = differences.count(0)
    return Comparison(
        metric=metric,
        n=len(ids),
        dropped=len(a.keys() | b.keys()) - len(shared),
        missing=len(shared) - len(ids),
        difference=statistics.mean_interval(
            differences, contents, styles, seed=seed, resamples=resamples
        ),
        p=mcnemar_p(differences)
        if is_rate
        else _p(differences, contents, styles, seed=seed, flips=flips),
        least_p=math.nan if is_rate else max(2.0 ** (1 - k) for k in _clusters(contents, styles)),
        wilcoxon_p=_wilcoxon_p(differences),
        effect=_effect(differences),
        win_rate=(sum(wins) + ties / 2) / len(ids) if ids else math.nan,
    )


def mcnemar_p(differences: Sequence[float]) -> float:
    """McNemar's exact test (1947): of the items that only one of two answers yes to, is it half?

    NaN without items; 1 where the two never differ.

    >>> round(mcnemar_p([1, 1, 1, 1, 1, 1, 0, 0, -1]), 6), mcnemar_p([0, 0])
    (0.125, 1.0)
    """
    if not differences:
        return math.nan
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return votes.binomial_p(wins, wins + losses) if wins or losses else 1.0


def compare_sets(
    value_a: float, value_b: float, differences: Sequence[float], *, metric: str, n: int
) -> Comparison:
    """Compare two methods on a number of whole sets, such as FID; p is Student's, by the jackknife.

    Args:
        differences: First minus second with the same group of contents left out of both, for
            each group in turn.
        n: Outputs of each method.
    """
    difference = statistics.jackknife_interval(value_a - value_b, differences)
    if difference.method == "none":
        p = math.nan
    elif difference.se:
        from scipy.stats import t

        p = float(2 * t.sf(abs(difference.value) / difference.se, len(differences) - 1))
    else:
        p = 0.0 if difference.value else 1.0
    return Comparison(metric=metric, n=n, difference=difference, p=p)


def _p(
    differences: Sequence[float],
    contents: Sequence[str],
    styles: Sequence[str],
    *,
    seed: int,
    flips: int,
) -> float:
    # Of a single content or style nothing can be said beyond it: then the other key decides, as
    # it does in `mean_interval`.
    keys = [key for key in (contents, styles) if len(set(key)) > 1]
    rows = [str(row) for row in range(len(differences))]
    found = [
        statistics.sign_flip_p(differences, key, seed=seed, flips=flips) for key in keys or [rows]
    ]
    return max(found)


def _clusters(contents: Sequence[str], styles: Sequence[str]) -> list[int]:
    """How many signs each of the tests in `_p` flips."""
    counts = [len(set(key)) for key in (contents, styles) if len(set(key)) > 1]
    return counts or [max(1, len(contents))]


def _wilcoxon_p(differences: Sequence[float]) -> float:
    from scipy.stats import wilcoxon

    unequal = [d for d in differences if d]
    if not unequal:
        return 1.0 if differences else math.nan
    return float(wilcoxon(unequal).pvalue)


def _effect(differences: Sequence[float]) -> float:
    spread = statistics.std(differences)
    if not spread > ROUNDING * max(map(abs, differences), default=0.0):
        return math.nan
    return float(np.mean(differences)) / spread
