"""The passes that work is made of, each walked on the meta device with the code that runs it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from stylecli.backbone import hollow, lora_fitting, quantizing, tuning
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.hollow import META
from stylecli.backbone.registry import FLOWS, Kind
from stylecli.engine.planner.walk import Walked, walked
from stylecli.recipe.schema import Device, Injection, Lora
from stylecli.recipe.strict import Quantize

ADAPTER = "planned"


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One call of the model.

    Attributes:
        rows: How many it was walked with; of others it takes in proportion.
        kept: Bytes that stay for later passes, a tensor each.
    """

    walk: Walked
    rows: int
    kept: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Handed:
    """What a step hands from the source rows to the target rows.

    Attributes:
        kappa: The targets' share of their own attention.
    """

    features: bool
    kappa: float


class Passes:
    """The passes of one model; each is walked when it is first asked for."""

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        injection: Injection,
        lora: Lora,
        kind: str = "cpu",
        *,
        model: Kind = "unet",
        size_px: int = 512,
        quantize: Quantize = "none",
    ) -> None:
        """Read the configs of a backbone.

        Args:
            folder: Only its configs are read.
            dtype: Of the UNet and the text encoder.
            injection: What is handed over where.
            lora: Where LoRAs sit, and their rank.
            kind: Of the device that will compute.
            model: What the folder holds.
            size_px: Short side of the pictures.
            quantize: How the frozen weights will be kept; passes are walked with whole ones.
        """
        self._quantize = quantize
        self._reads_at_length = model in FLOWS
        self._backbone = hollow.backbone(model, folder, dtype=dtype, size_px=size_px)
        self._injection = injection
        self._kind = kind
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            _add_adapter(self._backbone.unet, lora)
        self._adapters = Adapters(self._backbone.unet)
        self._adapters.adopt(ADAPTER)
        self._walk = cache(self._walked)

    def refuse_unfit(self, lora: Path) -> None:
        """See that a LoRA is one of this model.

        Raises:
            UsageError: It is not.
            WeightsError: It cannot be read.
        """
        lora_fitting.refuse_unfit(lora, self._backbone.unet)

    @property
    def latent_px(self) -> int:
        return self._backbone.latent_px

    @property
    def multiple_px(self) -> int:
        return self._backbone.multiple_px

    @property
    def latent_channels(self) -> int:
        return self._backbone.latent_channels

    @cached_property
    def weights(self) -> dict[str, int]:
        """Bytes of each part's frozen weights."""
        backbone = self._backbone
        # CLIP stays whole, a language model does not.
        of_words = self._quantize if self._reads_at_length else "none"
        return {
            "unet": _weight(backbone.unet, self._quantize),
            "vae": _weight(backbone.vae),
            "text": sum(_weight(one, of_words) for one in self._encoders),
        }

    @cached_property
    def stored(self) -> int:
        """Bytes that are read, whatever becomes of them."""
        return sum(map(_weight, (self._backbone.unet, self._backbone.vae, *self._encoders)))

    @cached_property
    def widened(self) -> int:
        """Bytes of the largest matrix that is widened for its products."""
        if self._quantize == "none":
            return 0
        linears = (m for m in self._backbone.unet.modules() if isinstance(m, nn.Linear))
        return max(linear.weight.nbytes for linear in linears)

    @property
    def _encoders(self) -> list[Any]:
        """Of words."""
        parts = self._backbone.parts.items()
        return [one for name, some in parts if "text" in name for one in some]

    @cached_property
    def largest_block(self) -> tuple[int, int]:
        """Bytes of the UNet's largest block, and of all its blocks."""
        blocks = [_weight(block) for block in self._backbone.blocks]
        return max(blocks), sum(blocks)

    @cached_property
    def lora_numbers(self) -> int:
        """Numbers in one LoRA."""
        named = self._backbone.unet.named_parameters()
        return sum(p.numel() for name, p in named if ".lora_" in name)

    def plain(self, height: int, width: int, rows: int = 1) -> Pass:
        """The base model."""
        return self._walk("plain", height, width, None, rows)

    def styled(self, height: int, width: int) -> Pass:
        """A row under a LoRA."""
        return self._walk("styled", height, width)

    def source(self, handed: Handed, height: int, width: int) -> Pass:
        """A content's row up to the last tensor that is handed over."""
        return self._walk("source", height, width, handed)

    def target(self, handed: Handed, height: int, width: int, sources: int) -> Pass:
        """Rows under a LoRA that take what the source rows left.

        Args:
            sources: Contents in the batch: 1, or 2 for any more.
        """
        return self._walk("target", height, width, handed, sources)

    def text(self) -> Pass:
        return self._walk("text", 0, 0)

    def encode(self, height: int, width: int, *, tiling: bool) -> Pass:
        return self._walk("encode", height, width, None, 1, tiling)

    def decode(self, height: int, width: int, *, tiling: bool) -> Pass:
        return self._walk("decode", height, width, None, 1, tiling)

    def training(self, height: int, width: int, *, checkpointing: bool) -> Pass:
        """A row forwards and back to the LoRA's gradients."""
        return self._walk("training", height, width, None, 1, False, checkpointing)

    def _walked(
        self,
        kind: str,
        height: int,
        width: int,
        handed: Handed | None = None,
        sources: int = 1,
        tiling: bool = False,
        checkpointing: bool = False,
    ) -> Pass:
        latent = (height // self.latent_px, width // self.latent_px)
        match kind:
            case "plain" | "styled":
                with walked() as walk, self._under(lora=kind == "styled"), torch.inference_mode():
                    self._predict(sources, latent)
                return Pass(walk, sources)
            case "source" | "target":
                assert handed is not None  # noqa: S101
                return self._exchanged(handed, latent, sources, wants_target=kind == "target")
            case "text":
                return self._words()
            case "training":
                return self._trained(latent, checkpointing)
        tuning.tune(self._backbone, Device(tiling=tiling))
        with walked() as walk:
            if kind == "encode":
                self._backbone.posterior(torch.empty(1, 3, height, width, device=META))
            else:
                self._backbone.decode(torch.empty(1, self.latent_channels, *latent, device=META))
        return Pass(walk, 1)

    def _exchanged(
        self, handed: Handed, latent: tuple[int, int], sources: int, *, wants_target: bool
    ) -> Pass:
        exchange = self._backbone.exchange(self._injection)
        with exchange.installed(self._backbone.unet), torch.inference_mode():
            with (
                walked() as walk,
                self._under(lora=False),
                exchange.taking(features=handed.features, attention=handed.kappa < 1, stop=True),
            ):
                self._predict(sources, latent)
            if not wants_target:
                kept = tuple(t.nbytes for one in exchange.taken.values() for t in one)
                return Pass(walk, sources, kept)
            with (
                walked() as walk,
                self._under(lora=True),
                exchange.giving(features=handed.features, kappa=handed.kappa),
            ):
                self._predict(2 * sources, latent)
        return Pass(walk, 2 * sources)

    def _words(self) -> Pass:
        backbone = self._backbone
        with walked() as walk, torch.inference_mode():
            for encoder in self._encoders:
                length = min(backbone.words_shape[0], encoder.config.max_position_embeddings)
                encoder(torch.zeros(1, length, dtype=torch.long, device=META))
        return Pass(walk, 1)

    def _trained(self, latent: tuple[int, int], checkpointing: bool) -> Pass:
        unet = self._backbone.unet
        parameters = [p for name, p in unet.named_parameters() if ".lora_" in name]
        for parameter in parameters:
            parameter.requires_grad_(True)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        try:
            dtype = self._backbone.dtype
            autocast = None if dtype == torch.float32 else dtype
            with walked(autocast, self._kind) as walk, self._under(lora=True):
                output = self._predict(1, latent)
                loss = F.mse_loss(output, torch.empty_like(output))
                torch.autograd.backward(loss)
        finally:
            unet.disable_gradient_checkpointing()
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None
        return Pass(walk, 1)

    @contextmanager
    def _under(self, *, lora: bool) -> Iterator[None]:
        with self._adapters.use({ADAPTER: 1.0} if lora else {}):
            yield

    def _predict(self, rows: int, latent: tuple[int, int]) -> torch.Tensor:
        backbone = self._backbone
        latents = torch.empty(rows, self.latent_channels, *latent, device=META)
        embeds = torch.empty(rows, *backbone.words_shape, dtype=backbone.dtype, device=META)
        return backbone.predict(latents, 500, embeds)


def _add_adapter(unet: Any, lora: Lora) -> None:
    from peft import LoraConfig

    with META:
        unet.add_adapter(
            LoraConfig(r=lora.rank, lora_alpha=lora.rank, target_modules=list(lora.targets)),
            adapter_name=ADAPTER,
        )
    # Computed in the UNet's own type, as autocast has it.
    for name, parameter in unet.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(unet.dtype)


def _weight(part: Any, quantize: Quantize = "none") -> int:
    return sum(quantizing.weight_bytes(part, quantize).values())
