"""What happened, one row per item: `runs.jsonl` beside the outputs, one run at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from stylecli.errors import ItemError, LockedError


class Journal:
    """The open journal of one run; holds the lock of its folder, or of its shard, while open.

    The lock is the operating system's, so a killed run leaves none behind.
    """

    def __init__(
        self, folder: Path, shard: tuple[int, int] | None = None, *, wait: bool = False
    ) -> None:
        name = "runs.jsonl" if shard is None else f"runs-{shard[0]}-of-{shard[1]}.jsonl"
        self.path = folder / name
        self._wait = wait
        self._lock = FileLock(folder / f".{name}.lock")

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            LockedError: Another run holds it, and this one was not told to wait.
            ItemError: The folder cannot be written.
        """
        try:
            self._lock.acquire(timeout=-1 if self._wait else 0)
        except Timeout as error:
            raise LockedError(
                f"another run is writing to {self.path.parent}",
                fix="wait for it, or queue with --wait",
            ) from error
        except OSError as error:
            raise ItemError(
                f"{self.path.parent} cannot be written: {error.strerror}",
                fix="choose another --output",
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row and see it onto the disk; a torn last line of a crash is ended first.

        Raises:
            ItemError: The disk is full or the folder cannot be written.
        """
        line = json.dumps(row, ensure_ascii=True, sort_keys=True).encode() + b"\n"
        try:
            with self.path.open("a+b") as stream:
                if stream.tell():
                    stream.seek(-1, os.SEEK_END)
                    if stream.read(1) != b"\n":
                        line = b"\n" + line
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise ItemError(
                f"{self.path} cannot be written: {error.strerror}", fix="free some disk"
            ) from error


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of all journals in a folder, shards merged; lines that are not rows are passed over."""
    for file in sorted(folder.glob("runs*.jsonl")):
        with file.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if isinstance(row, dict) and "key" in row:
                    yield row


def latest(folder: Path) -> dict[str, dict[str, Any]]:
    """The last row of every key."""
    return {row["key"]: row for row in rows(folder)}
