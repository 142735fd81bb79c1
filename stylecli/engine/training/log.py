"""Figures of a training, in a file of rows that a resumed one goes on with."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from stylecli.artifacts.files import to_json, unwritable, write_atomic


class Log:
    """Figures of a training, a row of JSON for each; what came after a checkpoint is forgotten."""

    def __init__(self, path: Path, step: int | None, *, again: str | None = None) -> None:
        """Begin a log, or go on with one that is there.

        Args:
            step: Of the checkpoint that the training goes on from; None begins.
            again: Key of rows that are made again at this step.

        Raises:
            ItemError: It cannot be written.
        """
        self._path = path
        rows: list[str] = []
        if step is not None and path.exists():
            rows = path.read_text(encoding="utf-8").splitlines()
        read = [(row, _read(row)) for row in rows]
        kept = [
            row
            for row, (at, keys) in read
            if 0 <= at <= (step or 0) and not (at == step and again in keys)
        ]
        write_atomic(path, "".join(f"{row}\n" for row in kept).encode())

    def add(self, row: Mapping[str, object]) -> None:
        """Write one more; what is no number is null.

        Raises:
            ItemError: It cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(f"{to_json(row)}\n")
        except OSError as error:
            raise unwritable(self._path, error) from error


def _read(row: str) -> tuple[int, Collection[str]]:
    """The step of a row and the keys of what it says."""
    try:
        said = json.loads(row)
        return int(said["step"]), said.keys()
    except (ValueError, KeyError, TypeError):
        return -1, ()  # torn
