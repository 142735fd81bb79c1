"""Colour statistics of pictures, and the map that gives one picture the colours of others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Mean and covariance of the colours of one picture.
Moments = tuple[Float[Tensor, "b 3"], Float[Tensor, "b 3 3"]]
# Keeps flat pictures invertible; a hundredth of one 8-bit step, squared.
RIDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Colours:
    """First two moments of RGB values in [0, 1]: 3 and 3x3 numbers."""

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, pictures: Sequence[Float[Tensor, "1 3 _h _w"]]) -> Colours:
        """Of all pictures as one, each counting the same whatever its size.

        >>> Colours.of([torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 8, 8)]).mean
        (0.5, 0.5, 0.5)
        """
        return cls.of_moments([moments(picture) for picture in pictures])

    @classmethod
    def of_moments(cls, each: Sequence[Moments]) -> Colours:
        """The same where the `moments` of every picture are known."""
        means, covariances = zip(*each, strict=True)
        centres = torch.cat(means)
        mean = centres.mean(dim=0)
        apart = centres - mean
        # Law of total covariance.
        covariance = torch.cat(covariances).mean(dim=0) + apart.mT @ apart / len(apart)
        return cls(
            tuple(round(value, 8) for value in mean.tolist()),
            tuple(tuple(round(value, 8) for value in row) for row in covariance.tolist()),
        )

    def to_json(self) -> str:
        return json.dumps({"mean": self.mean, "covariance": self.covariance})

    @classmethod
    def from_json(cls, text: str) -> Colours:
        """Raises `ValueError` where the text is not what `to_json` writes."""
        try:
            found = json.loads(text)
            mean = tuple(float(value) for value in found["mean"])
            covariance = tuple(tuple(float(v) for v in row) for row in found["covariance"])
        except (TypeError, KeyError) as error:
            raise ValueError(f"no colours: {text[:40]}") from error
        if len(mean) != 3 or [len(row) for row in covariance] != [3, 3, 3]:
            raise ValueError(f"no colours: {text[:40]}")
        return cls(mean, covariance)

    def give(self, picture: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The picture in these colours, and otherwise as it was; see `match`."""
        mean = torch.tensor([self.mean], dtype=torch.float64, device=picture.device)
        covariance = torch.tensor([self.covariance], dtype=torch.float64, device=picture.device)
        return match(picture, mean, covariance)


def moments(
    picture: Float[Tensor, "b 3 h w"],
) -> Moments:
    """Mean and covariance of the colours of each picture, in float64."""
    flat = picture.double().flatten(2)
    mean = flat.mean(dim=2)
    centred = flat - mean[..., None]
    return mean, centred @ centred.mT / flat.shape[-1]


def match(
    picture: Float[Tensor, "b 3 h w"],
    mean: Float[Tensor, "#b 3"],
    covariance: Float[Tensor, "#b 3 3"],
) -> Float[Tensor, "b 3 h w"]:
    """Move colours to the given moments by the affine map of least effort, cut to [0, 1].

    Monge's map between two Gaussians, ``A = C^-1/2 (C^1/2 S C^1/2)^1/2 C^-1/2`` (Pitié and Kokaram
    2007), for the picture's covariance C and the wanted one S.
    """
    ridge = torch.eye(3, dtype=torch.float64, device=picture.device) * RIDGE
    own_mean, own = moments(picture)
    own, wanted = own + ridge, covariance + ridge
    half, inverse_half = _power(own, 0.5), _power(own, -0.5)
    linear = inverse_half @ _power(half @ wanted @ half, 0.5) @ inverse_half
    centred = picture.double().flatten(2) - own_mean[..., None]
    moved = linear @ centred + mean[..., None]
    return moved.view(picture.shape).clamp(0, 1).to(picture.dtype)


def _power(matrix: Float[Tensor, "b 3 3"], power: float) -> Float[Tensor, "b 3 3"]:
    values, vectors = torch.linalg.eigh(matrix)
    raised: Tensor = vectors @ torch.diag_embed(values.clamp_min(1e-12).pow(power)) @ vectors.mT
    return raised
