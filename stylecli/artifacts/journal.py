"""What happened, one row per item: `runs.jsonl` beside the outputs, or one file for each shard.

A row with a ``key`` tells of an item, and the last one of a key counts. A row with an ``event``
tells of a run: ``started`` with what it meant to do, ``ended`` with how; a killed run has no end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

from stylecli.artifacts import locks
from stylecli.artifacts.files import sweep, to_json, unwritable
from stylecli.artifacts.locks import Shard, WriteLock
from stylecli.errors import InputError, ItemError, OutputDiffersError

NAME = re.compile(r"runs(-\d+-of-\d+)?\.jsonl")


class Outcome(NamedTuple):
    """What is known of an item that was done or failed; digest and size are of its output."""

    status: str
    bytes: int | None
    sha256: str | None
    finished: str = ""


class Journal:
    """The open journal of one run; holds the lock of its folder, shard or file while open."""

    def __init__(
        self,
        folder: Path,
        shard: Shard | None = None,
        *,
        wait: bool = False,
        file: Path | None = None,
    ) -> None:
        self.path = folder / name(shard)
        self._wait = wait
        self._is_begun = False
        self._lock = WriteLock(folder, shard, file=file)

    def __enter__(self) -> Self:
        """Take the lock, making the folder if need be, and clear away scraps of killed runs.

        Raises:
            LockedError: Another run holds it, and this one was not told to wait.
            UsageError: The folder cannot be made or written; nothing was done.
        """
        self._lock.take(wait=self._wait)
        sweep(self.folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    @property
    def folder(self) -> Path:
        return self.path.parent

    def append(self, row: Mapping[str, Any]) -> None:
        """Add the row of an item and see it onto the disk; a torn last line is ended first.

        The row is stamped ``finished``, by which readers know the last of several.

        Raises:
            ItemError: The disk is full or the folder cannot be written.
        """
        self._write({"finished": _now(), **row})

    def note(self, event: str, **facts: object) -> None:
        """Add a row about the run itself.

        Raises:
            ItemError: As `append`.
        """
        self._write({"event": event, "at": _now(), **facts})

    def _write(self, row: Mapping[str, Any]) -> None:
        line = to_json(row).encode() + b"\n"
        if self._is_begun and not self.path.exists():
            raise ItemError(
                f"{self.path} is gone: somebody removed it, and perhaps results with it",
                fix="run it again, which makes what is missing",
            )
        try:
            with self.path.open("a+b") as stream, _alone(stream):
                stream.seek(0, os.SEEK_END)
                if stream.tell():
                    stream.seek(-1, os.SEEK_END)
                    if stream.read(1) != b"\n":
                        line = b"\n" + line
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._is_begun = True


@contextlib.contextmanager
def _alone(stream: BinaryIO) -> Iterator[None]:
    """Runs of single files share a journal, and on network file systems appending is not atomic."""
    try:
        import fcntl
    except ImportError:  # elsewhere the system itself refuses a second writer
        yield
        return
    with contextlib.suppress(OSError):  # some file systems know no locks
        fcntl.flock(stream, fcntl.LOCK_EX)
    yield


def name(shard: Shard | None) -> str:
    """Of the journal of a whole run, or of one part of it."""
    return "runs.jsonl" if shard is None else f"runs-{shard[0]}-of-{shard[1]}.jsonl"


def files(folder: Path) -> list[Path]:
    """The journals in a folder, which may not be there."""
    return sorted(file for file in folder.glob("runs*.jsonl") if NAME.fullmatch(file.name))


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of items from all journals in a folder, shards merged; other lines are passed over."""
    for row in _lines(folder):
        if isinstance(row.get("key"), str):
            yield row


def runs(folder: Path) -> list[dict[str, Any]]:
    """Rows of runs, in order of time."""
    found = [row for row in _lines(folder) if isinstance(row.get("event"), str)]
    return sorted(found, key=lambda row: str(row.get("at", "")))


def latest(folder: Path) -> dict[str, dict[str, Any]]:
    """The last row of every output, by its name, whichever shard of however many wrote it.

    That something else was in the way of an output, once, says nothing of what is there.
    """
    found: dict[str, dict[str, Any]] = {}
    # Sorting keeps the order in a file where times are equal or absent.
    for row in sorted(rows(folder), key=lambda row: str(row.get("finished", ""))):
        output = str(row.get("output") or row["key"])
        if output not in found or not _was_in_the_way(row):
            found[output] = row
    return found


def outcomes(folder: Path) -> dict[tuple[str, str], Outcome]:
    """How every key ended last for each output; small, where `latest` would hold a year of rows."""
    found: dict[tuple[str, str], Outcome] = {}
    for row in rows(folder):
        one, finished = (row["key"], str(row.get("output"))), str(row.get("finished", ""))
        if one not in found or finished >= found[one].finished:
            found[one] = Outcome(
                str(row.get("status")), row.get("bytes"), row.get("sha256"), finished
            )
    return found


def _was_in_the_way(row: Mapping[str, Any]) -> bool:
    error = row.get("error")
    return isinstance(error, Mapping) and error.get("code") == OutputDiffersError.code


def outputs(folder: Path) -> set[str]:
    """Names of all that the folder's runs wrote, below the folder."""
    names: set[str] = set()
    for row in rows(folder):
        names.update(str(row[key]) for key in ("output", "sheet") if row.get(key))
    return names


def held(folder: Path) -> dict[str, bool | None]:
    """The journals by name, and whether a run is writing each right now; None is unknown."""
    return locks.held(folder)


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    for file in files(folder):
        try:
            with file.open(encoding="utf-8", errors="replace") as stream:
                for line in stream:
                    try:
                        row = json.loads(line)
                    except (ValueError, RecursionError):
                        continue
                    if isinstance(row, dict):
                        yield row
        except OSError as error:
            raise InputError(
                f"journal {file} cannot be read: {error.strerror}",
                fix="mend its permissions, or move it away",
            ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
