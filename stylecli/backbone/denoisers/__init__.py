"""Frozen models that i2L learns on and draws with, of four kinds, behind one protocol."""

from __future__ import annotations

from pathlib import Path

import torch

from stylecli.backbone import loading
from stylecli.backbone.denoisers.base import Applied, Branch, Denoiser, Weighting
from stylecli.backbone.denoisers.latent_flow import LatentFlow
from stylecli.backbone.denoisers.layer_sets import layers_in, layers_of
from stylecli.backbone.registry import FLOWS, Kind, Source
from stylecli.recipe.strict import Quantize

__all__ = [
    "Applied",
    "Branch",
    "Denoiser",
    "Weighting",
    "latent_flow",
    "layers_in",
    "layers_of",
    "open",
]


def latent_flow(kind: Kind) -> type[LatentFlow]:
    """The class of a kind among `stylecli.backbone.registry.FLOWS`."""
    if kind == "z-image":
        from stylecli.backbone.denoisers.z_image import ZImage

        return ZImage
    from stylecli.backbone.denoisers.flux2_klein import Flux2Klein

    return Flux2Klein


def open(  # noqa: A001 - always named with its module
    source: Source,
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    fingerprint: str = "",
    variant: str | None = None,
    quantize: Quantize = "none",
) -> Denoiser:
    """Load a model for i2L, frozen and strictly: no tensor is missing, unknown or misshapen.

    Args:
        source: Which; its kind decides what is loaded.
        folder: From `stylecli.backbone.registry.snapshot`.
        device: Where it computes.
        dtype: Of the UNet or transformer and of the text encoder; autoencoders are float32.
        fingerprint: Of the folder; kept by UNets.
        variant: Weight file variant, such as fp16.
        quantize: How the frozen weights of a `LatentFlow` are kept.

    Raises:
        UsageError: This machine cannot quantise so.
        WeightsError: Missing, damaged or of another model.
    """
    if source.kind in FLOWS:
        kind = latent_flow(source.kind)
        return kind.load(
            folder,
            device=device,
            dtype=dtype,
            variant=variant,
            file=source.file,
            quantize=quantize,
        )
    if source.kind == "hidream":
        from stylecli.backbone.denoisers.hidream_o1 import HiDreamO1

        return HiDreamO1.load(folder, device=device, dtype=dtype)
    from stylecli.backbone.denoisers.stable_diffusion import StableDiffusion

    name = Path(source.name).name
    return StableDiffusion(
        loading.load(
            name,
            folder,
            fingerprint=fingerprint,
            device=device,
            dtype=dtype,
            variant=variant,
            file=source.file,
        )
    )
