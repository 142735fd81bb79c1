"""Picture files in and out of tensors: decoding, orientation, colour, and the geometry of a run."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from stylecli.errors import ImageError

# Larger pictures are refused by their header, before a pixel is decoded.
MAX_PIXELS = 500_000_000
# A picture longer than this many times its short side is scaled by its long side instead.
MAX_ASPECT = 4


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: sRGB on white where it was transparent.
        alpha: Its transparency, when it had any.
        sha256: Of the pixels, the alpha and the size; equal pictures in other files are equal here.
    """

    pixels: UInt8[Tensor, "h w 3"]
    alpha: UInt8[Tensor, "h w"] | None
    sha256: str
    path: Path


def read(path: Path) -> Picture:
    """Decode a picture as a person would see it: upright, sRGB, eight bits, its first frame.

    Raises:
        ImageError: Not a picture, damaged, or too large to decode; the message names the file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"{path}: {error.strerror}", fix="check the name and permissions"
        ) from error
    if not data:
        raise ImageError(f"{path}: the file is empty", fix="copy it again")
    try:
        with warnings.catch_warnings():
            # Our own limit below is stricter than a warning.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ImageError(
                        f"{path}: {width}x{height} is more than {MAX_PIXELS // 10**6} megapixels",
                        fix="scale it down first",
                    )
                image.load()
                rgb, alpha = _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not a picture", fix="give PNG, JPEG, WebP, TIFF…") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: far too large to decode", fix="scale it down first") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ImageError(f"{path}: damaged: {reason}", fix="copy or export it again") from error
    except MemoryError as error:
        raise ImageError(f"{path}: no memory to decode it", fix="scale it down first") from error
    digest = hashlib.sha256(repr(rgb.shape).encode())
    digest.update(rgb.tobytes())
    if alpha is not None:
        digest.update(alpha.tobytes())
    return Picture(
        torch.from_numpy(rgb),
        None if alpha is None else torch.from_numpy(alpha),
        digest.hexdigest(),
        path,
    )


def to_tensor(pixels: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "1 3 h w"]:
    """Pixels as floats in [0, 1].

    >>> to_tensor(torch.full((1, 1, 3), 255, dtype=torch.uint8)).flatten().tolist()
    [1.0, 1.0, 1.0]
    """
    return pixels.permute(2, 0, 1)[None].float() / 255


def to_pixels(image: Float[Tensor, "3 h w"]) -> UInt8[Tensor, "h w 3"]:
    """Floats in [0, 1] as rounded pixels; what lies outside is cut."""
    return (
        (image.detach().cpu().clamp(0, 1) * 255)
        .round()
        .to(torch.uint8)
        .permute(1, 2, 0)
        .contiguous()
    )


def crop_center(image: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c hc wc"]:
    """Cut the sides evenly to multiples; one shorter than that is mirrored up to it."""
    height, width = image.shape[-2:]
    image = _pad(image, max(height, multiple), max(width, multiple))
    height, width = image.shape[-2:]
    tall, wide = height // multiple * multiple, width // multiple * multiple
    top, left = (height - tall) // 2, (width - wide) // 2
    return image[..., top : top + tall, left : left + wide]


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a picture becomes a model's input and back; sizes are ``(height, width)``.

    The aspect ratio is kept: the picture is scaled, then mirrored at its right and lower edge up to
    the multiple the model needs, and that margin is cut off again from the result.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def plan(cls, height: int, width: int, *, short_side: int, multiple: int) -> Geometry:
        """Scale so that the short side is `short_side` (the long side at most four times that)."""
        scale = min(short_side / min(height, width), MAX_ASPECT * short_side / max(height, width))
        resized = (max(1, round(height * scale)), max(1, round(width * scale)))
        padded = (-(-resized[0] // multiple) * multiple, -(-resized[1] // multiple) * multiple)
        return cls((height, width), resized, padded)

    def resize(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hr wr"]:
        """The picture at the model's scale, not yet padded."""
        if tuple(image.shape[-2:]) == self.resized:
            return image
        return F.interpolate(image, self.resized, mode="bicubic", antialias=True).clamp(0, 1)

    def apply(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hp wp"]:
        """The picture at the model's size."""
        return _pad(self.resize(image), *self.padded)

    def undo(self, image: Float[Tensor, "b c hp wp"]) -> Float[Tensor, "b c hr wr"]:
        """Cut the margin off a result."""
        return image[..., : self.resized[0], : self.resized[1]]

    def as_dict(self) -> dict[str, list[int]]:
        """For headers and keys."""
        return {name: list(size) for name, size in asdict(self).items()}


def _pad(image: Tensor, height: int, width: int) -> Tensor:
    """Mirror the right and lower edge, as often as it takes."""

    def indices(length: int, wanted: int) -> Tensor:
        period = max(1, 2 * length - 2)
        ramp = torch.arange(wanted) % period
        return torch.where(ramp < length, ramp, period - ramp).clamp(0, length - 1)

    rows, columns = image.shape[-2:]
    if (rows, columns) == (height, width):
        return image
    return image[..., indices(rows, height), :][..., indices(columns, width)]


def _to_rgb(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    profile = image.info.get("icc_profile")
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        image = _eight_bits(image)
    if profile and image.mode in ("RGB", "RGBA", "CMYK", "L"):
        image = _to_srgb(image, profile)
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if not has_alpha:
        return np.array(image.convert("RGB")), None
    rgba = image.convert("RGBA")
    alpha = np.array(rgba.getchannel("A"))
    on_white = Image.new("RGBA", rgba.size, "white")
    on_white.alpha_composite(rgba)
    return np.array(on_white.convert("RGB")), None if alpha.min() == 255 else alpha


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow clips deep greys when it converts them; scale them instead."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        top = 1.0 if values.max() <= 1 else 255.0 if values.max() <= 255 else 65535.0
    else:
        top = 255.0 if image.mode == "I" and values.max() <= 255 else 65535.0
    return Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8), "L")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        converted = ImageCms.profileToProfile(
            image.convert("RGB") if image.mode == "RGBA" else image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # a profile that cannot be used is better ignored than fatal
    if converted is None:
        return image
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted
