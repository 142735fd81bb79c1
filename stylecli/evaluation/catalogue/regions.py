"""Regions (RegionRoute): style within the mask, nothing without."""

from __future__ import annotations

import torch

from stylecli.evaluation import regional
from stylecli.evaluation.catalogue.asking import MAX_PSNR, lpips_map, pocket_distance
from stylecli.evaluation.metric import Row, of_region

RSM = ("pair_size", "aspect", "mask_polarity", "rsm_fit", "rsm_template")


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
    return regional.background_mean(lpips_map(row, row.picture("output")), row.mask())


def lpips_bg_strict(row: Row) -> float:
    """Blind to what was changed inside the mask, which the paper's form is not."""
    pasted = regional.paste_inside(row.picture("output"), row.picture("content"), row.mask())
    return regional.background_mean(lpips_map(row, pasted), row.mask())


def lpips_bg_band(row: Row) -> float:
    wider = regional.outside_band(row.mask())
    return regional.background_mean(lpips_map(row, row.picture("output")), wider)


def pocket_lpips_bg(row: Row) -> float:
    pasted = regional.paste_inside(row.picture("output"), row.picture("content"), row.mask())
    distance = pocket_distance(row, pasted, row.picture("content"))
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


def _rsm(row: Row, extractor: str, role: str, column: str) -> float:
    box = regional.rsm_box(row.mask())
    crop, _ = regional.square_crop(row.pixels(role), box, fit=row.setting("rsm_fit"))
    text = row.setting("rsm_template").replace("{style}", row.words(column))
    cosine = float((row.crop_embedding(extractor, crop) @ row.text(extractor, text).T).item())
    return regional.rsm(cosine)


ROWS = (
    of_region(
        "rsm",
        "higher",
        "CLIP ViT-B/32 cosine of the region's crop to the style words, halved and raised by 1/2",
        low=0,
        high=1,
        columns=("mask", "style_text"),
        settings=RSM,
        uses=("clip-b32",),
        compute=rsm,
    ),
    of_region(
        "rsm_contrast",
        "higher",
        "rsm minus rsm of the negative style",
        low=-1,
        high=1,
        columns=("mask", "style_text", "negative_style"),
        settings=RSM,
        uses=("clip-b32",),
        compute=rsm_contrast,
    ),
    of_region(
        "rsm_gain",
        "higher",
        "rsm minus rsm of the content",
        low=-1,
        high=1,
        columns=("content", "mask", "style_text"),
        settings=RSM,
        uses=("clip-b32",),
        compute=rsm_gain,
    ),
    of_region(
        "pocket-rsm",
        "higher",
        "rsm by pocket-clip",
        low=0,
        high=1,
        columns=("mask", "style_text"),
        settings=RSM,
        uses=("pocket-clip",),
        compute=pocket_rsm,
    ),
    of_region(
        "lpips_bg",
        "lower",
        "LPIPS map averaged over the background",
        low=0,
        uses=("lpips-alex",),
        compute=lpips_bg,
    ),
    of_region(
        "lpips_bg_strict",
        "lower",
        "the same with the content pasted into the region first",
        low=0,
        uses=("lpips-alex",),
        compute=lpips_bg_strict,
    ),
    of_region(
        "lpips_bg_band",
        "lower",
        "the same without 16 px around the region",
        low=0,
        uses=("lpips-alex",),
        compute=lpips_bg_band,
    ),
    of_region(
        "pocket-lpips-bg",
        "lower",
        "pocket-lpips with the content pasted into the region, per share of background",
        low=0,
        uses=("pocket-lpips",),
        compute=pocket_lpips_bg,
    ),
    of_region(
        "mse_bg",
        "lower",
        "squared error, mean over background pixels and channels",
        low=0,
        high=1,
        scale="[0, 1]",
        compute=mse_bg,
    ),
    of_region(
        "mse_bg_pm1",
        "lower",
        "mse_bg for values in [-1, 1]",
        low=0,
        high=4,
        scale="[-1, 1]",
        compute=mse_bg_pm1,
    ),
    of_region(
        "mse_bg_sum",
        "lower",
        "mse_bg summed over channels",
        low=0,
        high=3,
        scale="[0, 1], channels summed",
        compute=mse_bg_sum,
    ),
    of_region("psnr_bg", "higher", "PSNR of the background in dB", compute=psnr_bg),
    of_region(
        "bg_shift",
        "lower",
        "how far the background moved, in pixels (phase correlation)",
        low=0,
        compute=bg_shift,
    ),
)
