"""Files that appear whole or not at all, and JSON that any reader takes; without torch."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from stylecli.errors import ItemError

# No single file takes longer to write, so an older unfinished one has lost its writer.
STALE_SECONDS = 3600
# Some network file systems have no folders that can be synced.
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes are the file at `path` once the block ends well; else nothing changed.

    Raises:
        ItemError: The folder cannot be written or the disk is full; nothing is left behind.
    """
    # Cut, because names are limited in bytes and a character can take four of them.
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise ItemError(
            f"{path} cannot be written: {error.strerror or error}",
            fix="free some disk, or choose another --output",
        ) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever happens meanwhile.

    Raises:
        ItemError: As `replacing`.
    """
    with replacing(path) as stream:
        stream.write(data)


def sweep(folder: Path) -> None:
    """Remove what killed runs left of unfinished files; a younger one may be being written."""
    for scrap in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - scrap.stat().st_mtime > STALE_SECONDS:
                scrap.unlink()


def to_json(value: object) -> str:
    """JSON that every reader takes: sorted, ASCII, null for NaN and infinity.

    >>> to_json({"b": float("inf"), "a": (1, 2.5)})
    '{"a": [1, 2.5], "b": null}'
    """
    return json.dumps(_finite(value), sort_keys=True, allow_nan=False)


def _finite(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
    return value


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)
