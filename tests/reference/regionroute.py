"""RegionRoute the long way: a number at a time, in the words of its equations.

A map ``A`` is the attention of a picture's cells to a style's words. Focus is the divergence of
``A`` from the mask (eq. 2), Cover the cross entropy of being inside it (eq. 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

TINY = 1e-6


def on_grid(mask: Sequence[Sequence[float]], rows: int, columns: int) -> list[float]:
    """The covered area of each cell over its own, by the overlap of rectangles."""
    height, width = len(mask) / rows, len(mask[0]) / columns
    cells = []
    for row in range(rows):
        for column in range(columns):
            area = 0.0
            for y, line in enumerate(mask):
                high = min((row + 1) * height, y + 1) - max(row * height, y)
                for x, value in enumerate(line):
                    wide = min((column + 1) * width, x + 1) - max(column * width, x)
                    area += max(high, 0.0) * max(wide, 0.0) * value
            cells.append(area / (height * width))
    return cells


def inside(mask: Sequence[float]) -> list[bool]:
    """The object's cells."""
    level = 0.5 if max(mask) >= 0.5 else 0.5 * max(mask)
    return [value >= level for value in mask]


def focus(map_: Sequence[float], mask: Sequence[float], tau: float = 1.0) -> float:
    """Eq. 2 on ``A^(1/tau)``."""
    powers = [(value + TINY) ** (1 / tau) for value in map_]
    return _divergence(mask, powers)


def focus_raw(map_: Sequence[float], mask: Sequence[float], tau: float) -> float:
    """Eq. 2 on ``softmax(A / tau)``."""
    return _divergence(mask, [math.exp(value / tau) for value in map_])


def cover(
    map_: Sequence[float],
    mask: Sequence[float],
    *,
    gamma: float = 4.0,
    kappa: float = 0.5,
    mode: str = "ratio",
    balance: str = "half",
) -> float:
    """Eq. 3, by probabilities rather than by logits."""
    chosen = inside(mask)
    own = [value for value, here in zip(map_, chosen, strict=True) if here]
    mean = math.fsum(map_) / len(map_)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in map_) / len(map_))
    threshold = kappa * math.fsum(own) / len(own) + TINY
    yes, no = [], []
    for value, here in zip(map_, chosen, strict=True):
        if mode == "ratio":
            share = (value + TINY) ** gamma
            probability = share / (share + threshold**gamma)
        elif mode == "scaled":
            probability = 1 / (1 + math.exp(-gamma * value))
        else:
            probability = 1 / (1 + math.exp(-gamma * (value - mean) / deviation))
        (yes if here else no).append(-math.log(probability if here else 1 - probability))
    if balance == "mean":
        return math.fsum(yes + no) / len(map_)
    return 0.5 * math.fsum(yes) / len(yes) + (0.5 * math.fsum(no) / len(no) if no else 0.0)


def of_batch(losses: Sequence[Sequence[float | None]]) -> float:
    """The mean over edits of a sample, then over samples; None is an edit that does not count."""
    samples = []
    for edits in losses:
        own = [loss for loss in edits if loss is not None]
        if own:
            samples.append(math.fsum(own) / len(own))
    return math.fsum(samples) / len(samples) if samples else 0.0


def _divergence(mask: Sequence[float], weights: Sequence[float]) -> float:
    """KL of two lists, each brought to sum 1."""
    wanted, given = math.fsum(mask), math.fsum(weights)
    return math.fsum(
        share / wanted * math.log(share / wanted / (weight / given))
        for share, weight in zip(mask, weights, strict=True)
        if share > 0
    )
