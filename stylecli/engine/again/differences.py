"""How a file that was made again differs from the one that was there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from stylecli.artifacts import images, store
from stylecli.engine.provenance import carrier
from stylecli.errors import ImageError

# Of what a file says of itself, the parts in which two files are compared as wholes.
WHOLE = ("inputs", "regions")
# Of a listing, what is another each time.
TIMING = "timing"
# What follows from other rows of the table, or repeats them.
CONSEQUENCES = ("key", "seed")


@dataclass(frozen=True, slots=True)
class Difference:
    """One row of the table; `was` is the old file's."""

    what: str
    was: str
    now: str

    def as_row(self) -> dict[str, str]:
        return {"what": self.what, "was": self.was, "now": self.now}


def is_same(old: Path, new: Path) -> bool:
    """Byte for byte; of a LoRA that is a folder, every file that was made again.

    What a report says of how long it took is none of what was made.
    """
    if not new.is_dir():
        was, now = old.read_bytes(), new.read_bytes()
        return was == now or (new.suffix == ".json" and _untimed(was) == _untimed(now))
    names = [file.name for file in new.iterdir()]
    return all(
        (old / name).is_file() and (old / name).read_bytes() == (new / name).read_bytes()
        for name in names
    )


def _untimed(data: bytes) -> object:
    found = json.loads(data)
    return {name: value for name, value in found.items() if name != TIMING}


def between(old: Path, new: Path) -> list[Difference]:
    """Everything in which two files differ: what they say of themselves first, then what they are.

    Never empty for files of different bytes.
    """
    old_file, new_file = carrier(old), carrier(new)
    was, now = (_flat(store.read_provenance(file) or {}) for file in (old_file, new_file))
    found = [
        Difference(name, _shown(was.get(name)), _shown(now.get(name)))
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]
    causes = [one for one in found if one.what not in CONSEQUENCES]
    found = (causes or found) + list(_of_contents(old_file, new_file))
    sizes = (f"{file.stat().st_size} bytes" for file in (old_file, new_file))
    return found or [Difference("encoding", *sizes)]


def _of_contents(old: Path, new: Path) -> Iterator[Difference]:
    kind = new.suffix.lower()
    if kind in store.PICTURE_SUFFIXES:
        return _of_pictures(old, new)
    return _of_tensors(old, new) if kind == ".safetensors" else _of_listings(old, new)


def _of_pictures(old: Path, new: Path) -> Iterator[Difference]:
    try:
        was, now = _pixels(old), _pixels(new)
    except ImageError as error:
        yield Difference("pixels", error.what.rpartition(": ")[2], "whole")
        return
    if was.shape != now.shape:
        yield Difference("size", *(f"{one.shape[1]}x{one.shape[0]}" for one in (was, now)))
        return
    apart = np.abs(was.astype(int) - now.astype(int)).max(axis=-1)
    if apart.any():
        yield Difference(
            "pixels",
            f"{apart.size} pixels",
            f"{np.count_nonzero(apart)} differ, by at most {apart.max()} of 255",
        )


def _pixels(file: Path) -> np.ndarray:
    return images.read(file).pixels.numpy()


def _of_tensors(old: Path, new: Path) -> Iterator[Difference]:
    was, now = _tensors(old), _tensors(new)
    if was.keys() != now.keys():
        yield Difference("tensors", f"{len(was)} tensors", f"{len(now)}, others by name")
        return
    changed = [name for name in was if not _equal(was[name], now[name])]
    if changed:
        alike = [name for name in changed if was[name].shape == now[name].shape]
        apart = [float((was[name].double() - now[name].double()).abs().max()) for name in alike]
        most = f", by at most {max(apart):.3g}" if apart else ""
        yield Difference("tensors", f"{len(was)} tensors", f"{len(changed)} differ{most}")


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    with safe_open(file, framework="pt") as stream:
        return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _of_listings(old: Path, new: Path) -> Iterator[Difference]:
    without = {store.KEY: None, TIMING: None}
    was, now = (_flat({**json.loads(file.read_bytes()), **without}) for file in (old, new))
    for name in {**was, **now}:
        if was.get(name) != now.get(name):
            yield Difference(name, _shown(was.get(name)), _shown(now.get(name)))


def _flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Leaves by dotted names, in the order a reader meets them."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            found |= _flat(inner, f"{above}{name}.")
        elif name in WHOLE and isinstance(inner, list):
            found |= {f"{above}{name}.{i}": one for i, one in enumerate(inner, start=1)}
        else:
            found[above + name] = inner
    return found


def _shown(value: object) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)
