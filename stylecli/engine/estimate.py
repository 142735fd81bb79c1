"""How long and how large a plan is, before it runs: counted operations over a measured speed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# Share of the measured convolution rate that a whole UNet reaches: norms, softmax and small layers
# take the rest (`docs/decisions/0006-estimates.md`).
UTILISATION = 0.4
# What a row costs however small it is: Python, and some hundred small operations.
ROW_SECONDS = 0.02
# Training passes the network forwards once and backwards about twice.
TRAINING_FACTOR = 3.0
# Python, torch and the libraries before any weight is loaded.
BASE_BYTES = 700 * 2**20
PROBE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run with nothing cached."""

    seconds: float
    memory_bytes: int


def estimate(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    rows: Mapping[str, int],
    *,
    items: int,
    size_px: int,
    train_px: int,
) -> Cost:
    """Count the operations of all UNet rows on the meta device and divide by a measured speed.

    An order of magnitude, not a promise.

    Args:
        folder: The backbone's; only its configs and file sizes are read.
        device: Where it will run; probed for a fifth of a second.
        dtype: Of the UNet.
        rows: UNet rows per item; ``training`` counts forwards and backwards at `train_px`.
        items: How many items are to do.
        size_px: Side of the pictures sampled.
        train_px: Side of the pictures trained on.
    """
    unet, latent_px = _meta_unet(folder)
    speed = _probe(device, dtype) * UTILISATION
    row = _flops(unet, size_px // latent_px) / speed + ROW_SECONDS
    training_row = (_flops(unet, train_px // latent_px) / speed + ROW_SECONDS) * TRAINING_FACTOR
    seconds = sum(n * (training_row if name == "training" else row) for name, n in rows.items())
    element = torch.finfo(dtype).bits // 8
    stored = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    weights = sum(p.numel() for p in unet.parameters()) * element + stored // 3
    # The widest activations of two rows, with the copies that attention and the skips keep.
    cells = (size_px // latent_px) ** 2
    activations = 2 * cells * unet.config.block_out_channels[0] * 64 * element
    vae = 2 * size_px**2 * 128 * 4
    return Cost(items * seconds, BASE_BYTES + weights + max(activations, vae))


def _meta_unet(folder: Path) -> tuple[Any, int]:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
    vae = AutoencoderKL.load_config(folder / "vae")
    return unet, 2 ** (len(vae["block_out_channels"]) - 1)


def _flops(unet: Any, side: int) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    step = 2 ** (len(unet.config.block_out_channels) - 1)
    side = max(step, side // step * step)
    latents = torch.empty(1, unet.config.in_channels, side, side, device="meta")
    context = torch.empty(1, 77, unet.config.cross_attention_dim, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(latents, torch.ones(1, device="meta"), encoder_hidden_states=context)
    return float(counter.get_total_flops())


def _probe(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a plain 3x3 convolution."""
    channels, side = (64, 64) if device.type == "cpu" else (320, 128)
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype)
    latents = torch.zeros(2, channels, side, side, device=device, dtype=dtype).contiguous(
        memory_format=torch.channels_last
    )
    with torch.inference_mode():
        layer(latents)
        _wait(device)
        started, passes = time.perf_counter(), 0
        while time.perf_counter() - started < PROBE_SECONDS:
            layer(latents)
            _wait(device)
            passes += 1
    elapsed = time.perf_counter() - started
    return 2.0 * 2 * 9 * channels**2 * side**2 * passes / elapsed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
