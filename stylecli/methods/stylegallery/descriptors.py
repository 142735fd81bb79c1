"""What regions are compared by: statistics of their features, what they show, where they lie.

Section and letter references are those of StyleGallery (CVPR 2026), section "Region matching".
Everything is computed on the CPU and without a global random number, so a picture has the same
descriptors whenever and beside whatever it is described.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from stylecli.methods.stylegallery.dfcc import Seen
from stylecli.recipe.gallery import Matching
from stylecli.tensors import circles
from stylecli.tensors.cells import mean_of_cells
from stylecli.tensors.channels import standardised

# A shorter vector has no direction.
SHORT = 1e-8
# Cosines of cells are multiplied by it before the softmax: a temperature of 0.1.
SHARPNESS = 10.0
# Keeps the logarithm of a deviation of 0 finite.
SPREAD_FLOOR = 1e-4
# The authors' transformer, whose weights nobody trained.
LAYERS, HEADS, WIDER, WEIGHTS_SEED = 8, 4, 4, 42
# Their images are seen scaled to 256 and cut to 224; of a token's 32 x 32 pixels more than 10 must
# lie in a region for it to count.
KEPT_SHARE = 10 / 32**2

View = Literal["whole", "centre"]
Linear = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Described:
    """The regions of one picture, region 1 first.

    Attributes:
        statistics: Their dot products are similarities from -1 to 1. Rows of length 1; shorter
            where a half of them says nothing, zeros where neither does. None: not compared.
        semantics: Of any length; compared by their cosine. None: not compared.
        circles: ``(x, y, radius)``, x in shares of the picture's width and y of its height.
    """

    statistics: Float[Tensor, "r d"] | None
    semantics: Float[Tensor, "r e"] | None
    circles: Float[Tensor, "r 3"]


@torch.no_grad()
def describe(
    seen: Seen,
    labels: Int[Tensor, "h w"],
    settings: Matching,
    *,
    semantics: Float[Tensor, "r e"] | None = None,
) -> Described:
    """The descriptors of every region (sections 2.2 to 2.4).

    Standardised features have mean 0 over the picture. Of a picture of a single region nothing is
    left to tell it by but rounding errors, so its statistics are zeros: neutral, whatever it is
    compared with. The same holds for semantics from features.

    Args:
        seen: Its features have the size of the labels.
        labels: From 1, every number up to the largest in use.
        settings: Weights play no part here.
        semantics: Vectors of what the regions show, from `pooled` or elsewhere; ignored where
            the settings take them from the features, or go without.
    """
    masks = _masks(labels)
    raw = seen.features.flatten(1).T.double()
    standard = standardised(raw)
    match settings.semantics:
        case "none":
            semantics = None
        case "features":
            semantics = _unless_alone(_directions(standard, masks))
    return Described(
        statistics=_statistics(raw, standard, masks, settings),
        semantics=semantics,
        circles=_circles(labels.shape, masks, settings.circle),
    )


def pooled(
    tokens: Float[Tensor, "gh gw e"], labels: Int[Tensor, "h w"], *, view: View = "whole"
) -> Float[Tensor, "r e"]:
    """Vectors of regions from a grid of tokens of the same picture (section 2.3).

    Args:
        tokens: Cover what the labels cover, whatever their number.
        labels: From 1, every number up to the largest in use.
        view: ``whole`` weighs each token by how much of it lies in the region. ``centre`` is what
            the authors do to tokens that saw the centre alone: they are laid over the whole
            picture nevertheless, and each counts fully of which more than 1 % is in the region.
            Unlike there, one token is enough; where there is none, they are weighed by area.
    """
    masks = _masks(labels).view(-1, *labels.shape).double()
    shares = mean_of_cells(masks, (tokens.shape[0], tokens.shape[1])).flatten(1)
    if view == "centre":
        kept = (shares > KEPT_SHARE).double()
        shares = torch.where(kept.any(dim=1, keepdim=True), kept, shares)
    weights = shares / shares.sum(dim=1, keepdim=True)
    return (weights @ tokens.flatten(0, 1).double().cpu()).float()


def unit(rows: Float[Tensor, "*r d"]) -> Float[Tensor, "*r d"]:
    """Vectors of length 1; of those too short to have a direction zeros."""
    lengths = rows.norm(dim=-1, keepdim=True)
    return torch.where(lengths >= SHORT, rows / lengths.clamp(min=SHORT), 0.0)


def _masks(labels: Int[Tensor, "h w"]) -> Bool[Tensor, "r n"]:
    numbers = torch.arange(1, int(labels.max()) + 1)
    return labels.flatten() == numbers[:, None]


def _statistics(
    raw: Float[Tensor, "n d"],
    standard: Float[Tensor, "n d"],
    masks: Bool[Tensor, "r n"],
    settings: Matching,
) -> Float[Tensor, "r d2"] | None:
    rows = raw if settings.features == "raw" else standard
    match settings.statistics:
        case "none":
            return None
        case "attention":
            counted = torch.ones_like(rows[0], dtype=torch.bool)
            if settings.features == "standardised":
                counted = rows.any(dim=0)
            found = [_by_attention(rows[mask], counted) for mask in masks]
        case "transformer":
            layers = _untrained(rows.shape[1])
            found = [_by_transformer(rows[mask].float(), len(rows), layers) for mask in masks]
    statistics = torch.stack(found).float()
    return statistics if settings.features == "raw" else _unless_alone(statistics)


def _unless_alone(rows: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
    return rows if len(rows) > 1 else torch.zeros_like(rows)


def _by_attention(rows: Float[Tensor, "n d"], counted: Bool[Tensor, " d"]) -> Float[Tensor, " d2"]:
    """Mean and spread of a region's cells after each has looked at those that resemble it."""
    alike = unit(rows)[None, None]
    looked = F.scaled_dot_product_attention(alike, alike, rows[None, None], scale=SHARPNESS)[0, 0]
    mean = unit(looked.mean(dim=0))
    spread = torch.zeros_like(mean)
    if len(rows) > 1 and counted.any():
        logs = (looked.std(dim=0) + SPREAD_FLOOR).log()
        spread = unit(torch.where(counted, logs - logs[counted].mean(), 0.0))
    return torch.cat([mean, spread]) / math.sqrt(2)


def _by_transformer(
    rows: Float[Tensor, "n d"], cells: int, layers: Sequence[Sequence[Linear]]
) -> Float[Tensor, " d2"]:
    """The authors' mean and variance, the latter of all cells with zeros outside, over n."""
    width = rows.shape[1:]
    for qkv, out, up, down in layers:
        parts = F.linear(F.layer_norm(rows, width), *qkv).chunk(3, dim=1)
        query, key, value = (part.unflatten(1, (HEADS, -1)).transpose(0, 1)[None] for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1).flatten(1)
        rows = rows + F.linear(mixed, *out)
        rows = rows + F.linear(F.gelu(F.linear(F.layer_norm(rows, width), *up)), *down)
    everywhere = torch.cat([rows, rows.new_zeros(cells - len(rows), *width)])
    variance = everywhere.var(dim=0) if cells > 1 else torch.zeros_like(rows[0])
    return unit(torch.cat([rows.mean(dim=0), variance / len(rows)]))


def _untrained(width: int) -> list[list[Linear]]:
    """The same weights each time; of their size as a new linear layer of torch has them."""
    random = torch.Generator().manual_seed(WEIGHTS_SEED)

    def drawn(into: int, *shape: int) -> Tensor:
        numbers = torch.rand(*shape, generator=random, dtype=torch.double)
        return ((2 * numbers - 1) / math.sqrt(into)).float()

    shapes = ((width, 3 * width), (width, width), (width, WIDER * width), (WIDER * width, width))
    return [
        [(drawn(into, out, into), drawn(into, out)) for into, out in shapes] for _ in range(LAYERS)
    ]


def _directions(rows: Float[Tensor, "n d"], masks: Bool[Tensor, "r n"]) -> Float[Tensor, "r d"]:
    """The mean direction of each region's cells: loud cells count no more than others."""
    return torch.stack([unit(rows[mask]).mean(dim=0) for mask in masks]).float()


def _circles(
    size: Sequence[int], masks: Bool[Tensor, "r n"], kind: Literal["enclosing", "centroid"]
) -> Float[Tensor, "r 3"]:
    """Around the middles of cells; our smallest circles have a radius of half a cell at least."""
    height, width = size
    y, x = torch.meshgrid(
        (torch.arange(height, dtype=torch.double) + 0.5) / height,
        (torch.arange(width, dtype=torch.double) + 0.5) / width,
        indexing="ij",
    )
    middles = torch.stack([x.flatten(), y.flatten()], dim=1)
    if kind == "centroid":
        return torch.stack([circles.around_centroid(middles[mask]) for mask in masks])
    found = torch.stack([circles.enclosing(middles[mask]) for mask in masks])
    found[:, 2].clamp_(min=0.5 / max(height, width))
    return found
