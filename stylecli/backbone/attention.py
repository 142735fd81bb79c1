"""Where UNets of the Stable Diffusion family hand over what an exchange carries.

Queries and keys are those of attention in the decoder, features those of its resnets; all is put in
place for the length of a ``with`` block, and nothing of the model is changed for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.backbone.exchange import Exchange, Eyes, Mix, Tap
from stylecli.backbone.layers import DecoderLayer, anchor, decoder_layers, select
from stylecli.errors import RecipeError
from stylecli.recipe.schema import Injection


class UnetExchange(Exchange):
    """Carries resnets' features, and queries and keys of attention, between passes of a UNet."""

    def __init__(
        self,
        *,
        features: Sequence[DecoderLayer],
        attention: Sequence[str],
        tap: Tap = "residual",
        mix: Mix = "probs",
    ) -> None:
        super().__init__(features=len(features), attention=len(attention), tap=tap, mix=mix)
        self._features = tuple(features)
        self._layers = tuple(attention)

    @classmethod
    def of(cls, unet: Any, injection: Injection) -> UnetExchange:
        """What a recipe asks to be handed over where.

        Raises:
            RecipeError: A layer that this UNet does not have.
        """
        layers = decoder_layers(unet)
        own = select(layers, injection.attn_layers, anchor, key="attn_layers", with_attention=True)
        cross = select(layers, injection.attn_cross, anchor, key="attn_cross", with_attention=True)
        return cls(
            features=select(
                layers, injection.feature_layers, anchor, key="feature_layers", with_attention=False
            ),
            attention=[
                *(name for layer in own for name in layer.self_attention),
                *(name for layer in cross for name in layer.cross_attention),
            ],
            tap=injection.feature_tap,
            mix=injection.attn_mix,
        )

    @contextmanager
    def installed(self, model: Any) -> Iterator[None]:
        """Put processors and resnet wrappers into a UNet, and take them out again.

        Raises:
            RecipeError: An attention layer uses something the exchange does not support; nothing
                was changed.
        """
        before = model.attn_processors
        for name in self._layers:
            refuse_unsupported(name, model.get_submodule(name.removesuffix(".processor")))
        wrapped: list[tuple[nn.ModuleList, int, nn.Module]] = []
        counting = model.register_forward_pre_hook(self._count)
        try:
            # set_attn_processor() empties the dict it is given, so give it a fresh one.
            model.set_attn_processor(
                {**before, **{name: _SharedAttention(name, self) for name in self._layers}}
            )
            for layer in self._features:
                resnets = model.up_blocks[layer.block].resnets
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
            model.set_attn_processor(dict(before))
            self._store.clear()

    def _count(self, _unet: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._begins(len(inputs[0]))


class _SharedAttention:
    """An attention processor whose rows may look through the source's eyes.

    Queries and keys decide where a token looks, values what it finds there: taking the first two
    keeps the content's layout, leaving the values alone keeps each row's own appearance.
    """

    def __init__(self, key: str, exchange: UnetExchange) -> None:
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

        def own() -> Eyes:
            return Eyes(
                split_heads(attn, attn.to_q(hidden_states)), split_heads(attn, attn.to_k(context))
            )

        mixed = exchange.attended(
            self.key,
            len(hidden_states),
            own,
            lambda: split_heads(attn, attn.to_v(context)),
            lambda eyes, value: F.scaled_dot_product_attention(*eyes, value),
        )
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

    def __init__(self, key: str, resnet: Any, exchange: UnetExchange) -> None:
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
