"""The decoder layers of a UNet, numbered as in the papers.

Layer ``n`` is the n-th resnet of ``unet.up_blocks``, counted through all blocks; its attention,
where it has one, is the transformer that follows it. SD1.5 and SD2.1 have layers 0 to 11.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from stylecli.errors import RecipeError
from stylecli.recipe.schema import Layers
from stylecli.recipe.strict import AttentionLayers


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What a recipe's numbers of layers mean.

    Attributes:
        self_attention: Processor names of its self-attentions; empty without attention.
    """

    number: int
    self_attention: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayer(Layer):
    """One resnet of the decoder and the attentions after it: ``attn1``, and ``attn2`` to words.

    Attributes:
        block: Index into ``unet.up_blocks``.
        index: Index into that block's ``resnets``.
        cross_attention: Processor names of its ``attn2``.
    """

    block: int
    index: int
    cross_attention: tuple[str, ...]


Some = TypeVar("Some", bound=Layer)


def decoder_layers(unet: Any) -> list[DecoderLayer]:
    """All decoder layers in the order the UNet runs them.

    Raises:
        RecipeError: An up block's attention is not a stack of transformer blocks.
    """
    layers: list[DecoderLayer] = []
    for b, block in enumerate(unet.up_blocks):
        attentions = getattr(block, "attentions", None) or []
        for j in range(len(block.resnets)):
            depth = 0
            if j < len(attentions):
                transformer = attentions[j]
                if not hasattr(transformer, "transformer_blocks"):
                    raise RecipeError(
                        f"up_blocks.{b}.attentions.{j} is a {type(transformer).__name__}, "
                        "which injection does not know",
                        fix="use a UNet of the Stable Diffusion family",
                    )
                depth = len(transformer.transformer_blocks)
            stem = f"up_blocks.{b}.attentions.{j}.transformer_blocks"
            layers.append(
                DecoderLayer(
                    number=len(layers),
                    block=b,
                    index=j,
                    self_attention=tuple(f"{stem}.{d}.attn1.processor" for d in range(depth)),
                    cross_attention=tuple(f"{stem}.{d}.attn2.processor" for d in range(depth)),
                )
            )
    return layers


def anchor(layers: Sequence[DecoderLayer]) -> int:
    """The second resnet of the first block with attention: layer 4 of Stable Diffusion.

    Raises:
        RecipeError: No such layer.
    """
    for layer in layers:
        if layer.self_attention and layer.index == 1:
            return layer.number
    raise RecipeError(
        "this UNet's decoder has no attention to anchor on", fix="name the layers by number"
    )


def select(
    layers: Sequence[Some],
    which: Layers,
    anchored: Callable[[Sequence[Some]], int],
    *,
    key: str,
    with_attention: bool,
    section: str = "injection",
) -> list[Some]:
    """The layers a recipe means by ``none``, ``anchor``, ``from_anchor``, ``all`` or numbers.

    Args:
        layers: All of a model, such as `decoder_layers` gives.
        which: Value of the setting.
        anchored: Finds the number of the anchor, such as `anchor`.
        key: Name of the setting, for messages.
        with_attention: Only layers that own attention count.
        section: Of the setting, for messages.

    Raises:
        RecipeError: A number out of range, or of a layer without the attention asked for.
    """
    usable = [layer for layer in layers if layer.self_attention or not with_attention]
    if which == "none":
        return []
    if which == "all":
        return usable
    if which == "anchor":
        return [layers[anchored(layers)]]
    if which == "from_anchor":
        first = anchored(layers)
        return [layer for layer in usable if layer.number >= first]
    known = {layer.number: layer for layer in usable}
    for number in which:
        if number not in known:
            reason = "has no attention" if number < len(layers) else "does not exist"
            raise RecipeError(
                f"{section}.{key}: layer {number} {reason}",
                fix=f"allowed: {', '.join(map(str, known))}",
            )
    return [known[number] for number in sorted(set(which))]


def self_attention(unet: Any, which: AttentionLayers, *, section: str) -> list[str]:
    """Processor names of the self-attentions a recipe means, in the order the UNet runs them.

    Args:
        which: Value of the key ``layers`` of a section.
        section: For messages.

    Raises:
        RecipeError: A number out of range or of a layer without attention, or no layer at all.
    """
    layers = decoder_layers(unet)
    if which == "last_six":
        chosen = [layer for layer in layers if layer.self_attention][-6:]
    else:
        chosen = select(layers, which, anchor, key="layers", with_attention=True, section=section)
    if not chosen:
        raise RecipeError(
            "this UNet's decoder has no self-attention",
            fix="use a UNet of the Stable Diffusion family",
        )
    return [name for layer in chosen for name in layer.self_attention]


def cells_per_token(unet: Any, name: str) -> int:
    """How many cells of the latents a token of a decoder layer's attention spans, each way.

    Where the latents are no multiple of that, the last tokens span fewer.

    Args:
        unet: Whose.
        name: Of the layer's processor, as `self_attention` has it.
    """
    block = int(name.removeprefix("up_blocks.").partition(".")[0])
    # Attention comes before its own block's upsampler.
    return int(2 ** sum(bool(later.upsamplers) for later in unet.up_blocks[block:]))
