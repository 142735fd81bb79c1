"""Files found again by what they hold, wherever they lie now and whatever they are called."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePath

from stylecli.artifacts import store

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Folders that nobody named are searched only if they hold no more files and folders.
SEARCHED_FILES = 5_000
# No picture and no LoRA is larger, so nothing larger is read.
LARGEST_BYTES = 4 << 30
# Of the formats that `artifacts.images` reads; what is named itself may be called anything.
IMAGE_SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jfif",
        ".webp",
        ".avif",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".jp2",
        ".j2k",
        ".tga",
        ".ico",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    ]
)
LORA = ".safetensors"
# A folder is a LoRA when it has a file that PEFT calls so.
LORA_IN_FOLDER = "adapter_model.safetensors"
# Kinds of candidates beside the suffixes of files: LoRAs that are folders, and files that are a
# place themselves.
_FOLDER, _PLACE = "folder/", "place/"


def near(folders: Iterable[Path]) -> list[Path]:
    """Of folders that nobody named, those worth a search: each once, and no archive or home.

    An archive is told without being walked to its end.
    """
    return [folder for folder in dict.fromkeys(folders) if _is_small(folder)]


def _is_small(folder: Path) -> bool:
    return next(islice(_below(folder, set()), SEARCHED_FILES + 1, None), None) is None


class Locator:
    """Finds files by what they hold: provenance and journals name files and digests, never folders.

    Nothing is read before the first question. Each place is walked once, and no file is read twice,
    so a file that appears or changes later may be missed. Hidden files and folders are passed over
    unless they are a place themselves, and so is whatever cannot be read or is larger than any
    picture or LoRA.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        """Places are files, or folders with all that is below them; absent ones hold nothing."""
        self._places = tuple(places)
        self._named: dict[str, list[Path]] | None = None
        self._unread: dict[str, list[Path]] = {}
        self._digests: dict[Path, str | None] = {}
        self._holding: dict[str, Path] = {}

    def find(self, name: str, sha256: str) -> Path | None:
        """The file, or folder of a LoRA, with this digest: of that name, else of any.

        Under another name only files of the same suffix, and of those that pictures and LoRAs have,
        are read, until one fits; a file that is nowhere costs reading all of these.

        >>> Locator([]).find("cat.png", "0" * 64) is None
        True
        """
        if not _SHA256.fullmatch(sha256):
            return None
        for path in self._by_name().get(name, ()):
            if self._digest(path) == sha256:
                return path
        for kind in _kinds(PurePath(name).suffix.lower()):
            waiting = self._unread.get(kind, [])
            while sha256 not in self._holding and waiting:
                self._digest(waiting.pop())
        return self._holding.get(sha256)

    def _digest(self, path: Path) -> str | None:
        if path not in self._digests:
            try:
                found = _sha256(path)
            except OSError:
                found = None
            self._digests[path] = found
            if found is not None:
                self._holding.setdefault(found, path)
        return self._digests[path]

    def _by_name(self) -> dict[str, list[Path]]:
        if self._named is None:
            self._named = defaultdict(list)
            unread = defaultdict(list)
            for path, kind in self._walk():
                self._named[path.name].append(path)
                unread[kind].append(path)
            # Taken from the end, so that the first place comes first.
            self._unread = {kind: paths[::-1] for kind, paths in unread.items()}
        return self._named

    def _walk(self) -> Iterator[tuple[Path, str]]:
        """Every candidate of all places once with its kind, those of a folder by name."""
        seen: set[tuple[int, int]] = set()
        for place in dict.fromkeys(self._places):
            if _is_file(place):
                yield place, _PLACE
                continue
            for path in _below(place, seen):
                if not path.is_dir():
                    yield path, path.suffix.lower()
                elif _is_file(path / LORA_IN_FOLDER):
                    yield path, _FOLDER


def _kinds(own: str) -> list[str]:
    """What may hold a file of this suffix, the likeliest first."""
    kinds = [_PLACE, own]
    if own not in IMAGE_SUFFIXES:
        kinds += [LORA, _FOLDER]
    if own != LORA:
        kinds += sorted(IMAGE_SUFFIXES)
    return list(dict.fromkeys(kinds))


def _sha256(path: Path) -> str | None:
    """As jobs have it; None for what is too large to be an input."""
    if not path.is_dir():
        return store.file_sha256(path) if path.stat().st_size <= LARGEST_BYTES else None
    sizes = (file.stat().st_size for file in path.iterdir() if file.is_file())
    return store.folder_sha256(path) if sum(sizes) <= LARGEST_BYTES else None


def _below(place: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """A folder, and all in it that is not hidden."""
    if not _is_new(place, seen):
        return
    # Links are followed, so each folder is remembered by what it is, not by its name.
    for at, folders, files in os.walk(place, followlinks=True):
        yield Path(at)
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and _is_new(Path(at, name), seen)
        ]
        for name in sorted(files):
            path = Path(at, name)
            if not name.startswith(".") and _is_file(path):
                yield path


def _is_file(path: Path) -> bool:
    # The other one raises where it may not look.
    return os.path.isfile(path)  # noqa: PTH113


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    try:
        status = folder.stat()
    except OSError:
        return False
    identity = (status.st_dev, status.st_ino)
    is_new = identity not in seen
    seen.add(identity)
    return is_new
