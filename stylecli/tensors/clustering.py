"""Regions of a picture from features of its cells: k-means, merging, and small pieces swept up.

Section and letter references are those of StyleGallery (CVPR 2026), whose first stage this is.
Nothing here knows where features come from; labels are whole numbers, one per cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

COMPONENTS = 60
KS = tuple(range(2, 11))
RESTARTS = 10
MAX_ITERATIONS = 100
TOLERANCE = 1e-4
# Of more points than this, silhouettes are measured on so many drawn ones: distances grow squared.
SILHOUETTE_POINTS = 4096
FLAT = 1e-6
SMALL_CELLS = 20
SMALL_PROTECTED_CELLS = 4


def standardise(features: Float[Tensor, "c h w"]) -> Float[Tensor, "n d"]:
    """One row per cell, every channel of mean 0 and deviation 1; flat channels are left out.

    A picture of one colour has no other channels: its rows are of one zero each.
    """
    points = features.flatten(1).T.double()
    spread = points.std(dim=0) if len(points) > 1 else torch.zeros(points.shape[1])
    kept = spread > FLAT
    if not kept.any():
        return torch.zeros(len(points), 1)
    return ((points[:, kept] - points[:, kept].mean(dim=0)) / spread[kept]).float()


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
    points = principal(standardise(features))
    labelings = [k_means(points, k, seed) for k in ks]
    scores = silhouettes(points, labelings, seed)
    best = max(range(len(ks)), key=scores.__getitem__)
    return labelings[best].view(features.shape[1:]), dict(zip(ks, scores, strict=True))


def merge(
    labels: Int[Tensor, "h w"], values: Float[Tensor, "c h w"], threshold: float
) -> Int[Tensor, "h w"]:
    """Unite clusters whose mean values lie closer than `threshold`, the closest pair first.

    Each union has the mean of all its cells, so near neighbours in a row do not chain into one
    cluster, and how the clusters are numbered decides nothing (section 1.6).
    """
    labels = by_area(labels)
    weights = torch.bincount(labels.flatten())[1:].double()
    rows = values.flatten(1).T.double()
    sums = torch.zeros(len(weights), rows.shape[1], dtype=torch.double)
    sums.index_add_(0, labels.flatten() - 1, rows)
    owner = torch.arange(len(weights))
    while len(weights) > 1:
        means = sums / weights[:, None]
        gaps = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
        gaps.fill_diagonal_(torch.inf)
        if gaps.min() >= threshold:
            break
        one, other = sorted(divmod(int(gaps.argmin()), len(gaps)))
        sums[one] += sums[other]
        weights[one] += weights[other]
        kept = torch.arange(len(weights)) != other
        sums, weights = sums[kept], weights[kept]
        owner = torch.where(owner == other, one, owner - (owner > other).long())
    return by_area(owner[labels - 1])


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
        protected: Cells drawn by hand; their pieces are kept from `SMALL_PROTECTED_CELLS` on.
    """
    current = labels.numpy().copy()
    hand = np.zeros(current.shape, bool) if protected is None else protected.numpy()
    while (found := _smallest(_pieces(current), smallest, hand)) is not None:
        piece, pieces = found
        current[piece] = _commonest_around(piece, current, pieces)
    return torch.from_numpy(current)


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
    pieces: npt.NDArray[np.int64], smallest: int, hand: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]] | None:
    """The first of the smallest pieces that are too small, unless it is all there is."""
    counts = np.bincount(pieces.ravel())[1:]
    is_hand = np.bincount(pieces.ravel(), weights=hand.ravel())[1:] > 0
    is_small = counts < np.where(is_hand, SMALL_PROTECTED_CELLS, smallest)
    if len(counts) < 2 or not is_small.any():
        return None
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
