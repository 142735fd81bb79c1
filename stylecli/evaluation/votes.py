"""What votes for one of two say: exact tests, and strengths of many that met in pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Of the strengths, relative; the steps of the fit shrink well below it.
CLOSE = 1e-10
MAX_STEPS = 100_000
# Binomial probabilities that differ by less than this share are equal, as they are by symmetry.
ROUNDING = 1e-7


def binomial_p(successes: int, n: int) -> float:
    """Exact two-sided p of a share of one half: all outcomes that are no likelier count.

    NaN without votes.

    >>> round(binomial_p(54, 133), 3), round(binomial_p(55, 133), 3)
    (0.037, 0.056)
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n}")
    if not n:
        return math.nan
    from scipy.stats import binom  # a second, which most commands need not wait for

    likely = binom.pmf(np.arange(n + 1), n, 0.5)
    return min(1.0, float(likely[likely <= likely[successes] * (1 + ROUNDING)].sum()))


def bradley_terry(wins: Sequence[Sequence[float]]) -> list[float]:
    """Strengths that sum to 1: one of strength a beats one of strength b in a / (a + b) of votes.

    Fitted by minorisation and maximisation (Hunter 2004, eq. 3), whose every step raises the
    likelihood. Half a win for each is a tie.

    Args:
        wins: ``wins[i][j]``: how often i was chosen over j.

    Returns:
        NaN for all where the votes do not settle them: someone won, or lost, every meeting with
        the others, or some never met (Ford 1957).

    >>> [round(strength, 3) for strength in bradley_terry([[0, 3], [1, 0]])]
    [0.75, 0.25]
    """
    won = np.asarray(wins, dtype=np.float64)
    size = len(won)
    if won.shape != (size, size) or np.diagonal(won).any() or (won < 0).any():
        raise ValueError("wins are a square of counts, with none over oneself")
    if not _is_settled(won):
        return [math.nan] * size
    met, total = won + won.T, won.sum(axis=1)
    strengths = np.full(size, 1 / size)
    for _ in range(MAX_STEPS):
        before = strengths
        strengths = total / (met / (before[:, None] + before)).sum(axis=1)
        strengths /= strengths.sum()
        if (np.abs(strengths - before) <= CLOSE * before).all():
            break
    return [float(strength) for strength in strengths]


def _is_settled(won: NDArray[np.float64]) -> bool:
    """Whether each beat each other one, be it through others."""
    reached = np.linalg.matrix_power((won > 0) + np.eye(len(won)), max(1, len(won) - 1))
    return len(won) > 1 and bool((reached > 0).all())
