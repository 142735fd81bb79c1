"""What the authors' code does in stage 1 where we do otherwise, for the recipe's switches.

Each has the form of what it stands in for in `stylecli.tensors.clustering`. Only the numbers drawn
are not theirs: they come from a seed, where the authors take them from whoever drew last.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stylecli.tensors import clustering

POWER_ITERATIONS = 2
RESTARTS = 10
MAX_ITERATIONS = 64
# Centroids that all move by less have come to rest.
SMALLEST_SHIFT = 1e-4


def principal(points: Float[Tensor, "n d"], most: int, seed: int) -> Float[Tensor, "n p"]:
    """Principal coordinates from a random subspace no larger than what is asked for.

    What it misses are parts of the last coordinates, more the slower variances fall.
    """
    from sklearn.utils.extmath import randomized_svd

    kept = max(1, min(most, points.shape[1], len(points) - 1))
    centred = (points - points.mean(dim=0)).double().numpy()
    _, _, right = randomized_svd(
        centred,
        kept,
        n_oversamples=0,
        n_iter=POWER_ITERATIONS,
        power_iteration_normalizer="QR",
        transpose=False,
        random_state=seed % 2**32,
    )
    return torch.from_numpy(centred @ right.T).float()


def k_means(points: Float[Tensor, "n d"], k: int, seed: int) -> Int[Tensor, " n"]:
    """Labels of the tightest of some runs that start at points drawn evenly."""
    generator = torch.Generator().manual_seed(seed)
    runs = [_run(points, min(k, len(points)), generator) for _ in range(RESTARTS)]
    return min(runs, key=lambda run: run[1])[0]


def _run(
    points: Float[Tensor, "n d"], k: int, generator: torch.Generator
) -> tuple[Int[Tensor, " n"], float]:
    """Labels, and the sum of squared distances to the centroids that they were given by.

    The centroids move once more after the last labels. One that loses all its points goes on at a
    point drawn anew.
    """
    centroids = points[torch.randperm(len(points), generator=generator)[:k]]
    for _ in range(MAX_ITERATIONS):
        nearest, labels = torch.cdist(points, centroids).min(dim=1)
        members = torch.nn.functional.one_hot(labels, k).to(points.dtype)
        counts = members.sum(dim=0)
        moved = members.T @ points / counts.clamp(min=1)[:, None]
        for empty in (counts == 0).nonzero()[:, 0].tolist():
            moved[empty] = points[torch.randint(len(points), (), generator=generator)]
        shift = float((moved - centroids).norm(dim=1).max())
        centroids = moved
        if shift < SMALLEST_SHIFT:
            break
    return labels, float(nearest.double().square().sum())


def merge(
    labels: Int[Tensor, "h w"],
    values: Float[Tensor, "c h w"],
    threshold: float,
    *,
    depth: Float[Tensor, "h w"] | None = None,
    depth_gap: float = 0.0,
) -> Int[Tensor, "h w"]:
    """Clusters join the last one before them that is close, whatever that one does itself.

    So what comes out depends on their numbers: of two clusters close to a third only the later one
    gets it, and in a row of close ones they all become one.
    """
    numbers, flat = labels.unique(return_inverse=True)
    sums, weights = clustering.totals(flat, values, depth)
    gaps = clustering.distances(sums / weights[:, None], None if depth is None else depth_gap)
    is_close = gaps < threshold
    root = torch.arange(len(numbers))
    for later in range(len(numbers)):
        before = is_close[:later, later].nonzero()[:, 0]
        if len(before):
            root[later] = root[before[-1]]
    united: Tensor = numbers[root][flat]
    return united


def sweep(
    labels: Int[Tensor, "h w"],
    *,
    smallest: int,
    protected: Bool[Tensor, "h w"] | None = None,
) -> Int[Tensor, "h w"]:
    """Small pieces take the commonest label around them, all at once: two may swap theirs."""
    from scipy import ndimage

    pieces = clustering.components(labels).numpy()
    original, swept = labels.numpy(), labels.numpy().copy()
    is_small = clustering.too_small(pieces, smallest, protected)
    for number in np.flatnonzero(is_small) + 1:
        piece = pieces == number
        ring = ndimage.binary_dilation(piece) & ~piece
        around, counts = np.unique(original[ring], return_counts=True)
        if len(around):
            swept[piece] = around[counts.argmax()]
    return torch.from_numpy(swept)
