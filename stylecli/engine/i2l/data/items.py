"""`items.jsonl`: the pictures of a set, one a line, each with its style and what it shows.

    {"id": "a", "style_id": "s1", "image": "images/ab/….webp", "caption": "a fox", "width": 64,
     "height": 64, "sha256": "…", "style_caption": "ink", "content_id": "fox", "split": "train",
     "licence": "MIT"}

The last four may be left out. Whatever else a line holds, or lacks, is refused with its number.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from stylecli.artifacts import images, rows, store
from stylecli.engine.i2l.data import holdout
from stylecli.engine.i2l.data.words import number, plain, says
from stylecli.errors import ImageError, InputError, did_you_mean

NAME = "items.jsonl"
TRAIN, TEST = "train", "test"
# An icon set holds out by how far a style is from those of training.
SPLITS = (TRAIN, "easy", "medium", "hard", TEST)
NEEDED: Mapping[str, type] = {
    "id": str,
    "style_id": str,
    "image": str,
    "caption": str,
    "width": int,
    "height": int,
    "sha256": str,
}
OPTIONAL = ("style_caption", "content_id", "split", "licence")
# More captions than this share name their style: the text would tell what pictures should.
MAX_TELLTALE = 0.01
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Item:
    """One picture.

    Attributes:
        folder: Of the set.
        name: Of the picture's file, below the folder.
        style_caption: Words for the style; no caption holds them.
        content_id: The same for the same thing in every style.
        sha256: Of the file.
    """

    id: str
    style_id: str
    folder: Path
    name: str
    caption: str
    width: int
    height: int
    sha256: str
    style_caption: str | None = None
    content_id: str | None = None
    split: str = TRAIN
    licence: str | None = None

    @property
    def image(self) -> Path:
        return self.folder / self.name

    @property
    def content(self) -> str:
        """By which two pictures of the same thing are known: its id, or else its caption."""
        return self.content_id or plain(self.caption)

    def row(self) -> dict[str, Any]:
        """A line of `items.jsonl`; what is not known is left out."""
        row = {name: getattr(self, name) for name in (*NEEDED, *OPTIONAL) if name != "image"}
        return {"image": self.name} | {key: value for key, value in row.items() if value}


@dataclass(frozen=True)
class Dataset:
    """Pictures sorted by style.

    Attributes:
        items: In the order of the file.
        digest: Of the file that lists them; parts of a set have that of the whole.
        skipped: How many pictures are not among the items, by reason.
    """

    items: Sequence[Item]
    digest: str
    skipped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def styles(self) -> Mapping[str, Sequence[int]]:
        """Positions in `items`, by style."""
        found: dict[str, list[int]] = {}
        for position, item in enumerate(self.items):
            found.setdefault(item.style_id, []).append(position)
        return found

    @cached_property
    def splits(self) -> Mapping[str, int]:
        """How many pictures each split has, of those that have any."""
        counts = Counter(item.split for item in self.items)
        return {name: counts[name] for name in SPLITS if counts[name]}

    def split(self, *names: str) -> Dataset:
        """The pictures of some splits; none where the set does not have them."""
        return replace(self, items=[item for item in self.items if item.split in names])

    def held_out(self) -> Dataset:
        """All that no training sees."""
        return self.split(*(name for name in SPLITS if name != TRAIN))


def read(folder: Path, *, holdout_count: int = 0) -> Dataset:
    """A set as its `items.jsonl` says; no picture is opened.

    Pictures whose caption names their style are left out and counted.

    Args:
        folder: Of the set, or its `items.jsonl`.
        holdout_count: About how many pictures to keep from training, by style and by content,
            where the set itself does not say.

    Raises:
        InputError: There is no such set; a line is not an item; a picture's file is missing; more
            than 1 % of the captions name their style; or no item is left.
    """
    file = folder if folder.suffix == ".jsonl" else folder / NAME
    items = list(listed(file))
    _refuse_missing(file, items)
    skipped: Counter[str] = Counter()
    kept = [item for item in items if not says(item.caption, item.style_caption)]
    if telltale := len(items) - len(kept):
        refuse_telltale(telltale, len(items), file.name)
        skipped["caption names the style"] = telltale
    if holdout_count and all(item.split == TRAIN for item in kept):
        kept, lost = _parted(kept, holdout_count)
        skipped["shares style or content with the test"] = lost
    if not kept:
        raise InputError(f"{file}: holds no picture", fix="`style i2l-data` makes a set")
    return Dataset(kept, store.file_sha256(file), +skipped)


def picture(item: Item) -> images.Picture:
    """The picture of an item, on white where it was transparent.

    Raises:
        ImageError: Its file cannot be read, or is not the one the item was made of.
    """
    try:
        is_same = store.file_sha256(item.image) == item.sha256
    except OSError as error:
        raise ImageError(
            f"{item.name}: {error.strerror or error}", fix="run `style i2l-data` again"
        ) from error
    if not is_same:
        raise ImageError(
            f"{item.name}: is no longer the picture that {NAME} speaks of (item {item.id})",
            fix="run `style i2l-data` again, or mend its sha256",
        )
    return images.read(item.image)


def refuse_telltale(count: int, total: int, name: str) -> None:
    """See that next to no caption names its style.

    Raises:
        InputError: More than 1 % do.
    """
    if count > MAX_TELLTALE * total:
        raise InputError(
            f"{name}: {count} of {total} captions name their style ({count / total:.1%}; "
            f"at most {MAX_TELLTALE:.0%} may)",
            fix="write captions of what is to be seen, without style_caption's words",
        )


def listed(file: Path) -> Iterator[Item]:
    """The lines of an `items.jsonl`, whatever lies beside it.

    Raises:
        InputError: It cannot be read, or a line is not an item, or an id occurs twice.
    """
    seen: set[str] = set()
    fix = "`style i2l-data` makes one"
    for where, row in rows.objects(file, what=f"no set at {file.parent}", fix=fix):
        item = _item(file, where, row)
        if item.id in seen:
            raise InputError(
                f"{where}: id {item.id!r} occurs twice", fix="give every picture an id of its own"
            )
        seen.add(item.id)
        yield item


def _item(file: Path, where: str, row: Mapping[str, Any]) -> Item:
    for key in row:
        if key not in NEEDED and key not in OPTIONAL:
            raise InputError(
                f"{where}: unknown key {key!r}",
                fix=f"{did_you_mean(key, (*NEEDED, *OPTIONAL))}"
                f"`style i2l-data {file.name} -o SET/` makes a set of other lists",
            )
    for key, kind in (*NEEDED.items(), *((key, str) for key in OPTIONAL)):
        value = row.get(key)
        if value is None and key in OPTIONAL:
            continue
        # Python takes true for a number.
        if not isinstance(value, kind) or isinstance(value, bool) or not value or value < kind():
            said = "is missing" if key not in row else f"is {json.dumps(value)}"
            wanted = "a text" if kind is str else "a whole number above 0"
            raise InputError(f"{where}: `{key}` {said}", fix=f"it is {wanted}")
    if not _SHA256.fullmatch(row["sha256"]):
        raise InputError(
            f"{where}: `sha256` is {row['sha256']!r}", fix="it is 64 digits of 0-9 and a-f"
        )
    split = row.get("split") or TRAIN
    if split not in SPLITS:
        raise InputError(
            f"{where}: `split` is {split!r}",
            fix=f"{did_you_mean(split, SPLITS)}known: {', '.join(SPLITS)}",
        )
    return Item(
        id=row["id"],
        # Shared by many: one text for all of them.
        style_id=sys.intern(row["style_id"]),
        folder=file.parent,
        name=row["image"],
        caption=row["caption"],
        width=row["width"],
        height=row["height"],
        sha256=row["sha256"],
        style_caption=_shared(row.get("style_caption")),
        content_id=_shared(row.get("content_id")),
        split=sys.intern(split),
        licence=_shared(row.get("licence")),
    )


def _shared(text: str | None) -> str | None:
    return sys.intern(text) if text else None


def _refuse_missing(file: Path, items: Sequence[Item]) -> None:
    names = {item.name: item for item in items}
    if gone := rows.missing(file.parent, names):
        first = names[gone[0]]
        others = f", and those of {len(gone) - 1} others" if gone[1:] else ""
        raise InputError(
            f"{file.name}: the picture of item {first.id!r}, {first.name}, is not there{others}",
            fix="run `style i2l-data` again, or remove the lines",
        )


def _parted(items: Sequence[Item], count: int) -> tuple[list[Item], int]:
    sides = holdout.sides(
        [number(item.style_id) for item in items], [number(item.content) for item in items], count
    )
    kept = [
        replace(item, split=side)
        for item, side in zip(items, sides, strict=True)
        if side != "neither"
    ]
    return kept, len(items) - len(kept)
