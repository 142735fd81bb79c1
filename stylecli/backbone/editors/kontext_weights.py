"""FLUX.1-Kontext's transformer from a folder, whole or in fewer bits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import torch

from stylecli.backbone import transformer_files
from stylecli.backbone.editors.eight_bits import in_eight_bits
from stylecli.backbone.loading import load_part
from stylecli.errors import UsageError

Quantize = Literal["none", "nf4", "fp8"]
# Not in 4 bits: what stands around the blocks. The last layer is, because it has the name of a
# layer that each single block has.
WHOLE = ("x_embedder", "context_embedder", "time_text_embed", "norm_out")


def open_transformer(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantize: Quantize,
    variant: str | None,
    file: Path | None = None,
) -> Any:
    """Frozen, in eval mode, on the device.

    Args:
        file: What has the weights instead of the folder.
        quantize: nf4 keeps the blocks' weights in 4 bits, through bitsandbytes; fp8 in 8, here.

    Raises:
        UsageError: nf4 without bitsandbytes, or on a device that has no such kernels.
        WeightsError: Missing, damaged or of another model.
    """
    from diffusers import FluxTransformer2DModel

    if quantize == "nf4":
        if file is not None:
            raise UsageError(
                f"route.quantize nf4 reads diffusers folders, and {file} is one file",
                fix="--set route.quantize=fp8, or name a folder",
            )
        model = _in_four_bits(FluxTransformer2DModel, folder, device, dtype, variant)
    else:
        model = transformer_files.load(
            FluxTransformer2DModel, folder, dtype, variant=variant, file=file
        )
    model.requires_grad_(False).eval()
    if quantize == "fp8":
        in_eight_bits(model, device)
    return model if quantize == "nf4" else model.to(device)


def _in_four_bits(
    cls: Any, folder: Path, device: torch.device, dtype: torch.dtype, variant: str | None
) -> Any:
    if device.type != "cuda":
        raise UsageError(
            f"route.quantize nf4 needs an NVIDIA GPU, and this runs on {device.type}",
            fix="--device cuda, or --set route.quantize=fp8",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "route.quantize nf4 needs bitsandbytes, which is not installed",
            fix='pip install "stylecli[quant]", or --set route.quantize=fp8',
        )
    from diffusers import BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(WHOLE),
    )
    return load_part(
        cls,
        folder,
        "transformer",
        dtype,
        variant,
        placed={"quantization_config": how, "device_map": {"": device}},
    )
