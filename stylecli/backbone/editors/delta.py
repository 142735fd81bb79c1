"""Changes that make an editor of a UNet which draws from words: a small file beside the large one.

The first convolution sees the picture to be edited in further channels, so it is kept whole; of
each other matrix or convolution that changed a product of two thin ones is: ``W + B A``. The text
encoder's may change too, for it learned the words of captions, which instructions are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from stylecli.errors import WeightsError

FORMAT, VERSION = "style-delta", "1"
ENTRY = "conv_in"
# What a file says of one tensor and where it lies, and of itself, in bytes at most.
HEADER_BYTES, ABOUT_BYTES = 160, 512
DOWN, UP = ".lora_A", ".lora_B"
# Before the names of the text encoder's modules.
WORDS = "text_encoder."
REMEDY = "reinstall the package, or train the editor on this very model"
# How the reference's latents are shown: times the VAE's scaling factor, as all others are, or as
# the VAE leaves them, which is InstructPix2Pix's way.
Reference = Literal["scaled", "unscaled"]


@dataclass(frozen=True, slots=True)
class Delta:
    """A delta file, read.

    Attributes:
        tensors: ``conv_in.weight``, ``conv_in.bias``, and ``NAME.lora_A`` (r, in) with
            ``NAME.lora_B`` (out, r) of every changed module; in is channels times kernel.
        base: Name of the model it changes.
        base_fingerprint: Of that model's folder.
        rank: The largest of its products.
        native_px: The short side of the pictures it was taught on.
        reference: How it is shown the picture to be edited.
    """

    tensors: Mapping[str, Tensor]
    base: str
    base_fingerprint: str
    rank: int
    native_px: int
    reference: Reference = "scaled"

    def packed(self) -> bytes:
        """The file, in float16."""
        owned = {
            name: tensor.detach()
            .cpu()
            .to(torch.float16)
            .clone(memory_format=torch.contiguous_format)
            for name, tensor in sorted(self.tensors.items())
        }
        header = {
            "format": FORMAT,
            "version": VERSION,
            "base": self.base,
            "base_fingerprint": self.base_fingerprint,
            "rank": str(self.rank),
            "native_px": str(self.native_px),
            "reference": self.reference,
        }
        packed: bytes = to_bytes(owned, metadata=header)
        return packed


def read(file: Path) -> Delta:
    """A delta file.

    Raises:
        WeightsError: Missing, damaged, or another kind of file.
    """
    if not file.is_file():
        raise WeightsError(f"{file} is missing", fix=REMEDY)
    try:
        with safe_open(file, framework="pt") as stream:
            header = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} cannot be read: {error}", fix=REMEDY) from error
    if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
        said = f"{header.get('format', 'no format')} {header.get('version', '')}".strip()
        raise WeightsError(f"{file} is not {FORMAT} {VERSION} but {said}", fix=REMEDY)
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise WeightsError(f"{file}: tensor {name} holds no finite numbers", fix=REMEDY)
    try:
        reference = header["reference"]
        if reference not in ("scaled", "unscaled"):
            raise ValueError(f"reference {reference}")
        return Delta(
            tensors,
            base=header["base"],
            base_fingerprint=header["base_fingerprint"],
            rank=int(header["rank"]),
            native_px=int(header["native_px"]),
            reference=reference,
        )
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{file}: its header is no delta's: {error}", fix=REMEDY) from error


def changeable(unet: nn.Module, encoder: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Modules whose weights a delta may change by a product; ends and times stay as they are.

    Args:
        unet: What draws.
        encoder: What reads instructions; its modules are called ``text_encoder.NAME``.
    """
    named = [*unet.named_modules(), *encoder.named_modules(prefix=WORDS.removesuffix("."))]
    return {
        name: module
        for name, module in named
        if isinstance(module, nn.Linear | nn.Conv2d)
        and name not in (ENTRY, "conv_out")
        and "time_emb" not in name
    }


def widen(unet: Any) -> None:
    """Let the first convolution see a second picture, of which it makes nothing yet."""
    old: nn.Conv2d = unet.conv_in
    seen = old.in_channels
    kernel, padding = old.kernel_size, old.padding
    made = nn.Conv2d(2 * seen, old.out_channels, kernel, padding=padding)  # type: ignore[arg-type]
    made.to(old.weight.device, old.weight.dtype)
    with torch.no_grad():
        made.weight.zero_()
        made.weight[:, :seen] = old.weight
        if made.bias is not None and old.bias is not None:
            made.bias.copy_(old.bias)
    unet.conv_in = made.requires_grad_(old.weight.requires_grad).train(old.training)
    unet.register_to_config(in_channels=2 * seen)


@torch.no_grad()
def apply(
    unet: Any, encoder: nn.Module, delta: Delta, file: Path, *, base_fingerprint: str
) -> None:
    """Make an editor of the model that was just loaded.

    Args:
        unet: As its own files have it; changed in place.
        encoder: The text encoder, likewise.
        delta: What `read` gave.
        file: For messages.
        base_fingerprint: Of the folder that the UNet was loaded from.

    Raises:
        WeightsError: Of another model, or a tensor is missing, unknown or of another shape; the
            model is as it was.
    """
    if delta.base_fingerprint != base_fingerprint:
        raise WeightsError(
            f"{file} changes {delta.base} {delta.base_fingerprint}, and what is here is "
            f"{base_fingerprint}",
            fix=REMEDY,
        )
    modules = changeable(unet, encoder)
    _check(_expected(unet, modules, delta.tensors), delta.tensors, file)
    widen(unet)
    for name in ("weight", "bias"):
        parameter = getattr(unet.conv_in, name)
        parameter.copy_(delta.tensors[f"{ENTRY}.{name}"])
    for name in changed(delta.tensors):
        weight = modules[name].weight
        down, up = (delta.tensors[name + end].to(weight.device).float() for end in (DOWN, UP))
        # Joined in float32, rounded once.
        weight.copy_(weight.float() + (up @ down).view(weight.shape))


@torch.no_grad()
def compressed(tensors: Mapping[str, Tensor], most_bytes: int) -> dict[str, Tensor]:
    """The nearest changes of which a file has at most so many bytes.

    Each product is cut at some rank, where its best approximation is known (Eckart and Young
    1936). Of all singular values those are kept that carry the most energy for their size; a
    product that keeps none is left out.

    Args:
        tensors: As `Delta.tensors`.
        most_bytes: Of the file, in float16.

    Returns:
        Likewise, each product of its own rank.

    Raises:
        ValueError: What is kept whole has no room.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith((DOWN, UP))}
    parts = {name: _singular(tensors[name + UP], tensors[name + DOWN]) for name in changed(tensors)}
    numbers = sum(tensor.numel() for tensor in kept.values())
    room = (most_bytes - ABOUT_BYTES - HEADER_BYTES * len(tensors)) // 2 - numbers
    if room < 0:
        raise ValueError(f"{numbers} numbers do not fit {most_bytes} bytes")
    ranks = dict.fromkeys(parts, 0)
    for _, size, name in sorted(
        (
            (float(value) ** 2 / size, size, name)
            for name, (left, values, right) in parts.items()
            for value in values
            # Of a product of zeros nothing is kept: neither side of it would ever learn again.
            if value > 0 and (size := len(left) + right.shape[1])
        ),
        reverse=True,
    ):
        if size > room:
            break
        room -= size
        ranks[name] += 1
    for name, rank in ranks.items():
        left, values, right = parts[name]
        if rank:
            scale = values[:rank].sqrt()
            kept[name + UP], kept[name + DOWN] = (
                left[:, :rank] * scale,
                scale[:, None] * right[:rank],
            )
    return kept


def _singular(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``up @ down`` as left, singular values and right, by way of the two thin matrices."""
    (left, upper), (right, lower) = (torch.linalg.qr(one.float()) for one in (up, down.T))
    inner, values, other = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return left @ inner, values, other @ right.T


def changed(names: Iterable[str]) -> list[str]:
    """Modules of which a tensor is there, or two."""
    return sorted({name.rpartition(".")[0] for name in names if name.endswith((DOWN, UP))})


def _expected(
    unet: Any, modules: Mapping[str, nn.Linear | nn.Conv2d], tensors: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...]]:
    """Tensors that go with those that are there, and their shapes."""
    out, seen, *kernel = unet.conv_in.weight.shape
    shapes: dict[str, tuple[int, ...]] = {
        f"{ENTRY}.weight": (out, 2 * seen, *kernel),
        f"{ENTRY}.bias": (out,),
    }
    for name in changed(tensors):
        if name not in modules:
            continue
        weight = modules[name].weight
        down = tensors.get(name + DOWN)
        rank = len(down) if down is not None else tensors[name + UP].shape[-1]
        shapes[name + DOWN] = (rank, weight[0].numel())
        shapes[name + UP] = (len(weight), rank)
    return shapes


def _check(
    wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], file: Path
) -> None:
    faults = {
        "missing": sorted(wanted.keys() - tensors.keys()),
        "unknown": sorted(tensors.keys() - wanted.keys()),
        "of another shape": sorted(
            name
            for name in wanted.keys() & tensors.keys()
            if tuple(tensors[name].shape) != wanted[name]
        ),
    }
    for what, names in faults.items():
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise WeightsError(f"{file}: tensor {names[0]} is {what}{more}", fix=REMEDY)
