"""One task of a protocol, as the method's command reads it and as `style evaluate` does."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

TASKS, ROWS = "tasks.jsonl", "rows.jsonl"
# In a script: the folder of the tasks, and the one of the results.
HERE, OUT = '"$here"', '"$out"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be made.

    Attributes:
        run: Lines of manifests for the method, by the manifest's name.
        row: A line of the manifest for `style evaluate`.
    """

    run: Mapping[str, Mapping[str, Any]]
    row: Mapping[str, Any]


class Shelf(Protocol):
    """Files below the folder of the tasks."""

    def put(self, name: str, data: bytes) -> None: ...

    def drop(self, name: str) -> None:
        """Take a file away again."""


class Source(Protocol):
    """A data set by a protocol.

    Attributes:
        facts: What decides the tasks, and says which data it was.
        recipe: The one that scores them.
        left_out: Why how many pictures are in no task; known when tasks were counted or made.
    """

    facts: Mapping[str, Any]
    recipe: str
    left_out: Counter[str]

    def count(self) -> int:
        """How many tasks there are; no picture is written, nor read unless that decides it."""

    def tasks(self, shelf: Shelf) -> Iterator[Task]:
        """All of them; what has no file of its own is put on the shelf first."""

    def script(self) -> Sequence[str]:
        """Commands in the language of a shell, with `HERE` and `OUT`."""


def command(*words: str) -> str:
    """One line of a script; what the user adds comes last.

    >>> print(command("style", "gallery", "--refs", below(HERE, "../Van Gogh")))
    style gallery --refs "$here"/'../Van Gogh' "$@"
    """
    return " ".join([*words, '"$@"'])


def below(folder: str, name: str) -> str:
    """A name below one of the two folders."""
    return f"{folder}/{shlex.quote(name)}"


def name_from(folder: Path, file: Path) -> str:
    """How a file is called from a folder that may be moved together with it."""
    return Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix()
