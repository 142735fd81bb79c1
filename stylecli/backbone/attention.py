"""What one pass through the UNet hands to another: queries, keys and features.

`Exchange` is installed once per run, in a ``with`` block that puts everything back. Between passes
it is told what to do: *take* from the source rows, *give* to the target rows, or stay out of the
way. Nothing here knows a step or a timestep. Rows may come in chunks, one call of the UNet after
another: what was taken and given goes on where the call before ended.

Attention matrices are never formed. ``((1-k) A_s + k A_t) V`` is ``(1-k) SDPA(Q_s, K_s, V) +
k SDPA(Q_t, K_t, V)`` because multiplication by ``V`` distributes over the sum (DiffStyler eq. 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.backbone.layers import DecoderLayer
from stylecli.errors import RecipeError

Tap = Literal["residual", "output"]
Mix = Literal["probs", "qk"]
# What the source rows left at one step, by layer.
Taken = Mapping[str, tuple[Tensor, ...]]


class PassEnded(Exception):  # noqa: N818 - a way out, not a fault
    """Raised inside a pass of the UNet when nothing that follows is wanted."""


class Exchange:
    """Carries tensors of the source rows to the target rows, layer by layer.

    Target row ``r`` looks through source row ``r mod S`` of ``S`` source rows, so target rows are
    laid out ``[uncond 1..S | cond 1..S]``, once or for several looks one after another.
    """

    def __init__(
        self,
        *,
        features: Sequence[DecoderLayer],
        attention: Sequence[str],
        tap: Tap = "residual",
        mix: Mix = "probs",
    ) -> None:
        self._features = tuple(features)
        self._attention = tuple(attention)
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

    @contextmanager
    def installed(self, unet: Any) -> Iterator[None]:
        """Put processors and resnet wrappers into a UNet, and take them out again.

        Raises:
            RecipeError: An attention layer uses something the exchange does not support; nothing
                was changed.
        """
        before = unet.attn_processors
        for name in self._attention:
            refuse_unsupported(name, unet.get_submodule(name.removesuffix(".processor")))
        wrapped: list[tuple[nn.ModuleList, int, nn.Module]] = []
        counting = unet.register_forward_pre_hook(self._count)
        try:
            # set_attn_processor() empties the dict it is given, so give it a fresh one.
            unet.set_attn_processor(
                {**before, **{name: _SharedAttention(name, self) for name in self._attention}}
            )
            for layer in self._features:
                resnets = unet.up_blocks[layer.block].resnets
                wrapped.append((resnets, layer.index, resnets[layer.index]))
                resnets[layer.index] = _SharedFeature(
                    f"feature.{layer.number}", resnets[layer.index], self
                )
            yield
        finally:
            counting.remove()
            for resnets, index, resnet in wrapped:
                cast(_SharedFeature, resnets[index]).release()
                resnets[index] = resnet
            unet.set_attn_processor(dict(before))
            self._store.clear()

    def _count(self, _unet: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._first, self._next = self._next, self._next + len(inputs[0])

    @contextmanager
    def taking(
        self, *, features: bool, attention: bool, stop: bool, first: int = 0
    ) -> Iterator[None]:
        """Inside, one call of the UNet records source rows.

        Args:
            features: Record the features.
            attention: Record queries and keys.
            stop: End the block as soon as all is recorded: the rest of the decoder is not computed,
                and neither is the pass's own output. For callers who do not want it.
            first: Rows that were recorded before these, and are kept; 0 forgets all.
        """
        self._stops_early = stop
        self.taking_features = features and bool(self._features)
        self.taking_attention = attention and bool(self._attention)
        self._remaining = (
            len(self._features) * self.taking_features
            + len(self._attention) * self.taking_attention
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
        self.giving_features = features and bool(self._features)
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


class _SharedAttention:
    """An attention processor whose rows may look through the source's eyes.

    Queries and keys decide where a token looks, values what it finds there: taking the first two
    keeps the content's layout, leaving the values alone keeps each row's own appearance.
    """

    def __init__(self, key: str, exchange: Exchange) -> None:
        self.key = key
        self.exchange = exchange

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "rows n c"],
        encoder_hidden_states: Float[Tensor, "rows m e"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "rows n c"]:
        exchange = self.exchange
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        kappa = exchange.kappa
        own = kappa > 0
        # A row that looks wholly through the source's eyes never needs its own.
        query = split_heads(attn, attn.to_q(hidden_states)) if own else None
        key = split_heads(attn, attn.to_k(context)) if own else None
        if exchange.taking_attention and query is not None and key is not None:
            exchange.put(self.key, query, key)
        value = split_heads(attn, attn.to_v(context))

        if kappa < 1:
            source_query, source_key = exchange.get(self.key, len(value))
            if query is None or key is None:
                mixed = F.scaled_dot_product_attention(source_query, source_key, value)
            elif exchange.mix == "qk":
                mixed = F.scaled_dot_product_attention(
                    (1 - kappa) * source_query + kappa * query,
                    (1 - kappa) * source_key + kappa * key,
                    value,
                )
            else:
                theirs = F.scaled_dot_product_attention(source_query, source_key, value)
                ours = F.scaled_dot_product_attention(query, key, value)
                mixed = (1 - kappa) * theirs + kappa * ours
        else:
            mixed = F.scaled_dot_product_attention(cast(Tensor, query), cast(Tensor, key), value)
        return projected(attn, mixed)


def split_heads(attn: Any, x: Float[Tensor, "rows n c"]) -> Float[Tensor, "rows heads n d"]:
    """Queries, keys or values as a layer's heads see them."""
    rows, n, _ = x.shape
    return x.view(rows, n, attn.heads, -1).transpose(1, 2)


def projected(attn: Any, mixed: Float[Tensor, "rows heads n d"]) -> Float[Tensor, "rows n c"]:
    """What a layer makes of its heads' results."""
    project, dropout = attn.to_out
    return cast(Tensor, dropout(project(mixed.transpose(1, 2).flatten(-2))))


class _SharedFeature(nn.Module):
    """A resnet whose residual branch (or output) may come from the source rows.

    ``out = (shortcut(x) + f) / scale``. With the residual tap the target keeps its own shortcut, a
    soft override (Plug-and-Play and the reference code); and as ``f`` comes from the source, the
    target's two convolutions are not computed at all.
    """

    def __init__(self, key: str, resnet: Any, exchange: Exchange) -> None:
        super().__init__()
        self.key = key
        self.exchange = exchange
        self.resnet = resnet
        self._handle = resnet.conv2.register_forward_hook(self._after_conv2)

    def release(self) -> None:
        self._handle.remove()

    def _after_conv2(self, _module: nn.Module, _inputs: object, feature: Tensor) -> None:
        if self.exchange.taking_features and self.exchange.tap == "residual":
            self.exchange.put(self.key, feature)

    def forward(
        self, input_tensor: Float[Tensor, "rows c h w"], temb: Tensor, *args: Any, **kwargs: Any
    ) -> Float[Tensor, "rows d h w"]:
        exchange = self.exchange
        if exchange.giving_features:
            (source,) = exchange.get(self.key, len(input_tensor))
            if exchange.tap == "output":
                return source
            resnet = self.resnet
            shortcut = resnet.conv_shortcut(input_tensor) if resnet.conv_shortcut else input_tensor
            return cast(Tensor, (shortcut + source) / resnet.output_scale_factor)
        output = self.resnet(input_tensor, temb, *args, **kwargs)
        if exchange.taking_features and exchange.tap == "output":
            exchange.put(self.key, output)
        return cast(Tensor, output)


def refuse_unsupported(name: str, attn: Any) -> None:
    """See that an attention layer is of the plain kind whose parts can be told apart.

    Raises:
        RecipeError: It is not.
    """
    unsupported = {
        "group_norm": attn.group_norm is not None,
        "spatial_norm": attn.spatial_norm is not None,
        "norm_q": attn.norm_q is not None,
        "norm_cross": bool(attn.norm_cross),
        "residual_connection": bool(attn.residual_connection),
        "rescale_output_factor": attn.rescale_output_factor != 1,
        "fused projections": bool(attn.fused_projections),
    }
    for what, present in unsupported.items():
        if present:
            raise RecipeError(
                f"{name.removesuffix('.processor')} uses {what}, which injection does not support",
                fix="use a UNet of the Stable Diffusion family, unfused",
            )
