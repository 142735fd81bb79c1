"""What one pass through a model hands to another: queries, keys and features.

An `Exchange` is installed once per run, in a ``with`` block that puts everything back. Between
passes it is told what to do: *take* from the source rows, *give* to the target rows, or stay out of
the way. Nothing here knows a step or a timestep. Rows may come in chunks, one call of the model
after another: what was taken and given goes on where the call before ended.

Where it hooks in is the model's affair: `stylecli.backbone.attention` knows UNets, and
`stylecli.backbone.joint` transformers.

Attention matrices are never formed. ``((1-k) A_s + k A_t) V`` is ``(1-k) SDPA(Q_s, K_s, V) +
k SDPA(Q_t, K_t, V)`` because multiplication by ``V`` distributes over the sum (DiffStyler eq. 5).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Tap = Literal["residual", "output"]
Mix = Literal["probs", "qk"]
# What the source rows left at one step, by layer.
Taken = Mapping[str, tuple[Tensor, ...]]


class Eyes(NamedTuple):
    """Queries and keys: where tokens look. What they find there is values, which stay their own."""

    query: Tensor
    key: Tensor


class PassEnded(Exception):  # noqa: N818 - a way out, not a fault
    """Raised inside a pass of the model when nothing that follows is wanted."""


class Exchange(ABC):
    """Carries tensors of the source rows to the target rows, layer by layer.

    Target row ``r`` looks through source row ``r mod S`` of ``S`` source rows, so target rows are
    laid out ``[uncond 1..S | cond 1..S]``, once or for several looks one after another.
    """

    def __init__(self, *, features: int, attention: int, tap: Tap, mix: Mix) -> None:
        """Nothing is taken or given yet.

        Args:
            features: How many layers have a feature that is handed over.
            attention: How many hand over queries and keys.
            tap: What of a layer is its feature: what it adds to its shortcut, or all that it gives.
            mix: What is mixed, attention matrices or queries and keys.
        """
        self.features, self.attention = features, attention
        self.tap = tap
        self.mix = mix
        self.taking_features = self.taking_attention = False
        self.giving_features = False
        self.kappa = 1.0
        self._remaining = 0
        self._stops_early = False
        # Rows of the calls before this one, and with it.
        self._first = self._next = 0
        self._store: dict[str, tuple[Tensor, ...]] = {}

    @abstractmethod
    def installed(self, model: Any) -> AbstractContextManager[None]:
        """Hook into the model's layers, and come out again.

        Raises:
            RecipeError: A layer uses something that is not supported; nothing was changed.
        """

    def _begins(self, rows: int) -> None:
        """A call of the model with so many rows."""
        self._first, self._next = self._next, self._next + rows

    @contextmanager
    def taking(
        self, *, features: bool, attention: bool, stop: bool, first: int = 0
    ) -> Iterator[None]:
        """Inside, one call of the model records source rows.

        Args:
            features: Record the features.
            attention: Record queries and keys.
            stop: End the block as soon as all is recorded: the rest of the model is not computed,
                and neither is the pass's own output. For callers who do not want it.
            first: Rows that were recorded before these, and are kept; 0 forgets all.
        """
        self._stops_early = stop
        self.taking_features = features and self.features > 0
        self.taking_attention = attention and self.attention > 0
        self._remaining = (
            self.features * self.taking_features + self.attention * self.taking_attention
        )
        self._next = first
        if not first:
            self._store.clear()
        try:
            yield
        except PassEnded:
            pass
        finally:
            self.taking_features = self.taking_attention = False

    @contextmanager
    def giving(self, *, features: bool, kappa: float) -> Iterator[None]:
        """Inside, target rows use what was taken.

        Args:
            features: Replace the features.
            kappa: Share of the target's own attention: 0 is all source, 1 leaves it alone.
        """
        self.giving_features = features and self.features > 0
        self.kappa = kappa
        self._next = 0
        try:
            yield
        finally:
            self.giving_features, self.kappa = False, 1.0

    def put(self, key: str, *tensors: Tensor) -> None:
        """Keep tensors of the source rows; ends the pass when they were the last ones wanted."""
        if self._first:
            pairs = zip(self._store[key], tensors, strict=True)
            tensors = tuple(torch.cat(pair) for pair in pairs)
        self._store[key] = tensors
        self._remaining -= 1
        if self._remaining == 0 and self._stops_early:
            raise PassEnded

    def get(self, key: str, rows: int) -> tuple[Tensor, ...]:
        """What the source rows left, for each target row of this call."""
        return tuple(self._repeated(tensor, rows) for tensor in self._store[key])

    def _repeated(self, tensor: Tensor, rows: int) -> Tensor:
        sources = len(tensor)
        if sources == 1:
            return tensor.expand(rows, *tensor.shape[1:])
        if self._first % sources == 0 and rows % sources == 0:
            return tensor.repeat(rows // sources, *[1] * (tensor.ndim - 1))
        chosen = torch.arange(self._first, self._first + rows, device=tensor.device) % sources
        return tensor[chosen]

    @property
    def taken(self) -> Taken:
        """All that the source rows left, to be given again by `recall`."""
        return dict(self._store)

    def recall(self, taken: Taken) -> None:
        """As if the source rows had just left this."""
        self._store = dict(taken)

    def attended(
        self,
        key: str,
        rows: int,
        own: Callable[[], Eyes],
        values: Callable[[], Tensor],
        attend: Callable[[Eyes, Tensor], Tensor],
    ) -> Tensor:
        """What a layer's tokens find, through the eyes they are to look with (DiffStyler eq. 5).

        Args:
            key: Of the layer.
            rows: Of this call.
            own: Makes the rows' own queries and keys; not asked where they look wholly through the
                source's.
            values: Makes the rows' values, once nothing can end the pass here.
            attend: Attention over them.
        """
        kappa = self.kappa
        mine = own() if kappa > 0 else None
        if self.taking_attention and mine is not None:
            self.put(key, *mine)
        found = values()
        if kappa == 1 and mine is not None:
            return attend(mine, found)
        theirs = Eyes(*self.get(key, rows))
        if mine is None:
            return attend(theirs, found)
        if self.mix == "qk":
            pairs = zip(theirs, mine, strict=True)
            mixed = Eyes(*((1 - kappa) * one + kappa * other for one, other in pairs))
            return attend(mixed, found)
        return (1 - kappa) * attend(theirs, found) + kappa * attend(mine, found)
