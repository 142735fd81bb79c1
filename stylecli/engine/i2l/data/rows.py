"""Lists of pictures that others made: `.jsonl` files, and tables in parquet, read piece by piece.

A row holds a picture (`image`: a file's name, or in a table its bytes), what it shows (`content` or
`caption`), and in which style (`style` or `style_caption`). It may hold an `id`, a `style_id`, a
`content_id`, a `split` and a `licence`. Anything else is passed over.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stylecli.artifacts import store
from stylecli.engine.i2l.data.items import SPLITS
from stylecli.engine.i2l.data.words import number, plain
from stylecli.errors import ImageError, InputError, UsageError, did_you_mean

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

# What a column may be called, MegaStyle's name last.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("image",),
    "caption": ("caption", "content"),
    "style_caption": ("style_caption", "style"),
    "id": ("id",),
    "style_id": ("style_id",),
    "content_id": ("content_id",),
    "split": ("split",),
    "licence": ("licence", "license"),
}
# Lines of a list that are one piece of work.
LINES = 256
# Pictures of a table that are in memory together, and bytes read ahead.
PICTURES, READ_AHEAD = 32, 2**20
TEXTS = 8192
# Of a table, which may be large: the end tells where everything is, and how much of it.
TAIL = 2**20


@dataclass(frozen=True, slots=True)
class Said:
    """What a row says, besides its picture; empty where it says nothing."""

    caption: str
    style_caption: str
    id: str
    style_id: str
    content_id: str
    split: str
    licence: str

    @property
    def is_whole(self) -> bool:
        """Whether it says what is shown, and in which style."""
        return bool(plain(self.caption) and (self.style_id or plain(self.style_caption)))

    @property
    def style(self) -> str:
        """By which pictures of one style are known."""
        return self.style_id or f"{number(plain(self.style_caption)):016x}"

    @property
    def content(self) -> str:
        """By which pictures of one thing are known."""
        return self.content_id or plain(self.caption)


@dataclass(frozen=True, slots=True)
class Raw:
    """A row with its picture.

    Attributes:
        place: Where it stands, for messages.
    """

    place: str
    said: Said
    image: Any
    folder: Path

    def data(self) -> bytes:
        """The bytes of the picture's file.

        Raises:
            ImageError: There are none.
        """
        image = self.image
        if isinstance(image, Mapping):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, bytes):
            return image
        if not isinstance(image, str) or not image:
            raise ImageError(f"{self.place}: has no picture", fix="mend or remove the row")
        file = self.folder / image
        try:
            # A pipe would be waited for without end.
            if file.exists() and not file.is_file():
                raise ImageError(f"{self.place}: {image} is no file", fix="name a picture's file")
            return file.read_bytes()
        except OSError as error:
            raise ImageError(
                f"{self.place}: {image}: {error.strerror or error}",
                fix=f"names count from the folder of {self.place.partition(':')[0]}",
            ) from error


class Rows(Protocol):
    """One file of rows, in pieces."""

    name: str
    counts: list[int]

    def identity(self) -> str: ...
    def said(self) -> Iterator[Said]: ...
    def raws(self, piece: int) -> Iterator[Raw]: ...


class Lines:
    """A `.jsonl` file."""

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self._file = file
        # Where every piece begins, and the number of its first line.
        self._starts, self._numbers = array("Q"), array("Q")
        self.counts: list[int] = []
        with _readable(file), file.open("rb") as stream:
            at = 0
            for count, line in enumerate(stream, start=1):
                if line.strip():
                    if not self.counts or self.counts[-1] == LINES:
                        self._starts.append(at)
                        self._numbers.append(count)
                        self.counts.append(0)
                    self.counts[-1] += 1
                at += len(line)

    def identity(self) -> str:
        """A digest of what it holds."""
        return store.file_sha256(self._file)

    def said(self) -> Iterator[Said]:
        """What every row says, in order; no picture is read.

        Raises:
            InputError: A line that is not a row, with its number.
        """
        for piece in range(len(self.counts)):
            for raw in self.raws(piece):
                if not raw.said.is_whole:
                    raise InputError(
                        f"{raw.place}: says not what is shown, or not in which style",
                        fix="each line has image, content and style",
                    )
                _refuse_unknown_split(raw.place, raw.said.split)
                yield raw.said

    def raws(self, piece: int) -> Iterator[Raw]:
        """The rows of a piece."""
        with _readable(self._file), self._file.open("rb") as stream:
            stream.seek(self._starts[piece])
            lines = ((count, line) for count, line in enumerate(stream) if line.strip())
            for count, line in itertools.islice(lines, self.counts[piece]):
                place = f"{self.name}:{self._numbers[piece] + count}"
                row = _parsed(place, line)
                yield Raw(place, _said(place, row), row.get("image"), self._file.parent)


class Table:
    """A `.parquet` file; its row groups are the pieces."""

    def __init__(self, file: Path) -> None:
        """Read the end of the file, which tells what it holds.

        Raises:
            InputError: It is no such table, or lacks a column.
            UsageError: pyarrow is not installed.
        """
        self.name = file.name
        self._file = file
        with self._open() as table:
            names = set(table.schema_arrow.names)
            about = table.metadata
            self.counts = [about.row_group(k).num_rows for k in range(about.num_row_groups)]
        self._columns = {
            key: next((name for name in known if name in names), "")
            for key, known in COLUMNS.items()
        }
        for key in ("image", "caption", "style_caption"):
            if not self._columns[key] and not (
                key == "style_caption" and self._columns["style_id"]
            ):
                raise InputError(
                    f"{file}: has no column {COLUMNS[key][-1]}",
                    fix=f"it has {', '.join(sorted(names)) or 'none'}; image, content and style "
                    "are needed",
                )

    def identity(self) -> str:
        """A digest of its end and its size; reading all of it would take hours."""
        with _readable(self._file), self._file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - TAIL))
            return store.digest([size, stream.read().hex()])

    def said(self) -> Iterator[Said]:
        """What every row says, in order; columns of pictures are not read.

        Raises:
            InputError: A row names a split that there is not, or says what is no text.
        """
        columns = [name for key, name in self._columns.items() if name and key != "image"]
        with self._open() as table:
            batches = table.iter_batches(TEXTS, columns=columns, use_threads=False)
            rows: Iterable[Any] = itertools.chain.from_iterable(b.to_pylist() for b in batches)
            for count, row in enumerate(rows, start=1):
                place = f"{self.name}:{count}"
                said = _said(place, row)
                _refuse_unknown_split(place, said.split)
                yield said

    def raws(self, piece: int) -> Iterator[Raw]:
        """The rows of a row group, a few at a time."""
        first = sum(self.counts[:piece])
        columns = [name for name in self._columns.values() if name]
        with self._open() as table:
            batches = table.iter_batches(
                PICTURES, row_groups=[piece], columns=columns, use_threads=False
            )
            rows: Iterable[Any] = itertools.chain.from_iterable(b.to_pylist() for b in batches)
            for count, row in enumerate(rows, start=first + 1):
                place = f"{self.name}:{count}"
                yield Raw(place, _said(place, row), row.get("image"), self._file.parent)

    @contextmanager
    def _open(self) -> Iterator[ParquetFile]:
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{self.name}: reading parquet needs pyarrow, which is not installed",
                fix="pip install pyarrow",
            ) from error
        # Otherwise a column of a row group is read as a whole; so it is a page at a time.
        frugal = {"buffer_size": READ_AHEAD, "pre_buffer": False}
        try:
            with _readable(self._file), ParquetFile(self._file, **frugal) as table:
                yield table
        except ArrowException as error:
            raise InputError(
                f"{self._file}: damaged, or not parquet: {str(error).partition(chr(10))[0]}",
                fix="fetch it again",
            ) from error


def open_rows(file: Path) -> Rows:
    """A file of rows by its suffix.

    Raises:
        InputError: It is not there, or of another kind.
    """
    suffix = file.suffix.lower()
    if suffix == ".jsonl":
        return Lines(file)
    if suffix == ".parquet":
        return Table(file)
    raise InputError(
        f"{file}: is neither a .jsonl list nor a .parquet table",
        fix="`style i2l-data --help` says what it takes",
    )


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{file}: does not exist", fix="check the name") from error
    except OSError as error:
        raise InputError(
            f"{file}: {error.strerror or error}", fix="check the name and its permissions"
        ) from error


def _parsed(place: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: is not JSON: {error}", fix="mend or remove the line") from error
    if not isinstance(row, dict):
        raise InputError(f"{place}: is not an object", fix="mend or remove the line")
    return row


def _refuse_unknown_split(place: str, split: str) -> None:
    if split and split not in SPLITS:
        raise InputError(
            f"{place}: split is {split!r}",
            fix=f"{did_you_mean(split, SPLITS)}known: {', '.join(SPLITS)}",
        )


def _said(place: str, row: Mapping[str, Any]) -> Said:
    found = {}
    for key, names in COLUMNS.items():
        if key == "image":
            continue
        value = next((row[name] for name in names if row.get(name) is not None), "")
        if not isinstance(value, str | int):
            raise InputError(
                f"{place}: {key} is {json.dumps(value, default=repr)[:80]}", fix="it is a text"
            )
        found[key] = str(value)
    return Said(**found)
