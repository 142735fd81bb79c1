"""Tensors that are asked for again and again: the last ones in memory, all in the cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from stylecli.artifacts import cache, files, store

# Of each kind; a data set of icons fits whole, and of large ones what was seen last.
MEMORY_BYTES = 2 * 10**9
Warn: TypeAlias = Callable[[str], None]
_ONLY = "value"


class Shelf:
    """Tensors of one kind by digest: the last ones in memory, all in the cache where asked."""

    def __init__(
        self,
        kind: str,
        identity: str,
        *,
        is_kept: bool,
        warn: Warn,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """Name what is kept.

        Args:
            kind: Its folder in the cache.
            identity: Of all that decides a tensor besides what it is of.
            is_kept: In the cache too.
            warn: Told when the disk is full.
            memory_bytes: At most so many stay in memory.
        """
        self._kind, self._identity = kind, identity
        self._is_kept, self._warn = is_kept, warn
        self._room = memory_bytes
        self._seen: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def get(self, what: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of one thing, made if nobody has; on the CPU, not to be changed."""
        return self.several(what, lambda: {_ONLY: make()})[_ONLY]

    def several(self, what: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The same of a thing that is several tensors; none of them is called ``value``."""
        if what in self._seen:
            self._seen.move_to_end(what)
            return self._seen[what]
        path = cache.cached(self._kind, store.digest([self._identity, what]), ".safetensors")
        found = _read(path) if self._is_kept else None
        if found is None:
            found = {
                name: value.detach().cpu().contiguous().clone() for name, value in make().items()
            }
            if self._is_kept:
                content = to_bytes(found)
                cache.keep(path, lambda: files.write_atomic(path, content), self._warn)
        self._seen[what] = found
        self._room -= _bytes(found)
        while self._room < 0 and len(self._seen) > 1:
            _, gone = self._seen.popitem(last=False)
            self._room += _bytes(gone)
        return found


def kept_type(dtype: torch.dtype) -> torch.dtype:
    """What latents are rounded to for a model of this type."""
    return dtype if dtype == torch.float32 else torch.bfloat16


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in tensors.values())


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        found: dict[str, Tensor] = from_bytes(path.read_bytes())
    except (OSError, SafetensorError):
        return None  # not there, or damaged: it is made again
    cache.touch(path)
    return found
