"""Turn what the user typed into a list of files: paths, folders, globs, lists, manifests."""

from __future__ import annotations

import csv
import glob
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylecli.errors import InputError

# Of the formats that `artifacts.images` reads; what is named itself may be called anything.
IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".tga", ".ico", ".ppm", ".pgm", ".pbm", ".pnm"),
}
COLUMNS = ("content", "style", "lora", "output")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a manifest; what is None comes from the command line."""

    content: Path
    style: Path | None = None
    lora: Path | None = None
    output: Path | None = None


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
    found: dict[Path, None] = {}
    for argument in arguments:
        if argument == "-":
            text = stdin() if stdin is not None else ""
            # Not splitlines(): a name may hold the odder of what that takes for a line's end.
            names = text.split("\0") if nul else [n.rstrip("\r") for n in text.split("\n")]
            names = [name for name in names if name]
            if not names:
                raise InputError(
                    "the list on standard input is empty", fix="pipe file names into it"
                )
            paths = [_existing(name) for name in names]
        else:
            paths = _one(argument, leave_out)
        found.update(dict.fromkeys(paths))
    return list(found)


def manifest(path: Path) -> list[Row]:
    """Rows of a ``.jsonl`` or ``.csv`` file; relative inputs count from its folder.

    Raises:
        InputError: Unreadable, a line that is not a row, an unknown column, or no rows.
    """
    rows = []
    for number, entry in table(path, COLUMNS):
        if not entry.get("content"):
            raise InputError(f"{path}:{number}  no 'content'", fix=f"columns: {', '.join(COLUMNS)}")
        paths = {key: Path(str(value)) for key, value in entry.items() if value}
        for key in paths.keys() - {"output"}:
            paths[key] = path.parent / paths[key]
        rows.append((number, Row(**paths)))
    for number, row in rows:
        if not row.content.is_file():
            raise InputError(f"{path}:{number}  {row.content} does not exist", fix="check the name")
    return [row for _, row in rows]


def table(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    """Lines of a ``.jsonl`` or ``.csv`` file with their numbers.

    Raises:
        InputError: Unreadable, a line that is not an object, an unknown column, or no lines.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(
            f"manifest {path} cannot be read: {reason}", fix="give a .jsonl or .csv file"
        ) from error
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        lines: list[tuple[int, object]] = [(reader.line_num, row) for row in reader]
    else:
        lines = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                lines.append((number, json.loads(line)))
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{path}:{number}  not JSON: {error.msg}",
                    fix=f'one object a line: {{"{columns[0]}": …}}',
                ) from error
            except RecursionError as error:
                raise InputError(f"{path}:{number}  nested too deeply", fix="give rows") from error
    known = f"columns: {', '.join(columns)}"
    rows = []
    for number, entry in lines:
        if not isinstance(entry, dict):
            raise InputError(f"{path}:{number}  not an object", fix=known)
        if unknown := [key for key in entry if key not in columns]:
            is_wide = unknown[0] is None
            what = "more fields than columns" if is_wide else f"unknown column {unknown[0]!r}"
            raise InputError(f"{path}:{number}  {what}", fix=f"{known}; separated by commas")
        rows.append((number, entry))
    if not rows:
        raise InputError(f"manifest {path} has no rows", fix=known)
    return rows


def _one(argument: str, leave_out: Callable[[Path], bool]) -> list[Path]:
    path = Path(argument).expanduser()
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES
            and file.is_file()
            and not file.name.startswith(".")
            and not leave_out(file)
        )
        if not files:
            raise InputError(
                f"folder {argument} holds no pictures",
                fix=f"known: {' '.join(sorted(IMAGE_SUFFIXES))}",
            )
        return files
    if path.exists():
        return [path]
    if glob.has_magic(argument):
        # Not Path.glob: a quoted pattern may name folders, and start at the root.
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207
        matches = sorted(
            match for name in names if (match := Path(name)).is_file() and not leave_out(match)
        )
        if matches:
            return matches
        raise InputError(f"{argument} matches no file", fix="check the pattern; ** crosses folders")
    return [_existing(argument)]


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"{name} does not exist", fix="check the name")
    return path
