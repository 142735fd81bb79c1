"""Flow matching: data and noise on a straight line, and the way back along a model's answers.

``x_sigma = (1 - sigma) x + sigma eps``, so the line's direction is ``eps - x``; a model answers
with that or with its opposite (i2L eq. 5 and 6 count the other way: their t is 1 - sigma).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from stylecli.backbone.denoisers.base import Applied, Weighting
from stylecli.backbone.denoisers.layer_sets import layers_of
from stylecli.backbone.linears import Layer
from stylecli.backbone.sampling import guided
from stylecli.errors import RecipeError

# Times that a model is taught; sigma 0 is not among them.
GRID = 1000


class Flow(ABC):
    """What transformers for flow matching have in common, as `base.Denoiser` asks it.

    Attributes:
        shift: Of the times it is taught, towards noise.
        noise_std: Of its noise.
        answers: 1 where it answers with ``eps - x``, -1 where with ``x - eps``.
    """

    kind: str
    shift: float
    answers: int
    noise_std: float = 1.0
    negative_prompt: str = ""
    native_px: int = 1024

    def __init__(self, model: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        self.model: nn.Module = model
        self.device = device
        self.dtype = dtype

    @abstractmethod
    def encode_target(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
        """As `Denoiser` says."""

    @abstractmethod
    def encode_prompt(self, prompts: Sequence[str]) -> list[Tensor]:
        """As `Denoiser` says."""

    @abstractmethod
    def predict(
        self,
        noised: Float[Tensor, "b c h w"],
        times: Float[Tensor, " b"],
        prompts: Sequence[Tensor],
    ) -> Float[Tensor, "b c h w"]:
        """As `Denoiser` says."""

    @abstractmethod
    def decode(self, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
        """As `Denoiser` says."""

    @abstractmethod
    def sigmas(self, steps: int, latents: Float[Tensor, "b c h w"]) -> list[float]:
        """Noise levels that its own sampler visits, falling from 1 to 0: one more than steps."""

    @abstractmethod
    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Of one picture so many pixels high and wide."""

    @property
    @abstractmethod
    def multiple_px(self) -> int:
        """As `Denoiser` says."""

    def layers(self, layer_set: str) -> tuple[Layer, ...]:
        """As `Denoiser` says."""
        model: Any = self.model
        return layers_of(self.kind, model.config, layer_set)

    def sample_times(
        self, count: int, generator: Generator, *, shift: float | None = None
    ) -> Float[Tensor, " b"]:
        """Sigmas from a grid of 1000, shifted."""
        places = torch.randint(1, GRID + 1, (count,), generator=generator)
        return shifted(places / GRID, self.shift if shift is None else shift)

    def draw_noise(self, like: Tensor, generator: Generator) -> Tensor:
        """As `Denoiser` says."""
        noise = torch.randn(like.shape, generator=generator) * self.noise_std
        return noise.to(like.device)

    def noised(self, clean: Tensor, noise: Tensor, times: Float[Tensor, " b"]) -> Tensor:
        """The place on the line."""
        sigmas = times.to(clean.device).view(-1, *[1] * (clean.ndim - 1))
        return (1 - sigmas) * clean.float() + sigmas * noise

    def target(self, clean: Tensor, noise: Tensor, times: Float[Tensor, " b"]) -> Tensor:
        """The direction of the line, as this model sees it; the same at all times."""
        return self.answers * (noise - clean.float())

    def weight(
        self, times: Float[Tensor, " b"], kind: Weighting, *, shift: float | None = None
    ) -> Float[Tensor, " b"]:
        """As `Denoiser` says; bell counts the middle of the line most, pure noise not at all.

        Raises:
            RecipeError: The weighting of another kind of model.
        """
        if kind == "none":
            return torch.ones_like(times)
        if kind != "bell":
            raise RecipeError(
                f"i2l.train.loss_weight {kind} is for models that count timesteps",
                fix="--set i2l.train.loss_weight=bell, or none",
            )
        grid = torch.arange(1, GRID + 1) / GRID
        usual = _bell(shifted(grid, self.shift if shift is None else shift))
        lowest = usual.min()
        return (_bell(times) - lowest) / (usual - lowest).mean()

    @torch.no_grad()
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
        """Euler's method, each side in a call of its own."""
        like = torch.empty(1, *self.latent_shape(size or (self.native_px, self.native_px)))
        each = [self.draw_noise(like, Generator().manual_seed(seed)) for seed in seeds]
        latents = torch.cat(each).to(self.device)
        for sigma, after in pairwise(self.sigmas(steps, latents)):
            times = torch.full((len(latents),), sigma)
            with applied("pos"):
                answer = self.predict(latents, times, prompts)
            if guidance != 1:
                with applied("neg"):
                    answer = guided(self.predict(latents, times, negatives), answer, guidance)
            latents = latents + (after - sigma) * self.answers * answer
        return self.decode(latents)

    def checkpointing(self, *, on: bool) -> None:
        """As `Denoiser` says; never the kind of checkpoint that loses gradients of LoRAs."""
        model: Any = self.model
        if on:
            model.enable_gradient_checkpointing()
        else:
            model.disable_gradient_checkpointing()


def shifted(sigmas: Float[Tensor, " n"], shift: float) -> Float[Tensor, " n"]:
    """More time near noise, for shifts above 1.

    >>> shifted(torch.tensor([0.5, 1.0]), 3.0).tolist()
    [0.75, 1.0]
    """
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def visited(scheduler: Any, steps: int, mu: float) -> list[float]:
    """The noise levels of a stock pipeline; of its scheduler nothing else is used.

    Args:
        scheduler: Of diffusers, for flow matching.
        steps: Calls of the model.
        mu: How far times are shifted for the size of the picture, where the scheduler asks.
    """
    even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()
    scheduler.set_timesteps(sigmas=even, mu=mu)
    found: list[float] = scheduler.sigmas.tolist()
    return found


def _bell(sigmas: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return torch.exp(-2 * (sigmas - 0.5) ** 2)
