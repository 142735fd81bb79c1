"""Attention with its matrices written out, and the two ways of mixing two of them.

Shapes: queries ``[rows, heads, n, d]``, keys and values ``[rows, heads, m, d]``.
"""

from __future__ import annotations

import torch


def matrix(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """``A = softmax(Q K^T / sqrt(d))``, ``[rows, heads, n, m]``; each row of it sums to 1."""
    logits = torch.einsum("rhnd,rhmd->rhnm", query, key) / query.shape[-1] ** 0.5
    weights = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    return weights / weights.sum(dim=-1, keepdim=True)


def mix_matrices(
    source: tuple[torch.Tensor, torch.Tensor],
    target: tuple[torch.Tensor, torch.Tensor],
    value: torch.Tensor,
    kappa: float,
) -> torch.Tensor:
    """DiffStyler eq. 5: ``((1 - kappa) A_s + kappa A_t) V_t``."""
    mixed = (1 - kappa) * matrix(*source) + kappa * matrix(*target)
    return torch.einsum("rhnm,rhmd->rhnd", mixed, value)


def mix_queries_and_keys(
    source: tuple[torch.Tensor, torch.Tensor],
    target: tuple[torch.Tensor, torch.Tensor],
    value: torch.Tensor,
    kappa: float,
) -> torch.Tensor:
    """The released code: one matrix, of mixed queries and mixed keys."""
    query, key = ((1 - kappa) * s + kappa * t for s, t in zip(source, target, strict=True))
    return torch.einsum("rhnm,rhmd->rhnd", matrix(query, key), value)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """``[rows, n, heads * d] -> [rows, heads, n, d]``."""
    rows, n, channels = x.shape
    return x.reshape(rows, n, heads, channels // heads).permute(0, 2, 1, 3)


def join_heads(x: torch.Tensor) -> torch.Tensor:
    """``[rows, heads, n, d] -> [rows, n, heads * d]``."""
    rows, heads, n, width = x.shape
    return x.permute(0, 2, 1, 3).reshape(rows, n, heads * width)
