"""How much of the style has arrived."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stylecli.evaluation import matching, metrics, palette
from stylecli.evaluation.catalogue.asking import mean, style_cosine
from stylecli.evaluation.matching import MatchScore
from stylecli.evaluation.metric import Row, of_style
from stylecli.evaluation.networks import GRAM_TAPS, NETWORKS

MATCH_TAPS = ("relu3_1", "relu4_1")
MAPS = "dinov2-maps"


def gram(row: Row) -> float:
    return mean(metrics.gram(a, b) for a, b in _tap_pairs(row, "vgg19"))


def gram_rel(row: Row) -> float:
    return mean(metrics.gram_rel(a, b) for a, b in _tap_pairs(row, "vgg19"))


def pocket_gram(row: Row) -> float:
    return mean(metrics.gram_rel(a, b) for a, b in _tap_pairs(row, "pocket-lpips"))


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
    return mean(palette.color_hist(output, style) for style in row.pictures("style"))


def color_sw(row: Row) -> float:
    output = row.picture("output")
    return mean(palette.color_sw(output, style) for style in row.pictures("style"))


def clip_i_style(row: Row) -> float:
    return style_cosine(row, "clip-l14", "output")


def csd(row: Row) -> float:
    return style_cosine(row, "csd", "output")


def csd_max(row: Row) -> float:
    """The nearest reference: a transfer of one of several is not punished for the others."""
    return float((row.embeddings("csd", "style") @ row.embeddings("csd", "output").T).max())


def dinov2_gram(row: Row) -> float:
    """Of the blocks, and not of the last one's patches, which know things rather than strokes."""
    chosen = slice(NETWORKS[MAPS].taps.index("patches"))
    return mean(metrics.gram_rel(a[chosen], b[chosen]) for a, b in _tap_pairs(row, MAPS))


def pocket_clip_style(row: Row) -> float:
    return style_cosine(row, "pocket-clip", "output")


def _tap_pairs(row: Row, network: str) -> list[tuple[Sequence[Tensor], Sequence[Tensor]]]:
    output = row.taps(network, "output")[0]
    return [(output, style) for style in row.taps(network, "style")]


ROWS = (
    of_style(
        "gram",
        "lower",
        "Gram matrices of VGG19 relu1_1..5_1, mean squared difference",
        low=0,
        uses=("vgg19",),
        scale="F F^T / (h w), ImageNet-normalised input",
        compute=gram,
    ),
    of_style(
        "gram_rel",
        "lower",
        "the same per layer, relative to both norms",
        low=0,
        uses=("vgg19",),
        compute=gram_rel,
    ),
    of_style(
        "style_match",
        "higher",
        "one-to-one matching (Hungarian) of 256 VGG19 blocks",
        low=-1,
        high=1,
        uses=("vgg19",),
        compute=style_match,
    ),
    of_style(
        "style_match_nn",
        "higher",
        "the same, each block with its nearest",
        low=-1,
        high=1,
        uses=("vgg19",),
        compute=style_match_nn,
    ),
    of_style(
        "color_hist",
        "lower",
        "Hellinger distance of RGB-uv histograms",
        low=0,
        high=1,
        settings=("pair_size", "aspect"),
        compute=color_hist,
    ),
    of_style(
        "color_sw",
        "lower",
        "sliced Wasserstein distance in CIELAB, 64 directions",
        low=0,
        settings=("pair_size", "aspect"),
        compute=color_sw,
    ),
    of_style(
        "clip_i_style",
        "higher",
        "CLIP ViT-L/14 image cosine to the style",
        low=-1,
        high=1,
        uses=("clip-l14",),
        compute=clip_i_style,
        similar="clip-l14",
    ),
    of_style(
        "csd",
        "higher",
        "CSD style cosine, mean over the references",
        low=-1,
        high=1,
        uses=("csd",),
        compute=csd,
        similar="csd",
    ),
    of_style(
        "csd_max",
        "higher",
        "the same to the nearest reference",
        low=-1,
        high=1,
        uses=("csd",),
        compute=csd_max,
        similar="csd",
    ),
    of_style(
        "csd_csls",
        "higher",
        "2 csd - r(output) - r(style), r: mean csd to the 10 nearest of the other side",
        kind="pool",
        low=-4,
        high=4,
        uses=("csd",),
        fid="csd",
        similar="csd",
    ),
    of_style(
        "dinov2_gram",
        "lower",
        "relative Gram distance of DINOv2 ViT-B/14 patches, blocks 3, 6, 9",
        low=0,
        uses=(MAPS,),
        compute=dinov2_gram,
    ),
    of_style(
        "pocket-gram",
        "lower",
        "relative Gram distance on pocket-lpips features",
        low=0,
        uses=("pocket-lpips",),
        compute=pocket_gram,
    ),
    of_style(
        "pocket-clip-style",
        "higher",
        "pocket-clip image cosine to the style",
        low=-1,
        high=1,
        uses=("pocket-clip",),
        compute=pocket_clip_style,
        similar="pocket-clip",
    ),
)
