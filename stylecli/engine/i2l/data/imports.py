"""Pictures of lists and tables: looked through once for their words, then brought in one by one."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image

from stylecli.artifacts import images
from stylecli.engine.i2l.data import holdout, upscale
from stylecli.engine.i2l.data.items import SPLITS, TEST, TRAIN, Item, refuse_telltale
from stylecli.engine.i2l.data.making import Failed, LeftOut, Made, encoded, keep
from stylecli.engine.i2l.data.rows import Raw, Rows, Said, open_rows
from stylecli.engine.i2l.data.upscale import LANCZOS
from stylecli.engine.i2l.data.words import number, says
from stylecli.errors import DiskFullError, InputError, ItemError

# Files that stay as they are; what begins otherwise is written anew.
SUFFIXES: Mapping[bytes, str] = {b"\x89PNG\r\n": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}
UNSAID = "says not what is shown, or not in which style"
TELLTALE = "caption names the style"
SHARED = "shares style or content with the test"
# What becomes of a row: the split it is in, or why it is in none.
FATES = (*SPLITS, UNSAID, TELLTALE, SHARED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be brought in, and how.

    Attributes:
        holdout: About how many pictures training is not to see, where the rows do not say.
        short_px: Smaller pictures are brought up to it by their short side.
        upscaler: As `upscale.find` takes it.
    """

    files: Sequence[Path]
    holdout: int
    short_px: int | None = None
    upscaler: str = LANCZOS


class Imported:
    """The rows of some files, as pictures of one set."""

    def __init__(self, wanted: Wanted) -> None:
        """Look through all words of all rows; no picture is read.

        Raises:
            InputError: A file that is missing, damaged or of another kind; a line that is no row;
                too many captions that name their style; or no row at all.
            UsageError: There is no such upscaler, or a package is missing.
        """
        self._wanted = wanted
        self._upscale = upscale.find(wanted.upscaler)
        self._files = [open_rows(file) for file in wanted.files]
        self._fates = _fates(self._files, wanted.holdout)
        pieces = [len(rows.counts) for rows in self._files]
        self._first_units = [0, *accumulate(pieces)]
        self._first_rows = [0, *accumulate(n for rows in self._files for n in rows.counts)]
        self.unit_names = [
            f"{rows.name}, part {piece + 1}" for rows in self._files for piece in range(
                len(rows.counts)
            )
        ]  # fmt: skip
        self.total = len(self._fates)
        self.facts: Mapping[str, Any] = {
            "source": "rows",
            "files": [{"name": rows.name, "identity": rows.identity()} for rows in self._files],
            "holdout": wanted.holdout,
            "short_px": wanted.short_px,
            "upscaler": wanted.upscaler if wanted.short_px else None,
        }

    def make(self, unit: int, folder: Path) -> Iterator[Made]:
        """See `making.Source`."""
        place = bisect_right(self._first_units, unit) - 1
        raws = self._files[place].raws(unit - self._first_units[place])
        for row, raw in enumerate(raws, start=self._first_rows[unit]):
            fate = FATES[self._fates[row]]
            if fate not in SPLITS:
                yield LeftOut(fate)
                continue
            try:
                yield self._item(row, raw, fate, folder)
            except DiskFullError:
                raise
            except ItemError as error:
                yield Failed(raw.place, error.as_row())

    def extras(self) -> Mapping[str, str]:
        """Nothing beside the items."""
        return {}

    def about(self) -> Mapping[str, Any]:
        """Nothing beside the facts."""
        return {}

    def _item(self, row: int, raw: Raw, split: str, folder: Path) -> Item:
        said, data = raw.said, raw.data()
        picture = images.read_bytes(data, Path(raw.place))
        height, width = picture.pixels.shape[:2]
        suffix = next((s for start, s in SUFFIXES.items() if data.startswith(start)), "")
        short = self._wanted.short_px
        if not suffix or (short is not None and min(height, width) < short):
            image = Image.fromarray(picture.pixels.numpy())
            if short is not None:
                image = upscale.brought_up(image, short, self._upscale)
            (width, height), (data, suffix) = image.size, encoded(image)
        name, sha256 = keep(folder, data, suffix)
        return Item(
            id=said.id or f"{row:08}",
            style_id=said.style,
            folder=folder,
            name=name,
            caption=said.caption,
            width=width,
            height=height,
            sha256=sha256,
            style_caption=said.style_caption or None,
            content_id=said.content_id or None,
            split=split,
            licence=said.licence or None,
        )


def _fates(files: Sequence[Rows], count: int) -> array[int]:
    """What becomes of every row, by its place in `FATES`; small, where texts would be large."""
    fates, styles, contents = array("b"), array("Q"), array("Q")
    ids: set[int] = set()
    marked = False
    for rows in files:
        for said in rows.said():
            marked = marked or said.split not in ("", TRAIN)
            fates.append(FATES.index(_fate(said)))
            styles.append(number(said.style))
            contents.append(number(said.content))
            _refuse_twice(rows.name, said, ids)
    found = Counter(fates)
    if not fates:
        raise InputError(
            f"{', '.join(rows.name for rows in files)}: no rows", fix="name lists that have some"
        )
    refuse_telltale(found[FATES.index(TELLTALE)], len(fates), files[0].name)
    return fates if marked or not count else _parted(fates, styles, contents, count)


def _fate(said: Said) -> str:
    if not said.is_whole:
        return UNSAID
    if says(said.caption, said.style_caption):
        return TELLTALE
    return said.split or TRAIN


def _refuse_twice(name: str, said: Said, ids: set[int]) -> None:
    if said.id:
        if (own := number(said.id)) in ids:
            raise InputError(
                f"{name}: id {said.id!r} occurs twice", fix="give every row an id of its own"
            )
        ids.add(own)


def _parted(fates: array[int], styles: array[int], contents: array[int], count: int) -> array[int]:
    """Rows of training shared out between it and the test."""
    into = {"train": FATES.index(TRAIN), "test": FATES.index(TEST), "neither": FATES.index(SHARED)}
    rows = [row for row, fate in enumerate(fates) if FATES[fate] == TRAIN]
    sides = holdout.sides([styles[row] for row in rows], [contents[row] for row in rows], count)
    parted = array("b", fates)
    for row, side in zip(rows, sides, strict=True):
        parted[row] = into[side]
    return parted
