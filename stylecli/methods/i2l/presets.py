"""Sizes of predictors by name, and what each backbone gets where a recipe leaves the choice to us.

The paper gives the total number of parameters on three backbones and nothing of how it comes about.
One set of sizes cannot give all three, so the bottleneck of `paper`, and the depth of
`paper-trainable`, are fitted to each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stylecli.backbone.registry import find
from stylecli.errors import RecipeError
from stylecli.methods.i2l.sizes import Shape
from stylecli.recipe.i2l import I2L

# The encoder's width is not a preset's business: `Resolved.shape` is told.
_PAPER = Shape(encoder_width=0, width=1536, depth=14, heads=12, hidden=4096, bottleneck=128, rank=8)
PRESETS: Mapping[str, Shape] = {
    "paper": _PAPER,
    "paper-trainable": replace(_PAPER, width=2048, depth=22, heads=16, hidden=5632, bottleneck=256),
    "sd": replace(_PAPER, width=768, depth=8, heads=12, hidden=2048, bottleneck=64, rank=4),
    "micro": replace(_PAPER, width=256, depth=4, heads=4, hidden=704, bottleneck=32, rank=4),
    "nano": replace(_PAPER, width=192, depth=3, heads=3, hidden=512, bottleneck=24, rank=2),
}
# Of a preset, on backbones of a kind.
FITTED: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("paper", "flux2"): {"bottleneck": 192},
    ("paper", "hidream"): {"bottleneck": 208},
    ("paper-trainable", "flux2"): {"depth": 27},
    ("paper-trainable", "hidream"): {"depth": 26},
}
# Where only the width of a trunk was said: what its inner width is rounded to, and the size of its
# heads where the preset's does not fit.
HIDDEN_MULTIPLE = HEAD = 64


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a recipe means on one backbone.

    Attributes:
        preset: Its name.
        encoder: Id of the encoder, or a folder.
        layer_set: Whose LoRA is predicted.
    """

    preset: str
    encoder: str
    layer_set: str
    _sizes: Shape

    def shape(self, encoder_width: int) -> Shape:
        """Of the predictor whose encoder makes tokens of this width."""
        return replace(self._sizes, encoder_width=encoder_width)


def resolve(settings: I2L, backbone: str) -> Resolved:
    """Fill in what a recipe leaves out.

    Args:
        backbone: A name of the registry, or a folder.

    Raises:
        InputError: There is no such backbone.
        RecipeError: No predictor can have these sizes.
    """
    source = find(backbone)
    is_unet, is_pocket = source.kind == "unet", source.clip == "pocket-clip"
    preset = settings.predictor.preset
    if preset == "auto":
        preset = "nano" if is_pocket else "sd" if is_unet else "paper"
    encoder, layer_set = settings.encoder.id, settings.layer_set
    if encoder == "auto":
        large = "siglip2-base-256" if is_unet else "siglip2-giant-384"
        encoder = "pocket-clip" if is_pocket else large
    if layer_set == "auto":
        layer_set = "full" if not is_unet else "attn2" if preset == "nano" else "attn"
    return Resolved(preset, encoder, layer_set, _sizes(settings, preset, source.kind))


def sizes(preset: str, kind: str) -> Shape:
    """Of a preset on backbones of a kind, as published or fitted; the encoder's width is open."""
    return replace(PRESETS[preset], **FITTED.get((preset, kind), {}))


def _sizes(settings: I2L, preset: str, kind: str) -> Shape:
    usual, said = sizes(preset, kind), settings.predictor
    width = said.d or usual.width
    heads, hidden = usual.heads, usual.hidden
    if width != usual.width:
        head = usual.width // usual.heads
        heads = width // head if width % head == 0 else max(1, width // HEAD)
        hidden = max(1, round(width * 8 / 3 / HIDDEN_MULTIPLE)) * HIDDEN_MULTIPLE
    try:
        return Shape(
            encoder_width=0,
            width=width,
            depth=said.depth or usual.depth,
            heads=said.heads or heads,
            hidden=said.ff or hidden,
            bottleneck=said.bottleneck or usual.bottleneck,
            rank=said.rank or usual.rank,
            query_std=said.query_std,
        )
    except ValueError as error:
        raise RecipeError(
            f"no predictor has such sizes: {error}",
            fix="change d and heads, or bottleneck and rank, of i2l.predictor",
        ) from error
