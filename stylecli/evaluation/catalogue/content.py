"""How much of the content is left."""

from __future__ import annotations

from stylecli.evaluation import content, layout, metrics, palette
from stylecli.evaluation import lpips as lpips_module
from stylecli.evaluation.catalogue.asking import (
    MAX_PSNR,
    UNIT,
    lpips_map,
    lpips_of,
    pocket_lpips_of,
)
from stylecli.evaluation.metric import Row, of_content

STRUCTURE_SCALE = 1000


def lpips(row: Row) -> float:
    return lpips_of(row, "lpips-alex", "content")


def lpips_vgg(row: Row) -> float:
    return lpips_of(row, "lpips-vgg", "content")


def lpips_gray(row: Row) -> float:
    planes = [lpips_module.luminance(row.picture(role)) for role in ("output", "content")]
    return float(row.network("lpips-alex").distance(*planes, value_range=UNIT))


def lpips_spatial(row: Row) -> float:
    return float(lpips_map(row, row.picture("output")).mean())


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


def dino_structure(row: Row) -> float:
    (output,), (content,) = (row.taps("dino-vitb8", role)[0] for role in ("output", "content"))
    return STRUCTURE_SCALE * float(layout.structure_distance(output, content))


def dinov2_content(row: Row) -> float:
    output, content = (row.embeddings("dinov2", role) for role in ("output", "content"))
    return float(output @ content.T)


def cas(row: Row) -> float:
    output, content = (row.taps("dinov2-maps", role)[0][-1] for role in ("output", "content"))
    return float(layout.content_distance(output, content))


def pocket_lpips(row: Row) -> float:
    return pocket_lpips_of(row, "content")


ROWS = (
    of_content(
        "lpips",
        "lower",
        "LPIPS v0.1, AlexNet, to the content",
        low=0,
        uses=("lpips-alex",),
        compute=lpips,
    ),
    of_content(
        "lpips_vgg",
        "lower",
        "LPIPS v0.1, VGG16, to the content",
        low=0,
        uses=("lpips-vgg",),
        compute=lpips_vgg,
    ),
    of_content(
        "lpips_gray",
        "lower",
        "LPIPS of the luma planes: layout without colour",
        low=0,
        uses=("lpips-alex",),
        compute=lpips_gray,
    ),
    of_content(
        "lpips_spatial",
        "lower",
        "mean of the LPIPS map at full size",
        low=0,
        uses=("lpips-alex",),
        compute=lpips_spatial,
    ),
    of_content(
        "ssim",
        "higher",
        "structural similarity of luma, Gaussian window of 11",
        low=-1,
        high=1,
        compute=ssim,
    ),
    of_content("psnr", "higher", "peak signal to noise in dB", compute=psnr),
    of_content("mse", "lower", "mean squared error", low=0, high=1, scale="[0, 1]", compute=mse),
    of_content(
        "edge_correlation",
        "higher",
        "Pearson correlation of Sobel magnitudes",
        low=-1,
        high=1,
        compute=edge_correlation,
    ),
    of_content(
        "delta_e", "lower", "mean CIE76 colour difference to the content", low=0, compute=delta_e
    ),
    of_content(
        "dino_structure",
        "lower",
        "self-similarity of DINO ViT-B/8 keys, mean squared difference",
        low=0,
        uses=("dino-vitb8",),
        settings=(),
        scale="x 1000",
        compute=dino_structure,
    ),
    of_content(
        "dinov2_content",
        "higher",
        "DINOv2 ViT-B/14 class-token cosine to the content",
        low=-1,
        high=1,
        uses=("dinov2",),
        settings=(),
        compute=dinov2_content,
    ),
    of_content(
        "cas",
        "lower",
        "DINOv2 ViT-B/14 patches, each channel standardised, mean squared difference",
        low=0,
        high=4,
        uses=("dinov2-maps",),
        settings=(),
        compute=cas,
    ),
    of_content(
        "pocket-lpips",
        "lower",
        "pocket's perceptual distance to the content",
        low=0,
        uses=("pocket-lpips",),
        compute=pocket_lpips,
    ),
)
