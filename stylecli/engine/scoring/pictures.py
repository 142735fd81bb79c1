"""Pictures of items: decoded when asked for, kept while they are likely to be asked for again."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.artifacts import images
from stylecli.artifacts.features import FeatureStore
from stylecli.artifacts.images import Picture
from stylecli.artifacts.store import digest
from stylecli.engine.scoring.item import Item
from stylecli.errors import ItemError
from stylecli.evaluation import metrics, palette, pixels
from stylecli.recipe.scoring import Evaluate

# A 20 x 40 grid asks for each content forty times, in a row.
KEPT_BYTES = 2**28
MAX_ASPECT_ERROR = 0.01
PAIR_PX = 512
MASK_THRESHOLD = 128

T = TypeVar("T")


class Recent(Generic[T]):
    """The last things made, by key, up to so many bytes; the newest always."""

    def __init__(self, most_bytes: int, size: Callable[[T], int]) -> None:
        self._most, self._size = most_bytes, size
        self._kept: OrderedDict[object, T] = OrderedDict()
        self._bytes = 0

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The thing of this key, made if need be."""
        if key not in self._kept:
            self._kept[key] = made = make()
            self._bytes += self._size(made)
        self._kept.move_to_end(key)
        while self._bytes > self._most and len(self._kept) > 1:
            self._bytes -= self._size(self._kept.popitem(last=False)[1])
        return self._kept[key]


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture that can be had: a file, or what an anchor makes of files.

    Attributes:
        key: Digest of the bytes it comes from, and of how.
        load: Decodes or makes it, (h, w, 3).
    """

    key: str
    load: Callable[[], UInt8[Tensor, "h w 3"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One output to score, of a method or of an anchor."""

    item: Item
    method: str
    output: Shot
    content: Shot | None
    styles: tuple[Shot, ...]
    target: Shot | None
    mask: Shot | None

    def shots(self, role: str) -> tuple[Shot, ...]:
        """Pictures of a role; none if the item has none."""
        if role == "style":
            return self.styles
        shot: Shot | None = getattr(self, role)
        return () if shot is None else (shot,)


def _on_white(picture: Picture) -> UInt8[Tensor, "h w 3"]:
    return picture.pixels


def _on_black(picture: Picture) -> UInt8[Tensor, "h w 3"]:
    """A mask's transparent part is no region, whatever colour lies beneath."""
    if picture.alpha is None:
        return picture.pixels
    clear = 255 - picture.alpha.int()[..., None]
    return (picture.pixels.int() - clear).clamp(0, 255).to(torch.uint8)


class Album:
    """Makes cases of items."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._recent: Recent[Tensor] = Recent(KEPT_BYTES, lambda pixels: pixels.nbytes)

    def case(self, item: Item) -> Case:
        """An item's own output; a file that vanished fails when it is looked at."""
        return Case(
            item=item,
            method=item.method,
            output=self._shot(item.output),
            content=self._shot(item.content) if item.content else None,
            styles=tuple(self._shot(path) for path in item.style),
            target=self._shot(item.target) if item.target else None,
            mask=self._shot(item.mask, _on_black) if item.mask else None,
        )

    def anchors(self, items: Sequence[Item], names: Sequence[str]) -> Iterator[Case]:
        """What trivial methods would have put in the outputs' place, where they could.

        Args:
            items: The same task's, of all methods; the first output that is a picture gives the
                size.
            names: Keys of `ANCHORS`.
        """
        for item in items:
            with contextlib.suppress(ItemError):
                size = self._size(item.output)
                break
        else:
            return
        case = self.case(item)
        for name in names:
            takes = ANCHORS[name]
            inputs = [shot for role in takes.roles for shot in case.shots(role)[:1]]
            if len(inputs) < len(takes.roles):
                continue
            yield Case(
                item=case.item,
                method=name,
                output=self._made(name, takes, inputs, size),
                content=case.content,
                styles=case.styles,
                target=case.target,
                mask=case.mask,
            )

    def _size(self, path: Path) -> tuple[int, int]:
        """Of a picture; kept, because a PNG is decoded whole to learn whether it is turned.

        Raises:
            ItemError: It cannot be read.
        """
        try:
            key = digest(["size", self._store.file_digest(path)])
        except OSError:
            return images.size_of(path)
        known = self._store.get(key)
        if known is not None:
            return int(known[0]), int(known[1])
        size = images.size_of(path)
        self._store.hold({key: np.array(size, dtype=np.float32)})
        return size

    def _made(self, name: str, takes: Anchor, inputs: list[Shot], size: tuple[int, int]) -> Shot:
        key = digest([name, takes.version, *(shot.key for shot in inputs), *size])

        def make() -> Tensor:
            first, *others = (shot.load() for shot in inputs)
            return takes.make(pixels.resize_u8(first, size, "bilinear"), *others)

        return Shot(key, lambda: self._recent.get(key, make))

    def _shot(self, path: Path, show: Callable[[Picture], Tensor] = _on_white) -> Shot:
        try:
            key = self._store.file_digest(path)
        except OSError:
            key = f"unreadable {path}"
        return Shot(key, lambda: self._recent.get((path, show), lambda: show(images.read(path))))


@dataclass(frozen=True, slots=True)
class Anchor:
    """A trivial method.

    Attributes:
        roles: What it takes; the first is scaled to the output's size.
    """

    roles: tuple[str, ...]
    make: Callable[..., UInt8[Tensor, "h w 3"]]
    version: int = 1


def _recoloured(by: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def make(content: Tensor, style: Tensor) -> Tensor:
        return images.to_pixels(by(images.to_tensor(content), images.to_tensor(style))[0])

    return make


def _blend(content: Tensor, style: Tensor) -> Tensor:
    same = pixels.resize_u8(style, content.shape[:2], "bilinear")
    return ((content.int() + same.int() + 1) // 2).to(torch.uint8)


ANCHORS = {
    "content_copy": Anchor(("content",), lambda content: content),
    "style_copy": Anchor(("style",), lambda style: style),
    "palette_transfer": Anchor(("content", "style"), _recoloured(metrics.palette_transfer)),
    "color_transfer": Anchor(("content", "style"), _recoloured(palette.reinhard)),
    "mid_blend": Anchor(("content", "style"), _blend),
}


def paired(
    output: UInt8[Tensor, "h w 3"], other: UInt8[Tensor, "ho wo 3"], settings: Evaluate, name: str
) -> tuple[UInt8[Tensor, "hp wp 3"], UInt8[Tensor, "hp wp 3"]]:
    """Two pictures at one size.

    Raises:
        ItemError: Their shapes differ by more than 1 %, and the recipe says to refuse that.
    """
    (height, width), (other_height, other_width) = output.shape[:2], other.shape[:2]
    if abs(width * other_height / (height * other_width) - 1) > MAX_ASPECT_ERROR:
        if settings.aspect == "refuse":
            raise ItemError(
                f"the output is {width}x{height}, the {name} {other_width}x{other_height}: another "
                "shape",
                fix="--set evaluate.aspect=crop or squash",
            )
        if settings.aspect == "crop":
            other = _cropped(other, height / width)
    if settings.pair_size == "512":
        size = pixels.shorter_side((height, width), PAIR_PX)
        output = pixels.resize_u8(output, size, "bilinear")
    size = (output.shape[0], output.shape[1])
    return output, pixels.resize_u8(other, size, "bilinear")


def _cropped(picture: UInt8[Tensor, "h w 3"], aspect: float) -> UInt8[Tensor, "hc wc 3"]:
    """The largest middle part of this height to width."""
    height, width = picture.shape[:2]
    tall, wide = min(height, round(width * aspect)), min(width, round(height / aspect))
    top, left = (height - tall) // 2, (width - wide) // 2
    return picture[top : top + tall, left : left + wide]


def region(
    mask: UInt8[Tensor, "hm wm 3"], size: tuple[int, int], polarity: str
) -> Float[Tensor, "h w"]:
    """1 inside the region; a mask is grey, at least half bright is inside, nearest when resized.

    Raises:
        ItemError: The mask is empty, or has another shape than the picture.
    """
    height, width = mask.shape[:2]
    if abs(width * size[0] / (height * size[1]) - 1) > MAX_ASPECT_ERROR:
        raise ItemError(
            f"the mask is {width}x{height}, the output {size[1]}x{size[0]}: another shape",
            fix="give a mask of the output's shape",
        )
    luma = mask.float() @ torch.tensor(metrics.LUMA)
    inside = luma.round() >= MASK_THRESHOLD
    if polarity == "black":
        inside = ~inside
    rows = torch.arange(size[0]) * height // size[0]
    columns = torch.arange(size[1]) * width // size[1]
    found = inside[rows][:, columns].float()
    if not found.any():
        raise ItemError("the mask is empty", fix="--set evaluate.mask_polarity=black swaps it")
    return found
