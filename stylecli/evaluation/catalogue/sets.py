"""One number for all outputs of a method: distances between distributions of features."""

from __future__ import annotations

from stylecli.evaluation.catalogue import content
from stylecli.evaluation.metric import Metric

# The content terms of ArtFID forms.
_LPIPS = {metric.name: metric for metric in content.ROWS}


def _set(name: str, text: str, fid: str, *, lpips: str = "", low: float = 0) -> Metric:
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
        scale="x 1000" if name.endswith("kid") else "",
        fid=fid,
        lpips=lpips,
    )


_MINUS = float("-inf")
ROWS = (
    _set("fid", "Fréchet distance of Inception features, outputs to styles", "inception"),
    _set("fid_inf", "fid in the limit of many outputs, from 8000", "inception", low=_MINUS),
    _set("kid", "unbiased polynomial-kernel distance of the same", "inception", low=_MINUS),
    _set("fid_art", "Fréchet distance of art-Inception features", "art-inception"),
    _set("artfid", "(1 + mean lpips) (1 + fid_art)", "art-inception", lpips="lpips", low=1),
    _set("pocket-fid", "Fréchet distance of pocket-lpips embeddings", "pocket-embedding"),
    _set("pocket-kid", "kid of the same", "pocket-embedding", low=_MINUS),
    _set("pocket-artfid", "(1 + mean pocket-lpips) (1 + pocket-fid)", "pocket-embedding",
         lpips="pocket-lpips", low=1),
)  # fmt: skip
