"""Mask files: any picture as a share in [0, 1] for every pixel, and shares as pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from stylecli.artifacts import images


def read_mask(path: Path) -> Float[Tensor, "h w"]:
    """White, or opaque, is inside.

    Transparency counts where the picture has one that is not the same everywhere. Otherwise a grey
    picture counts as it is stored, because a mask is data and a profile would bend it, and a
    coloured one by its luma as seen.

    Raises:
        ImageError: As for `images.read`.
    """
    return torch.from_numpy(images.decode(path, lambda image: _values(path, image)))


def mask_pixels(mask: Float[Tensor, "h w"]) -> UInt8[Tensor, "h w"]:
    """Greys for `store.save_image`; what lies outside [0, 1] is cut.

    >>> mask_pixels(torch.tensor([[0.0, 0.5, 1.0]])).tolist()
    [[0, 128, 255]]
    """
    return (mask.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def _values(path: Path, image: Image.Image) -> np.ndarray:
    profile = image.info.get("icc_profile")
    colour, alpha = images.split(image)
    if alpha is not None:
        low, high = alpha.getextrema()
        if low != high:
            return _unit(alpha)
    if images.is_deep(colour):
        return images.deep_greys(path, colour)
    if colour.mode in ("1", "L"):
        return _unit(colour.convert("L"))
    return _unit(images.to_srgb(colour, profile).convert("L"))


def _unit(grey: Image.Image) -> np.ndarray:
    return np.asarray(grey).astype(np.float32) / 255
