"""How far apart what attention layers made of two pictures is.

Every loss has one number a row, so rows of a batch never weigh on one another: a caller who sums
them gives each latent the gradient it would have alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


def mean_l1(
    ours: Float[Tensor, "rows heads n d"],
    theirs: Float[Tensor, "_ heads n d"],
    weights: Float[Tensor, "rows n"] | None = None,
) -> Float[Tensor, " rows"]:
    """The mean absolute difference of each row, in float32 or better.

    Args:
        ours: Its gradient is the sign of the difference over the number of entries, however small
            the difference is, and 0 where there is none.
        theirs: As many rows, or one for all.
        weights: What each token's difference counts for; the mean is still over all tokens.
    """
    dtype = torch.promote_types(ours.dtype, torch.float32)
    apart = (ours.to(dtype) - theirs.to(dtype)).abs()
    if weights is not None:
        apart = apart * weights[:, None, :, None]
    return apart.mean(dim=(1, 2, 3))


def over_layers(
    ours: Mapping[str, Float[Tensor, "rows _h _n _d"]],
    theirs: Mapping[str, Float[Tensor, "_r _h _n _d"]],
    weights: Mapping[str, Float[Tensor, "rows _n"]] | None = None,
) -> Float[Tensor, " rows"]:
    """The sum of `mean_l1` over layers of the same names, which may differ in size.

    Args:
        ours: By layer.
        theirs: Likewise.
        weights: Of the tokens of a layer; layers without a word count all alike.

    Raises:
        KeyError: `theirs` lacks a layer.
    """
    of = weights or {}
    each = [mean_l1(one, theirs[name], of.get(name)) for name, one in ours.items()]
    return torch.stack(each).sum(dim=0)
