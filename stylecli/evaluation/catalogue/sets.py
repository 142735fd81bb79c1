"""One number for all outputs of a method: distances between distributions of features."""

from __future__ import annotations

from stylecli.evaluation.catalogue import content
from stylecli.evaluation.metric import Distance, Metric

# The content terms of ArtFID forms.
_LPIPS = {metric.name: metric for metric in content.ROWS}


def _set(
    name: str,
    text: str,
    fid: str,
    distance: Distance = "frechet",
    *,
    lpips: str = "",
    low: float = 0,
) -> Metric:
    columns = ("content", "style") if lpips else ("style",)
    return Metric(
        name=name,
        better="lower",
        definition=text,
        kind="set",
        low=low,
        columns=columns,
        uses=(fid, *(_LPIPS[lpips].uses if lpips else ())),
        settings=(),
        scale="" if distance.startswith("frechet") else "x 1000",
        fid=fid,
        distance=distance,
        lpips=lpips,
    )


_MINUS = float("-inf")
ROWS = (
    _set("fid", "Fréchet distance of Inception features, outputs to styles", "inception"),
    _set("fid_inf", "fid in the limit of many outputs, from 8000", "inception", "frechet limit",
         low=_MINUS),
    _set("kid", "unbiased polynomial-kernel distance of the same", "inception", "kid",
         low=_MINUS),
    _set("cmmd", "Gaussian-kernel distance of CLIP ViT-L/14-336 embeddings, biased as published",
         "clip-l14-336", "cmmd"),
    _set("cmmd_u", "the same without its bias", "clip-l14-336", "cmmd unbiased", low=_MINUS),
    _set("fd_dinov2", "Fréchet distance of DINOv2 ViT-L/14 class tokens", "dinov2-large"),
    _set("fid_art", "Fréchet distance of art-Inception features", "art-inception"),
    _set("artfid", "(1 + mean lpips) (1 + fid_art)", "art-inception", lpips="lpips", low=1),
    _set("pocket-fid", "Fréchet distance of pocket-lpips embeddings", "pocket-embedding"),
    _set("pocket-kid", "kid of the same", "pocket-embedding", "kid", low=_MINUS),
    _set("pocket-artfid", "(1 + mean pocket-lpips) (1 + pocket-fid)", "pocket-embedding",
         lpips="pocket-lpips", low=1),
)  # fmt: skip
