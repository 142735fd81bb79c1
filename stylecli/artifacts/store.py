"""Pictures and tensors that carry what made them, and the digests that tell them apart."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from stylecli.artifacts import digests
from stylecli.artifacts.files import to_json, write_atomic
from stylecli.errors import ItemError, UsageError

KEY = "style"
# What `save_image` can write with its provenance inside.
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
USER_COMMENT = 0x9286
EXIF_IFD = 0x8769
JPEG_QUALITY = 95
# A JPEG holds one note of 64 KiB, EXIF's own words included.
MAX_JPEG_NOTE = 60_000


def save_image(
    path: Path,
    pixels: UInt8[Tensor, "h w 3"] | UInt8[Tensor, "h w"],
    provenance: Mapping[str, Any] | None,
) -> None:
    """Write a picture, of colours or greys, with its provenance inside; the suffix decides how.

    Args:
        provenance: None leaves nothing in the file but the picture.

    Raises:
        UsageError: A format that cannot carry it.
        ItemError: The picture does not fit the format, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in PICTURE_SUFFIXES:
        raise UsageError(
            f"{path}: cannot write pictures as {suffix or 'a file without suffix'}",
            fix="use .png, .jpg or .webp",
        )
    image = Image.fromarray(pixels.cpu().numpy())
    buffer = io.BytesIO()
    try:
        if suffix == ".png":
            image.save(buffer, "PNG", pnginfo=_chunk(provenance))
        elif suffix == ".webp":
            image.save(buffer, "WEBP", lossless=True, exif=_exif(provenance))
        else:
            if provenance is not None and len(to_json(provenance)) > MAX_JPEG_NOTE:
                provenance = _without_inputs(provenance)
            image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, exif=_exif(provenance))
    except (OSError, ValueError) as error:
        raise ItemError(
            f"{path}: {image.width}x{image.height} cannot be written as {suffix}: {error}",
            fix="use .png",
        ) from error
    write_atomic(path, buffer.getvalue())


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors.

    Raises:
        ItemError: A tensor holds NaN or infinity, or the file cannot be written.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ItemError(
                f"{path}: {name} holds NaN or infinity; nothing was written",
                fix="use --dtype float32",
            )
    # Copies, because the format refuses tensors that share memory.
    owned = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    write_atomic(path, _canonical(save(owned, metadata=dict(metadata))))


def read_provenance(path: Path) -> dict[str, Any] | None:
    """What made a file, as it says itself; None when it does not say, or cannot be read."""
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="pt") as stream:
                text = (stream.metadata() or {}).get(KEY)
        elif path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                text = str(arrays[KEY])
        elif path.suffix.lower() == ".json":
            text = json.dumps(json.loads(path.read_bytes())[KEY])
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
                    text = image.info.get(KEY) if image.format == "PNG" else _user_comment(image)
        found = json.loads(text) if text else None
    except Exception:  # a file from elsewhere may hold anything, and raise anything
        return None
    return found if isinstance(found, dict) else None


def digest(value: object) -> str:
    """SHA-256 of anything JSON can hold, independent of key order.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(_canonical_json(value).encode()).hexdigest()


def digester(common: Mapping[str, object]) -> Callable[[Mapping[str, object]], str]:
    """`digest` of mappings that share most of what they hold, which is written out only once.

    >>> digester({"a": 1, "c": {"d": [2]}})({"b": 3}) == digest({"a": 1, "b": 3, "c": {"d": [2]}})
    True
    """
    written = {key: _canonical_json(value) for key, value in common.items()}

    def digest_with(own: Mapping[str, object]) -> str:
        parts = written | {key: _canonical_json(value) for key, value in own.items()}
        text = ",".join(f"{json.dumps(key)}:{parts[key]}" for key in sorted(parts))
        return hashlib.sha256(f"{{{text}}}".encode()).hexdigest()

    return digest_with


def _canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes; read only when it is new or changed since it last was.

    Raises:
        OSError: The file cannot be read.
    """
    return digests.file_sha256(path)


def folder_sha256(path: Path) -> str:
    """Digest of the files of a folder and their names, such as a LoRA's; not of folders in it."""
    files = sorted(file for file in path.iterdir() if file.is_file())
    return digest([[file.name, file_sha256(file)] for file in files])


def _canonical(data: bytes) -> bytes:
    """The same file with its header in one order; the library's changes with every process."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":"))
    encoded = header.encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + data[8 + length :]


def _without_inputs(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """For a note that is too small for the list; the journal has it."""
    inputs = provenance.get("inputs", [])
    kept = {key: value for key, value in provenance.items() if key != "inputs"}
    return kept | {"inputs_omitted": {"count": len(inputs), "sha256": digest(inputs)}}


def _chunk(provenance: Mapping[str, Any] | None) -> PngImagePlugin.PngInfo:
    chunk = PngImagePlugin.PngInfo()
    if provenance is not None:
        chunk.add_text(KEY, to_json(provenance))
    return chunk


def _exif(provenance: Mapping[str, Any] | None) -> bytes:
    if provenance is None:
        return b""
    exif = Image.Exif()
    # The standard's marker for the comment's encoding.
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"ASCII\0\0\0" + to_json(provenance).encode("ascii")
    return exif.tobytes()


def _user_comment(image: Image.Image) -> str | None:
    comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    if not isinstance(comment, bytes):
        return None
    return comment[8:].decode("ascii", errors="replace")
