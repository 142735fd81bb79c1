"""References as an encoder sees them: the same here for training, prediction and neutral LoRAs.

What a person sees of a file (upright, sRGB, on white where it is transparent) is the business of
`stylecli.artifacts.images.read`; here its pixels become a square of numbers. Pillow does it, whose
filters widen when they shrink, as the processors of transformers without torchvision do.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

# How a picture becomes square: its centre, all of it out of shape, or all of it with white margins.
Fit = Literal["crop", "squash", "pad"]
Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
# In the order of Pillow's numbers, which the files of processors use.
RESAMPLES: tuple[Resample, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
GREY = 128


def prepared(
    picture: UInt8[Tensor, "h w 3"], *, px: int, fit: Fit, resample: Resample
) -> Float[Tensor, "3 px px"]:
    """A square in [-1, 1].

    >>> picture = torch.full((2, 4, 3), 255, dtype=torch.uint8)
    >>> prepared(picture, px=1, fit="crop", resample="bilinear").flatten().tolist()
    [1.0, 1.0, 1.0]
    """
    image = Image.fromarray(picture.numpy())
    by = Image.Resampling(RESAMPLES.index(resample))
    if fit == "crop":
        image = _centre(image)
    if fit == "pad":
        image = _with_margins(image, px, by)
    # A copy, because Pillow's own memory cannot be written to.
    pixels = torch.from_numpy(np.array(image.resize((px, px), by)))
    return pixels.permute(2, 0, 1).float() / 255 * 2 - 1


def grey(size: tuple[int, int]) -> UInt8[Tensor, "h w 3"]:
    """The reference of a neutral LoRA, in the size `(height, width)` of the one it stands for.

    >>> grey((1, 2)).flatten().tolist()
    [128, 128, 128, 128, 128, 128]
    """
    return torch.full((*size, 3), GREY, dtype=torch.uint8)


def _centre(image: Image.Image) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _with_margins(image: Image.Image, px: int, by: Image.Resampling) -> Image.Image:
    # Made small before it gets its margins: those of a long strip would take more than itself.
    scale = px / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    square = Image.new("RGB", (px, px), "white")
    square.paste(image.resize((width, height), by), ((px - width) // 2, (px - height) // 2))
    return square
