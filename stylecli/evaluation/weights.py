"""Weights of the published metrics: where each file may lie, and how it is trusted.

A file, or a folder, is looked for under ``--weights-dir`` (``FAMILY/FILE``), under
``$STYLE_WEIGHTS_DIR``, among torch hub's checkpoints and in the hub's cache; nothing is downloaded
here. It is trusted by its SHA-256 where one is known, and by a strict comparison of its keys and
shapes. A metric is never computed with weights that were not found.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from stylecli.errors import WeightsError
from stylecli.evaluation import folders
from stylecli.evaluation.published import Weights

# A pickle that was converted keeps the digest it was trusted by in its header.
SOURCE_KEY = "source_sha256"
NAMED_KEYS = 4
# Of a file of words, one a line; and of texts in their authors' code, which is read, never run.
# They have no tensors, and are kept as they are.
VOCABULARY, CODE = ".txt", ".py"
TEXTS = (VOCABULARY, CODE)
# Where training scripts put the weights, beside their optimiser.
NESTED = ("state_dict", "model_state_dict")


def find(weights: Weights, folder: Path | None = None) -> Path:
    """The file or folder on this machine; safetensors of the same name come before a pickle.

    Args:
        weights: What is wanted.
        folder: ``--weights-dir``, searched first.

    Raises:
        WeightsError: Nowhere; the message names the file and every place that was looked at.
    """
    looked = places(weights, folder)
    for place in looked:
        if weights.holds:
            if folders.is_whole(weights, place):
                return place
            continue
        for path in (place.with_suffix(".safetensors"), place):
            if path.is_file():
                return path
    if found := _in_hub_cache(weights):
        return found
    raise WeightsError(
        f"{weights.file} ({weights.what}, about {weights.megabytes} MB, {weights.licence}) is not "
        f"on this machine; looked for {', '.join(map(str, looked))} and in the hub's cache",
        fix=f"`style models pull metrics/{weights.name}` where there is a network, or take it from "
        f"{origin(weights)} and put it at {looked[0]}",
    )


def places(weights: Weights, folder: Path | None = None) -> list[Path]:
    """Where a file may lie, in the order of the search; only the hub's cache comes after these.

    Args:
        weights: What is wanted.
        folder: ``--weights-dir``.
    """
    own = os.environ.get("STYLE_WEIGHTS_DIR")
    roots = [root for root in (folder, Path(own) if own else None) if root is not None]
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints" / weights.file
    return [*(root / weights.family / weights.file for root in roots), checkpoints]


def origin(weights: Weights) -> str:
    """Where the published file is: a page to open, or the address of the file."""
    return f"https://huggingface.co/{weights.repository}" if weights.repository else weights.url


def read(weights: Weights, path: Path) -> dict[str, Tensor]:
    """The tensors of a file that is what it is named for.

    Raises:
        WeightsError: Unreadable, of another digest, or a pickle that holds more than tensors.
    """
    check(weights, path)
    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals(_harmless()):
                found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its first wrong byte leads to
        raise WeightsError(
            f"{path} cannot be read, or holds more than tensors: {_first_line(error)}",
            fix=_again(weights),
        ) from error
    nested = found if isinstance(found, Mapping) else None
    for key in NESTED:
        nested = nested.get(key, nested) if isinstance(nested, Mapping) else None
    if not isinstance(nested, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in nested.items()
    ):
        raise WeightsError(f"{path} holds no table of tensors", fix=_again(weights))
    return dict(nested)


def read_vocabulary(path: Path) -> dict[str, int]:
    """The words of a file, one a line, with their numbers.

    Raises:
        WeightsError: It cannot be read, or a word is in it twice.
    """
    try:
        words = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path} cannot be read: {_first_line(error)}", fix="copy it again"
        ) from error
    if words[-1] == "":
        words.pop()
    found = {word: number for number, word in enumerate(words)}
    if len(found) != len(words):
        raise WeightsError(f"{path} has a word twice", fix="give the published file")
    return found


def check(weights: Weights, path: Path) -> str:
    """The SHA-256 a file is known by: its own, or that of the pickle it was converted from.

    Raises:
        WeightsError: It is not the published one.
    """
    digest = folders.fingerprint(weights, path) if weights.holds else fingerprint(path)
    if not digest.startswith(weights.sha256):
        raise WeightsError(
            f"{path} has SHA-256 {digest[:12]}…, not {weights.sha256[:12]}…", fix=_again(weights)
        )
    return digest


def fingerprint(path: Path) -> str:
    """SHA-256 of a weight file, or of the pickle it was converted from.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        status = path.stat()
        return _fingerprint(path, status.st_size, status.st_mtime_ns)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path} cannot be read: {_first_line(error)}", fix="copy it again"
        ) from error


def load_strictly(
    model: nn.Module, tensors: Mapping[str, Tensor], *, file: str, ignore: Sequence[str] = ()
) -> None:
    """Fill a model and set it to evaluation; every key and every shape must be as it says.

    Args:
        model: Built, with weights that do not matter.
        tensors: What the file holds.
        file: For messages.
        ignore: Beginnings of keys that the file may hold and the model has no use for.

    Raises:
        WeightsError: Keys are missing or unknown, a shape is another one, values are not finite, or
            the weights were never trained.
    """
    wanted = model.state_dict()
    given = {key: t for key, t in tensors.items() if not key.startswith(tuple(ignore))}
    faults = [f"lacks {key}" for key in wanted if key not in given]
    faults += [f"has the unknown {key}" for key in given if key not in wanted]
    faults += [
        f"has {key} of shape {tuple(given[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    faults += [
        f"has values in {key} that are not finite"
        for key, tensor in given.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if not faults and is_untrained(given):
        faults = ["was never trained: its statistics are those of a new network"]
    if faults:
        more = f" and {len(faults) - NAMED_KEYS} more" if len(faults) > NAMED_KEYS else ""
        raise WeightsError(
            f"{file} {', '.join(faults[:NAMED_KEYS])}{more}", fix="give the published file"
        )
    model.load_state_dict(given)
    model.eval().requires_grad_(False)


def _harmless() -> list[Any]:
    """What training scripts leave beside the weights: their arguments, and numpy's numbers.

    Neither runs code when it is read. What torch lets through anyway is not listed.
    """
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        np.dtype,
        *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "b1")},
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]


def is_untrained(tensors: Mapping[str, Tensor]) -> bool:
    """Whether they still are what a new network begins with."""
    means = [t for key, t in tensors.items() if key.endswith("running_mean")]
    if means:
        return not any(mean.any() for mean in means)
    # Without batch statistics, the gains of normalisation layers tell: they all begin as ones.
    gains = [t for key, t in tensors.items() if key.endswith(".weight") and t.ndim == 1]
    return bool(gains) and all(bool((gain == 1).all()) for gain in gains)


def _in_hub_cache(weights: Weights) -> Path | None:
    if not weights.repository:
        return None
    from huggingface_hub import try_to_load_from_cache

    wanted = weights.hub_file or weights.file
    found = try_to_load_from_cache(
        weights.repository, weights.holds[0] if weights.holds else wanted
    )
    if not isinstance(found, str):
        return None
    if not weights.holds:
        return Path(found)
    folder = Path(found).parent
    return folder if folders.is_whole(weights, folder) else None


@lru_cache(maxsize=64)
def _fingerprint(path: Path, _size: int, _mtime_ns: int) -> str:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as stream:
            if source := (stream.metadata() or {}).get(SOURCE_KEY):
                return str(source)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _again(weights: Weights) -> str:
    return f"`style models pull metrics/{weights.name}` fetches it"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
