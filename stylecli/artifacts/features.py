"""Features and scores that were computed before, found by what they were computed from.

One SQLite file in the cache. A key is a digest of everything that decides the value (bytes of the
pictures, metric and its version, weights, preprocessing), so a renamed picture is found again and
an edited one is not; a killed run leaves whole rows or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from jaxtyping import Float64
from torch import Tensor

from stylecli.errors import UsageError

NAME = "features/features.sqlite"
# Two runs share the file; each writes for milliseconds.
BUSY_SECONDS = 60
_TABLES = """
CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, value BLOB, crc INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, digest TEXT);
"""

Vector = npt.NDArray[np.float32]


class FeatureStore:
    """An open store. Scores are vectors of length one.

    Args:
        path: The SQLite file; a damaged one is put aside and a new one begun.

    Attributes:
        was_damaged: Whether that happened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.was_damaged = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # SQLite waits for others everywhere but here: one makes the file, the next finds it.
            with FileLock(path.with_name(f".{path.name}.lock")):
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
        self._db.close()

    def get(self, key: str) -> Vector | None:
        """What was kept under a key; None if nothing was, or if it was damaged since."""
        row = self._one("SELECT value, crc FROM vectors WHERE key = ?", (key,))
        if row is None or zlib.crc32(row[0]) != row[1]:
            return None
        return np.frombuffer(row[0], dtype="<f4").astype(np.float32)

    def put(self, vectors: Mapping[str, npt.ArrayLike]) -> None:
        """Keep vectors; all of them or, if the process dies, none.

        Raises:
            UsageError: The disk is full, or the file cannot be written.
        """
        rows = []
        for key, vector in vectors.items():
            data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
            rows.append((key, data, zlib.crc32(data)))
        self._write("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys that have to be computed, each once, in order."""
        return [key for key in dict.fromkeys(keys) if self.get(key) is None]

    def rows(self, keys: Sequence[str]) -> FeatureRows:
        """Vectors of these keys as a table that is read piece by piece."""
        return FeatureRows(self, keys)

    def file_digest(self, path: Path) -> str:
        """BLAKE2b of a file's bytes; read again only when its size or a time of it changed."""
        status = path.stat()
        # Copying tools set the time of the content back; that of the entry they cannot.
        times = status.st_mtime_ns ^ status.st_ctime_ns
        seen = (str(path.absolute()), status.st_size, times)
        row = self._one("SELECT digest FROM files WHERE path = ? AND size = ? AND mtime = ?", seen)
        if row is not None:
            return str(row[0])
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16))
        self._write(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", [(*seen, digest.hexdigest())]
        )
        return digest.hexdigest()

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
        db.execute("PRAGMA journal_mode = WAL")
        # A power cut may cost the last rows, never the file: they are computed again.
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_TABLES)
        return db

    def _one(self, statement: str, values: Sequence[object]) -> Any:
        try:
            return self._db.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise self._trouble(error) from error

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            with self._db:
                self._db.executemany(statement, rows)
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

    def __getitem__(self, rows: slice) -> Float64[Tensor, "n d"]:
        """Some rows.

        Raises:
            KeyError: One was never put, or has been damaged since.
        """
        found = []
        for key in self._keys[rows]:
            vector = self._store.get(key)
            if vector is None:
                raise KeyError(key)
            found.append(vector)
        return torch.from_numpy(np.stack(found)).double()

    def blocks(self, size: int = 2048) -> Iterator[Float64[Tensor, "_n d"]]:
        """All rows in order, so many at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]
