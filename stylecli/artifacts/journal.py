"""What happened, one row per item: `runs.jsonl` beside the outputs, one run at a time."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from stylecli.artifacts.files import sweep, to_json
from stylecli.errors import ItemError, LockedError, UsageError

NAME = re.compile(r"runs(-\d+-of-\d+)?\.jsonl")


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
        """Take the lock, making the folder if need be, and clear away scraps of killed runs.

        Raises:
            LockedError: Another run holds it, and this one was not told to wait.
            UsageError: The folder cannot be made or written; nothing was done.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=-1 if self._wait else 0)
        except Timeout as error:
            raise LockedError(
                f"another run is writing to {self.path.parent}",
                fix="wait for it, or queue with --wait",
            ) from error
        except (OSError, NotImplementedError) as error:
            raise UsageError(
                f"{self.path.parent} cannot be written: {getattr(error, 'strerror', error)}",
                fix="choose another --output",
            ) from error
        sweep(self.path.parent)
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

        The row is stamped ``finished``, by which readers know the last of several.

        Raises:
            ItemError: The disk is full or the folder cannot be written.
        """
        finished = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = to_json({"finished": finished, **row}).encode() + b"\n"
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
    for file in sorted(file for file in folder.glob("runs*.jsonl") if NAME.fullmatch(file.name)):
        with file.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if isinstance(row, dict) and isinstance(row.get("key"), str):
                    yield row


def latest(folder: Path) -> dict[str, dict[str, Any]]:
    """The last row of every key, whichever shard of however many wrote it."""
    # Sorting keeps the order in a file where times are equal or absent.
    in_order = sorted(rows(folder), key=lambda row: str(row.get("finished", "")))
    return {row["key"]: row for row in in_order}
