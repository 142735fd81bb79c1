"""Queries, keys, values and outputs of attention layers, recorded by name or put in place.

Where `stylecli.backbone.attention` lets one pass steer another, this only looks on, or answers for
a layer. What is recorded keeps its gradients: a loss of it can be followed back to the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.attention import projected, refuse_unsupported, split_heads
from stylecli.backbone.exchange import PassEnded

Part = Literal["queries", "keys", "values", "outputs"]
# The name of a layer and its queries -> what its attention gives.
Attend = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Captured:
    """What some layers computed in one pass, by the names of the layers.

    All are ``[rows, heads, tokens, width]``: queries and keys before they are scaled, outputs
    before their projection. Parts that were not asked for are empty.
    """

    queries: dict[str, Float[Tensor, "rows _h _n _d"]] = field(default_factory=dict)
    keys: dict[str, Float[Tensor, "rows _h _n _d"]] = field(default_factory=dict)
    values: dict[str, Float[Tensor, "rows _h _n _d"]] = field(default_factory=dict)
    outputs: dict[str, Float[Tensor, "rows _h _n _d"]] = field(default_factory=dict)


class Capture:
    """Stands in some attention layers of a UNet, and is told what to do there pass by pass."""

    def __init__(self, layers: Sequence[str]) -> None:
        """Choose the layers.

        Args:
            layers: Names of processors, as `stylecli.backbone.layers` has them.
        """
        self._layers = tuple(layers)
        self._parts: tuple[Part, ...] = ()
        self._captured = Captured()
        self._remaining = 0
        self._stops = False
        self._rows: Mapping[Part, Sequence[int]] = {}
        self.attend: Attend | None = None

    @contextmanager
    def installed(self, unet: Any) -> Iterator[None]:
        """Put processors into a UNet, and take them out again.

        Raises:
            RecipeError: A layer's attention has parts that are not supported; nothing was changed.
        """
        before = unet.attn_processors
        for name in self._layers:
            refuse_unsupported(name, unet.get_submodule(name.removesuffix(".processor")))
        try:
            # set_attn_processor() empties the dict it is given, so give it a fresh one.
            unet.set_attn_processor(
                {**before, **{name: _Watched(name, self) for name in self._layers}}
            )
            yield
        finally:
            unet.set_attn_processor(dict(before))

    @contextmanager
    def recording(
        self,
        *parts: Part,
        stop: bool = False,
        rows: Mapping[Part, Sequence[int]] | None = None,
    ) -> Iterator[Captured]:
        """Inside, one pass fills what this gives.

        The backward pass belongs outside: with gradient checkpointing it runs the layers again.

        Args:
            parts: What to keep; the rest is not held.
            stop: End the block as soon as all is there, so that nothing behind is computed, and the
                pass has no output. Not for layers inside a checkpoint, which has to see its end.
            rows: Of which rows a part is kept; those without a word are kept of all.
        """
        self._captured, self._parts, self._stops = Captured(), parts, stop
        self._rows = rows or {}
        self._remaining = len(self._layers) * len(parts)
        try:
            yield self._captured
        except PassEnded:
            pass
        finally:
            self._captured, self._parts, self._stops, self._rows = Captured(), (), False, {}

    @contextmanager
    def replaced(self, attend: Attend) -> Iterator[None]:
        """Inside, the layers give what `attend` makes of their queries; no key is computed."""
        self.attend = attend
        try:
            yield
        finally:
            self.attend = None

    def keep(self, part: Part, layer: str, tensor: Tensor) -> None:
        """Hold a tensor of a layer if it is wanted; ends the pass when it was the last one.

        By its key, so that a layer that runs twice is held once.
        """
        if part not in self._parts:
            return
        self._hold(part, layer, self._of(part, tensor))

    def finish(self, layer: str, attn: Any, hidden_states: Tensor, context: Tensor) -> None:
        """Where a pass ends in a layer before its attention, project what is wanted and no more."""
        is_last = self._stops and self._remaining == len(self._parts)
        if not is_last or "outputs" in self._parts:
            return
        made: dict[Part, tuple[Any, Tensor]] = {
            "queries": (attn.to_q, hidden_states),
            "keys": (attn.to_k, context),
            "values": (attn.to_v, context),
        }
        for part in self._parts:
            project, states = made[part]
            self._hold(part, layer, split_heads(attn, project(self._of(part, states))))

    def _of(self, part: Part, tensor: Tensor) -> Tensor:
        """The rows of which a part is wanted; a copy where they are not all."""
        return tensor[list(self._rows[part])] if part in self._rows else tensor

    def _hold(self, part: Part, layer: str, tensor: Tensor) -> None:
        held = getattr(self._captured, part)
        self._remaining -= layer not in held
        held[layer] = tensor
        if self._remaining == 0 and self._stops:
            raise PassEnded


class _Watched:
    """An attention processor that computes what the library's does."""

    def __init__(self, name: str, capture: Capture) -> None:
        self.name = name
        self.capture = capture

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "rows n c"],
        encoder_hidden_states: Float[Tensor, "rows m e"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "rows n c"]:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        capture, name = self.capture, self.name

        capture.finish(name, attn, hidden_states, context)
        query = split_heads(attn, attn.to_q(hidden_states))
        capture.keep("queries", name, query)
        if capture.attend is not None:
            mixed = capture.attend(name, query)
        else:
            key = split_heads(attn, attn.to_k(context))
            capture.keep("keys", name, key)
            value = split_heads(attn, attn.to_v(context))
            capture.keep("values", name, value)
            mixed = F.scaled_dot_product_attention(query, key, value)
        capture.keep("outputs", name, mixed)
        return projected(attn, mixed)
