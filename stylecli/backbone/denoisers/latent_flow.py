"""Flows over the latents of an autoencoder, told words by a language model: Z-Image and FLUX.2."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.denoisers.flow import Flow
from stylecli.backbone.denoisers.qwen import Qwen
from stylecli.recipe.strict import Quantize

# Cells of the autoencoder that make one token, a side.
PATCH = 2


class LatentFlow(Flow):
    """A transformer with its autoencoder and its text encoder, frozen.

    Attributes:
        scheduler: Of its pipeline; knows which noise levels are visited.
        cells_per_token: Of a latent, a side.
    """

    cells_per_token: int

    def __init__(
        self,
        model: Any,
        vae: Any,
        text: Qwen,
        scheduler: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(model, device=device, dtype=dtype)
        self.vae = vae
        self.text = text
        self.scheduler = scheduler

    @classmethod
    @abstractmethod
    def load(
        cls,
        folder: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        variant: str | None = None,
        file: Path | None = None,
        quantize: Quantize = "none",
    ) -> Self:
        """Frozen, from a diffusers folder, or with the transformer of a file.

        Args:
            folder: From `stylecli.backbone.registry.snapshot`.
            device: Where it computes.
            dtype: Of the transformer and the text encoder.
            variant: Weight file variant, such as bf16.
            file: What has the transformer's weights instead of the folder.
            quantize: How the frozen weights of both are kept.

        Raises:
            UsageError: This machine cannot quantise so.
            WeightsError: Missing, damaged or of another model.
        """

    @abstractmethod
    def posterior(
        self, pixels: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b c lh lw"], Float[Tensor, "b c lh lw"]]:
        """Mean and deviation of the latents of pictures in [0, 1]."""

    @staticmethod
    @abstractmethod
    def visits(scheduler: Any, steps: int, tokens: int) -> list[float]:
        """Noise levels from 1 to 0 of a picture of so many tokens: one more than steps."""

    @property
    @abstractmethod
    def words_width(self) -> int:
        """Numbers that a token of a prompt becomes."""

    @property
    def multiple_px(self) -> int:
        return PATCH * self.cell_px

    @property
    def cell_px(self) -> int:
        """Pixels that a cell of the autoencoder spans, a side."""
        return cell_px(self.vae.config)

    def encode_target(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
        return self.posterior(pixels)[0]

    def sigmas(self, steps: int, latents: Float[Tensor, "b c h w"]) -> list[float]:
        height, width = (side // self.cells_per_token for side in latents.shape[-2:])
        return self.visits(self.scheduler, steps, height * width)


def cell_px(config: Any) -> int:
    """Pixels that a cell of an autoencoder spans, a side."""
    return int(2 ** (len(config["block_out_channels"]) - 1))
