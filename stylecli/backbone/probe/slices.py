"""How much attention falls on a few keys, exactly, and never all of it (RegionRoute eq. 1).

Attention's output is ``sum_j p_ij v_j``. With values that are 1 at the keys of a phrase and 0 at
all others it is the phrase's share of query ``i``: an ordinary fused call, with the gradients of
its own kernel. Where no fused kernel takes such values, keys are walked in chunks. The softmax is
over all keys; over a phrase's keys alone the phrase would have everything, everywhere.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from stylecli.backbone.probe.base import Phrases

# narrow: values as wide as there are phrases; padded: as wide as heads are; chunked: no kernel.
Way = Literal["narrow", "padded", "chunked"]
# Kernels read values of half precision in pieces of so many.
ALIGNED = 8
CHUNK = 512
# All but the one that writes the whole matrix, which is taken without a word where none fits.
_FUSED = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
]


@cache
def fused_way(head_dim: int, device: torch.device, dtype: torch.dtype) -> Way:
    """Which values a fused kernel takes here, the cheapest first; tried out once, both ways."""
    # Asked while sampling too, where no way back would exist and none be found.
    with torch.inference_mode(mode=False), torch.enable_grad():
        if _is_fused(ALIGNED, head_dim, device, dtype):
            return "narrow"
        return "padded" if _is_fused(head_dim, head_dim, device, dtype) else "chunked"


def _is_fused(width: int, head_dim: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a kernel takes values of this width, there and back."""
    query, key = (
        torch.zeros(1, 2, 16, head_dim, device=device, dtype=dtype, requires_grad=True)
        for _ in range(2)
    )
    value = torch.zeros(1, 1, 16, width, device=device, dtype=dtype).expand(1, 2, 16, width)
    try:
        # It warns of every kernel that does not fit before it says that none does.
        with warnings.catch_warnings(), sdpa_kernel(_FUSED):
            warnings.simplefilter("ignore")
            F.scaled_dot_product_attention(query, key, value).sum().backward()
    except RuntimeError:
        return False
    return True


def width_for(way: Way, phrases: int, head_dim: int) -> tuple[Way, int]:
    """The width of the values of so many phrases, and the way that takes it.

    >>> width_for("narrow", 3, 128), width_for("padded", 3, 128), width_for("padded", 20, 16)
    (('narrow', 8), ('padded', 128), ('chunked', 20))
    """
    if way == "narrow":
        return way, -(-phrases // ALIGNED) * ALIGNED
    if way == "padded" and phrases <= head_dim:
        return way, head_dim
    return "chunked", phrases


def indicator(
    phrases: Phrases, keys: int, width: int, *, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "b 1 keys width"]:
    """1 where a key is a token of a phrase, which is exact in every precision; a mean comes after.

    Args:
        phrases: A row's phrases, each the places of its tokens.
        keys: Of the joint sequence, whose first are the text's.
        width: At least the phrases of the row that has most.

    Raises:
        IndexError: A place is none of the keys.
    """
    values = torch.zeros(len(phrases), 1, keys, width)
    for row, asked in enumerate(phrases):
        for column, places in enumerate(asked):
            values[row, 0, list(places), column] = 1
    return values.to(device, dtype)


def shares(
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b heads keys d"],
    values: Float[Tensor, "b 1 keys width"],
    way: Way,
    phrases: int,
) -> Float[Tensor, "b n e"]:
    """The probability that falls on the marked keys, of all of them, as a mean over heads, float32.

    Args:
        query: After its norm and its rotation, as attention sees it; the keys too.
        values: From `indicator`.
        way: From `width_for`.
        phrases: How many of the values' columns are in use.
    """
    if way == "chunked":
        return chunked(query, key, values[..., :phrases])
    wide = values.to(query.dtype).expand(-1, query.shape[1], -1, -1)
    found = F.scaled_dot_product_attention(query, key, wide)
    return found[..., :phrases].float().mean(dim=1)


def chunked(
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b heads keys d"],
    values: Float[Tensor, "b 1 keys e"],
    chunk: int = CHUNK,
) -> Float[Tensor, "b n e"]:
    """`shares` without a kernel, in float32: memory for ``chunk`` keys, on the way back too."""
    scaled = query.float() * query.shape[-1] ** -0.5
    total = torch.full(query.shape[:-1], -torch.inf, device=query.device)
    pieces = list(zip(key.float().split(chunk, dim=2), values.float().split(chunk, 2), strict=True))
    found = query.new_zeros(*query.shape[:-1], values.shape[-1], dtype=torch.float32)
    # Autocast would round the products, and an exponential makes much of little.
    with torch.autocast(query.device.type, enabled=False):
        for keys, _ in pieces:
            total = checkpoint(_grown, total, scaled, keys, use_reentrant=False)
        for keys, marks in pieces:
            found = found + checkpoint(_marked, total, scaled, keys, marks, use_reentrant=False)
    return found.mean(dim=1)


def _grown(total: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The logarithm of the sum of all exponentials so far."""
    return torch.logaddexp(total, (query @ key.mT).logsumexp(dim=-1))


def _marked(total: Tensor, query: Tensor, key: Tensor, marks: Tensor) -> Tensor:
    return (query @ key.mT - total[..., None]).exp() @ marks
