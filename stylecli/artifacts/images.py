"""Picture files in and out of tensors: decoding, orientation, colour, and the geometry of a run."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from stylecli.errors import ImageError

# Larger pictures are refused by their header, before a pixel is decoded. The largest cameras make
# 151 megapixels; as floats that is 1.8 GB. Pillow itself stops at 179.
MAX_PIXELS = 160_000_000
# Nothing is left of a longer one once its long side fits a model.
MAX_ELONGATION = 100
# A picture longer than this many times its short side is scaled by its long side instead.
MAX_ASPECT = 4
# Not all that Pillow knows: EPS would run Ghostscript on a stranger's program.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "TGA", "ICO")
# Floats are [0, 1] with highlights above, unless they count to 255 or to 65535.
MAX_HIGHLIGHT = 16.0

Taken = TypeVar("Taken")
# How a picture comes to the model's size: in its own shape, or as a square.
Fit = Literal["scale", "squash"]
# What becomes of transparency: it lies on white, or is as if it had never been.
Alpha = Literal["white", "drop"]


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


def read(path: Path, *, alpha: Alpha = "white") -> Picture:
    """Decode a picture as a person would see it: upright, sRGB, eight bits, its first frame.

    Args:
        alpha: To *drop* it brings out what was stored beneath, and is what some other programs do.

    Raises:
        ImageError: Not a picture, damaged, too large or too thin; the message names the file.
    """
    return _picture(path, *decode(path, lambda image: _to_rgb(path, image, alpha)))


def read_bytes(data: bytes, name: Path) -> Picture:
    """As `read`, of a file that is in memory; `name` is what failures call it.

    Raises:
        ImageError: As for `read`.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty", fix="copy or export it again")
    take = partial(_to_rgb, name, keep="white")
    return _picture(name, *_decode(name, io.BytesIO(data), take))


def _picture(path: Path, rgb: np.ndarray, opacity: np.ndarray | None) -> Picture:
    digest = hashlib.sha256(repr(rgb.shape).encode())
    digest.update(rgb.tobytes())
    if opacity is not None:
        digest.update(opacity.tobytes())
    return Picture(
        torch.from_numpy(rgb),
        None if opacity is None else torch.from_numpy(opacity),
        digest.hexdigest(),
        path,
    )


def decode(path: Path, take: Callable[[Image.Image], Taken]) -> Taken:
    """What `take` makes of a picture's first frame, upright; whatever fails names the file.

    Raises:
        ImageError: As for `read`.
    """
    try:
        # A pipe would be waited for without end.
        if path.exists() and not path.is_file():
            raise ImageError(f"{path}: not a file", fix="give a picture file")
        with path.open("rb") as stream:
            if not stream.read(1):
                raise ImageError(f"{path}: the file is empty", fix="copy or export it again")
            stream.seek(0)
            return _decode(path, stream, take)
    except OSError as error:
        raise ImageError(
            f"{path}: {error.strerror or error}", fix="check the name and its permissions"
        ) from error


def size_of(path: Path) -> tuple[int, int]:
    """Height and width as `read` would give them, from the header alone.

    Raises:
        ImageError: Not a picture that can be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            width, height = image.size
    except Exception as error:  # as many kinds as there are formats
        raise ImageError(f"{path}: not a picture that can be read", fix="copy it again") from error
    return (width, height) if turned else (height, width)


def to_tensor(pixels: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "1 3 h w"]:
    """Pixels as floats in [0, 1].

    >>> to_tensor(torch.full((1, 1, 3), 255, dtype=torch.uint8)).flatten().tolist()
    [1.0, 1.0, 1.0]
    """
    return pixels.permute(2, 0, 1)[None].float() / 255


def to_float(pixels: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "3 h w"]:
    """One picture as floats in [0, 1]."""
    return to_tensor(pixels)[0]


def to_pixels(image: Float[Tensor, "3 h w"]) -> UInt8[Tensor, "h w 3"]:
    """Floats in [0, 1] as rounded pixels; what lies outside is cut."""
    return (
        (image.detach().cpu().clamp(0, 1) * 255)
        .round()
        .to(torch.uint8)
        .permute(1, 2, 0)
        .contiguous()
    )


def scaled(image: Float[Tensor, "3 h w"], size: tuple[int, int]) -> Float[Tensor, "3 _h _w"]:
    """One picture at another height and width; at its own it keeps its bits."""
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def crop_center(image: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c hc wc"]:
    """Cut the sides evenly to multiples; one shorter than that is mirrored up to it."""
    height, width = image.shape[-2:]
    image = pad(image, max(height, multiple), max(width, multiple))
    height, width = image.shape[-2:]
    tall, wide = height // multiple * multiple, width // multiple * multiple
    top, left = (height - tall) // 2, (width - wide) // 2
    return image[..., top : top + tall, left : left + wide]


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a picture becomes a model's input and back; sizes are ``(height, width)``.

    The aspect ratio is kept, unless the picture is squashed: it is scaled, then mirrored at its
    right and lower edge up to the multiple the model needs, and that margin is cut off again from
    the result.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def plan(
        cls, height: int, width: int, *, short_side: int, multiple: int, fit: Fit = "scale"
    ) -> Geometry:
        """Scale so that the short side is `short_side` (the long side at most four times that).

        Squashed, both sides are.
        """
        scale = min(short_side / min(height, width), MAX_ASPECT * short_side / max(height, width))
        resized = (max(1, round(height * scale)), max(1, round(width * scale)))
        if fit == "squash":
            resized = (short_side, short_side)
        padded = (-(-resized[0] // multiple) * multiple, -(-resized[1] // multiple) * multiple)
        return cls((height, width), resized, padded)

    def resize(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hr wr"]:
        """The picture at the model's scale, not yet padded."""
        if tuple(image.shape[-2:]) == self.resized:
            return image
        return F.interpolate(image, self.resized, mode="bicubic", antialias=True).clamp(0, 1)

    def apply(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hp wp"]:
        """The picture at the model's size."""
        return pad(self.resize(image), *self.padded)

    def undo(self, image: Float[Tensor, "b c hp wp"]) -> Float[Tensor, "b c hr wr"]:
        """Cut the margin off a result."""
        return image[..., : self.resized[0], : self.resized[1]]

    def as_dict(self) -> dict[str, list[int]]:
        """For headers and keys."""
        return {name: list(size) for name, size in asdict(self).items()}


def pad(image: Tensor, height: int, width: int) -> Tensor:
    """Mirror the right and lower edge, as often as it takes; of the last two dimensions."""

    def indices(length: int, wanted: int) -> Tensor:
        period = max(1, 2 * length - 2)
        ramp = torch.arange(wanted, device=image.device) % period
        return torch.where(ramp < length, ramp, period - ramp).clamp(0, length - 1)

    rows, columns = image.shape[-2:]
    if (rows, columns) == (height, width):
        return image
    return image[..., indices(rows, height), :][..., indices(columns, width)]


def _decode(
    path: Path, stream: BinaryIO | io.BytesIO, take: Callable[[Image.Image], Taken]
) -> Taken:
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, odd metadata and the like; what matters raises.
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=known) as image:
                _check_size(path, *image.size)
                image.load()
                # A damaged note on how to hold a picture is no reason to refuse the picture.
                with contextlib.suppress(Exception):
                    ImageOps.exif_transpose(image, in_place=True)
                return take(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path}: not a picture that can be read", fix="give PNG, JPEG, WebP, AVIF or TIFF"
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except MemoryError as error:
        raise ImageError(f"{path}: no memory to decode it", fix="scale it down first") from error
    except Exception as error:
        # Decoders raise anything at all on bytes they did not expect; one picture is one item.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ImageError(f"{path}: damaged: {reason}", fix="copy or export it again") from error


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{width}x{height} is ")
    if max(width, height) > MAX_ELONGATION * min(width, height):
        raise ImageError(
            f"{path}: {width}x{height} is more than {MAX_ELONGATION} times as long as it is wide",
            fix="cut it into pieces",
        )


def _too_large(path: Path, size: str = "") -> ImageError:
    return ImageError(
        f"{path}: {size}more than {MAX_PIXELS // 10**6} megapixels", fix="scale it down first"
    )


def _to_rgb(path: Path, image: Image.Image, keep: Alpha) -> tuple[np.ndarray, np.ndarray | None]:
    profile = image.info.get("icc_profile")
    image, alpha = split(image)
    if is_deep(image):
        image = Image.fromarray((deep_greys(path, image) * 255).round().astype(np.uint8))
    colour = to_srgb(image, profile)
    if alpha is None or keep == "drop" or alpha.getextrema() == (255, 255):
        return np.array(colour), None
    white = Image.new("RGB", colour.size, "white")
    return np.array(Image.composite(colour, white, alpha)), np.array(alpha)


def split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colour and transparency; a profile speaks of colour alone, and not of palettes."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16") and isinstance(transparent, int):
        opaque = (np.asarray(image) != transparent).astype(np.uint8) * 255
        return image, Image.fromarray(opaque)
    if image.mode == "P" and transparent is None:
        return image.convert("RGB"), None
    if image.mode in ("LA", "La"):
        image = image.convert("LA")
        return image.getchannel("L"), image.getchannel("A")
    if image.mode in ("RGBA", "RGBa", "PA") or (
        transparent is not None and image.mode in ("1", "L", "RGB", "P")
    ):
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    return image, None


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey in more than eight bits."""
    return image.mode.startswith("I") or image.mode == "F"


def deep_greys(path: Path, image: Image.Image) -> np.ndarray:
    """Values in [0, 1]; Pillow clips deep greys when it converts them, here they are scaled."""
    values = np.asarray(image).astype(np.float32)
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: holds values that are not finite", fix="export it without them")
    brightest = float(values.max(initial=0))
    if image.mode == "F":
        top = 1.0 if brightest <= MAX_HIGHLIGHT else 255.0 if brightest <= 255 else 65535.0
    else:
        top = 65535.0 if brightest <= 65535 else float(2**31 - 1)
    return (values / top).clip(0, 1)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB of any mode but deep greys, through the profile where it can be used."""
    if image.mode == "LAB":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    elif image.mode == "YCbCr":
        image = image.convert("RGB")
    converted = None
    if profile:
        # One that is damaged, or meant for another kind of picture, is as good as none.
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
    return image.convert("RGB") if converted is None else converted
