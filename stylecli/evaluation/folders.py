"""Weights that are folders: a model too large for one file, as `save_pretrained` would write it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from stylecli.errors import WeightsError
from stylecli.evaluation.published import Weights

INDEX = "model.safetensors.index.json"
# Reading is what takes the time, and hashing releases the lock.
READERS = 4


def is_whole(weights: Weights, folder: Path) -> bool:
    """Whether each of the files that a folder must hold is there, under the patterns' names."""
    return folder.is_dir() and all(any(folder.glob(pattern)) for pattern in weights.holds)


def files(weights: Weights, folder: Path) -> list[Path]:
    """Those that count, by name; what else lies in the folder changes nothing.

    Raises:
        WeightsError: The index names a file that is not there.
    """
    found = {path for pattern in weights.holds for path in folder.glob(pattern) if path.is_file()}
    index = folder / INDEX
    if any(path.suffix == ".safetensors" for path in found) and index.is_file():
        try:
            named = set(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise WeightsError(
                f"{index} is no index of weights", fix=f"fetch {weights.repository} again"
            ) from error
        held = {path.name for path in found}
        if lacking := sorted(named - held):
            raise WeightsError(
                f"{folder} lacks {', '.join(lacking)}", fix=f"fetch {weights.repository} again"
            )
        found.add(index)
    return sorted(found)


def digests(weights: Weights, folder: Path) -> Mapping[str, str]:
    """SHA-256 of every file that counts, by name.

    Raises:
        WeightsError: One is missing, or cannot be read.
    """
    own = files(weights, folder)
    try:
        states = [path.stat() for path in own]
        with ThreadPoolExecutor(READERS) as readers:
            found = readers.map(
                _sha256, own, [s.st_size for s in states], [s.st_mtime_ns for s in states]
            )
            return dict(zip([path.name for path in own], found, strict=True))
    except OSError as error:
        raise WeightsError(
            f"{folder} cannot be read: {error.strerror or error}", fix="copy it again"
        ) from error


def fingerprint(weights: Weights, folder: Path) -> str:
    """One digest for all of it.

    Raises:
        WeightsError: A file is missing, or cannot be read.
    """
    return whole(digests(weights, folder))


def whole(own: Mapping[str, str]) -> str:
    """One digest of the digests of files by name."""
    lines = [f"{own[name]}  {name}\n" for name in sorted(own)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@lru_cache(maxsize=256)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
