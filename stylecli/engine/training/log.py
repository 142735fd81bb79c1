"""Figures of a training, in a file of rows that a resumed one goes on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from stylecli.artifacts.files import unwritable, write_atomic


class Log:
    """Figures of a training, a row of JSON for each; what came after a checkpoint is forgotten."""

    def __init__(self, path: Path, step: int | None) -> None:
        """Begin a log, or go on with one that is there.

        Args:
            step: Of the checkpoint that the training goes on from; None begins.

        Raises:
            ItemError: It cannot be written.
        """
        self._path = path
        rows: list[str] = []
        if step is not None and path.exists():
            rows = path.read_text(encoding="utf-8").splitlines()
        kept = [row for row in rows if 0 <= _step(row) <= (step or 0)]
        write_atomic(path, "".join(f"{row}\n" for row in kept).encode())

    def add(self, row: Mapping[str, object]) -> None:
        """Write one more.

        Raises:
            ItemError: It cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(f"{json.dumps(row)}\n")
        except OSError as error:
            raise unwritable(self._path, error) from error


def _step(row: str) -> int:
    try:
        return int(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return -1  # torn
