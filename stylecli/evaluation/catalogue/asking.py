"""Questions that several metrics ask of a row."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from stylecli.evaluation.metric import Row

UNIT = (0.0, 1.0)
MAX_PSNR = 100.0
# Pocket's network knows 64 to 128 px; what is larger than this it is shown smaller.
POCKET_PX = 512


def lpips_of(row: Row, network: str, role: str) -> float:
    pair = row.picture("output"), row.picture(role)
    return float(row.network(network).distance(*pair, value_range=UNIT))


def lpips_map(row: Row, output: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "h w"]:
    found: Tensor = row.network("lpips-alex").map(output, row.picture("content"), value_range=UNIT)
    return found[0]


def pocket_lpips_of(row: Row, role: str) -> float:
    return pocket_distance(row, row.picture("output"), row.picture(role))


def pocket_distance(row: Row, a: Tensor, b: Tensor) -> float:
    short = min(a.shape[-2:])
    if short > POCKET_PX:
        size = [side * POCKET_PX // short for side in a.shape[-2:]]
        a, b = (F.interpolate(x, size, mode="bilinear", antialias=True) for x in (a, b))
    return float(row.network("pocket-lpips").distance(a, b))


def style_cosine(row: Row, extractor: str, role: str) -> float:
    """Mean over the references: one near copy must not hide the others."""
    return float((row.embeddings(extractor, "style") @ row.embeddings(extractor, role).T).mean())


def text_cosine(row: Row, extractor: str, role: str, column: str) -> float:
    return cosine_to(row, extractor, role, row.words(column))


def cosine_to(row: Row, extractor: str, role: str, text: str) -> float:
    """Of a role's pictures to a text, on average."""
    return float((row.embeddings(extractor, role) @ row.text(extractor, text).T).mean())


def own_pixels(row: Row, role: str = "output") -> UInt8[Tensor, "h w 3"]:
    """The bytes a picture was decoded to, at its own size: pairs may have been scaled."""
    planes = row.pictures(role)[0][0].permute(1, 2, 0)
    return (planes * 255).round().to(torch.uint8).cpu()


def mean(values: Any) -> float:
    found = [float(value) for value in values]
    return math.fsum(found) / len(found)
