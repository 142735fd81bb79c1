"""Tensors kept in the cache under all that decides them; what is damaged there is made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stylecli.artifacts import cache, files, store

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """Tensors by name, and what else is known: JSON."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, object]


class Shelf:
    """One kind of things in the cache."""

    def __init__(self, kind: str, warn: Callable[[str], None]) -> None:
        self._kind = kind
        self._warn = warn
        self._has_warned = False

    def find(self, identity: object, names: Collection[str] | None = None) -> Kept | None:
        """What was kept under an identity; None where there is nothing that can be trusted.

        Args:
            names: Of the tensors that are wanted; no other is read. Default: all.
        """
        path = self._path(identity)
        if not path.exists():
            return None
        kept = _read(path, identity, names)
        if kept is None and not self._has_warned:
            self._has_warned = True
            self._warn(f"{path.name} in the cache is damaged; computed again")
        return kept

    def keep(
        self, identity: object, tensors: Mapping[str, Tensor], facts: Mapping[str, object]
    ) -> None:
        """Write what can be made again; on a full disk nothing is written, and that is told."""
        path = self._path(identity)
        text = files.to_json(facts)
        header = {
            "format": "pt",
            "identity": files.to_json(identity),
            "facts": text,
            "sha256": json.dumps(
                {"": _sha256(text.encode()), **{n: _of_tensor(t) for n, t in tensors.items()}}
            ),
        }
        cache.keep(path, partial(store.save_tensors, path, tensors, header), self._warn)

    def _path(self, identity: object) -> Path:
        key = store.digest([SCHEMA_VERSION, self._kind, identity])
        return cache.cached(self._kind, key, ".safetensors")


def _read(path: Path, identity: object, names: Collection[str] | None) -> Kept | None:
    try:
        with safe_open(path, framework="pt") as stream:
            header = dict(stream.metadata() or {})
            there = set(stream.keys())
            wanted = there if names is None else there & set(names)
            tensors = {name: stream.get_tensor(name) for name in sorted(wanted)}
        digests = json.loads(header["sha256"])
        facts = json.loads(header["facts"])
        is_whole = (
            header["identity"] == files.to_json(identity)
            and digests.keys() == {"", *there}
            and digests[""] == _sha256(header["facts"].encode())
            and all(digests[name] == _of_tensor(tensor) for name, tensor in tensors.items())
        )
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError):
        return None
    if not is_whole:
        return None
    cache.touch(path)
    return Kept(tensors, facts)


def _of_tensor(tensor: Tensor) -> str:
    shape = repr((tuple(tensor.shape), str(tensor.dtype))).encode()
    numbers = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return _sha256(shape + numbers.numpy().tobytes())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
