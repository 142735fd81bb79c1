"""COCO's lists: `instances_….json`, and the phrases with masks that TokenCompose made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stylecli.artifacts import images, rows, store
from stylecli.engine.route.data.photographs import Mask, Outline, Photograph
from stylecli.engine.route.data.segments import decoded
from stylecli.errors import ImageError, InputError

# Where pictures lie when nobody says: beside the list, or as COCO's archives unpack.
FOLDERS = ("images", "train2017", "val2017", "../train2017", "../val2017", "../images")
_ARTICLES = ("a", "an", "the")


class Instances:
    """`instances_….json`: every instance outlined, and named by its category.

    Commands say "the dog", so only categories with one instance in a picture count.
    """

    def __init__(self, file: Path, pictures: Path | None) -> None:
        """Read the list.

        Raises:
            InputError: It is none of COCO's.
        """
        self.name = file.name
        self.identity = _identity(file)
        self._pictures = pictures
        self._file = file
        self._said = _json(file)

    def __iter__(self) -> Iterator[Photograph]:
        said = self._said
        names = {row["id"]: str(row["name"]) for row in said["categories"]}
        groups: dict[Any, list[Mapping[str, Any]]] = {}
        for note in said["annotations"]:
            groups.setdefault(note["image_id"], []).append(note)
        noted: list[tuple[Mapping[str, Any], list[Mapping[str, Any]]]] = [
            (row, groups.get(row["id"], [])) for row in said["images"]
        ]
        for row, notes in noted:
            by_kind: dict[Any, list[Mapping[str, Any]]] = {}
            for note in notes:
                by_kind.setdefault(note["category_id"], []).append(note)
            alone = [each[0] for each in by_kind.values() if len(each) == 1]
            outlines = tuple(
                Outline(names[note["category_id"]], partial(self._mask, row, note))
                for note in alone
                if not note.get("iscrowd")
            )
            name = str(row["file_name"])
            yield Photograph(Path(name).stem, located(self._file, name, self._pictures), outlines)

    def _mask(self, row: Mapping[str, Any], note: Mapping[str, Any], size: tuple[int, int]) -> Mask:
        # Polygons do not say what they are of: in a resized copy they would lie anywhere.
        listed = row.get("height", size[0]), row.get("width", size[1])
        if listed != size:
            raise ImageError(
                f"{row['file_name']}: is {size[1]}x{size[0]}, and {self.name} says "
                f"{listed[1]}x{listed[0]}",
                fix="give the pictures that the list was made for",
            )
        where = f"{self.name}: annotation {note.get('id')}"
        return decoded(note.get("segmentation"), size, where)


class Grounded:
    """Lines of ``file_name`` and ``attn_list``: phrases of a caption, each with a mask's file."""

    def __init__(self, file: Path, pictures: Path | None) -> None:
        """Remember the list; it is read when it is gone through.

        Raises:
            InputError: It is not there.
        """
        self.name = file.name
        self.identity = _identity(file)
        self._file = file
        self._pictures = pictures

    def __iter__(self) -> Iterator[Photograph]:
        fix = "give TokenCompose's list, or COCO's instances"
        for where, row in rows.objects(self._file, what=f"no list {self._file}", fix=fix):
            name, phrases = row.get("file_name"), row.get("attn_list")
            if not isinstance(name, str) or not isinstance(phrases, list):
                raise InputError(f"{where}: no `file_name` with an `attn_list`", fix=fix)
            yield Photograph(
                Path(name).stem,
                located(self._file, name, self._pictures),
                tuple(self._outlines(where, phrases)),
            )

    def _outlines(self, where: str, phrases: list[Any]) -> Iterator[Outline]:
        for pair in phrases:
            if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
                raise InputError(
                    f"{where}: `attn_list` holds {pair!r}",
                    fix="it holds pairs of a phrase and a mask's file, or null",
                )
            phrase, mask = pair
            if isinstance(mask, str) and mask:
                file = self._file.parent / mask
                yield Outline(bare(phrase), partial(_mask_file, file), file)


def bare(phrase: str) -> str:
    """A noun phrase as it follows "the".

    >>> bare("a slice of Bread")
    'slice of Bread'
    """
    words = phrase.split()
    return " ".join(words[1:] if len(words) > 1 and words[0].casefold() in _ARTICLES else words)


def located(list_file: Path, name: str, pictures: Path | None) -> Path:
    """Where a list's picture is: in the folder that was named, or near the list."""
    if pictures is not None:
        return pictures / name
    near = [list_file.parent / folder / name for folder in ("", *FOLDERS)]
    return next((file for file in near if file.is_file()), near[0])


def _mask_file(file: Path, size: tuple[int, int]) -> Mask:
    """A mask in its first channel, whatever its brightest is called (section 1.1)."""

    def first(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image.getchannel(0), dtype=np.float32))

    return at_size(file, images.decode(file, first), size, relative=True)


def at_size(file: Path, values: Tensor, size: tuple[int, int], *, relative: bool = False) -> Mask:
    """A mask's file as a mask of a picture.

    Args:
        relative: Inside is what is brighter than half the brightest, not than half of white.

    Raises:
        ImageError: It is of another size.
    """
    if tuple(values.shape) != size:
        raise ImageError(
            f"{file}: is {values.shape[1]}x{values.shape[0]}, its picture {size[1]}x{size[0]}",
            fix="masks have the size of their pictures",
        )
    brightest = float(values.max()) if relative else 1.0
    return values > brightest / 2 if brightest else torch.zeros(size, dtype=torch.bool)


def _identity(file: Path) -> str:
    try:
        return store.file_sha256(file)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}", fix="check the name") from error


def _json(file: Path) -> Mapping[str, Any]:
    try:
        said: Any = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not JSON: {error}", fix="give COCO's instances") from error
    for key, needed in (("images", ("id", "file_name")), ("categories", ("id", "name")),
                        ("annotations", ("image_id", "category_id"))):  # fmt: skip
        found = said.get(key) if isinstance(said, dict) else None
        if not isinstance(found, list) or not all(
            isinstance(row, dict)
            and all(isinstance(row.get(name), int | float | str) for name in needed)
            for row in found
        ):
            raise InputError(
                f"{file}: `{key}` is no list of {', '.join(needed)}",
                fix="give COCO's instances, such as instances_train2017.json",
            )
    known = {row["id"] for row in said["categories"]}
    if odd := [row for row in said["annotations"] if row["category_id"] not in known]:
        raise InputError(
            f"{file}: annotation {odd[0].get('id')} is of category {odd[0]['category_id']}, which "
            "`categories` does not name",
            fix="give COCO's instances, such as instances_train2017.json",
        )
    checked: Mapping[str, Any] = said
    return checked
