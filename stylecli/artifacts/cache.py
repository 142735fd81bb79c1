"""The cache: where it is, what it holds, and what of it can go; paths only, without torch.

It grows to ``$STYLE_CACHE_SIZE`` and no further: what was not used for longest goes first, and
whoever misses it makes it again.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from platformdirs import user_cache_dir

from stylecli.errors import DiskFullError, ItemError, UsageError

# Nobody resumes a training that was interrupted longer ago.
ABANDONED_SECONDS = 86_400
FIX = "free some disk, or set STYLE_CACHE_DIR to a folder that can be written"
SIZE = "STYLE_CACHE_SIZE"
DEFAULT_BYTES = 20 * 10**9
TRAJECTORIES = "trajectories"
SOURCES = "sources"
# Of `style gallery`: what the model sees of a picture, its regions, and what these are compared by.
SEEN, REGIONS, DESCRIBED = "seen", "regions", "described"
# There is one of these for every picture of a data set.
_OF_PICTURES = (TRAJECTORIES, SEEN, REGIONS, DESCRIBED)
# A file system may note only one read a day.
IDLE_SECONDS = 2 * 86_400
# The share of the budget that is freed at once, and that a run writes before it looks again.
SLACK = 16
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?b)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One cached file; `used` is when it was last read or written, in seconds since 1970."""

    path: Path
    bytes: int
    used: float


@dataclass(frozen=True, slots=True)
class Shelf:
    """All files of one kind, such as trajectories."""

    kind: str
    files: int
    bytes: int


def cache_dir() -> Path:
    """``$STYLE_CACHE_DIR``, or the platform's cache folder for ``style``.

    Raises:
        UsageError: It is in the home of a user who has none.
    """
    folder = os.environ.get("STYLE_CACHE_DIR") or user_cache_dir("style")
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"the cache {folder} cannot be found: this user has no home",
            fix="set STYLE_CACHE_DIR to a folder that can be written",
        ) from error


def size_limit() -> int | None:
    """How many bytes the cache may hold by ``$STYLE_CACHE_SIZE``; None is no limit, said as 0.

    Raises:
        UsageError: It is not a size.
    """
    said = os.environ.get(SIZE, "").strip()
    if not said:
        return DEFAULT_BYTES
    match = _SIZE.fullmatch(said)
    number = float(match[1]) if match else 0.0
    if match is None or (number and not match[2]):
        raise UsageError(f"{SIZE}={said} is not a size", fix="such as 20GB or 500MB; 0 is no limit")
    return int(number * _UNITS[(match[2] or "b").lower()]) or None


def cached(kind: str, key: str, suffix: str) -> Path:
    """Where the cache keeps a thing of this kind under this digest; it may not be there."""
    return cache_dir() / kind / key[:2] / f"{key}{suffix}"


def ensure_writable() -> None:
    """Find out before the work, not after it.

    Raises:
        UsageError: The cache folder cannot be made, or nothing can be written to it; or the limit
            to its size is not one.
    """
    folder = cache_dir()
    size_limit()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"the cache {folder} cannot be written: {error.strerror}", fix=FIX
        ) from error


def keep(path: Path, write: Callable[[], None], warn: Callable[[str], None]) -> bool:
    """Write a file that can be made again, then see that the cache stays within its size.

    Args:
        path: From `cached`.
        write: Writes it, whole or not at all.
        warn: Told, once in a process, that the disk is full.

    Returns:
        Whether it is there now; on a full disk it is not, and the work can go on without.

    Raises:
        ItemError: It cannot be written for another reason.
    """
    try:
        write()
    except DiskFullError:
        _say_once(f"the cache {cache_dir()} is on a full disk; going on without keeping", warn)
        return False
    except ItemError as error:
        raise ItemError(error.what, fix=FIX) from error
    limit = size_limit()
    if limit is not None:
        _budget(cache_dir(), limit).spend(path)
    return True


def touch(path: Path) -> None:
    """Note that a cached file was of use now; some file systems do not."""
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


class Budget:
    """Keeps a cache folder within a size; several processes may, each its own way.

    Looking through the folder takes time, so after each look the process counts what it writes
    itself, and looks again when that could be too much.

    Args:
        root: The cache folder.
        limit: Bytes. For as long as it runs, each process may exceed it by one part in `SLACK`.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self._root = root
        self._limit = limit
        self._room = 0
        self._guard = threading.Lock()

    def spend(self, path: Path) -> None:
        """Count a file that was just written, and make room when it is time; `path` stays."""
        try:
            written = path.stat().st_size
        except OSError:  # another run made room
            return
        with self._guard:
            self._room -= written
            if self._room < 0:
                self._look(path)

    def _look(self, newest: Path) -> None:
        entries = list(_entries(self._root))
        free = self._limit - sum(entry.bytes for entry in entries)
        slack = self._limit // SLACK
        for entry in _expendable(self._root, entries, newest) if free < 0 else ():
            # One that somebody reads may refuse on some systems; elsewhere the reader keeps it.
            with contextlib.suppress(OSError):
                entry.path.unlink(missing_ok=True)
                free += entry.bytes
            if free >= slack:
                break
        # Not at every file again, even where little may go.
        self._room = max(min(free, slack), slack // SLACK)


def _expendable(root: Path, entries: list[Entry], newest: Path) -> list[Entry]:
    """What may go to make room, in order: what contents left, then whatever nobody seems to use.

    Features first, which are large for what they save, then what else pictures left. A run returns
    to a LoRA for as long as it lasts; and databases are small for what they save.
    """
    now = time.time()

    def rank(entry: Entry) -> int:
        kind = entry.path.relative_to(root).parts[0]
        return 0 if kind == SOURCES else 1 if kind in _OF_PICTURES else 2

    return sorted(
        (
            entry
            for entry in entries
            if entry.bytes
            and entry.path != newest
            and ".sqlite" not in entry.path.name
            and (rank(entry) < 2 or now - entry.used > IDLE_SECONDS)
        ),
        key=lambda entry: (rank(entry), entry.used, entry.path),
    )


@lru_cache(maxsize=1)
def _budget(root: Path, limit: int) -> Budget:
    return Budget(root, limit)


@lru_cache(maxsize=16)
def _say_once(text: str, say: Callable[[str], None]) -> None:
    say(text)


def shelves(root: Path) -> list[Shelf]:
    """What is there, by kind."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for entry in _entries(root):
        sizes[entry.path.relative_to(root).parts[0]].append(entry.bytes)
    return [Shelf(kind, len(all_), sum(all_)) for kind, all_ in sorted(sizes.items())]


def prunable(
    root: Path, *, older_than_seconds: float | None = None, max_bytes: int | None = None
) -> list[Entry]:
    """Files to remove, the longest unused first.

    Args:
        root: The cache folder.
        older_than_seconds: Everything not used for this long goes; 0 is everything.
        max_bytes: And as much more as it takes to leave no more than this.
    """
    entries = sorted(_entries(root), key=lambda entry: (entry.used, entry.path))
    now, total = time.time(), sum(entry.bytes for entry in entries)
    gone = []
    for entry in entries:
        is_old = older_than_seconds is not None and now - entry.used >= older_than_seconds
        is_excess = max_bytes is not None and total > max_bytes
        if is_old or is_excess:
            gone.append(entry)
            total -= entry.bytes
    return gone


def _entries(root: Path) -> Iterator[Entry]:
    for path in root.rglob("*") if root.is_dir() else ():
        if path.parent == root or path.is_symlink():
            continue
        try:
            status = path.stat()
        except FileNotFoundError:  # another run pruned it
            continue
        used = max(status.st_atime, status.st_mtime)
        # Dot files are unfinished ones, of runs that may be going on; which may hold locks.
        is_of_a_run = path.name.startswith(".") or path.suffix == ".lock"
        if is_of_a_run and time.time() - used < ABANDONED_SECONDS:
            continue
        if path.is_file():
            yield Entry(path, status.st_size, used)
