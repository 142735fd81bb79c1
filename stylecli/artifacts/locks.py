"""Who may write where: one lock for a folder's run, one for each shard, one for a single file.

Locks are the operating system's, so a killed run leaves none behind. Those of folders and shards
are taken on files that stay, empty; that of a single file goes when it is let go.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import time
from pathlib import Path

from filelock import FileLock, Timeout

from stylecli.errors import LockedError, UsageError

Shard = tuple[int, int]

_NAME = re.compile(r"\.runs(?:-(\d+)-of-(\d+))?\.jsonl\.lock")
# Longer than anybody takes to look whether a lock is held.
PROBE_SECONDS = 0.5
POLL_SECONDS = 0.2


def overlap(one: Shard | None, other: Shard | None) -> bool:
    """Whether two parts of the same work share items; None is all of it.

    >>> overlap((1, 4), (3, 4)), overlap((3, 4), (7, 8)), overlap(None, (1, 2))
    (False, True, True)
    """
    if one is None or other is None:
        return True
    (i, n), (j, m) = one, other
    return i % math.gcd(n, m) == j % math.gcd(n, m)


class WriteLock:
    """The right to write one part of a folder, held between `take` and `release`."""

    def __init__(
        self, folder: Path, shard: Shard | None = None, *, file: Path | None = None
    ) -> None:
        """Name what is to be locked.

        Args:
            folder: Where the run writes.
            shard: The part of the work that is its own.
            file: The only output there is; runs with other files of the folder go on beside it.
        """
        self._folder = folder
        self._shard = shard
        self._file = file
        self._met = 0
        if file is not None:
            digest = hashlib.sha256(file.name.encode(errors="surrogateescape")).hexdigest()
            # One name for a file however it was typed, and short enough for any file system.
            self._lock = FileLock(folder.resolve() / f".{digest[:16]}.lock")
        else:
            part = "" if shard is None else f"-{shard[0]}-of-{shard[1]}"
            self._lock = FileLock(folder / f".runs{part}.jsonl.lock")

    def take(self, *, wait: bool) -> None:
        """Take the lock, making the folder if need be.

        Raises:
            LockedError: Another run holds it, or a part of the same work, and `wait` is false.
            UsageError: It cannot be made.
        """
        while True:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._lock.acquire(timeout=-1 if wait else PROBE_SECONDS)
            except Timeout as error:
                raise self._held(self._file or self._folder) from error
            except (OSError, NotImplementedError) as error:
                raise UsageError(
                    f"{self._folder} cannot be written: {getattr(error, 'strerror', error)}",
                    fix="choose another --output",
                ) from error
            rival = self._rival()
            if rival is None:
                return
            # Let go while waiting, or two that wait for each other would wait for ever.
            self._lock.release()
            # Of two that met, the one whose name comes first looks again: the other gave way.
            is_second = rival.name < Path(self._lock.lock_file).name or self._met > 0
            if not wait and is_second:
                raise self._held(self._folder)
            self._met += not wait
            time.sleep(POLL_SECONDS if wait else PROBE_SECONDS)

    def release(self) -> None:
        if self._file is not None:
            # While it is held: whoever waits for it notices, and takes a new one.
            with contextlib.suppress(OSError):
                Path(self._lock.lock_file).unlink()
        self._lock.release()

    def _rival(self) -> Path | None:
        """A lock that somebody holds, or may hold, on a part of the same work."""
        if self._file is not None:
            return None
        for lock, shard in _locks(self._folder):
            is_own = lock.name == Path(self._lock.lock_file).name
            if not is_own and overlap(self._shard, shard) and is_held(lock) is not False:
                return lock
        return None

    @staticmethod
    def _held(place: Path) -> LockedError:
        return LockedError(
            f"another run is writing to {place}",
            fix="wait for it, queue with --wait, or share the work with --shard i/n "
            "(auto under Slurm, torchrun and accelerate)",
        )


def held(folder: Path) -> dict[str, bool | None]:
    """The folder's journals by name, and whether a run is writing each right now; see `is_held`."""
    return {
        lock.name.removeprefix(".").removesuffix(".lock"): is_held(lock)
        for lock, _ in _locks(folder)
    }


def is_held(lock: Path) -> bool | None:
    """Whether somebody holds a lock; looking takes it for a moment, which `take` waits out.

    Returns:
        None where it is another user's and cannot be told.
    """
    probe = FileLock(lock)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return None
    probe.release()
    return False


def _locks(folder: Path) -> list[tuple[Path, Shard | None]]:
    return [
        (file, (int(match[1]), int(match[2])) if match[1] else None)
        for file in sorted(folder.glob(".runs*.lock"))
        if (match := _NAME.fullmatch(file.name))
    ]
