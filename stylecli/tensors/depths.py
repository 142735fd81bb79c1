"""Regions that reach from near to far, cut in two where their depths fall apart.

Section and symbols are those of StyleGallery (CVPR 2026, section 1.7 of our notes).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylecli.tensors.cells import mean_of_cells
from stylecli.tensors.channels import FLAT

# What lies beyond these shares of the depths is an outlier, and so it is within a region.
LOWEST, HIGHEST = 0.01, 0.99
LOW, HIGH = 0.05, 0.95
# Fewer cells of 64 x 64 have no far and near part.
SMALLEST_CELLS = 20


def normalised(
    depth: Float[Tensor, "height width"], size: tuple[int, int]
) -> Float[Tensor, "h w"] | None:
    """Depths of cells from 0 to 1, outliers at the ends; None where there is nothing to tell."""
    if not depth.isfinite().all():
        return None
    cells = mean_of_cells(depth.double(), size)
    ends = torch.tensor([LOWEST, HIGHEST], dtype=torch.double)
    lowest, highest = cells.flatten().quantile(ends).tolist()
    return between_ends(cells.clamp(lowest, highest))


def between_ends(depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w"] | None:
    """The least depth becomes 0 and the greatest 1; None where they hardly differ."""
    if not depth.isfinite().all() or depth.max() - depth.min() < FLAT:
        return None
    return ((depth - depth.min()) / (depth.max() - depth.min() + FLAT)).float()


def split(
    labels: Int[Tensor, "h w"], depth: Float[Tensor, "h w"], *, span: float, smallest: int
) -> Int[Tensor, "h w"]:
    """Cut every cluster in two, far and near, whose depths reach over `span` or more.

    Args:
        labels: Any whole numbers; the far part keeps its cluster's, the near one gets a new one.
        depth: In [0, 1]. A cluster's own outliers do not count as its reach.
        span: In the same unit.
        smallest: Clusters of fewer cells stay whole.
    """
    parted = labels.clone()
    for label in labels.unique().tolist():
        cells = labels == label
        values = depth[cells]
        # A cluster of one depth has no two parts, even if no reach at all is asked for.
        if len(values) < smallest or not reach(values) >= span or values.max() == values.min():
            continue
        parted[cells & (depth > two_means(values))] = int(parted.max()) + 1
    return parted


def reach(values: Float[Tensor, " n"]) -> float:
    """From the 5th to the 95th percentile."""
    ordered = values.sort().values
    low, high = int(LOW * len(ordered)), int(HIGH * len(ordered))
    return float(ordered[high] - ordered[low])


def two_means(values: Float[Tensor, " n"]) -> float:
    """The greatest value of the lower of two groups; together they have the least squared error.

    Exact: of the cuts of the ordered values the best one, all of them from sums of prefixes. Values
    are not all equal, and equal ones stay together.

    >>> two_means(torch.tensor([0.875, 0.125, 0.25, 1.0]))
    0.25
    """
    ordered = values.double().sort().values
    # Around the mean, or the squares of large numbers drown what tells them apart.
    centred = ordered - ordered.mean()
    counts = torch.arange(1, len(centred), dtype=torch.double)
    sums = centred.cumsum(0)[:-1]
    # The error within is what is left of the whole by the error between.
    between = sums.square() / counts + sums.square() / (len(centred) - counts)
    # The error is concave in how many of equal values go up, so no cut between them is the best.
    return float(ordered[:-1][between.argmax()])
