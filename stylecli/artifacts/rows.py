"""Files of JSON rows, one a line, in which every fault is told with its line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stylecli.errors import InputError


def objects(file: Path, *, what: str, fix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, each with where it stands (``NAME:LINE``); empty lines do not count.

    Args:
        what: What is not there where the file is not, such as ``no set at DIR``.
        fix: How to come by one.

    Raises:
        InputError: It cannot be read, or a line is no object.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            for count, line in enumerate(stream, start=1):
                if line.strip():
                    where = f"{file.name}:{count}"
                    yield where, _object(where, line)
    except OSError as error:
        raise InputError(f"{what}: {file.name}: {error.strerror or error}", fix=fix) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not text", fix=fix) from error


def missing(folder: Path, names: Iterable[str]) -> list[str]:
    """Which of these files, named from the folder, are not there; in their order.

    One listing a folder: a question a file takes minutes where the disk is far away.
    """
    found: dict[str, frozenset[str]] = {}
    absent = []
    for name in names:
        below, last = os.path.split(name)
        if below not in found:
            try:
                found[below] = frozenset(entry.name for entry in (folder / below).iterdir())
            except OSError:
                found[below] = frozenset()
        if last not in found[below]:
            absent.append(name)
    return absent


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON: {error}", fix="mend or remove the line") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: is not an object", fix="mend or remove the line")
    return row
