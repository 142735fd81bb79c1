"""Do raters agree more than chance would have them: one number for a table of choices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np


def fleiss_kappa(counts: Sequence[Sequence[int]]) -> float:
    """Agreement of equally many raters on each item, whoever they were (Fleiss 1971, eqs. 1 to 7).

    1 is full agreement, 0 what drawing from the overall shares gives.

    Args:
        counts: For each item how many raters chose each category.

    Returns:
        NaN without items, where only one category was ever chosen, or where an item has a single
        rater: nothing is known then.

    Raises:
        ValueError: Items have unequal numbers of raters; see `krippendorff_alpha`.

    >>> fleiss_kappa([[2, 0], [0, 2]])
    1.0
    """
    table = np.asarray(counts, dtype=np.float64)
    if not table.size:
        return math.nan
    raters = table.sum(axis=1)
    if (raters != raters[0]).any():
        raise ValueError("items have unequal numbers of raters")
    n = float(raters[0])
    if n < 2:
        return math.nan
    agreed = float(((np.square(table).sum(axis=1) - n) / (n * (n - 1))).mean())
    by_chance = float(np.square(table.sum(axis=0) / table.sum()).sum())
    return math.nan if by_chance == 1 else (agreed - by_chance) / (1 - by_chance)


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float:
    """Agreement on named categories, of any number of raters per item (Krippendorff 2011, sec. C).

    Args:
        units: For each item the choices that were made; a missing one is left out. Items with
            fewer than two say nothing and are not counted.

    Returns:
        NaN where no item has two choices, or where only one category was ever chosen.

    >>> krippendorff_alpha([["a", "a"], ["b", "b", "b"], ["a"]])
    1.0
    """
    tallies = [Counter(unit) for unit in units if len(unit) > 1]
    totals: Counter[Hashable] = Counter()
    for tally in tallies:
        totals.update(tally)
    n = totals.total()
    expected = n**2 - sum(count**2 for count in totals.values())
    if not expected:
        return math.nan
    # Pairs that differ, each weighed by one less than the choices of its item.
    observed = sum(
        (tally.total() ** 2 - sum(count**2 for count in tally.values())) / (tally.total() - 1)
        for tally in tallies
    )
    return 1 - (n - 1) * observed / expected
