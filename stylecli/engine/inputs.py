"""Turn what the user typed into a list of files: paths, folders, globs, lists, manifests."""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylecli.artifacts.locate import IMAGE_SUFFIXES
from stylecli.errors import InputError, StyleError, did_you_mean

COLUMNS = ("content", "style", "lora", "output")
# Columns of a manifest that are called as the command's own options are.
SHORT = {
    "prompt": "sampling.prompt",
    "guidance": "sampling.guidance",
    "instruction": "route.apply.instruction",
    "object": "route.apply.object",
    "style_name": "route.apply.style_name",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One content, and what a manifest says of it; what is None comes from the command line.

    Attributes:
        folder: Of the content, below the folder that was named.
        changes: Recipe keys for this one alone, as they stand in the manifest.
        place: Where it was said, for messages.
    """

    content: Path
    style: Path | None = None
    lora: Path | None = None
    output: Path | None = None
    folder: str = ""
    changes: tuple[tuple[str, str], ...] = ()
    place: str = ""


def expand(
    arguments: Sequence[str],
    *,
    stdin: Callable[[], str] | None = None,
    nul: bool = False,
    leave_out: Callable[[Path], bool] = lambda _: False,
) -> list[Path]:
    """Files behind the arguments, in the order given, folders sorted, duplicates once.

    Args:
        arguments: Files, folders (recursive), globs, or ``-`` for a list on standard input.
        stdin: Reads the whole of what ``-`` stands for.
        nul: The list is separated by NUL bytes instead of newlines.
        leave_out: Files of folders and globs to pass over; what is named itself stays.

    Raises:
        InputError: An argument that matches nothing.
    """
    rows = contents(arguments, stdin=stdin, nul=nul, leave_out=leave_out)
    return [row.content for row in rows]


def contents(
    arguments: Sequence[str],
    *,
    stdin: Callable[[], str] | None = None,
    nul: bool = False,
    leave_out: Callable[[Path], bool] = lambda _: False,
) -> list[Row]:
    """As `expand`, with the folder of each below the one that was named.

    Raises:
        InputError: An argument that matches nothing.
    """
    found: dict[Path, str] = {}
    for argument in arguments:
        if argument == "-":
            text = stdin() if stdin is not None else ""
            names = named(text, nul=nul)
            if not names:
                raise InputError(
                    "the list on standard input is empty", fix="pipe file names into it"
                )
            paths = dict.fromkeys(_listed(names), "")
        else:
            paths = _one(argument, leave_out)
        for path, folder in paths.items():
            found.setdefault(path, folder)
    return [Row(path, folder=folder) for path, folder in found.items()]


def named(text: str, *, nul: bool = False) -> list[str]:
    r"""The names of a list, a line each, or NUL-separated.

    >>> named("a.png\r\n\nb c.png")
    ['a.png', 'b c.png']
    """
    # Not splitlines(): a name may hold the odder of what that takes for a line's end.
    names = text.split("\0") if nul else [name.rstrip("\r") for name in text.split("\n")]
    return [name for name in names if name]


def manifest(path: Path) -> list[Row]:
    """Rows of a ``.jsonl`` or ``.csv`` file; relative inputs count from its folder.

    Besides its own columns it may have recipe keys, which count for their row.

    A content that is not there is an item that will say so.

    Raises:
        InputError: Unreadable, a line that is not a row, an unknown column, no rows, or no content
            that is there.
    """
    rows = []
    for number, entry in table(path, COLUMNS, is_key=is_key):
        place = f"{path}:{number}"
        if not entry.get("content"):
            raise InputError(f"{place}  no 'content'", fix=f"columns: {', '.join(COLUMNS)}")
        files: dict[str, Any] = {}
        for column in COLUMNS:
            if (value := entry.get(column)) in (None, ""):
                continue
            if not isinstance(value, str):
                raise InputError(
                    f"{place}  {column} is {json.dumps(value)}", fix="give a file's name"
                )
            files[column] = Path(value) if column == "output" else path.parent / value
        rows.append(Row(**files, changes=changes(entry, COLUMNS), place=place))
    if not any(row.content.is_file() for row in rows):
        row = rows[0]
        kind = "is a folder" if row.content.is_dir() else "does not exist"
        raise InputError(
            f"{row.place}  {row.content} {kind}, and no other content is a file",
            fix=f"names count from {path.parent}",
        )
    return rows


@contextmanager
def at(place: str) -> Iterator[None]:
    """Inside, what is refused is told with its place in a manifest, if it has one."""
    try:
        yield
    except StyleError as error:
        if place and not error.what.startswith(place):
            raise type(error)(f"{place}  {error.what}", fix=error.fix) from error
        raise


def is_key(column: str) -> bool:
    """Whether a column of a manifest is a recipe key."""
    return "." in column or column in SHORT


def changes(entry: Mapping[str, Any], columns: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The recipe keys of a line with their values in YAML; empty cells are no change."""
    return tuple(
        (SHORT.get(key, key), value if isinstance(value, str) else json.dumps(value))
        for key, value in entry.items()
        if key not in columns and value not in (None, "")
    )


def table(
    path: Path, columns: Sequence[str], *, is_key: Callable[[str], bool] = lambda _: False
) -> list[tuple[int, dict[str, Any]]]:
    """Lines of a ``.jsonl`` or ``.csv`` file with their numbers.

    Args:
        path: The file.
        columns: Those it may have.
        is_key: Tells which others it may have.

    Raises:
        InputError: Unreadable, a line that is not an object, an unknown column, or no lines.
    """
    return list(lines(path, columns, is_key=is_key))


def lines(
    path: Path, columns: Sequence[str], *, is_key: Callable[[str], bool] = lambda _: False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `table`, one line after another: the file may be longer than fits the memory.

    Raises:
        InputError: As `table`, when it comes to what is wrong.
    """
    known = f"columns: {', '.join(columns)}"
    is_empty = True
    read = _csv_lines if path.suffix.lower() == ".csv" else _json_lines
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, entry in read(path, stream, columns):
                is_empty = False
                if not isinstance(entry, dict):
                    raise InputError(f"{path}:{number}  not an object", fix=known)
                if None in entry:
                    raise InputError(
                        f"{path}:{number}  more fields than columns",
                        fix=f"{known}; separated by commas",
                    )
                if unknown := [key for key in entry if key not in columns and not is_key(key)]:
                    near = did_you_mean(unknown[0], [*columns, *SHORT] if is_key(".") else columns)
                    raise InputError(
                        f"{path}:{number}  unknown column {unknown[0]!r}",
                        fix=f"{near}{known}"
                        + (f"; {', '.join(SHORT)}; or a recipe key" * is_key(".")),
                    )
                yield number, entry
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(
            f"manifest {path} cannot be read: {reason}", fix="give a .jsonl or .csv file"
        ) from error
    if is_empty:
        raise InputError(f"manifest {path} has no rows", fix=known)


def _csv_lines(
    path: Path, stream: Iterable[str], _columns: Sequence[str]
) -> Iterator[tuple[int, object]]:
    reader = csv.DictReader(stream)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}  {error}", fix="close the quote") from error


def _json_lines(
    path: Path, stream: Iterable[str], columns: Sequence[str]
) -> Iterator[tuple[int, object]]:
    # A file's lines end where its system ends them: JSON may hold the odder of other ends.
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}:{number}  not JSON: {error.msg}",
                fix=f'one object a line: {{"{columns[0]}": …}}',
            ) from error
        except RecursionError as error:
            raise InputError(f"{path}:{number}  nested too deeply", fix="give rows") from error
        yield number, entry


def _one(argument: str, leave_out: Callable[[Path], bool]) -> dict[Path, str]:
    path = Path(argument).expanduser()
    if path.is_dir():
        files = _tree(path, leave_out)
        if not files:
            raise InputError(
                f"folder {argument} holds no pictures",
                fix=f"known: {' '.join(sorted(IMAGE_SUFFIXES))}",
            )
        return files
    if path.exists():
        return {path: ""}
    if glob.has_magic(argument):
        # Not Path.glob: a quoted pattern may name folders, and start at the root.
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207
        matches = sorted(
            match for name in names if (match := Path(name)).is_file() and not leave_out(match)
        )
        if matches:
            root = _fixed_part(path)
            return {match: _folder_below(root, match) for match in matches}
        raise InputError(f"{argument} matches no file", fix="check the pattern; ** crosses folders")
    return {_existing(argument): ""}


def _tree(root: Path, leave_out: Callable[[Path], bool]) -> dict[Path, str]:
    """Pictures in a folder and below, sorted; what cannot be read is an item that will say so.

    Links to folders are not followed, so loops of them end.
    """
    shut: list[Path] = []
    found = [
        Path(folder) / name
        for folder, _, names in os.walk(root, onerror=lambda e: shut.append(Path(str(e.filename))))
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
    ]
    kept = [file for file in found if not leave_out(file)]
    return {file: _folder_below(root, file) for file in sorted([*kept, *shut])}


def _fixed_part(pattern: Path) -> Path:
    """The folder of a glob above its first wildcard."""
    parts = pattern.parts[:-1]
    count = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:count])


def _folder_below(root: Path, file: Path) -> str:
    folder = file.parent
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else ""


def _listed(names: Sequence[str]) -> list[Path]:
    """Files of a list; one that is gone since it was made is an item that will say so.

    Raises:
        InputError: None of them is there.
    """
    paths = [Path(name).expanduser() for name in names]
    if not any(path.is_file() for path in paths):
        _existing(names[0])
    return paths


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        raise InputError(f"{name} is a folder", fix="name the files in it")
    if not path.is_file():
        raise InputError(f"{name} does not exist", fix="check the name")
    return path
