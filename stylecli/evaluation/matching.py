"""Block matching: how much of a picture's texture can be paired off with the style's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

GRID = 16


@dataclass(frozen=True, slots=True)
class MatchScore:
    """Mean cosine of matched blocks, averaged over layers.

    Attributes:
        hungarian: Each reference block serves one block: areas have to agree.
        nearest: Each block takes its best; never below the other.
    """

    hungarian: float
    nearest: float


def block_descriptors(
    features: Float[Tensor, "1 c h w"], grid: int = GRID
) -> Float[Tensor, "blocks channels2"]:
    """Means and deviations of every channel in each cell of a grid, as unit vectors.

    Where the grid does not divide the size, cells overlap by a row or a column.
    """
    mean = F.adaptive_avg_pool2d(features, grid)
    variance = F.adaptive_avg_pool2d(features.square(), grid) - mean.square()
    both = torch.cat([mean, variance.clamp_min(0).sqrt()], dim=1)
    return F.normalize(both[0].flatten(1).T, dim=1)


def style_match(
    image: Sequence[Float[Tensor, "_n _c"]], references: Sequence[Float[Tensor, "_m _c"]]
) -> MatchScore:
    """One-to-one matching of blocks (Kuhn 1955), after StyleGallery's Style score.

    Args:
        image: Descriptors of the picture, layer by layer.
        references: Those of all its references together; at least as many.
    """
    from scipy.optimize import linear_sum_assignment

    one_to_one, nearest = [], []
    for ours, theirs in zip(image, references, strict=True):
        cosines = (ours.double() @ theirs.double().T).cpu()
        rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
        one_to_one.append(float(cosines[rows, columns].mean()))
        nearest.append(float(cosines.max(dim=1).values.mean()))
    return MatchScore(sum(one_to_one) / len(one_to_one), sum(nearest) / len(nearest))
