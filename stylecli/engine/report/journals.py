"""The outputs of some folders as their journals tell it, however old or torn they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from stylecli.artifacts import journal
from stylecli.errors import InputError

# No figure of ours comes near; an integer in JSON may be too long for a float.
LARGEST = 1e300

Status = Literal["done", "failed", "missing"]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that a run wrote to.

    Attributes:
        label: Its name, made different from those of the others.
        only: The one output asked for.
    """

    path: Path
    label: str
    only: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One output, made or not.

    Attributes:
        name: Below the folder, with slashes.
        file: Where it is; None for one that failed, was lost, or lies outside the folder.
        row: Its row of the journal; another program may have written it, so nothing in it is sure.
    """

    folder: Folder
    name: str
    status: Status
    file: Path | None
    row: Mapping[str, Any]


def folders(outputs: Iterable[str]) -> list[Folder]:
    """The folders behind the arguments; a file stands for its own row.

    Raises:
        InputError: One is not there, or no run of ours wrote to it.
    """
    found: dict[tuple[Path, str | None], Path] = {}
    for argument in outputs:
        path = Path(argument).expanduser()
        if not path.exists():
            raise InputError(f"{argument} does not exist", fix="give a folder that a run wrote to")
        at, only = (path, None) if path.is_dir() else (path.parent, path.name)
        if not journal.files(at):
            raise InputError(
                f"{argument} has no journal (runs.jsonl): no run wrote to it",
                fix="give the --output of a run",
            )
        found.setdefault((at.resolve(), only), at)
    labels: dict[str, int] = {}
    made = []
    for (resolved, only), at in found.items():
        count = labels[resolved.name] = labels.get(resolved.name, 0) + 1
        label = resolved.name if count == 1 else f"{resolved.name} ({count})"
        made.append(Folder(at, label, only))
    return made


def entries(folder: Folder) -> list[Entry]:
    """What became of each output, by name: what the last attempt at it says of the file."""
    # Only rows without a name are known by their key; there is no file to show of those.
    named = {text(row.get("output")): row for row in journal.latest(folder.path).values()}
    return [
        _entry(folder, name, row)
        for name, row in sorted(named.items())
        if name and folder.only in (None, name)
    ]


def text(value: object) -> str:
    """A string of a row; what is none is empty."""
    return value if isinstance(value, str) else ""


def number(value: object) -> float | None:
    """A number of a row; truth is none, nor is infinity.

    >>> number(2), number(True), number("2"), number(float("inf"))
    (2, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -LARGEST < value < LARGEST else None


def mapping(value: object) -> Mapping[str, Any]:
    """An object of a row; what is none is empty."""
    return value if isinstance(value, Mapping) else {}


def file_below(folder: Path, name: str) -> Path | None:
    """The file of that name in the folder; None where the name leads out of it.

    >>> file_below(Path("out"), "../secret.png") is None
    True
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[:1]:
        return None
    return folder / name


def _entry(folder: Folder, name: str, row: Mapping[str, Any]) -> Entry:
    if row.get("status") == "failed":
        return Entry(folder, name, "failed", None, row)
    file = file_below(folder.path, name)
    if file is None or not _exists(file):
        return Entry(folder, name, "missing", None, row)
    return Entry(folder, name, "done", file, row)


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL in it
        return False
