"""Recording where FLUX's picture tokens look, in double and single blocks (RegionRoute sec. 4.3).

A recorder takes the place of a layer's processor, does what that does, and besides keeps each
target token's share of attention on the phrases it was told of. It keeps it as an attribute of its
own: a list that layers append to, or numbers of layers, would have `torch.compile` compile every
block anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.probe.base import Kept, Phrases
from stylecli.backbone.probe.slices import Way, fused_way, indicator, shares, width_for
from stylecli.errors import RecipeError, did_you_mean

_SUFFIX = ".attn.processor"
_DOUBLE, _SINGLE = "transformer_blocks.", "single_transformer_blocks."


@dataclass(slots=True)
class Asked:
    """What all recorders are asked; only a probe changes it.

    Attributes:
        values: From `slices.indicator`; None before `FluxProbe.watch`.
        first: Place of the first target token in the joint sequence, which begins with the text.
        last: Of the first token after them.
        phrases: Of the row that has most.
    """

    enabled: bool = True
    values: Float[Tensor, "b 1 keys width"] | None = None
    way: Way = "chunked"
    phrases: int = 0
    first: int = 0
    last: int = 0


class Recorder(FluxAttnProcessor):  # type: ignore[misc] # diffusers is untyped
    """The stock processor's answer, bit for bit, and what it saw on the way.

    Attributes:
        last: Of the last pass; sums over a phrase's tokens.
    """

    def __init__(self, asked: Asked, stock: Any) -> None:
        super().__init__()
        self._attention_backend = stock._attention_backend
        self._parallel_config = stock._parallel_config
        self.asked = asked
        self.last: Float[Tensor, "b n e"] | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "b n c"],
        encoder_hidden_states: Float[Tensor, "b text c"] | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Single blocks bring text and picture in one sequence, double blocks each of its own."""
        size = (-1, attn.head_dim)
        query = attn.norm_q(attn.to_q(hidden_states).unflatten(-1, size))
        key = attn.norm_k(attn.to_k(hidden_states).unflatten(-1, size))
        value = attn.to_v(hidden_states).unflatten(-1, size)
        if encoder_hidden_states is not None:
            words = encoder_hidden_states
            asking = attn.norm_added_q(attn.add_q_proj(words).unflatten(-1, size))
            asked_of = attn.norm_added_k(attn.add_k_proj(words).unflatten(-1, size))
            query, key = torch.cat([asking, query], dim=1), torch.cat([asked_of, key], dim=1)
            value = torch.cat([attn.add_v_proj(words).unflatten(-1, size), value], dim=1)
        if image_rotary_emb is not None:
            query = apply_rotary_emb(query, image_rotary_emb, sequence_dim=1)
            key = apply_rotary_emb(key, image_rotary_emb, sequence_dim=1)
        asked = self.asked
        if asked.enabled and asked.values is not None:
            rows = query[:, asked.first : asked.last].transpose(1, 2)
            keys = key.transpose(1, 2)
            self.last = shares(rows, keys, asked.values, asked.way, asked.phrases)
        mixed = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        mixed = mixed.flatten(2, 3).to(query.dtype)
        if encoder_hidden_states is None:
            return mixed  # type: ignore[no-any-return]
        length = encoder_hidden_states.shape[1]
        project, dropout = attn.to_out
        picture = dropout(project(mixed[:, length:].contiguous()))
        return picture, attn.to_add_out(mixed[:, :length].contiguous())


class FluxProbe:
    """`base.Probe` of a FLUX transformer, whose joint sequence is text, target, reference."""

    def __init__(
        self,
        recorders: Mapping[str, Recorder],
        asked: Asked,
        *,
        text_length: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.layers = tuple(recorders)
        self._recorders = tuple(recorders.values())
        self._asked = asked
        self._text_length = text_length
        self._head_dim = head_dim
        self._device = device
        self._dtype = dtype
        self._tokens: Float[Tensor, "b 1 e"] | None = None

    @property
    def enabled(self) -> bool:
        """Whether passes are recorded; off, a pass costs and leaves nothing."""
        return self._asked.enabled

    @enabled.setter
    def enabled(self, on: bool) -> None:
        self._asked.enabled = on

    def watch(self, phrases: Phrases, grid: tuple[int, int]) -> None:
        """As `Probe` says; the reference has as many tokens as the target.

        Raises:
            IndexError: A place is beyond the text.
        """
        self.clear()
        # A column at least, or there would be no values at all.
        most = max(1, *(len(row) for row in phrases))
        watched = (place for row in phrases for one in row for place in one)
        if not all(0 <= place < self._text_length for place in watched):
            raise IndexError(f"a phrase is watched beyond the text's {self._text_length} tokens")
        cells = grid[0] * grid[1]
        asked = self._asked
        way = fused_way(self._head_dim, self._device, self._dtype)
        asked.phrases = most
        asked.way, width = width_for(way, most, self._head_dim)
        asked.values = indicator(
            phrases,
            self._text_length + 2 * cells,
            width,
            device=self._device,
            dtype=self._dtype,
        )
        asked.first, asked.last = self._text_length, self._text_length + cells
        tokens = torch.ones(len(phrases), 1, most)
        for row, given in enumerate(phrases):
            for column, places in enumerate(given):
                tokens[row, 0, column] = len(set(places)) or 1
        self._tokens = tokens.to(self._device)

    def maps(self) -> Float[Tensor, "b n e"]:
        """As `Probe` says."""
        return torch.stack(self.per_layer()).mean(dim=0)

    def per_layer(self) -> list[Float[Tensor, "b n e"]]:
        """As `Probe` says."""
        tokens = self._tokens
        found = [recorder.last for recorder in self._recorders if recorder.last is not None]
        if tokens is None or len(found) != len(self._recorders):
            raise RuntimeError("no pass was recorded since the probe was told what to watch")
        return [one / tokens for one in found]

    def clear(self) -> None:
        """As `Probe` says."""
        for recorder in self._recorders:
            recorder.last = None

    def kept(self) -> Kept:
        """As `Probe` says."""
        return Kept(self._recorders, "last")


@contextmanager
def probing(
    model: Any, layers: str, *, text_length: int, device: torch.device, dtype: torch.dtype
) -> Iterator[FluxProbe]:
    """Recorders in place of the processors of some layers, until the block ends.

    Raises:
        RecipeError: No such layers.
        RuntimeError: A probe is open already, or attention was rebuilt by fusing its projections.
    """
    before: dict[str, Any] = dict(model.attn_processors)
    chosen = select(layers, [name.removesuffix(_SUFFIX) for name in before])
    if any(type(processor) is not FluxAttnProcessor for processor in before.values()):
        raise RuntimeError("attention of this model has been replaced already")
    if any(getattr(module, "fused_projections", False) for module in model.modules()):
        raise RuntimeError("projections of this model are fused; call unfuse_qkv_projections()")
    asked = Asked()
    recorders = {name: Recorder(asked, before[name + _SUFFIX]) for name in chosen}
    # The dict is emptied by whom it is given to.
    model.set_attn_processor(
        {**before, **{name + _SUFFIX: recorder for name, recorder in recorders.items()}}
    )
    probe = FluxProbe(
        recorders,
        asked,
        text_length=text_length,
        head_dim=model.config.attention_head_dim,
        device=device,
        dtype=dtype,
    )
    try:
        yield probe
    finally:
        probe.clear()
        model.set_attn_processor(dict(before))


def select(layers: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names of the attention layers that a setting means; auto is all (the authors' choice).

    >>> names = ["transformer_blocks.0", "single_transformer_blocks.0"]
    >>> select("single", names), select("every:2", names)
    (('single_transformer_blocks.0',), ('transformer_blocks.0',))

    Raises:
        RecipeError: No such layers.
    """
    if layers in ("auto", "all"):
        return tuple(names)
    if layers in ("double", "single"):
        prefix = _DOUBLE if layers == "double" else _SINGLE
        found = tuple(name for name in names if name.startswith(prefix))
    elif layers.startswith("every:"):
        step = layers.removeprefix("every:")
        found = tuple(names[:: int(step)]) if step.isdecimal() and int(step) else ()
    else:
        found = tuple(dict.fromkeys(layers.split(",")))
        if unknown := next((name for name in found if name not in names), None):
            raise RecipeError(
                f"route.loss.layers: no attention layer {unknown!r} in this model",
                fix=f"{did_you_mean(unknown, names)}they are {names[0]} to {names[-1]}; "
                "or auto, all, double, single, every:K",
            )
    if not found:
        raise RecipeError(
            f"route.loss.layers {layers}: this model has no such attention layers",
            fix="--set route.loss.layers=all",
        )
    return found
