"""What maps of features have in common: three joint colours, and how near two maps are.

A map is ``[channels, height, width]``: a vector at every position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

COLOURS = 3
# Of the largest singular value: what is below is rounding, and its direction is chance.
NOTHING = 1e-9
LOW, HIGH = 0.01, 0.99


@dataclass(frozen=True, slots=True)
class Projection:
    """Maps of several models along the directions in which all of them together vary most.

    Attributes:
        coordinates: Of every position, in the features' own unit.
        components: Unit vectors, the first explaining most; zeros where nothing is left to explain.
        mean: Of all positions of all maps.
        explained: The share of the variance that lies along each component.
    """

    coordinates: Float[Tensor, "models k h w"]
    components: Float[Tensor, "k c"]
    mean: Float[Tensor, " c"]
    explained: Float[Tensor, " k"]


def joint_pca(maps: Float[Tensor, "models c h w"], most: int = COLOURS) -> Projection:
    """One set of axes for all maps, so that equal features get equal coordinates in each of them.

    Float64 within. Signs are those of `fixed_signs`.
    """
    models, channels, height, width = maps.shape
    points = maps.double().permute(0, 2, 3, 1).reshape(-1, channels)
    mean = points.mean(dim=0)
    centred = points - mean
    # The triangle of a QR has the same right vectors, and never more rows than channels.
    triangle = torch.linalg.qr(centred, mode="r").R
    _, values, vectors = torch.linalg.svd(triangle, full_matrices=False)
    vectors = torch.where((values > NOTHING * values.max())[:, None], vectors, 0.0)
    kept = min(most, len(values))
    components = points.new_zeros(most, channels)
    components[:kept] = fixed_signs(vectors[:kept])
    explained = points.new_zeros(most)
    explained[:kept] = values[:kept].square() / values.square().sum().clamp(min=1e-300)
    turned = (centred @ components.T).reshape(models, height, width, most)
    return Projection(turned.permute(0, 3, 1, 2), components, mean, explained)


def fixed_signs(vectors: Float[Tensor, "k c"]) -> Float[Tensor, "k c"]:
    """Each vector or its opposite, whichever has its largest loading positive.

    A decomposition gives either one, and may give the other on the next machine.

    >>> fixed_signs(torch.tensor([[1.0, -2.0], [3.0, 1.0]])).tolist()
    [[-1.0, 2.0], [3.0, 1.0]]
    """
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)


def unit_range(
    coordinates: Float[Tensor, "models k h w"], low: float = LOW, high: float = HIGH
) -> Float[Tensor, "models k h w"]:
    """Each axis scaled so that its quantiles over all maps become 0 and 1, and cut off there.

    An axis along which nothing varies is 0.5 everywhere.
    """
    values = coordinates.transpose(0, 1).flatten(1).double()
    limits = torch.quantile(values, values.new_tensor([low, high]), dim=1)
    least, width = (edge[None, :, None, None] for edge in (limits[0], limits[1] - limits[0]))
    scaled = (coordinates.double() - least) / torch.where(width > 0, width, 1.0)
    return torch.where(width > 0, scaled.clamp(0, 1), 0.5).float()


def cosine_by_position(a: Float[Tensor, "c h w"], b: Float[Tensor, "c h w"]) -> float:
    """The mean over positions of the cosine of the two vectors there; of equal maps exactly 1."""
    return float(_cosine(a.flatten(1), b.flatten(1)).mean())


def cosine_flat(a: Float[Tensor, "c h w"], b: Float[Tensor, "c h w"]) -> float:
    """The cosine of the maps as one long vector each; of equal maps exactly 1."""
    return float(_cosine(a.flatten()[:, None], b.flatten()[:, None]))


def _cosine(a: Float[Tensor, "d n"], b: Float[Tensor, "d n"]) -> Float[Tensor, " n"]:
    """Of columns; two zero vectors are alike, and a zero vector is at right angles to any other."""
    a, b = a.double(), b.double()
    inner, first, second = ((x * y).sum(dim=0) for x, y in ((a, b), (a, a), (b, b)))
    # Not the product of two roots: the root of a square is the number itself, to the last bit.
    lengths = (first * second).sqrt()
    cosine = (inner / torch.where(lengths > 0, lengths, 1.0)).clamp(-1, 1)
    return torch.where(lengths > 0, cosine, ((first == 0) & (second == 0)).double())
