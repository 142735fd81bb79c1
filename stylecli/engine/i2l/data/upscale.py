"""Upscalers: ours, or a function of somebody else's.

One is called with a picture of Pillow's (RGB) and a width and height, and returns a picture of that
size. A package adds its own through the entry-point group ``stylecli.upscalers``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from PIL import Image

from stylecli.errors import ItemError, UsageError, did_you_mean

GROUP = "stylecli.upscalers"
LANCZOS = "lanczos"

Size = tuple[int, int]
Upscaler = Callable[[Image.Image, Size], Image.Image]


def lanczos(picture: Image.Image, size: Size) -> Image.Image:
    """Nothing is invented: a larger picture of the same sharpness."""
    return picture.resize(size, Image.Resampling.LANCZOS)


def find(name: str) -> Upscaler:
    """Ours, one that a package brings, or ``package.module:function``.

    Raises:
        UsageError: There is none of that name, or it cannot be imported.
    """
    if name == LANCZOS:
        return lanczos
    plugs = {plug.name: plug for plug in entry_points(group=GROUP)}
    if name not in plugs and ":" not in name:
        known = [LANCZOS, *sorted(plugs)]
        raise UsageError(
            f"--upscaler {name}: there is no such upscaler",
            fix=f"{did_you_mean(name, known)}known: {', '.join(known)}, package.module:function",
        )
    try:
        found: Any = plugs[name].load() if name in plugs else _imported(name)
    except Exception as error:  # a package of somebody else's may raise anything
        raise UsageError(
            f"--upscaler {name} cannot be used: {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}",
            fix="mend or install its package, or use --upscaler lanczos",
        ) from error
    if not callable(found):
        raise UsageError(
            f"--upscaler {name} is no function", fix="name one that takes a picture and a size"
        )
    return found  # type: ignore[no-any-return]


def brought_up(picture: Image.Image, short_px: int, upscale: Upscaler) -> Image.Image:
    """The picture with a short side of at least so many pixels; a larger one stays as it is.

    Raises:
        ItemError: The upscaler failed, or returned something else than a picture of that size.
    """
    short = min(picture.size)
    if short >= short_px:
        return picture
    size = tuple(round(side * short_px / short) for side in picture.size)
    wanted = (size[0], size[1])
    try:
        found: object = upscale(picture, wanted)
    except Exception as error:
        raise ItemError(
            f"the upscaler failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}",
            fix="mend it, or use --upscaler lanczos",
        ) from error
    if not isinstance(found, Image.Image) or found.size != wanted:
        said = f"{found.width}x{found.height}" if isinstance(found, Image.Image) else repr(found)
        raise ItemError(
            f"the upscaler returned {said[:80]} for {wanted[0]}x{wanted[1]}",
            fix="mend it, or use --upscaler lanczos",
        )
    return found.convert("RGB")


def _imported(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
