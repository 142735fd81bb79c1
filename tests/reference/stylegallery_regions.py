"""How the authors' code cuts a picture up, written out cell by cell.

Slow on purpose. Whatever is drawn comes from outside, so that two implementations can share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

COMPONENTS, RESTARTS, ITERATIONS, SHIFT = 60, 10, 64, 1e-4
SMALL = 20


def step_weights(steps: int) -> list[float]:
    falling = [1 / (1 + math.exp(5 * (i / steps - 0.7))) for i in range(steps)]
    return [value / math.fsum(falling) for value in falling]


def standardised(features: Tensor) -> Tensor:
    rows = features.flatten(1).T.double()
    columns = []
    for column in rows.T:
        spread = math.sqrt(float(((column - column.mean()) ** 2).sum()) / (len(column) - 1))
        if spread > 1e-6:
            columns.append((column - column.mean()) / spread)
    return torch.stack(columns, dim=1)


def low_rank(rows: Tensor, drawn: Tensor) -> Tensor:
    """Principal coordinates within the subspace that two power iterations find from `drawn`."""
    basis = torch.linalg.qr(rows @ drawn).Q
    for _ in range(2):
        basis = torch.linalg.qr(rows.T @ basis).Q
        basis = torch.linalg.qr(rows @ basis).Q
    _, _, right = torch.linalg.svd(basis.T @ rows, full_matrices=False)
    return rows @ right.T


def k_means(rows: Tensor, starts: Callable[[], list[int]], redraw: Callable[[], int]) -> Tensor:
    """The tightest of ten runs; labels are those of the centroids before the last move."""
    best, tightest = torch.zeros(0), math.inf
    for _ in range(RESTARTS):
        centroids = [rows[i] for i in starts()]
        for _ in range(ITERATIONS):
            gaps = torch.stack([(rows - centroid).norm(dim=1) for centroid in centroids], dim=1)
            labels, spread = gaps.argmin(dim=1), float((gaps.min(dim=1).values ** 2).sum())
            moved = [
                rows[labels == i].mean(dim=0) if (labels == i).any() else rows[redraw()]
                for i in range(len(centroids))
            ]
            shift = max(float((a - b).norm()) for a, b in zip(moved, centroids, strict=True))
            centroids = moved
            if shift < SHIFT:
                break
        if spread < tightest:
            best, tightest = labels, spread
    return best


def silhouette(rows: Tensor, labels: Tensor) -> float:
    total = 0.0
    for i in range(len(rows)):
        gaps = (rows - rows[i]).norm(dim=1)
        own = labels == labels[i]
        if own.sum() == 1:
            continue
        a = float(gaps[own].sum()) / (int(own.sum()) - 1)
        b = min(
            float(gaps[labels == other].mean()) for other in labels.unique() if other != labels[i]
        )
        total += (b - a) / max(a, b)
    return total / len(rows)


def parents(close: list[tuple[int, int]], count: int) -> list[int]:
    """Which cluster each ends in: of a close pair the later one gets the earlier one as parent."""
    parent = list(range(count))
    for i in range(count):
        for j in range(i + 1, count):
            if (i, j) in close:
                parent[j] = i

    def top(i: int) -> int:
        return i if parent[i] == i else top(parent[i])

    return [top(i) for i in range(count)]


def merge(
    labels: Tensor,
    latents: Tensor,
    threshold: float,
    depth: Tensor | None = None,
    gap: float = 0.0,
) -> Tensor:
    numbers = sorted({int(label) for label in labels.flatten()})
    means = [latents[:, labels == number].mean(dim=1) for number in numbers]
    close = []
    for i, one in enumerate(means):
        for j, other in enumerate(means):
            is_near = i < j and float((one - other).norm()) < threshold
            if is_near and depth is not None:
                apart = depth[labels == numbers[i]].mean() - depth[labels == numbers[j]].mean()
                is_near = float(apart.abs()) < gap
            if is_near:
                close.append((i, j))
    merged = labels.clone()
    for i, end in enumerate(parents(close, len(numbers))):
        merged[labels == numbers[i]] = numbers[end]
    return merged


def depth_of_cells(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """The value at each cell's upper left, the least 0 and the greatest 1."""
    height, width = depth.shape
    cells = torch.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            cells[row, column] = depth[row * height // size[0], column * width // size[1]]
    return (cells - cells.min()) / (cells.max() - cells.min() + 1e-6)


def two_means(values: Tensor) -> tuple[float, Tensor]:
    """Least squared error of two groups, and who is in the upper one, of all cuts between values.

    The authors iterate; where that ends well, it ends here.
    """
    best, members = math.inf, torch.zeros(len(values), dtype=torch.bool)
    for cut in sorted(set(values.tolist()))[:-1]:
        upper = values > cut
        error = sum(
            float(((group - group.mean()) ** 2).sum()) for group in (values[upper], values[~upper])
        )
        if error < best - 1e-12:
            best, members = error, upper
    return best, members


def split(labels: Tensor, depth: Tensor, span: float, smallest: int) -> Tensor:
    """The near parts of clusters that span much depth get the next free numbers."""
    parted = labels.clone()
    for number in sorted({int(label) for label in labels.flatten()}):
        cells = labels == number
        ordered = sorted(depth[cells].tolist())
        n = len(ordered)
        if n < smallest or ordered[int(0.95 * n)] - ordered[int(0.05 * n)] < span:
            continue
        _, upper = two_means(depth[cells])
        near = cells.clone()
        near[cells] = upper
        parted[near] = int(parted.max()) + 1
    return parted


def sweep(labels: Tensor, smallest: int) -> Tensor:
    """One look at the labels as they are: every small piece takes the commonest one around it."""
    height, width = labels.shape
    swept, met = labels.clone(), set()

    def beside(cell: tuple[int, int]) -> list[tuple[int, int]]:
        row, column = cell
        near = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        return [(r, c) for r, c in near if 0 <= r < height and 0 <= c < width]

    for start in [(row, column) for row in range(height) for column in range(width)]:
        if start in met:
            continue
        piece, walk = {start}, [start]
        while walk:
            for near in beside(walk.pop()):
                if near not in piece and labels[near] == labels[start]:
                    piece.add(near)
                    walk.append(near)
        met |= piece
        ring = {near for cell in piece for near in beside(cell)} - piece
        if len(piece) >= smallest or not ring:
            continue
        around = [int(labels[cell]) for cell in ring]
        commonest = max(sorted(set(around)), key=around.count)
        for cell in piece:
            swept[cell] = commonest
    return swept


def regions(
    features: Tensor,
    latents: Tensor,
    depth: Tensor,
    *,
    ks: range,
    drawn: Callable[[int, int], Tensor],
    starts: Callable[[int], tuple[Callable[[], list[int]], Callable[[], int]]],
    smallest: int = SMALL,
) -> Tensor:
    """All of stage 1, of a picture of 64 x 64 cells or, with another `smallest`, of any size.

    Args:
        features: Averaged over the inversion.
        latents: Clean.
        depth: Inverse, of any size.
        ks: Numbers of clusters that are tried.
        drawn: The random matrix of the components, given its size.
        starts: For each number of clusters, what draws first and new centroids.
        smallest: Of pieces and of clusters that are split.
    """
    rows = standardised(features)
    count = max(1, min(COMPONENTS, rows.shape[1], len(rows) - 1))
    rows = low_rank(rows, drawn(rows.shape[1], count))
    tried = [k_means(rows, *starts(k)) for k in ks]
    scores = [silhouette(rows, labels) for labels in tried]
    labels = tried[scores.index(max(scores))].view(latents.shape[1:])
    labels = merge(labels, latents, 0.85)
    near = depth_of_cells(depth, (latents.shape[1], latents.shape[2]))
    labels = split(labels, near, 0.75, smallest)
    labels = merge(labels, latents, 0.35, near, 0.3)
    return sweep(labels, smallest)
