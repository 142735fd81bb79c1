"""Neutral LoRAs: what a predictor makes of grey pictures, seen beside the negative prompt (eq. 9).

Which one goes with a LoRA follows from that LoRA's header alone; it is made when it is first seen,
and kept in the cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from stylecli.artifacts import cache, store
from stylecli.backbone import lora_layouts
from stylecli.engine.context import RunContext
from stylecli.engine.i2l import finding, header
from stylecli.engine.i2l.header import Header
from stylecli.engine.plan import Input
from stylecli.errors import DiskFullError, UsageError, WeightsError
from stylecli.methods.i2l.files import Config
from stylecli.recipe.i2l import Encoder as Settings

SHELF = "neutrals"
# Raised when a change of ours makes other ones.
VERSION = 1
PLACES = "put it beside the LoRA or into $STYLE_WEIGHTS_DIR/predictors/"


@dataclass(frozen=True, slots=True)
class Found:
    """The neutral LoRA of a LoRA.

    Attributes:
        look: The LoRA's own file, with the digest of all that decides the neutral one.
        scale: What the LoRA was multiplied by, and the neutral one is to be.
    """

    look: Input
    scale: float


def of(look: Input, *, is_needed: bool) -> Found | None:
    """The neutral LoRA that goes with a LoRA; None where there is none, or its predictor is not.

    Raises:
        UsageError: It is needed, and no predictor made the LoRA.
        WeightsError: It is needed, and the predictor is not on this machine.
    """
    said = _said(look)
    if said is None:
        if not is_needed:
            return None
        raise UsageError(
            f"{look.path.name} has no neutral LoRA: no predictor made it from references",
            fix="--negative-lora same, none or FILE",
        )
    if not _is_here(said.predictor_sha256, look.path):
        if not is_needed:
            return None
        raise _absent(look.path, said)
    return Found(Input("neutral", look.path, _identity(said)), said.scale_folded)


def missing(looks: Iterable[Input]) -> dict[str, Input]:
    """Predictors by their digests that made some of these LoRAs and are not on this machine.

    Returns:
        With each, the first LoRA that it made.
    """
    found: dict[str, Input] = {}
    for look in looks:
        said = _said(look)
        if said is not None and not _is_here(said.predictor_sha256, look.path):
            found.setdefault(said.predictor_sha256, look)
    return found


def file_of(
    look: Input,
    settings: Settings,
    context: RunContext,
    *,
    backbone: Path | None = None,
    allow_download: bool = False,
) -> Path:
    """A file with the neutral LoRA that `of` found: from the cache, or predicted now.

    Args:
        look: Of `of`.
        settings: Say where the encoder lies, if it is a folder; it computes in the run's type.
        context: Of the run.
        backbone: Folder of the frozen model, of which some encoders are a part.
        allow_download: Fetch an encoder that is missing.

    Raises:
        WeightsError: The predictor or its encoder is not on this machine, or damaged.
        DiskFullError: There is no room for it in the cache.
    """
    said = header.read(look.path)
    if said is None:
        raise WeightsError(f"{look.path} changed during the run", fix="run it again")
    # What a device computes with decides last bits.
    key = store.digest([look.sha256, str(context.dtype), context.device.type])
    path = cache.cached(SHELF, key, ".safetensors")
    if not path.exists():
        source = finding.find(said.predictor_sha256, look.path)
        if source is None:
            raise _absent(look.path, said)
        # Encoders take seconds to import, which planning need not wait for.
        from stylecli.engine.i2l.forward import Forward, without_refiners

        own = settings.model_copy(update={"dtype": "auto"})
        forward = Forward.load(
            source, own, context, backbone=backbone, allow_download=allow_download
        )
        pairs = forward.neutral(said.n_refs, said.sizes)
        if said.exclude_refiners:
            pairs = without_refiners(pairs, forward.config)
        tensors, entries = lora_layouts.write(
            pairs,
            prefix=prefix(forward.config),
            layout="diffusers",
            dtype=torch.float32,
        )

        def write() -> None:
            store.save_tensors(path, tensors, entries)

        if not cache.keep(path, write, context.reporter.warn):
            raise DiskFullError("there is no room for a neutral LoRA", fix=cache.FIX)
    cache.touch(path)
    return path


def prefix(config: Config) -> str:
    """Which part of a pipeline the LoRAs of a predictor change."""
    return "unet" if config.kind == "unet" else "transformer"


def _said(look: Input) -> Header | None:
    """What a LoRA says of itself, where references made it, or a mix of such.

    Of parts that one predictor made, the neutral LoRA is the same, and so is that of their mix.
    """
    said = header.read(look.path) if look.role == "lora" else None
    return said if said is not None and said.kind != "neutral" else None


def _identity(said: Header) -> str:
    layers = ["without refiners"] if said.exclude_refiners else []
    return store.digest(
        ["neutral", VERSION, said.predictor_sha256, said.n_refs, said.sizes, *layers]
    )


def _absent(lora: Path, said: Header) -> WeightsError:
    return WeightsError(
        f"{lora.name}: the predictor that made it is not on this machine: {said.backbone}, "
        f"SHA-256 {said.predictor_sha256}",
        fix=f"{PLACES}, or --negative-lora same",
    )


def _is_here(sha256: str, lora: Path) -> bool:
    return finding.find(sha256, lora) is not None
