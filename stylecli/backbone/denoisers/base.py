"""What i2L asks of a frozen model, whatever it is made of: noise, answers and pictures.

Every model answers in an orientation of its own (noise, velocity, one way or the other). `target`
and `predict` share it, so a loss never needs to know; `sample` knows how to walk along it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from stylecli.backbone.linears import Layer

Branch = Literal["pos", "neg"]
Weighting = Literal["none", "bell", "min-snr"]
# Entered around each call of the model; inside, its rows have the LoRAs of that side.
Applied = Callable[[Branch], AbstractContextManager[Any]]


class Denoiser(Protocol):
    """A frozen model on one device, in eval mode.

    Times are noise levels sigma in (0, 1], or timesteps as whole numbers in floats where the model
    counts in those. Latents are float32, whatever the model computes in.

    Attributes:
        kind: unet, z-image, flux2 or hidream.
        model: Where `stylecli.backbone.row_loras.applied` hooks in.
        negative_prompt: Of the other side of guidance, where nobody says.
    """

    kind: str
    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    negative_prompt: str

    @property
    def native_px(self) -> int:
        """Side of the squares it was trained on."""
        ...

    @property
    def multiple_px(self) -> int:
        """Sides of pictures are multiples of it."""
        ...

    def layers(self, layer_set: str) -> tuple[Layer, ...]:
        """The linear layers of a set, of this very model.

        Raises:
            RecipeError: It has no such set, or a layer is called otherwise here.
        """
        ...

    def encode_target(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
        """What is learned to be drawn, of pictures in [0, 1]; always the same for a picture."""
        ...

    def encode_prompt(self, prompts: Sequence[str]) -> list[Tensor]:
        """One tensor a prompt, of its own length where the model has it so."""
        ...

    def sample_times(
        self, count: int, generator: Generator, *, shift: float | None = None
    ) -> Float[Tensor, " b"]:
        """Times to learn at, drawn on the CPU.

        Args:
            count: How many.
            generator: On the CPU.
            shift: Of sigmas, towards noise; default: the model's own.
        """
        ...

    def draw_noise(self, like: Tensor, generator: Generator) -> Tensor:
        """Noise as the model knows it, drawn on the CPU: the same on every machine."""
        ...

    def noised(self, clean: Tensor, noise: Tensor, times: Float[Tensor, " b"]) -> Tensor:
        """What the model is shown."""
        ...

    def target(self, clean: Tensor, noise: Tensor, times: Float[Tensor, " b"]) -> Tensor:
        """What it should answer."""
        ...

    def predict(
        self, noised: Tensor, times: Float[Tensor, " b"], prompts: Sequence[Tensor]
    ) -> Tensor:
        """What it answers, in float32; gradients reach the LoRAs in use.

        Where they are float32 and the model is not, give them in `dtype` to compute in it.
        """
        ...

    def weight(
        self, times: Float[Tensor, " b"], kind: Weighting, *, shift: float | None = None
    ) -> Float[Tensor, " b"]:
        """How much each time counts in a loss: on average 1 over the times that are drawn.

        Raises:
            RecipeError: The model has no such weighting.
        """
        ...

    def decode(self, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
        """Pictures in [0, 1]."""
        ...

    def sample(
        self,
        prompts: Sequence[Tensor],
        negatives: Sequence[Tensor],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        applied: Applied,
        size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Pictures, one a prompt: ``neg + s (pos - neg)`` at every step.

        Args:
            prompts: From `encode_prompt`.
            negatives: Of the other side, one for each.
            seeds: Of the noise each begins with.
            steps: Of the model's own sampler.
            guidance: s; at 1 the other side is not asked.
            applied: Sets the LoRAs of a side, with a row for each prompt.
            size: Height and width in pixels; default: a square of `native_px`.
        """
        ...

    def checkpointing(self, *, on: bool) -> None:
        """Whether blocks are computed twice to spare memory.

        The backward pass then belongs inside the block that applied the LoRAs.
        """
        ...
