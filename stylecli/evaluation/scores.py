"""What each metric does with one output: short functions from a `Row` to a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from stylecli.errors import ItemError
from stylecli.evaluation import content, matching, metrics, palette, regional
from stylecli.evaluation import lpips as lpips_module
from stylecli.evaluation.matching import MatchScore

UNIT = (0.0, 1.0)
MAX_PSNR = 100.0
# Pocket's network knows 64 to 128 px; what is larger than this it is shown smaller.
POCKET_PX = 512
GRAM_TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
MATCH_TAPS = ("relu3_1", "relu4_1")


class Row(Protocol):
    """One output and what it is compared with; a metric touches only what it declared.

    Roles are ``output``, ``content``, ``style`` (of which there may be several) and ``target``.
    """

    def picture(self, role: str) -> Float[Tensor, "1 3 h w"]:
        """In [0, 1]; content and target at the output's size."""

    def pictures(self, role: str) -> Sequence[Float[Tensor, "1 3 _h _w"]]:
        """In [0, 1], each at its own size."""

    def pixels(self, role: str) -> UInt8[Tensor, "h w 3"]:
        """Bytes; content and target at the output's size."""

    def mask(self) -> Float[Tensor, "h w"]:
        """1 where the output was to be changed; at the output's size."""

    def words(self, column: str) -> str:
        """A text column of the manifest."""

    def embeddings(self, extractor: str, role: str) -> Float[Tensor, "k d"]:
        """One vector for every picture of a role."""

    def text(self, extractor: str, text: str) -> Float[Tensor, "1 d"]:
        """The unit vector of a text."""

    def crop_embedding(
        self, extractor: str, pixels: UInt8[Tensor, "h w 3"]
    ) -> Float[Tensor, "1 d"]:
        """The unit vector of a picture made on the way."""

    def taps(self, network: str, role: str) -> Sequence[Sequence[Float[Tensor, "1 _c _h _w"]]]:
        """For every picture of a role its features, layer by layer."""

    def network(self, name: str) -> Any:
        """A loaded network."""

    def setting(self, name: str) -> str:
        """A setting of the recipe section `evaluate`."""


def lpips(row: Row) -> float:
    return _lpips(row, "lpips-alex", "content")


def lpips_vgg(row: Row) -> float:
    return _lpips(row, "lpips-vgg", "content")


def lpips_gray(row: Row) -> float:
    planes = [lpips_module.luminance(row.picture(role)) for role in ("output", "content")]
    return float(row.network("lpips-alex").distance(*planes, value_range=UNIT))


def lpips_spatial(row: Row) -> float:
    return float(_lpips_map(row, row.picture("output")).mean())


def ssim(row: Row) -> float:
    return float(content.ssim(row.picture("output"), row.picture("content")))


def psnr(row: Row) -> float:
    """Equal pictures count as 100 dB: one infinity would be the mean of all."""
    return min(MAX_PSNR, metrics.psnr(row.picture("output"), row.picture("content")))


def mse(row: Row) -> float:
    return float(content.mse(row.picture("output"), row.picture("content")))


def edge_correlation(row: Row) -> float:
    return float(metrics.edge_correlation(row.picture("output"), row.picture("content")))


def delta_e(row: Row) -> float:
    return float(palette.delta_e(row.picture("output"), row.picture("content")))


def pocket_lpips(row: Row) -> float:
    return _pocket_lpips(row, "content")


def gram(row: Row) -> float:
    return _mean(metrics.gram(a, b) for a, b in _tap_pairs(row, "vgg19"))


def gram_rel(row: Row) -> float:
    return _mean(metrics.gram_rel(a, b) for a, b in _tap_pairs(row, "vgg19"))


def pocket_gram(row: Row) -> float:
    return _mean(metrics.gram_rel(a, b) for a, b in _tap_pairs(row, "pocket-lpips"))


def style_match(row: Row) -> float:
    return _style_match(row).hungarian


def style_match_nn(row: Row) -> float:
    return _style_match(row).nearest


def _style_match(row: Row) -> MatchScore:
    chosen = [GRAM_TAPS.index(tap) for tap in MATCH_TAPS]

    def descriptors(role: str) -> list[Tensor]:
        pictures = row.taps("vgg19", role)
        return [
            torch.cat([matching.block_descriptors(layers[i]) for layers in pictures])
            for i in chosen
        ]

    return matching.style_match(descriptors("output"), descriptors("style"))


def color_hist(row: Row) -> float:
    output = row.picture("output")
    return _mean(palette.color_hist(output, style) for style in row.pictures("style"))


def color_sw(row: Row) -> float:
    output = row.picture("output")
    return _mean(palette.color_sw(output, style) for style in row.pictures("style"))


def clip_i_style(row: Row) -> float:
    return _style_cosine(row, "clip-l14", "output")


def pocket_clip_style(row: Row) -> float:
    return _style_cosine(row, "pocket-clip", "output")


def clip_text(row: Row) -> float:
    return _text_cosine(row, "clip-l14", "output", "prompt")


def clip_t_style(row: Row) -> float:
    return _text_cosine(row, "clip-l14", "output", "style_text")


def pocket_clip_text(row: Row) -> float:
    return _text_cosine(row, "pocket-clip", "output", "prompt")


def rsm(row: Row) -> float:
    """Region-style match (RegionRoute, RSE-Score): (cos + 1) / 2 of the region's crop."""
    return _rsm(row, "clip-b32", "output", "style_text")


def rsm_contrast(row: Row) -> float:
    return rsm(row) - _rsm(row, "clip-b32", "output", "negative_style")


def rsm_gain(row: Row) -> float:
    return rsm(row) - _rsm(row, "clip-b32", "content", "style_text")


def pocket_rsm(row: Row) -> float:
    return _rsm(row, "pocket-clip", "output", "style_text")


def lpips_bg(row: Row) -> float:
    return regional.background_mean(_lpips_map(row, row.picture("output")), row.mask())


def lpips_bg_strict(row: Row) -> float:
    """Blind to what was changed inside the mask, which the paper's form is not."""
    pasted = regional.paste_inside(row.picture("output"), row.picture("content"), row.mask())
    return regional.background_mean(_lpips_map(row, pasted), row.mask())


def lpips_bg_band(row: Row) -> float:
    wider = regional.outside_band(row.mask())
    return regional.background_mean(_lpips_map(row, row.picture("output")), wider)


def pocket_lpips_bg(row: Row) -> float:
    pasted = regional.paste_inside(row.picture("output"), row.picture("content"), row.mask())
    distance = _pocket_distance(row, pasted, row.picture("content"))
    everywhere = torch.full_like(row.mask(), distance)
    # Inside nothing differs any more, so all of the distance lies outside.
    return regional.background_mean(everywhere, row.mask()) / float((1 - row.mask()).mean())


def mse_bg(row: Row) -> float:
    return regional.mse_bg(row.picture("output"), row.picture("content"), row.mask())


def mse_bg_pm1(row: Row) -> float:
    return mse_bg(row) * regional.MSE_BG_SCALES["pm1"]


def mse_bg_sum(row: Row) -> float:
    return mse_bg(row) * regional.MSE_BG_SCALES["sum"]


def psnr_bg(row: Row) -> float:
    found = regional.psnr_bg(row.picture("output"), row.picture("content"), row.mask())
    return min(MAX_PSNR, found)


def bg_shift(row: Row) -> float:
    return regional.bg_shift(row.picture("output"), row.picture("content"), row.mask())


def style_content_leak(row: Row) -> float:
    return _leak(row, "dinov2")


def pocket_leak(row: Row) -> float:
    return _leak(row, "pocket-clip")


def prompt_leak(row: Row) -> float:
    output = _text_cosine(row, "clip-l14", "output", "style_content")
    return output - _text_cosine(row, "clip-l14", "content", "style_content")


def palette_leak(row: Row) -> float:
    """Positive where the background took on the style's colours."""
    outside = 1 - row.mask()

    def distance(role: str) -> float:
        picture = row.picture(role)
        return _mean(
            palette.color_sw(picture, style, mask_a=outside) for style in row.pictures("style")
        )

    return distance("content") - distance("output")


def region_leak(row: Row) -> float:
    def cosine(role: str) -> float:
        filled = _without_region(row.pixels(role), row.mask())
        one = row.crop_embedding("clip-b32", filled)
        return float((row.embeddings("clip-b32", "style") @ one.T).mean())

    return cosine("output") - cosine("content")


def t_lpips(row: Row) -> float:
    return _lpips(row, "lpips-alex", "target")


def t_lpips_vgg(row: Row) -> float:
    return _lpips(row, "lpips-vgg", "target")


def t_ssim(row: Row) -> float:
    return float(content.ssim(row.picture("output"), row.picture("target")))


def t_edge(row: Row) -> float:
    return float(metrics.edge_correlation(row.picture("output"), row.picture("target")))


def t_palette(row: Row) -> float:
    return float(palette.color_sw(row.picture("output"), row.picture("target")))


def t_pocket_lpips(row: Row) -> float:
    return _pocket_lpips(row, "target")


def _lpips(row: Row, network: str, role: str) -> float:
    pair = row.picture("output"), row.picture(role)
    return float(row.network(network).distance(*pair, value_range=UNIT))


def _lpips_map(row: Row, output: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "h w"]:
    found: Tensor = row.network("lpips-alex").map(output, row.picture("content"), value_range=UNIT)
    return found[0]


def _pocket_lpips(row: Row, role: str) -> float:
    return _pocket_distance(row, row.picture("output"), row.picture(role))


def _pocket_distance(row: Row, a: Tensor, b: Tensor) -> float:
    short = min(a.shape[-2:])
    if short > POCKET_PX:
        size = [side * POCKET_PX // short for side in a.shape[-2:]]
        a, b = (F.interpolate(x, size, mode="bilinear", antialias=True) for x in (a, b))
    return float(row.network("pocket-lpips").distance(a, b))


def _tap_pairs(row: Row, network: str) -> list[tuple[Sequence[Tensor], Sequence[Tensor]]]:
    output = row.taps(network, "output")[0]
    return [(output, style) for style in row.taps(network, "style")]


def _style_cosine(row: Row, extractor: str, role: str) -> float:
    """Mean over the references: one near copy must not hide the others."""
    return float((row.embeddings(extractor, "style") @ row.embeddings(extractor, role).T).mean())


def _text_cosine(row: Row, extractor: str, role: str, column: str) -> float:
    text = row.text(extractor, row.words(column))
    return float((row.embeddings(extractor, role) @ text.T).mean())


def _leak(row: Row, extractor: str) -> float:
    return max(
        0.0, _style_cosine(row, extractor, "output") - _style_cosine(row, extractor, "content")
    )


def _rsm(row: Row, extractor: str, role: str, column: str) -> float:
    box = regional.rsm_box(row.mask())
    crop, _ = regional.square_crop(row.pixels(role), box, fit=row.setting("rsm_fit"))
    text = row.setting("rsm_template").replace("{style}", row.words(column))
    cosine = float((row.crop_embedding(extractor, crop) @ row.text(extractor, text).T).item())
    return regional.rsm(cosine)


def _without_region(
    pixels: UInt8[Tensor, "h w 3"], mask: Float[Tensor, "h w"]
) -> UInt8[Tensor, "h w 3"]:
    outside = (mask < 0.5).cpu()
    if not outside.any():
        raise ItemError("the mask covers the whole picture", fix="give a mask with a background")
    filled = pixels.clone()
    filled[~outside] = pixels[outside].float().mean(dim=0).round().to(torch.uint8)
    return filled


def _mean(values: Any) -> float:
    found = [float(value) for value in values]
    return math.fsum(found) / len(found)
