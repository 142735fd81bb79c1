"""LoRAs written in any layout, and read again to see that they are what was meant."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylecli.artifacts import files, store
from stylecli.backbone import lora, lora_layouts
from stylecli.backbone.lora_names import Format
from stylecli.backbone.row_loras import Pairs
from stylecli.errors import StyleError, UsageError


def suffix(layout: Format) -> str:
    """Of the name of a LoRA: in PEFT's layout it is a folder."""
    return "" if layout == "peft" else ".safetensors"


def refuse_wrong_kind(output: Path, layout: Format) -> None:
    """See that a folder is to be written to a folder's name, and a file to a file's.

    Raises:
        UsageError: The other way round.
    """
    is_file = output.suffix == ".safetensors"
    if layout == "peft" and is_file:
        raise UsageError(
            f"--output {output} is not a folder's name",
            fix=f"such as {output.stem}/, or --format diffusers",
        )
    if layout != "peft" and not is_file:
        raise UsageError(
            f"--output {output} is not a .safetensors file",
            fix=f"such as {output.stem or 'style'}.safetensors, or --format peft",
        )


def save(
    output: Path,
    pairs: Pairs,
    *,
    prefix: str,
    layout: Format,
    dtype: torch.dtype,
    entries: Mapping[str, str],
) -> None:
    """Write a LoRA and compare what is on the disk with what was meant, number by number.

    Args:
        output: A file, or the folder of the layout ``peft``.
        entries: More for its header.

    Raises:
        UsageError: The layout has no names for this kind of model.
        ItemError: A number does not fit the type, or the file cannot be written.
    """
    tensors, header = lora_layouts.write(pairs, prefix=prefix, layout=layout, dtype=dtype)
    config = lora_layouts.peft_config(pairs) if layout == "peft" else None
    save_tensors(output, tensors, {**entries, **header}, config)
    there = lora_layouts.read(output).pairs
    for path, pair in pairs.items():
        if path not in there or not all(map(partial(_is_kept, dtype), pair, there[path])):
            raise StyleError(f"{output}: {path} was not written as it was meant")


def _is_kept(dtype: torch.dtype, meant: Tensor, there: Tensor) -> bool:
    """Whether it is there; ranks may have been filled up."""
    kept = there[tuple(slice(size) for size in meant.shape)]
    return torch.equal(kept.float(), meant.to(dtype).float())


def save_tensors(
    output: Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, str],
    config: Mapping[str, Any] | None,
) -> None:
    """Write a file, or with PEFT's config the folder of both.

    Raises:
        ItemError: NaN or infinity, or the file cannot be written.
    """
    if config is not None:
        output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dict(config), indent=2, sort_keys=True)
        files.write_atomic(output / lora.PEFT_CONFIG, text.encode())
        output = output / lora.PEFT_WEIGHTS
    store.save_tensors(output, tensors, header)
