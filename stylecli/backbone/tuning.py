"""How a loaded model spends memory and time; what it computes stays the same but for last bits.

Compiled are the UNet's residual blocks and feed-forward layers, each kind of shape once: chains of
small operations that a compiler joins. Attention is not: it is large products already, and its
processors carry tensors between passes and end a pass half way, which no graph holds. A region into
which somebody has hooked, and any in training, runs as it is written. LoRAs live in attention by
default, so changing them compiles nothing; where they do not, each set of them is a graph of its
own, and with `device.adapters: fused` none is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import nn

from stylecli.backbone.model import Backbone
from stylecli.backbone.offload import Offload
from stylecli.errors import UsageError
from stylecli.recipe.schema import Device

# Sides of tiles, at most. In latent cells a multiple of 4, because a quarter of it overlaps.
TILE_PX = 512
QUARTERS = 4
# Graphs of one kind of region: shapes of the layers times sizes of the pictures.
MOST_GRAPHS = 128
# Settings of which other results may differ in their last bits.
USUAL = Device()
FELT = ("max_rows", "tiling", "compile", "channels_last")
# These record graphs whose outputs the next run overwrites.
RECORDING = ("reduce-overhead", "max-autotune")

Warn = Callable[[str], object]


def tune(backbone: Backbone, device: Device, *, warn: Warn = warnings.warn) -> None:
    """Put settings in force, also other ones than before; what stands is left alone.

    Args:
        backbone: Loaded.
        device: The settings.
        warn: Told, once, when a region has more shapes than are compiled.

    Raises:
        UsageError: This machine cannot compile.
    """
    if backbone.channels_last != device.channels_last:
        backbone.lay_out(channels_last=device.channels_last)
    backbone.max_rows = device.max_rows
    _tile(backbone.vae, is_on=device.tiling)
    _wait(backbone, device.offload)
    _compile(backbone, device.compile, warn)
    backbone.tuned = {
        key: getattr(device, key) for key in FELT if getattr(device, key) != getattr(USUAL, key)
    }


def _tile(vae: Any, *, is_on: bool) -> None:
    if not is_on:
        vae.disable_tiling()
        return
    trained = vae.config.sample_size
    trained = min(trained) if isinstance(trained, list | tuple) else trained
    cell_px = 2 ** (len(vae.config.block_out_channels) - 1)
    cells = max(1, min(trained, TILE_PX) // cell_px // QUARTERS) * QUARTERS
    vae.tile_latent_min_size, vae.tile_sample_min_size = cells, cells * cell_px
    vae.enable_tiling()


def _wait(backbone: Backbone, wanted: str) -> None:
    """Where weights wait; only a GPU has a memory of its own to spare."""
    if backbone.device.type != "cuda":
        wanted = "none"
    has = "none" if backbone.offload is None else backbone.offload.kind
    if wanted == has:
        return
    if backbone.offload is not None:
        backbone.offload.stop()
    if wanted == "none":
        backbone.offload = None
        for part in chain.from_iterable(backbone.parts.values()):
            part.to(backbone.device)
        return
    blocks = list(backbone.blocks) if wanted == "blocks" else []
    backbone.offload = Offload(wanted, backbone.parts, blocks, backbone.device)


def _compile(backbone: Backbone, mode: str, warn: Warn) -> None:
    if mode == backbone.tuned.get("compile", USUAL.compile):
        return
    for region in _regions(backbone.unet):
        region.__dict__.pop("forward", None)
    if mode == "none":
        return
    _refuse_without_compiler(backbone.device, mode)
    # One limit for all layers of a kind, however many shapes they have between them.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MOST_GRAPHS)
    said: set[str] = set()

    def warn_once(text: str) -> None:
        if text not in said:
            said.add(text)
            warn(text)

    for region in _regions(backbone.unet):
        region.forward = _Compiled(region, mode, warn_once)


def _regions(unet: nn.Module) -> Iterator[nn.Module]:
    from diffusers.models.attention import FeedForward
    from diffusers.models.resnet import ResnetBlock2D

    return (m for m in unet.modules() if isinstance(m, ResnetBlock2D | FeedForward))


class _Compiled:
    """The forward of one region, compiled where that gives the same."""

    def __init__(self, region: nn.Module, mode: str, warn: Warn) -> None:
        self._region = region
        self._eager = region.forward
        self._compiled: Callable[..., Any] | None
        self._compiled = torch.compile(self._eager, fullgraph=True, mode=mode)
        self._records = mode in RECORDING
        self._warn = warn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Graphs do not see hooks that came after them.
        if self._compiled is None or torch.is_grad_enabled() or _is_hooked(self._region):
            return self._eager(*args, **kwargs)
        try:
            output = self._compiled(*args, **kwargs)
        except (torch._dynamo.exc.FailOnRecompileLimitHit, torch._dynamo.exc.Unsupported) as error:
            self._compiled = None
            self._warn(
                f"device.compile: {type(self._region).__name__} runs uncompiled from here on: "
                + str(error).strip().partition("\n")[0]
            )
            return self._eager(*args, **kwargs)
        return output.clone() if self._records else output


def _is_hooked(region: nn.Module) -> bool:
    return any(
        module._forward_hooks or module._forward_pre_hooks
        for module in region.modules()
        if module is not region
    )


def _refuse_without_compiler(device: torch.device, mode: str) -> None:
    """Compile something small, now rather than in the middle of the work."""
    import torch._inductor.config as inductor

    probe = torch.compile(_probe, fullgraph=True)
    try:
        # What an earlier run left proves nothing of the compiler that is there now.
        with warnings.catch_warnings(), inductor.patch(force_disable_caches=True):
            warnings.simplefilter("ignore")  # it says that nothing is cached
            probe(torch.zeros(8, device=device))
    except Exception as error:  # of many kinds, some of them of the compiler's own
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"device.compile {mode}: this machine cannot compile: {reason}",
            fix="install g++ (and Triton for a GPU), or --set device.compile=none",
        ) from error


def _probe(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.sin() + 1
