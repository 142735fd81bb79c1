"""The cache: where it is, what it holds, and what of it can go; paths only, without torch."""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_dir

from stylecli.errors import UsageError

# Nobody resumes a training that was interrupted longer ago.
ABANDONED_SECONDS = 86_400
FIX = "free some disk, or set STYLE_CACHE_DIR to a folder that can be written"


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
    """``$STYLE_CACHE_DIR``, or the platform's cache folder for ``style``."""
    return Path(os.environ.get("STYLE_CACHE_DIR") or user_cache_dir("style")).expanduser()


def cached(kind: str, key: str, suffix: str) -> Path:
    """Where the cache keeps a thing of this kind under this digest; it may not be there."""
    return cache_dir() / kind / key[:2] / f"{key}{suffix}"


def ensure_writable() -> None:
    """Find out before the work, not after it.

    Raises:
        UsageError: The cache folder cannot be made, or nothing can be written to it.
    """
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"the cache {folder} cannot be written: {error.strerror}", fix=FIX
        ) from error


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
        # Dot files are unfinished ones, of runs that may be going on.
        if path.name.startswith(".") and time.time() - used < ABANDONED_SECONDS:
            continue
        if path.is_file():
            yield Entry(path, status.st_size, used)
