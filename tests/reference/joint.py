"""Injection in joint attention, written out: matrices over whole sequences, mixed row by row.

It stands in for the libraries' attention function, after places were turned in, so it may only be
used where source and target have as many words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

Rows = tuple[Tensor, Tensor]


def matrix(query: Tensor, key: Tensor) -> Tensor:
    """``softmax(Q K^T / sqrt(d))`` of ``[rows, n, heads, d]``."""
    logits = torch.einsum("rihd,rjhd->rhij", query, key) / query.shape[-1] ** 0.5
    return logits.softmax(dim=-1)


def placed(own: Tensor, source: Tensor, picture: slice) -> Tensor:
    """The picture's tokens of the source, and the words of the row."""
    found = own.clone()
    found[:, picture] = source[:, picture]
    return found


class Written:
    """What stands for `dispatch_attention_fn`: it remembers, or mixes by what it remembers."""

    def __init__(self, module: Any) -> None:
        self.stock: Callable[..., Tensor] = module.dispatch_attention_fn
        self.seen: list[Rows] = []
        self.kappa: float | None = None
        self.mix: Literal["probs", "qk"] = "probs"
        self.layers: list[int] = []
        self.picture = slice(None)
        self._call = 0

    def begin(self) -> None:
        self._call = 0

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None, **_: Any
    ) -> Tensor:
        assert attn_mask is None
        layer, self._call = self._call, self._call + 1
        if self.kappa is None:
            self.seen.append((query, key))
            return torch.einsum("rhij,rjhd->rihd", matrix(query, key), value)
        own = matrix(query, key)
        if layer in self.layers:
            pairs = zip((query, key), self.seen[layer], strict=True)
            theirs = [placed(mine, source, self.picture) for mine, source in pairs]
            if self.mix == "probs":
                own = (1 - self.kappa) * matrix(*theirs) + self.kappa * own
            else:
                both = zip((query, key), theirs, strict=True)
                own = matrix(*(self.kappa * a + (1 - self.kappa) * b for a, b in both))
        return torch.einsum("rhij,rjhd->rihd", own, value)


@contextmanager
def written(module: Any) -> Iterator[Written]:
    """Inside, the processors of a module of diffusers use the explicit function."""
    stand_in = Written(module)
    module.dispatch_attention_fn = stand_in
    try:
        yield stand_in
    finally:
        module.dispatch_attention_fn = stand_in.stock
