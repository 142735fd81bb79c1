"""Regions of a picture from features of its cells: k-means, merging, and small pieces swept up.

Section and letter references are those of StyleGallery (CVPR 2026), whose first stage this is.
Nothing here knows where features come from; labels are whole numbers, one per cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stylecli.tensors.channels import standardised

COMPONENTS = 60
KS = tuple(range(2, 11))
RESTARTS = 10
MAX_ITERATIONS = 100
TOLERANCE = 1e-4
# Of more points than this, silhouettes are measured on so many drawn ones: distances grow squared.
SILHOUETTE_POINTS = 4096
SMALL_CELLS = 20
SMALL_PROTECTED_CELLS = 4


def standardise(features: Float[Tensor, "c h w"]) -> Float[Tensor, "n d"]:
    """One row per cell, every channel of mean 0 and deviation 1; flat channels are left out.

    A picture of one colour has no other channels: its rows are of one zero each.
    """
    points = standardised(features.flatten(1).T.double())
    kept = points.any(dim=0)
    return points[:, kept].float() if kept.any() else torch.zeros(len(points), 1)


def principal(points: Float[Tensor, "n d"], most: int = COMPONENTS) -> Float[Tensor, "n p"]:
    """The coordinates of largest variance, unwhitened, from the covariance's eigenvectors.

    Exact and without random numbers; far cheaper than a decomposition of the points themselves.
    """
    kept = max(1, min(most, points.shape[1], len(points) - 1))
    centred = (points - points.mean(dim=0)).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
    turned: Tensor = centred @ vectors[:, -kept:].flip(1)
    return turned.float()


def k_means(points: Float[Tensor, "n d"], k: int, seed: int) -> Int[Tensor, " n"]:
    """Labels from 0; fewer than `k` where the points have fewer different values."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    finder = KMeans(
        n_clusters=min(k, len(points)),
        n_init=RESTARTS,
        max_iter=MAX_ITERATIONS,
        tol=TOLERANCE,
        random_state=seed % 2**32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than clusters
        labels = finder.fit_predict(points.numpy())
    return torch.from_numpy(labels.astype(np.int64))


def silhouettes(
    points: Float[Tensor, "n d"], labelings: Sequence[Int[Tensor, " n"]], seed: int
) -> list[float]:
    """Mean silhouette of each labelling, from one matrix of distances; -1 for a single cluster.

    A point alone in its cluster scores 0 (Rousseeuw 1987).
    """
    if len(points) > SILHOUETTE_POINTS:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(len(points), generator=generator)[:SILHOUETTE_POINTS]
        points, labelings = points[drawn], [labels[drawn] for labels in labelings]
    distances = torch.cdist(points, points)
    return [_silhouette(distances, labels) for labels in labelings]


def cluster(
    features: Float[Tensor, "c h w"], *, seed: int, ks: Sequence[int] = KS
) -> tuple[Int[Tensor, "h w"], dict[int, float]]:
    """Labels from 0 with the number of clusters that has the best silhouette (section 1.5).

    Args:
        features: Of cells.
        seed: Of the restarts; equal seeds give equal labels.
        ks: The numbers to try, ascending; the first wins a tie.

    Returns:
        The labels, and the silhouette of every number tried.
    """
    labels, scores = cluster_points(principal(standardise(features)), seed=seed, ks=ks)
    return labels.view(features.shape[1:]), scores


def cluster_points(
    points: Float[Tensor, "n p"],
    *,
    seed: int,
    ks: Sequence[int] = KS,
    find: Callable[[Tensor, int, int], Tensor] = k_means,
) -> tuple[Int[Tensor, " n"], dict[int, float]]:
    """The same for points that need no preparing, and by any way to `find` so many clusters."""
    labelings = [find(points, k, seed) for k in ks]
    scores = silhouettes(points, labelings, seed)
    best = max(range(len(ks)), key=scores.__getitem__)
    return labelings[best], dict(zip(ks, scores, strict=True))


def merge(
    labels: Int[Tensor, "h w"],
    values: Float[Tensor, "c h w"],
    threshold: float,
    *,
    depth: Float[Tensor, "h w"] | None = None,
    depth_gap: float = 0.0,
) -> Int[Tensor, "h w"]:
    """Unite clusters whose mean values lie closer than `threshold`, the closest pair first.

    Each union has the mean of all its cells, so near neighbours in a row do not chain into one
    cluster, and how the clusters are numbered decides nothing (section 1.6).

    Args:
        labels: Any whole numbers.
        values: Of cells.
        threshold: Distance from which on clusters stay apart; 0 unites none.
        depth: Where given, mean depths must lie closer than `depth_gap`, too (pass B).
        depth_gap: In the unit of `depth`.
    """
    labels = by_area(labels)
    sums, weights = totals(labels - 1, values, depth)
    owner = torch.arange(len(weights))
    while len(weights) > 1:
        gaps = distances(sums / weights[:, None], None if depth is None else depth_gap)
        if not gaps.min() < threshold:
            break
        one, other = sorted(divmod(int(gaps.argmin()), len(gaps)))
        sums[one] += sums[other]
        weights[one] += weights[other]
        kept = torch.arange(len(weights)) != other
        sums, weights = sums[kept], weights[kept]
        owner = torch.where(owner == other, one, owner - (owner > other).long())
    return by_area(owner[labels - 1])


def totals(
    labels: Int[Tensor, "h w"],
    values: Float[Tensor, "c h w"],
    depth: Float[Tensor, "h w"] | None = None,
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """Sums of the values of each cluster, of its depths last, and its number of cells.

    Args:
        labels: From 0 without gaps.
        values: Of cells.
        depth: Likewise.
    """
    weights = torch.bincount(labels.flatten()).double()
    rows = (values if depth is None else torch.cat([values, depth[None]])).flatten(1).T.double()
    sums = torch.zeros(len(weights), rows.shape[1], dtype=torch.double)
    return sums.index_add_(0, labels.flatten(), rows), weights


def distances(means: Float[Tensor, "k d"], depth_gap: float | None = None) -> Float[Tensor, "k k"]:
    """Between clusters; infinite where they may not be united: with itself, and too far in depth.

    Args:
        means: Of each cluster; with a gap the last column is its depth, which is no distance.
        depth_gap: From which on depths are too far apart.
    """
    values = means if depth_gap is None else means[:, :-1]
    # Subtracted one by one: what the faster product of matrices loses could pass a threshold.
    gaps = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
    if depth_gap is not None:
        apart = (means[:, None, -1] - means[None, :, -1]).abs()
        gaps = gaps.masked_fill(apart >= depth_gap, torch.inf)
    return gaps.fill_diagonal_(torch.inf)


def components(labels: Int[Tensor, "h w"]) -> Int[Tensor, "h w"]:
    """Numbers from 1, one for each 4-connected piece of equal labels."""
    return torch.from_numpy(_pieces(labels.numpy())).long()


def sweep(
    labels: Int[Tensor, "h w"],
    *,
    smallest: int = SMALL_CELLS,
    protected: Bool[Tensor, "h w"] | None = None,
) -> Int[Tensor, "h w"]:
    """Give every piece below `smallest` cells the commonest label around it (section 1.8).

    The smallest piece goes first and the others are looked at again, so two fragments that touch
    do not swap labels and stay. Of labels that are equally common around a piece, that of the
    largest touching piece wins. What has no neighbour stays.

    Args:
        labels: Any whole numbers.
        smallest: In cells.
        protected: Cells drawn by hand; their pieces are kept from `SMALL_PROTECTED_CELLS` on,
            or from `smallest` on where that is less.
    """
    current = labels.numpy().copy()
    while (found := _smallest(_pieces(current), smallest, protected)) is not None:
        piece, pieces = found
        current[piece] = _commonest_around(piece, current, pieces)
    return torch.from_numpy(current)


def too_small(
    pieces: npt.NDArray[np.int64], smallest: int, protected: Bool[Tensor, "h w"] | None
) -> npt.NDArray[np.bool_]:
    """Which pieces, numbered from 1, are below `smallest` cells; see `sweep`."""
    counts = np.bincount(pieces.ravel())[1:]
    if protected is None:
        return counts < smallest
    is_hand = np.bincount(pieces.ravel(), weights=protected.numpy().ravel())[1:] > 0
    return counts < np.where(is_hand, min(SMALL_PROTECTED_CELLS, smallest), smallest)


def by_area(labels: Int[Tensor, "h w"]) -> Int[Tensor, "h w"]:
    """The same regions numbered from 1, the largest first; of equals the one met first by rows.

    >>> by_area(torch.tensor([[7, 2, 2]])).tolist()
    [[2, 1, 1]]
    """
    found, first, inverse, counts = np.unique(
        labels.numpy(), return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(found), np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(1, len(found) + 1)
    return torch.from_numpy(rank[inverse].reshape(labels.shape))


def _silhouette(distances: Float[Tensor, "n n"], labels: Int[Tensor, " n"]) -> float:
    _, labels = labels.unique(return_inverse=True)
    members = torch.nn.functional.one_hot(labels).to(distances.dtype)
    counts = members.sum(dim=0)
    if len(counts) < 2:
        return -1.0
    totals = distances @ members
    own_count = counts[labels]
    own = totals.gather(1, labels[:, None])[:, 0] / (own_count - 1).clamp(min=1)
    nearest = (totals / counts).masked_fill(members.bool(), torch.inf).amin(dim=1)
    widest = torch.maximum(own, nearest).clamp(min=torch.finfo(distances.dtype).tiny)
    return float(torch.where(own_count > 1, (nearest - own) / widest, 0.0).mean())


def _pieces(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    from scipy import ndimage

    pieces = np.zeros(labels.shape, np.int64)
    for label in np.unique(labels):
        numbered, _ = ndimage.label(labels == label)
        pieces += np.where(numbered > 0, numbered + pieces.max(), 0)
    return pieces


def _smallest(
    pieces: npt.NDArray[np.int64], smallest: int, protected: Bool[Tensor, "h w"] | None
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]] | None:
    """The first of the smallest pieces that are too small, unless it is all there is."""
    is_small = too_small(pieces, smallest, protected)
    if len(is_small) < 2 or not is_small.any():
        return None
    counts = np.bincount(pieces.ravel())[1:]
    return pieces == np.where(is_small, counts, counts.max() + 1).argmin() + 1, pieces


def _commonest_around(
    piece: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int64],
    pieces: npt.NDArray[np.int64],
) -> int:
    from scipy import ndimage

    ring = ndimage.binary_dilation(piece) & ~piece
    sizes = np.bincount(pieces.ravel())
    around = np.unique(labels[ring])
    return int(
        max(
            around,
            key=lambda label: (
                int((labels[ring] == label).sum()),
                int(sizes[pieces[ring & (labels == label)]].max()),
                -int(label),
            ),
        )
    )
