"""Folders of `…_im` and `…_gt` pairs: PASCAL VOC as relabelled for CascadePSP, and its BIG set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from stylecli.artifacts import masks, store
from stylecli.engine.route.data.coco import at_size
from stylecli.engine.route.data.photographs import Mask, Outline, Photograph
from stylecli.errors import InputError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
# BIG calls one of them otherwise.
_OTHERWISE = {"tv": "tvmonitor"}
SAID = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv"}
MASK, PICTURES = "_gt.png", ("_im.jpg", "_im.png", "_im.jpeg")
_NUMBER = re.compile(r"_(\d\d)$")


class Relabelled:
    """A folder of pairs, and of folders of them; each pair shows one object."""

    def __init__(self, folder: Path) -> None:
        """Look for pairs.

        Raises:
            InputError: There is none, or a name that says no class.
        """
        self.name = folder.name
        self._pairs = [
            (picture, mask)
            for mask in sorted(folder.rglob(f"*{MASK}"))
            if (picture := _beside(mask)) is not None
        ]
        if not self._pairs:
            raise InputError(
                f"{folder}: no pairs of NAME_im.jpg (or .png) and NAME{MASK}",
                fix="give relabelled VOC, BIG, or a list of COCO's",
            )
        self._classes = [class_of(_stem(mask)) for _, mask in self._pairs]
        self.identity = store.digest(
            [[picture.name, store.file_sha256(mask)] for picture, mask in self._pairs]
        )

    def __iter__(self) -> Iterator[Photograph]:
        for (picture, mask), kind in zip(self._pairs, self._classes, strict=True):
            outline = Outline(SAID.get(kind, kind), partial(_inside, mask))
            # The number stays: it is of the object in VOC, and of the picture in BIG.
            yield Photograph(_stem(mask), picture, (outline,))


def class_of(stem: str) -> str:
    """What a pair shows: by its last number in VOC, by a word of its name in BIG.

    >>> class_of("2007_000033_01"), class_of("train_tv_12"), class_of("pottedplant3")
    ('aeroplane', 'tvmonitor', 'pottedplant')

    Raises:
        InputError: The name says neither.
    """
    if (numbered := _NUMBER.search(stem)) and 1 <= int(numbered[1]) <= len(CLASSES):
        words = re.findall(r"[a-z]+", stem.casefold())
        if not words:
            return CLASSES[int(numbered[1]) - 1]
    known = {**{name: name for name in CLASSES}, **_OTHERWISE}
    words = re.findall(r"[a-z]+", stem.casefold())
    named = [known[word] for word in words if word in known]
    if named:
        # The subset a picture is of may be a word of its name, and "train" is also a class.
        return named[-1]
    raise InputError(
        f"{stem}{MASK}: its name says no class of VOC",
        fix=f"call it NAME_CC{MASK}, CC from 01 ({CLASSES[0]}) to {len(CLASSES)} ({CLASSES[-1]})",
    )


def _inside(mask: Path, size: tuple[int, int]) -> Mask:
    return at_size(mask, masks.read_mask(mask), size)


def _stem(mask: Path) -> str:
    return mask.name.removesuffix(MASK)


def _beside(mask: Path) -> Path | None:
    near = [mask.with_name(_stem(mask) + suffix) for suffix in PICTURES]
    return next((file for file in near if file.is_file()), None)
