"""One pixel pipeline: from decoded pictures to what each network was trained to see.

Resizing is the largest silent source of disagreement between implementations of one metric, so
there are two kernels and no third: `resize_float` (torch, antialiased, on floats) and `resize_u8`
(Pillow, rounding to bytes, for bit-agreement with what CLIP's family was evaluated with). No
metric uses a library's own image processor. Values stay gamma-encoded sRGB throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Kernel = Literal["bilinear", "bicubic"]
_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, slots=True)
class Preprocess:
    """A geometry and a normalisation under the name that provenance records.

    Attributes:
        apply: Pixels -> a network's input, (3, height, width).
    """

    id: str
    apply: Callable[[Tensor], Tensor]


def resize_u8(
    pixels: UInt8[Tensor, "h w 3"], size: Sequence[int], kernel: Kernel
) -> UInt8[Tensor, "hs ws 3"]:
    """Pillow on bytes: antialiased, rounded after each of its two passes; size is (h, w)."""
    height, width = size
    if tuple(pixels.shape[:2]) == (height, width):
        return pixels
    image = Image.fromarray(pixels.numpy())
    return torch.from_numpy(np.array(image.resize((width, height), _PILLOW[kernel])))


def resize_float(pixels: UInt8[Tensor, "h w 3"], size: tuple[int, int]) -> Float[Tensor, "3 hs ws"]:
    """Antialiased bicubic in float32, cut to 0..255; size is (h, w)."""
    planes = pixels.permute(2, 0, 1)[None].float()
    if tuple(pixels.shape[:2]) != size:
        planes = F.interpolate(planes, size, mode="bicubic", antialias=True)
    return planes[0].clamp(0, 255)


def unit(pixels: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "3 h w"]:
    """Floats in [0, 1]."""
    return pixels.permute(2, 0, 1).float() / 255


def shorter_side(size: Sequence[int], px: int) -> tuple[int, int]:
    """The (height, width) at which the shorter side is `px`; the other is cut down to whole pixels.

    >>> shorter_side((300, 200), 100)
    (150, 100)
    """
    height, width = size
    short = min(height, width)
    # In whole numbers: a float's rounding would lose a pixel now and then.
    return height * px // short, width * px // short


def center_crop(pixels: UInt8[Tensor, "h w 3"], px: int) -> UInt8[Tensor, "px px 3"]:
    """The middle square, its corner rounded as torchvision rounds it."""
    height, width = pixels.shape[:2]
    top, left = round((height - px) / 2), round((width - px) / 2)
    return pixels[top : top + px, left : left + px]


def letterbox(pixels: UInt8[Tensor, "h w 3"], px: int) -> Float[Tensor, "3 px px"]:
    """Longer side to `px`, the rest black, in [0, 1]; nothing is cut off."""
    height, width = pixels.shape[:2]
    scale = px / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    inner = resize_float(pixels, size) / 255
    canvas = torch.zeros(3, px, px)
    top, left = (px - size[0]) // 2, (px - size[1]) // 2
    canvas[:, top : top + size[0], left : left + size[1]] = inner
    return canvas


def _normalised(
    planes: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    return (planes - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _artfid512(pixels: Tensor) -> Tensor:
    # Art-Inception was trained on [0, 1] without mean and deviation.
    return unit(resize_u8(pixels, shorter_side(pixels.shape[:2], 512), "bilinear"))


def _fid299(pixels: Tensor) -> Tensor:
    return (resize_float(pixels, (299, 299)) - 128) / 128


def _clip224(pixels: Tensor) -> Tensor:
    resized = resize_u8(pixels, shorter_side(pixels.shape[:2], 224), "bicubic")
    return _normalised(unit(center_crop(resized, 224)), CLIP_MEAN, CLIP_STD)


def _clip336sq(pixels: Tensor) -> Tensor:
    # Cut first, then scaled: the other order of `clip224`, as CMMD's authors do it.
    height, width = pixels.shape[:2]
    square = center_crop(pixels, min(height, width))
    return _normalised(unit(resize_u8(square, (336, 336), "bicubic")), CLIP_MEAN, CLIP_STD)


def _letter224(pixels: Tensor) -> Tensor:
    return _normalised(letterbox(pixels, 224), CLIP_MEAN, CLIP_STD)


def _dino224(pixels: Tensor) -> Tensor:
    squashed = resize_u8(pixels, (224, 224), "bicubic")
    return _normalised(unit(squashed), IMAGENET_MEAN, IMAGENET_STD)


def _dinov2_224(pixels: Tensor) -> Tensor:
    resized = resize_u8(pixels, shorter_side(pixels.shape[:2], 256), "bicubic")
    return _normalised(unit(center_crop(resized, 224)), IMAGENET_MEAN, IMAGENET_STD)


def _vgg512(pixels: Tensor) -> Tensor:
    return _normalised(unit(resize_u8(pixels, (512, 512), "bilinear")), IMAGENET_MEAN, IMAGENET_STD)


def _pocket64(pixels: Tensor) -> Tensor:
    return resize_float(pixels, (64, 64)) / 255


PREPROCESS: Mapping[str, Preprocess] = {
    name: Preprocess(name, function)
    for name, function in {
        "artfid512": _artfid512,
        "fid299": _fid299,
        "clip224": _clip224,
        "clip336sq": _clip336sq,
        "letter224": _letter224,
        "dino224": _dino224,
        "dinov2_224": _dinov2_224,
        "vgg512": _vgg512,
        "pocket64": _pocket64,
    }.items()
}
