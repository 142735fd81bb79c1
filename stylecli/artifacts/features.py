"""Features and scores that were computed before, found by what they were computed from.

One SQLite file in the cache. A key is a digest of everything that decides the value (bytes of the
pictures, metric and its version, weights, preprocessing), so a renamed picture is found again and
an edited one is not; a killed run leaves whole rows or none. What is computed fast is written once
a second, together: a commit for every number would take longer than most numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from jaxtyping import Float64, Int
from torch import Tensor

from stylecli.errors import UsageError

NAME = "features/features.sqlite"
# Two runs share the file; each writes for milliseconds.
BUSY_SECONDS = 60
# Held back at most, in time and in vectors (of 2048 numbers: 8 MB).
HELD_SECONDS, HELD_VECTORS = 1.0, 1024
# Keys in one question; SQLite takes no more than 999 in its older versions.
ASKED_AT_ONCE = 500
# Files whose digests are remembered without asking: contents and styles come again and again.
REMEMBERED_FILES = 2**14
_TABLES = """
CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, value BLOB, crc INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, digest TEXT);
"""

Vector = npt.NDArray[np.float32]


class FeatureStore:
    """An open store. Scores are vectors of length one.

    Args:
        path: The SQLite file; a damaged one is put aside and a new one begun.
        beside: Another, in which is looked for what this one lacks. A store beside another has one
            writer, and may lie on a network's disk, where processes cannot share memory.

    Attributes:
        was_damaged: Whether that happened.
    """

    def __init__(self, path: Path, beside: FeatureStore | None = None) -> None:
        self._path = path
        self._beside = beside
        self.was_damaged = False
        self._held: dict[str, Vector] = {}
        self._held_files: dict[str, tuple[str, int, int, str]] = {}
        self._written = time.monotonic()
        self._digests: dict[str, tuple[int, int, str]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # SQLite waits for others everywhere but here: one makes the file, the next finds it.
            with FileLock(lock_of(path)):
                self._db = self._open_or_renew()
        except (sqlite3.Error, OSError) as error:
            raise self._trouble(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # Also on the way out of a run that was interrupted, whose own error then counts.
            with contextlib.suppress(*([UsageError] if error else [])):
                self.flush()
        finally:
            self._db.close()

    def get(self, key: str) -> Vector | None:
        """What was kept under a key; None if nothing was, or if it was damaged since."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, Vector]:
        """What was kept under each of the keys that are known."""
        asked = list(dict.fromkeys(keys))
        found = {key: self._held[key] for key in asked if key in self._held}
        wanted = [key for key in asked if key not in found] if found else asked
        for start in range(0, len(wanted), ASKED_AT_ONCE):
            block = wanted[start : start + ASKED_AT_ONCE]
            marks = ",".join("?" * len(block))
            statement = f"SELECT key, value, crc FROM vectors WHERE key IN ({marks})"  # noqa: S608
            for key, data, crc in self._all(statement, block):
                if zlib.crc32(data) == crc:
                    found[key] = np.frombuffer(data, dtype="<f4").astype(np.float32)
        if self._beside is not None and len(found) < len(asked):
            found |= self._beside.get_many(key for key in asked if key not in found)
        return found

    def put(self, vectors: Mapping[str, npt.ArrayLike]) -> None:
        """Keep vectors; all of them or, if the process dies, none.

        Raises:
            UsageError: The disk is full, or the file cannot be written.
        """
        self._hold(vectors)
        self.flush()

    def hold(self, vectors: Mapping[str, npt.ArrayLike]) -> None:
        """The same, at the latest when a second has passed and more is held, or by `flush`.

        Raises:
            UsageError: As `put`.
        """
        self._hold(vectors)
        # Counted from the last time: what takes seconds to compute is written at once.
        is_late = time.monotonic() - self._written > HELD_SECONDS
        if is_late or len(self._held) + len(self._held_files) >= HELD_VECTORS:
            self.flush()

    def flush(self) -> None:
        """Write what is held.

        Raises:
            UsageError: As `put`.
        """
        rows = []
        for key, vector in self._held.items():
            data = vector.tobytes()
            rows.append((key, data, zlib.crc32(data)))
        files = list(self._held_files.values())
        # Before it is tried: what cannot be written is not tried again on the way out.
        self._held, self._held_files = {}, {}
        if rows or files:
            try:
                with self._db:
                    self._db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
                    self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", files)
            except sqlite3.Error as error:
                raise self._trouble(error) from error
        self._written = time.monotonic()

    def _hold(self, vectors: Mapping[str, npt.ArrayLike]) -> None:
        self._held |= {
            key: np.array(vector, dtype="<f4", order="C") for key, vector in vectors.items()
        }

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys that have to be computed, each once, in order."""
        known = self.get_many(keys)
        return [key for key in dict.fromkeys(keys) if key not in known]

    def rows(self, keys: Sequence[str]) -> FeatureRows:
        """Vectors of these keys as a table that is read piece by piece."""
        return FeatureRows(self, keys)

    def file_digest(self, path: Path) -> str:
        """BLAKE2b of a file's bytes; read again only when its size or a time of it changed."""
        status = path.stat()
        # Copying tools set the time of the content back; that of the entry they cannot.
        seen = (status.st_size, status.st_mtime_ns ^ status.st_ctime_ns)
        remembered = self._digests.get(str(path))
        if remembered is not None and remembered[:2] == seen:
            return remembered[2]
        place = str(path.absolute())
        digest = self._known_digest(place, seen)
        if digest is None:
            with path.open("rb") as stream:
                hashed = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16))
            digest = hashed.hexdigest()
            self._held_files[place] = (place, *seen, digest)
            self.hold({})
        if len(self._digests) >= REMEMBERED_FILES:
            self._digests.clear()
        self._digests[str(path)] = (*seen, digest)
        return digest

    def _known_digest(self, place: str, seen: tuple[int, int]) -> str | None:
        held = self._held_files.get(place)
        if held is not None and held[1:3] == seen:
            return held[3]
        asked = "SELECT digest FROM files WHERE path = ? AND size = ? AND mtime = ?"
        for (digest,) in self._all(asked, (place, *seen)):
            return str(digest)
        return self._beside._known_digest(place, seen) if self._beside is not None else None

    def absorb(self, path: Path) -> bool:
        """Take over all that another store holds, whether or not its writer was killed.

        Returns:
            False where it is damaged: then what it held is computed again.

        Raises:
            UsageError: The disk is full, or this file cannot be written.
        """
        self.flush()
        try:
            self._db.execute("ATTACH DATABASE ? AS part", (str(path),))
            try:
                self._db.execute("SELECT count(*) FROM part.sqlite_master").fetchone()
                with self._db:
                    for table in ("vectors", "files"):
                        self._db.execute(
                            f"INSERT OR IGNORE INTO main.{table} SELECT * FROM part.{table}"  # noqa: S608
                        )
            finally:
                self._db.execute("DETACH DATABASE part")
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return True  # killed before it held anything
            raise self._trouble(error) from error
        except sqlite3.DatabaseError:
            return False
        return True

    def _open_or_renew(self) -> sqlite3.Connection:
        try:
            return self._open()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            self.was_damaged = True
            with contextlib.suppress(OSError):
                self._path.replace(self._path.with_suffix(".damaged"))
            return self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=BUSY_SECONDS)
        db.execute(f"PRAGMA journal_mode = {'WAL' if self._beside is None else 'DELETE'}")
        # A power cut may cost the last rows, never the file: they are computed again.
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_TABLES)
        return db

    def _all(self, statement: str, values: Sequence[object]) -> list[Any]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._trouble(error) from error

    def _trouble(self, error: Exception) -> UsageError:
        return UsageError(
            f"the cache {self._path} cannot be used: {error}",
            fix="free some disk, prune it (`style cache prune --all`), or set STYLE_CACHE_DIR",
        )


class FeatureRows:
    """A table of float64 features, of which only the rows asked for are in memory."""

    def __init__(self, store: FeatureStore, keys: Sequence[str]) -> None:
        self._store, self._keys = store, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, rows: slice | Int[Tensor, " n"]) -> Float64[Tensor, "n d"]:
        """Some rows: a stretch of them, or by number.

        Raises:
            KeyError: One was never put, or has been damaged since.
        """
        keys = self._keys[rows] if isinstance(rows, slice) else [self._keys[r] for r in rows]
        known = self._store.get_many(keys)
        return torch.from_numpy(np.stack([known[key] for key in keys])).double()

    def only(self, rows: Int[Tensor, " n"]) -> FeatureRows:
        """The table of some of the rows, by number."""
        return FeatureRows(self._store, [self._keys[row] for row in rows.tolist()])

    def blocks(self, size: int = 2048) -> Iterator[Float64[Tensor, "_n d"]]:
        """All rows in order, so many at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


def lock_of(path: Path) -> Path:
    """The empty file that whoever opens a store holds for a moment."""
    return path.with_name(f".{path.name}.lock")
