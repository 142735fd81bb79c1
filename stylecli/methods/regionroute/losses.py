"""Attention of style words must lie on the object: Focus and Cover (RegionRoute eq. 2 and 3).

Attention to a few words among thousands of tokens is tiny, and how tiny is no fault of its own. So
both losses see maps up to a factor: nothing is gained by attending more to the style everywhere.
All in float32 or better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from stylecli.methods.regionroute.grids import hard

# Far below any map's value (about one in a thousand), and large enough for gradients at 0.
EPSILON = 1e-6
# An object of less than one cell says nothing about where attention should be.
LEAST_CELLS = 1.0


@dataclass(frozen=True, slots=True)
class Forms:
    """Which reading of the two equations, and its constants.

    Attributes:
        tau: Temperature of Focus.
        focus: log-power compares the map itself, ``A^(1/tau)`` scaled to sum 1; raw is
            ``softmax(A / tau)``, which hardly feels maps of softmax values.
        gamma: Contrast of Cover.
        kappa: The threshold of Cover, as a share of the mean inside.
        cover: The logit: ratio is ``gamma log(A / t)``, scaled ``gamma A`` (never below one half),
            zscore ``gamma (A - mean) / std``.
        balance: half gives inside and outside equal say however large the object is; mean gives it
            to every cell.
    """

    tau: float = 1.0
    focus: Literal["log-power", "raw"] = "log-power"
    gamma: float = 4.0
    kappa: float = 0.5
    cover: Literal["ratio", "scaled", "zscore"] = "ratio"
    balance: Literal["half", "mean"] = "half"


# As the paper's public code has them; it applies them to each layer and token on its own.
REFERENCE = Forms(tau=0.1, focus="raw", gamma=2.0, cover="scaled", balance="mean")


def focus(
    maps: Float[Tensor, "b n"], mask: Float[Tensor, "b n"], forms: Forms
) -> Float[Tensor, " b"]:
    """KL divergence of the map from the mask, both as distributions over cells (eq. 2).

    Its gradient in ``log A`` is the difference of the two, over tau: bounded.

    Args:
        maps: Not negative.
        mask: Shares of cells, `grids.on_grid`. A row that is empty has loss 0.
    """
    maps = _precise(maps)
    mask = mask.to(maps.dtype)
    wanted = mask / mask.sum(dim=1, keepdim=True).clamp(min=EPSILON)
    scores = (maps + EPSILON).log() if forms.focus == "log-power" else maps
    there = (scores / forms.tau).log_softmax(dim=1)
    agreed: Tensor = (torch.special.entr(wanted) + wanted * there).sum(dim=1)
    return -agreed


def cover(
    maps: Float[Tensor, "b n"], mask: Float[Tensor, "b n"], forms: Forms
) -> Float[Tensor, " b"]:
    """Cross entropy of "this cell is the object's", told by the map (eq. 3).

    Where the mask covers every cell, the outside term is none; likewise inside an empty one.

    Args:
        maps: Not negative.
        mask: Shares of cells; made hard by `grids.hard`.
    """
    maps = _precise(maps)
    inside = hard(mask)
    logits = _logits(maps, inside, forms)
    each = F.binary_cross_entropy_with_logits(logits, inside.to(maps.dtype), reduction="none")
    if forms.balance == "mean":
        return each.mean(dim=1)
    return (_mean_over(each, inside) + _mean_over(each, ~inside)) / 2


def threshold(
    maps: Float[Tensor, "b n"], inside: Bool[Tensor, "b n"], kappa: float
) -> Float[Tensor, " b"]:
    """From which value on a cell counts as attended: a share of the mean inside.

    Carries gradients, and must: were it fixed, the model would lower the loss by attending ever
    more to the style's words until its pictures suffer.
    """
    return kappa * _mean_over(maps, inside)


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Both losses of a batch.

    Attributes:
        skipped: Edits that were left out because their mask is less than one cell.
    """

    focus: Float[Tensor, ""]
    cover: Float[Tensor, ""]
    skipped: int


def attention(
    maps: Float[Tensor, "b n e"],
    masks: Float[Tensor, "b n e"],
    valid: Bool[Tensor, "b e"],
    forms: Forms,
) -> Attention:
    """Each edit's map against its own mask: the mean over a sample's edits, then over samples.

    No sample sees another's map or mask. Samples without a usable edit do not count; where there is
    none at all, both losses are 0 and carry no gradient.

    Args:
        maps: `Probe.maps`.
        masks: Of the same edits; two that share their words have one mask, the union.
        valid: Which edits there are: False for places that only fill up the batch, and for samples
            that are to be left out.
    """
    large = masks.sum(dim=1) >= LEAST_CELLS
    used = valid & large
    skipped = int((valid & ~large).sum())
    if not used.any():
        nothing = maps.new_zeros((), dtype=torch.float32)
        return Attention(nothing, nothing, skipped)
    own_maps, own_masks = maps.movedim(2, 1)[used], masks.movedim(2, 1)[used]
    # What an edit counts for: samples alike, and a sample's edits alike.
    edits = used.sum(dim=1, keepdim=True).clamp(min=1)
    share = (used / (edits * used.any(dim=1).sum()))[used]
    return Attention(
        (share * focus(own_maps, own_masks, forms)).sum(),
        (share * cover(own_maps, own_masks, forms)).sum(),
        skipped,
    )


def _logits(
    maps: Float[Tensor, "b n"], inside: Bool[Tensor, "b n"], forms: Forms
) -> Float[Tensor, "b n"]:
    if forms.cover == "scaled":
        return forms.gamma * maps
    if forms.cover == "zscore":
        apart = maps - maps.mean(dim=1, keepdim=True)
        # Under the root, so that a map without any variation has a gradient.
        deviation = (apart.square().mean(dim=1, keepdim=True) + EPSILON**2).sqrt()
        return forms.gamma * apart / deviation
    level = threshold(maps, inside, forms.kappa)[:, None]
    return forms.gamma * ((maps + EPSILON).log() - (level + EPSILON).log())


def _mean_over(values: Float[Tensor, "b n"], chosen: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """0 where nothing is chosen."""
    return (values * chosen).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
