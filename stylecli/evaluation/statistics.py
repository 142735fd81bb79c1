"""How sure a number is: intervals, permutation tests, and what many tests together allow.

Pictures made from a few contents and a few styles are not independent: every picture of a hard
content is hard. So whole contents and whole styles are drawn anew, never single rows of a grid
(Owen 2007, the pigeonhole bootstrap). Everything random is a function of `seed`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal[
    "crossed bootstrap",
    "cluster bootstrap",
    "row bootstrap",
    "normal, clustered",
    "jackknife",
    "wilson",
    "none",
]
Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]

# Above it the normal limit holds as well as 10,000 draws do, and costs nothing.
MAX_BOOTSTRAP_ROWS = 20_000
MAX_EXACT_FLIPS = 2**14
FEWEST_GROUPS = 4
# Counts held at once, which bounds the memory: about 8 MB for each array of them.
CHUNK = 2**20
# Sums that differ by less than this share of their size are equal: their order of adding differs.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and the limits within which it may lie.

    Attributes:
        low: NaN, like `high` and `se`, when there was nothing to learn a spread from.
        se: Standard error.
        method: How the limits were found; `aggregate.json` calls it `ci_method`.
    """

    value: float
    low: float
    high: float
    se: float
    method: Method

    @property
    def half_width(self) -> float:
        """What a table prints after ±, also when the two sides differ a little."""
        return (self.high - self.low) / 2


def std(values: Sequence[float] | Numbers) -> float:
    """Standard deviation with n - 1; NaN for fewer than two values, or where one is infinite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(np.std(values, ddof=1))


def mean_interval(
    values: Sequence[float] | Numbers,
    content_keys: Sequence[str] | Codes,
    style_keys: Sequence[str] | Codes,
    *,
    seed: int,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """The mean, with percentile limits from a bootstrap that follows the design of the rows.

    Contents and styles are drawn independently where rows form a grid (*crossed*); whole groups
    of one key where only that key repeats, or the other lies within it (*cluster*); otherwise
    rows. A key with a single group cannot be drawn: the limits hold for that content or style
    alone. Crossed limits err on the wide side, for they count the noise of single rows up to
    three times. Resamples that hit no row are left out. Above `MAX_BOOTSTRAP_ROWS` the limits
    are normal, from the cluster variance.

    Args:
        values: NaN is a missing row and is left out.
        content_keys: Which content each row was made from; equal keys are one group. Numbers
            stand for words of the same order.
    """
    if not len(values) == len(content_keys) == len(style_keys):
        raise ValueError("values and keys differ in number")
    numbers = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(numbers)
    numbers = numbers[known]
    if not numbers.size:
        return _unknown(math.nan)
    # PSNR of equal pictures is infinite: a mean, but no spread. Of both infinities it is NaN.
    with np.errstate(invalid="ignore"):
        mean = float(numbers.mean())
    if numbers.size < 2 or not math.isfinite(mean):
        return _unknown(mean)
    contents, styles = (_codes(np.asarray(keys)[known]) for keys in (content_keys, style_keys))
    method, rows, columns = _design(contents, styles)
    if numbers.size > MAX_BOOTSTRAP_ROWS:
        se = math.sqrt(_cluster_variance(numbers, rows, columns))
        return _normal(mean, se, level, "normal, clustered")
    means = _resampled_means(numbers, rows, columns, seed, resamples)
    if means.size < 2:
        return _unknown(mean)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), float(means.std(ddof=1)), method)


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Limits of a share, within [0, 1] also for 0 of n and n of n (Wilson 1927).

    >>> [round(limit, 3) for limit in wilson(49, 133)]
    [0.291, 0.453]
    """
    if not n:
        return math.nan, math.nan
    z, share = _z(level), successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # For none and for all a limit is the share itself, and rounding must not move it.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def rate_interval(values: Sequence[float] | Numbers) -> Interval:
    """The share of ones among ones and zeros, with Wilson's limits.

    Items are taken for independent, as in every paper that asks yes or no.

    >>> found = rate_interval([1.0] * 49 + [0.0] * 84)
    >>> round(found.value, 3), round(found.low, 3), found.method
    (0.368, 0.291, 'wilson')
    """
    n, ones = len(values), int(np.sum(values))
    share = ones / n if n else math.nan
    se = math.sqrt(share * (1 - share) / n) if n else math.nan
    return Interval(share, *wilson(ones, n), se, "wilson")


def sign_flip_p(
    differences: Sequence[float], clusters: Sequence[str], *, seed: int, flips: int = 10_000
) -> float:
    """Two-sided p of a mean difference of 0, were the two methods interchangeable per cluster.

    All rows of a cluster change sign together. Every combination is tried where there are at most
    2**14, and `flips` random ones otherwise; the observed one counts in both. So p is at least
    2 / 2**clusters: with five clusters nothing is significant at 5 %. Of more than
    `MAX_BOOTSTRAP_ROWS` clusters the sum is normal under the flips, with the sum of the clusters'
    squares for a variance. NaN without rows, or where one is not finite.
    """
    if not len(differences) or not np.isfinite(differences).all():
        return math.nan
    codes = _codes(clusters)
    sums = np.bincount(codes, weights=np.asarray(differences, dtype=np.float64))
    least = abs(float(sums.sum())) - ROUNDING * float(np.abs(sums).sum())
    if 2**sums.size <= MAX_EXACT_FLIPS:
        every = (np.arange(2**sums.size)[:, None] >> np.arange(sums.size)) % 2 * 2 - 1
        return float(np.mean(np.abs(every @ sums) >= least))
    if sums.size > MAX_BOOTSTRAP_ROWS and sums.any():
        return math.erfc(abs(float(sums.sum())) / math.sqrt(2 * float(np.square(sums).sum())))
    random = np.random.default_rng(seed)
    reached = 0
    for count in _chunks(flips, sums.size):
        # Whole words for each flip, so that chunks of any size use the same bits.
        words = random.integers(2**64, size=(count, -(-sums.size // 64)), dtype=np.uint64)
        signs = np.unpackbits(words.view(np.uint8), axis=1, count=sums.size) * 2.0 - 1
        reached += int(np.count_nonzero(np.abs(signs @ sums) >= least))
    return (1 + reached) / (1 + flips)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given (Holm 1979); NaN was no test and stays NaN.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [math.nan] * len(p_values)
    order = sorted(
        (i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i]
    )
    highest = 0.0
    for rank, index in enumerate(order):
        # No hypothesis may look better than one that was easier to reject.
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def jackknife_interval(
    value: float, leave_one_out: Sequence[float], level: float = 0.95
) -> Interval:
    """Limits by Student's t for a number of a whole set, such as FID, which a bootstrap would bias.

    Of fewer than four groups nothing is said: their spread is itself hardly known.

    For the difference of two methods pass the differences: both must have lost the same groups.

    Args:
        leave_one_out: The number without each group in turn, for groups that are not empty.
    """
    without = np.asarray(leave_one_out, dtype=np.float64)
    if without.size < FEWEST_GROUPS or not np.isfinite(without).all():
        return _unknown(value)
    from scipy.stats import t  # a second, which most commands need not wait for

    spread = float(np.square(without - without.mean()).sum())
    se = math.sqrt((without.size - 1) / without.size * spread)
    half = float(t.ppf((1 + level) / 2, without.size - 1)) * se
    return Interval(value, value - half, value + half, se, "jackknife")


def _unknown(value: float) -> Interval:
    return Interval(value, math.nan, math.nan, math.nan, "none")


def _normal(value: float, se: float, level: float, method: Method) -> Interval:
    half = _z(level) * se
    return Interval(value, value - half, value + half, se, method)


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _codes(keys: Sequence[str] | NDArray[Any]) -> Codes:
    """0, 1, 2... by the order of keys, not of rows."""
    found: Codes = np.unique(np.asarray(keys), return_inverse=True)[1]
    return found


def _design(contents: Codes, styles: Codes) -> tuple[Method, Codes, Codes]:
    """What to draw, as the rows and columns of a table; a table of one column draws rows only."""
    kept = [codes for codes in (contents, styles) if codes.max()]
    if len(kept) == 2:
        groups = _groups(_cells(*kept))
        # Where each content has one style only, contents lie within styles, and drawing styles
        # draws them too; drawing both would count them twice.
        if groups == _groups(contents):
            kept = [styles]
        elif groups == _groups(styles):
            kept = [contents]
    if len(kept) == 2:
        return "crossed bootstrap", contents, styles
    one_column = np.zeros_like(contents)
    if kept and _groups(kept[0]) < contents.size:
        return "cluster bootstrap", kept[0], one_column
    return "row bootstrap", np.arange(contents.size), one_column


def _groups(codes: Codes) -> int:
    return int(codes.max()) + 1


def _cells(rows: Codes, columns: Codes) -> Codes:
    found: Codes = np.unique(rows * _groups(columns) + columns, return_inverse=True)[1]
    return found


def _resampled_means(
    values: Numbers, rows: Codes, columns: Codes, seed: int, resamples: int
) -> Numbers:
    """Means over resamples in which a value counts (draws of its row) x (draws of its column)."""
    from scipy.sparse import csr_array

    shape = _groups(columns), _groups(rows)
    # Deviations, so that a large mean costs no digits.
    centre = values.mean()
    sums = csr_array((values - centre, (columns, rows)), shape=shape)
    counts = csr_array((np.ones_like(values), (columns, rows)), shape=shape)
    # One stream for each key: the draws do not depend on the size of the chunks.
    row_stream, column_stream = np.random.default_rng(seed).spawn(2)
    means = []
    for count in _chunks(resamples, sum(shape)):
        row_draws = _draws(row_stream, shape[1], count)
        column_draws = _draws(column_stream, shape[0], count)
        weight = ((counts @ row_draws) * column_draws).sum(axis=0)
        total = ((sums @ row_draws) * column_draws).sum(axis=0)
        means.append(centre + total[weight > 0] / weight[weight > 0])
    return np.concatenate(means)


def _draws(stream: np.random.Generator, groups: int, resamples: int) -> Numbers:
    """(groups, resamples): how often each group comes up when as many are drawn as there are."""
    drawn = stream.integers(groups, size=(resamples, groups))
    drawn += np.arange(resamples)[:, None] * groups
    counted = np.bincount(drawn.ravel(), minlength=resamples * groups)
    return np.ascontiguousarray(counted.reshape(resamples, groups).T, dtype=np.float64)


def _chunks(total: int, width: int) -> Iterator[int]:
    size = max(1, CHUNK // width)
    for start in range(0, total, size):
        yield min(size, total - start)


def _cluster_variance(values: Numbers, rows: Codes, columns: Codes) -> float:
    """Of the mean, two-way (Cameron, Gelbach and Miller 2011, eq. 2.8)."""
    deviations = values - values.mean()

    def one_way(codes: Codes) -> float:
        sums = np.bincount(codes, weights=deviations)
        correction = sums.size / (sums.size - 1)
        return correction * float(np.square(sums).sum()) / values.size**2

    if not columns.any():
        return one_way(rows)
    within = one_way(_cells(rows, columns))
    # The difference can fall short of, even below 0 for, effects that are hardly there.
    return max(within, one_way(rows) + one_way(columns) - within)
