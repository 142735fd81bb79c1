"""Hashes of weights that are here, against those that are recorded of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from stylecli.backbone.registry import DELTA, Source
from stylecli.errors import WeightsError

SUMS = "SHA256SUMS"


def verify(source: Source, folder: Path) -> dict[str, str]:
    """Hash every weight file of a snapshot and compare with what is recorded.

    A shipped model records its hashes in ``SHA256SUMS`` beside its weights, and beside the changes
    that were made to them. Of files of which none is recorded, those count that the hub named them
    by when they were fetched: they tell damage since then, and nothing of where they came from.

    Returns:
        File -> SHA-256.

    Raises:
        WeightsError: A file is missing, or is not the recorded one.
    """
    recorded = _named_by_hub(folder) | (dict(source.sha256) or _summed(folder))
    if source.beside is not None:
        recorded = {name: digest for name, digest in recorded.items() if _is_beside(source, name)}
    found = _compared(source, folder, recorded)
    if source.delta is not None:
        changes = _compared(source, source.delta, _summed(source.delta))
        if DELTA not in changes:
            raise WeightsError(
                f"{source.name}: no hash is recorded for {DELTA}", fix=_remedy(source)
            )
        found |= changes
    return found


def _is_beside(source: Source, name: str) -> bool:
    """Whether a file is of a part that goes with a transformer from elsewhere."""
    return name.partition("/")[0] in source.weighed


def _summed(folder: Path) -> dict[str, str]:
    """What the folder's own list of hashes says; nothing where it has none."""
    sums = folder / SUMS
    if not sums.is_file():
        return {}
    parts = [line.partition("  ") for line in sums.read_text().splitlines()]
    return {name: digest for digest, _, name in parts}


def _compared(source: Source, folder: Path, recorded: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, wanted in recorded.items():
        file = folder / name
        if not file.is_file():
            raise WeightsError(f"{source.name}: {name} is missing", fix=_remedy(source))
        with file.open("rb") as stream:
            found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        if found[name] != wanted:
            raise WeightsError(
                f"{source.name}: {name} has SHA-256 {found[name][:12]}…, not {wanted[:12]}…",
                fix=_remedy(source),
            )
    return found


def _named_by_hub(folder: Path) -> dict[str, str]:
    """The hub's cache names a large file after its SHA-256; plain folders have no such names."""
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        blob = file.resolve().name
        if re.fullmatch(r"[0-9a-f]{64}", blob):
            found[file.relative_to(folder).as_posix()] = blob
    return found


def _remedy(source: Source) -> str:
    return "reinstall the package" if source.folder else f"style models pull {source.name}"
