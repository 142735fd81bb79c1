"""What of the style should not have arrived."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.errors import ItemError
from stylecli.evaluation import palette
from stylecli.evaluation.catalogue.asking import mean, style_cosine, text_cosine
from stylecli.evaluation.metric import Row, of_region, of_style


def style_content_leak(row: Row) -> float:
    return _leak(row, "dinov2")


def pocket_leak(row: Row) -> float:
    return _leak(row, "pocket-clip")


def prompt_leak(row: Row) -> float:
    output = text_cosine(row, "clip-l14", "output", "style_content")
    return output - text_cosine(row, "clip-l14", "content", "style_content")


def palette_leak(row: Row) -> float:
    """Positive where the background took on the style's colours."""
    outside = 1 - row.mask()

    def distance(role: str) -> float:
        picture = row.picture(role)
        return mean(
            palette.color_sw(picture, style, mask_a=outside) for style in row.pictures("style")
        )

    return distance("content") - distance("output")


def region_leak(row: Row) -> float:
    def cosine(role: str) -> float:
        filled = _without_region(row.pixels(role), row.mask())
        one = row.crop_embedding("clip-b32", filled)
        return float((row.embeddings("clip-b32", "style") @ one.T).mean())

    return cosine("output") - cosine("content")


def _leak(row: Row, extractor: str) -> float:
    return max(
        0.0, style_cosine(row, extractor, "output") - style_cosine(row, extractor, "content")
    )


def _without_region(
    pixels: UInt8[Tensor, "h w 3"], mask: Float[Tensor, "h w"]
) -> UInt8[Tensor, "h w 3"]:
    outside = (mask < 0.5).cpu()
    if not outside.any():
        raise ItemError("the mask covers the whole picture", fix="give a mask with a background")
    filled = pixels.clone()
    filled[~outside] = pixels[outside].float().mean(dim=0).round().to(torch.uint8)
    return filled


ROWS = (
    of_style(
        "style_content_leak",
        "lower",
        "how much nearer than the content the output is to what the style depicts (DINOv2)",
        low=0,
        high=2,
        columns=("content", "style"),
        uses=("dinov2",),
        compute=style_content_leak,
    ),
    of_style(
        "prompt_leak",
        "lower",
        "CLIP cosine to the words for the style's subject, output minus content",
        low=-2,
        high=2,
        columns=("content", "style_content"),
        uses=("clip-l14",),
        compute=prompt_leak,
    ),
    of_region(
        "palette_leak",
        "lower",
        "how much nearer to the style's colours the background came (color_sw)",
        columns=("content", "style", "mask"),
        compute=palette_leak,
    ),
    of_region(
        "region_leak",
        "lower",
        "CLIP ViT-B/32 cosine of the background to the style, output "
        "minus content, region filled with its mean colour",
        low=-2,
        high=2,
        columns=("content", "style", "mask"),
        uses=("clip-b32",),
        compute=region_leak,
    ),
    of_style(
        "pocket-leak",
        "lower",
        "style_content_leak by pocket-clip",
        low=0,
        high=2,
        columns=("content", "style"),
        uses=("pocket-clip",),
        compute=pocket_leak,
    ),
)
