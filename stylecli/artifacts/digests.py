"""Digests of files that were read before, so that planning a large run reads none of them again.

One small SQLite file in the cache. A file is known again by its path, size, times and inode; of the
path only a digest is kept. The index saves time and decides nothing: whatever is wrong with it, the
file is read.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import sqlite3
import threading
import time
import zlib
from functools import lru_cache
from pathlib import Path

from stylecli.artifacts import cache
from stylecli.errors import UsageError

NAME = "digests/digests.sqlite"
# A later change can leave a file that is younger than this with the times it has now.
RACY_NS = 2_000_000_000
UNUSED_DAYS = 90
# How precisely it is known when an entry was last of use: writing that down has a cost too.
REFRESH_DAYS = 7
BUSY_SECONDS = 30.0
# At most so much is lost when a run is killed.
BATCH, BATCH_SECONDS = 1000, 1.0
# What is remembered without a file to keep it in.
MAX_REMEMBERED = 4096
_TABLE = """
CREATE TABLE IF NOT EXISTS files
(place BLOB PRIMARY KEY, stamp BLOB, sha256 BLOB, used INTEGER, crc INTEGER) WITHOUT ROWID
"""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes; read only when it is new or changed since it last was.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        file = cache.cache_dir() / NAME
    except UsageError:
        file = None
    return _index(file, os.getpid()).sha256(path)


class Digests:
    """An open index; any thread may ask it.

    Args:
        file: Made if missing, begun anew if damaged; None remembers in this process alone.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._fresh: dict[bytes, tuple[bytes, bytes]] = {}
        self._is_pruned = False
        self._written = time.monotonic()
        self._db = _open(file)
        self._can_write = self._db is not None

    def sha256(self, path: Path) -> str:
        """SHA-256 of a file's bytes, in hexadecimal.

        Raises:
            OSError: The file cannot be read.
        """
        place = hashlib.blake2b(os.fsencode(path.absolute()), digest_size=16).digest()
        status = path.stat()
        with self._guard:
            found = self._find(place, _stamp(status))
        if found is not None:
            return found.hex()
        began = time.time_ns()
        with path.open("rb") as stream:
            # As it was before: one that changes meanwhile will not look like this again.
            status = os.fstat(stream.fileno())
            found = hashlib.file_digest(stream, "sha256").digest()
        if not _is_racy(status, began):
            with self._guard:
                self._keep(place, _stamp(status), found)
        return found.hex()

    def close(self) -> None:
        """Write down what is not yet; a process that was forked leaves that to its parent."""
        if self._process == os.getpid():
            with self._guard:
                self._write()
        self._let_go()

    def __del__(self) -> None:
        self.close()

    def _find(self, place: bytes, stamp: bytes) -> bytes | None:
        known = self._fresh.get(place)
        if known is not None:
            return known[1] if known[0] == stamp else None
        if self._db is None:
            return None
        try:
            row = self._db.execute(
                "SELECT stamp, sha256, used, crc FROM files WHERE place = ?", (place,)
            ).fetchone()
        except sqlite3.Error as error:
            self._can_write = self._mend(error)
            return None
        if row is None or row[0] != stamp or row[3] != _crc(place, *row[:3]):
            return None
        if self._can_write and abs(_today() - row[2]) > REFRESH_DAYS:
            self._keep(place, stamp, row[1])
        return bytes(row[1])

    def _keep(self, place: bytes, stamp: bytes, sha256: bytes) -> None:
        if not self._can_write and len(self._fresh) >= MAX_REMEMBERED:
            del self._fresh[next(iter(self._fresh))]
        self._fresh[place] = (stamp, sha256)
        waited = time.monotonic() - self._written
        if len(self._fresh) >= BATCH or waited >= BATCH_SECONDS:
            self._write()

    def _write(self) -> None:
        if self._db is None or not self._can_write or not self._fresh:
            return
        today = _today()
        rows = [
            (place, stamp, sha256, today, _crc(place, stamp, sha256, today))
            for place, (stamp, sha256) in self._fresh.items()
        ]
        self._written = time.monotonic()
        try:
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)
                if not self._is_pruned:
                    span = (today - UNUSED_DAYS, today + UNUSED_DAYS)
                    self._db.execute("DELETE FROM files WHERE used NOT BETWEEN ? AND ?", span)
        except sqlite3.Error as error:
            # A full or read-only disk can still be read from.
            if not _is_damage(error):
                self._can_write = False
            else:
                self._can_write = self._mend(error)
        else:
            self._is_pruned = True
            self._fresh.clear()

    def _mend(self, error: sqlite3.Error) -> bool:
        """Begin a damaged index anew, or do without; whether there is one now."""
        self._let_go()
        if _is_damage(error):
            self._db = _open(self._file)
        return self._db is not None

    def _let_go(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db = None


@lru_cache(maxsize=1)
def _index(file: Path | None, _process: int) -> Digests:
    return Digests(file)


# What was read last is written down when the process ends.
atexit.register(_index.cache_clear)


def _open(file: Path | None) -> sqlite3.Connection | None:
    """The index, anew if it was damaged; None where there can be none."""
    if file is None:
        return None
    for _ in range(2):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(file, timeout=BUSY_SECONDS, check_same_thread=False)
        except (sqlite3.Error, OSError):
            return None
        try:
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(_TABLE)
        except sqlite3.Error as error:
            db.close()
            if not _is_damage(error):
                return None
            with contextlib.suppress(OSError):
                file.unlink()
        else:
            return db
    return None


def _is_damage(error: sqlite3.Error) -> bool:
    # The lowest byte tells the kind.
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _stamp(status: os.stat_result) -> bytes:
    # The time of the entry too: tools that edit a picture in place set the other one back. As text,
    # because inodes of some file systems exceed what SQLite counts to.
    facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).digest()


def _is_racy(status: os.stat_result, now_ns: int) -> bool:
    """Whether a change after this moment might not show; a time in the future tells no age."""
    return now_ns - status.st_ctime_ns < RACY_NS or 0 <= now_ns - status.st_mtime_ns < RACY_NS


def _crc(*row: object) -> int:
    return zlib.crc32(repr(row).encode())


def _today() -> int:
    return int(time.time() // 86_400)
