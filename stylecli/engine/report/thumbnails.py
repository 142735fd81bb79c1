"""Small pictures for a page: inside it, or in a folder beside it where they are made only once."""

from __future__ import annotations

import base64
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image

from stylecli.artifacts import images
from stylecli.artifacts.files import write_atomic
from stylecli.artifacts.store import digest
from stylecli.errors import ImageError

# Of WebP files that no run takes for contents and no evaluation for results: browsers look inside.
SUFFIX = ".thumb"
SIDE_PX = 256
QUALITIES = (80, 65, 50, 35)
SMALLER_PX = (192, 128, 96, 64)
# A page holds this many bytes of pictures; in letters they take a third more.
PAGE_BYTES = 14_000_000
# No picture of this size needs more.
MOST_BYTES = 16_000
# More than there may be cores: a thread mostly waits for the disk.
THREADS = 4

Thing = TypeVar("Thing")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Original:
    """A picture file; `name` is its thumbnail's, the same for the same picture."""

    path: Path
    name: str


@dataclass(slots=True)
class Thumbnails:
    """The pictures of a page, each once."""

    originals: list[Original] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)

    def add(self, path: Path, *identity: str) -> int:
        """The number of a picture; equal identities are one picture."""
        name = digest([SIDE_PX, *identity])[:24] + SUFFIX
        if name not in self._known:
            self._known[name] = len(self.originals)
            self.originals.append(Original(path, name))
        return self._known[name]

    def inline(self) -> Iterator[str | None]:
        """As addresses that hold the pictures themselves; None for what cannot be read."""
        limit = min(MOST_BYTES, PAGE_BYTES // max(1, len(self.originals)))
        for data in _ahead(lambda one: _encoded(one.path, limit), self.originals):
            yield (
                None
                if data is None
                else f"data:image/webp;base64,{base64.b64encode(data).decode()}"
            )

    def beside(self, folder: Path) -> Iterator[str | None]:
        """As names of files in the folder; one that is there and no older is left as it is.

        Raises:
            ItemError: The folder cannot be written.
        """
        yield from _ahead(lambda one: _fresh(one, folder), self.originals)


def encode(path: Path, limit: int) -> bytes:
    """A small WebP of at most about that many bytes, upright, sRGB, on white.

    Raises:
        ImageError: Not a picture that can be read.
    """
    small = images.decode(path, _shrunk)
    data = b""
    for quality in QUALITIES:
        data = _webp(small, quality)
        if len(data) <= limit:
            return data
    for side in SMALLER_PX:
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = _webp(small, QUALITIES[-1])
        if len(data) <= limit:
            break
    return data


def _encoded(path: Path, limit: int) -> bytes | None:
    try:
        return encode(path, limit)
    except ImageError:
        return None


def _fresh(one: Original, folder: Path) -> str | None:
    """The name of the thumbnail, once it is there."""
    made = folder / one.name
    try:
        if made.stat().st_mtime_ns > one.path.stat().st_mtime_ns:
            return one.name
    except OSError:
        pass
    data = _encoded(one.path, MOST_BYTES)
    if data is None:
        return None
    write_atomic(folder / one.name, data)
    return one.name


def _shrunk(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode in ("L", "RGB", "RGBA") and "transparency" not in image.info:
        # Before the conversions, which take long where a picture is large.
        image.thumbnail((2 * SIDE_PX, 2 * SIDE_PX), Image.Resampling.LANCZOS, reducing_gap=2)
    colour, alpha = images.split(image)
    if images.is_deep(colour):
        greys = images.deep_greys(Path("picture"), colour)
        colour = Image.fromarray((greys * 255).round().astype("uint8"))
    colour = images.to_srgb(colour, profile)
    if alpha is not None:
        white = Image.new("RGB", colour.size, "white")
        colour = Image.composite(colour, white, alpha)
    colour.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    return colour


def _webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def _ahead(work: Callable[[Thing], Made], things: Iterable[Thing]) -> Iterator[Made]:
    """Results in order, a few threads working ahead; never more than a few results are held."""
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for thing in things:
            waiting.append(pool.submit(work, thing))
            if len(waiting) >= 2 * THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
