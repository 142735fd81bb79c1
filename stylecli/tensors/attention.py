"""Attention as a function of queries, keys and values; its matrix is never formed."""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def attention(
    query: Float[Tensor, "rows heads n d"],
    key: Float[Tensor, "_ heads m d"],
    value: Float[Tensor, "_ heads m d"],
    temperature: float = 1.0,
    bias: Float[Tensor, "1 m"] | None = None,
) -> Float[Tensor, "rows heads n d"]:
    """``softmax(temperature Q K^T / sqrt(d) + bias) V``.

    Args:
        query: One row for each picture.
        key: As many rows, or one that serves all.
        value: Likewise.
        temperature: Above 1 each query looks at fewer keys.
        bias: Of every key, added to all its logits.

    >>> import torch
    >>> same, values = torch.ones(1, 1, 3, 2), torch.arange(6.0).view(1, 1, 3, 2)
    >>> attention(torch.zeros(1, 1, 1, 2), same, values).flatten().tolist()
    [2.0, 3.0]
    """
    rows = len(query)
    return F.scaled_dot_product_attention(
        query,
        key.expand(rows, -1, -1, -1),
        value.expand(rows, -1, -1, -1),
        attn_mask=bias,
        scale=temperature / math.sqrt(query.shape[-1]),
    )
