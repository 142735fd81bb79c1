"""Manifests of outputs: of many methods, or of tasks that folders of results have done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stylecli.engine import inputs
from stylecli.engine.scoring.item import COLUMNS, FILES, Item
from stylecli.errors import InputError

KNOWN = f"columns: {', '.join(COLUMNS)}"


def names_methods(path: Path) -> bool:
    """Whether the rows of a manifest say whose they are; its first one tells.

    Raises:
        InputError: It cannot be read, or has no rows.
    """
    _, first = next(inputs.lines(path, COLUMNS))
    return bool(first.get("method"))


def items_of(path: Path, folders: Mapping[str, Path] | None = None) -> list[Item]:
    """Its items, in the order of the rows.

    Args:
        path: Of the manifest.
        folders: Method -> its folder; every row is a task of each then, and names its output from
            there.

    Raises:
        InputError: Unreadable, or a row that lacks something or says too much.
    """
    found: list[Item] = []
    known = _Known(path.parent)
    for number, row in inputs.lines(path, COLUMNS):
        place = f"{path}:{number}"
        given = {key: value for key, value in row.items() if value not in (None, "", [])}
        _check(given, place, has_folders=folders is not None)
        values = known.values(given)
        outputs = (
            [(values["method"], path.parent / given["output"])]
            if folders is None
            else [(method, folder / given["output"]) for method, folder in folders.items()]
        )
        for method, output in outputs:
            found.append(Item(**{**values, "method": method, "output": output}, place=place))
    return found


class _Known:
    """A hundred thousand rows name the same few methods, contents and styles: each is kept once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._words: dict[str, str] = {}
        self._files: dict[str, Path] = {}
        self._styles: dict[tuple[str, ...], tuple[Path, ...]] = {}

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What an item has, but for whose output it is."""
        values: dict[str, Any] = {
            key: self._words.setdefault(str(value), str(value))
            for key, value in given.items()
            if key not in ("id", *FILES)
        }
        for column in FILES:
            if column not in given or column == "output":
                continue
            if column == "style":
                names = _names(given[column])
                key = tuple(names)
                values[column] = self._styles.setdefault(key, tuple(map(self._file, names)))
            else:
                values[column] = self._file(given[column])
        values["id"] = str(given["id"]) if "id" in given else _id(values, given)
        return values

    def _file(self, name: str) -> Path:
        return self._files.get(name) or self._files.setdefault(name, self._folder / name)


def _check(given: Mapping[str, Any], place: str, *, has_folders: bool) -> None:
    needed = ("output",) if has_folders else ("method", "output")
    for column in needed:
        if column not in given:
            more = "; or name the folders of results" if column == "method" else ""
            raise InputError(f"{place}  no {column!r}", fix=KNOWN + more)
    if has_folders and "method" in given:
        raise InputError(
            f"{place}  names a method, and other rows are tasks for folders of results",
            fix="give every row a method, or none",
        )
    for column, value in given.items():
        if fix := _fault(column, value):
            raise InputError(f"{place}  {column} is {json.dumps(value)[:60]}", fix=fix)
    try:
        "".join(str(value) for value in given.values()).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place}  holds half a character: {error.reason}", fix="write it as UTF-8"
        ) from error


def _id(values: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    content = [values["content"]] if "content" in values else []
    stems: Sequence[str] = [path.stem for path in (*content, *values.get("style", ()))]
    return "__".join(stems) or Path(given["output"]).stem


def _names(value: str | list[str]) -> list[str]:
    """CSV has no lists; ``a|b`` is one."""
    return value if isinstance(value, list) else value.split("|")


def _fault(column: str, value: object) -> str:
    """What is to be written instead of a value, if it is none that the column can have."""
    if column == "style":
        is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
        return "" if is_list or isinstance(value, str) else "give a file's name, or a list of them"
    if column in FILES:
        return "" if isinstance(value, str) else "give one file's name"
    is_plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return "" if is_plain else "give a text"
