"""Files that appear whole or not at all, and JSON that any reader takes; without torch."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO

from stylecli.errors import DiskFullError, ItemError

# No single file takes longer to write, so an older unfinished one has lost its writer.
STALE_SECONDS = 3600
FULL = (errno.ENOSPC, errno.EDQUOT)
# Some network file systems have no folders that can be synced.
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
# `.NAME.WORLD-PID.TOKEN.part`; a folder may hold unfinished files of other programs too.
_SCRAP = re.compile(r"\..+\.(?:([0-9a-f]{8})-)?(\d+)\.[0-9a-f]+\.part", re.DOTALL)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes are the file at `path` once the block ends well; else nothing changed.

    The first write to a folder clears away what killed runs left there.

    Raises:
        DiskFullError: The disk, or the user's share of it, is full; nothing is left behind.
        ItemError: The file cannot be written for another reason; nothing is left behind.
    """
    # Cut, because names are limited in bytes and a character can take four of them.
    writer = f"{_world()}-{os.getpid()}.{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name[:40]}.{writer}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent.absolute(), os.getpid())
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
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> ItemError:
    """What to tell of a file that could not be written: a full disk is a failure of its own."""
    is_full = error.errno in FULL
    kind = DiskFullError if is_full else ItemError
    return kind(
        f"{path} cannot be written: {error.strerror or error}",
        fix=f"{'free some disk, or ' * is_full}choose another --output",
    )


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever happens meanwhile.

    Raises:
        ItemError: As `replacing`.
    """
    with replacing(path) as stream:
        stream.write(data)


def sweep(folder: Path) -> None:
    """Remove our unfinished files whose writer is gone, or that are too old to have one."""
    # No pattern: a name with a byte that is no character would end the search in some versions.
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (match := _SCRAP.fullmatch(entry.name)) is None:
                continue
            with contextlib.suppress(OSError):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age > STALE_SECONDS or _has_lost_its_writer(match[1], int(match[2])):
                    (folder / entry.name).unlink()


@lru_cache(maxsize=4096)
def _sweep_once(folder: Path, _process: int) -> None:
    sweep(folder)


@cache
def _world() -> str:
    """Where a process number means something: this machine since its start, this container."""
    said = [socket.gethostname()]
    # Machines made from one image share a name, and containers of a machine each count from 1.
    with contextlib.suppress(OSError):
        said.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        said.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(said).encode(errors="surrogateescape")).hexdigest()[:8]


def _has_lost_its_writer(world: str | None, process: int) -> bool:
    # Elsewhere than on POSIX, asking whether a process lives would end it.
    if os.name != "posix" or world != _world():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it lives, and is another user's
        return False
    return False


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
