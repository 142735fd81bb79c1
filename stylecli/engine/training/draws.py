"""The rows a LoRA is trained and judged on, each drawn from a generator of its own.

A row is named by the run's seed and its place, so what comes before it, an interruption included,
never changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylecli.backbone.model import Backbone
from stylecli.recipe.schema import Lora
from stylecli.tensors.seeds import generator

# Pairs of timestep and noise that every LoRA is judged on before and after.
EVAL_PAIRS = 16


@dataclass(frozen=True, slots=True)
class Draw:
    """One training row: which picture, where in it, which noise and how much of it.

    Attributes:
        index: Of the picture.
        clean: A sample of the VAE's posterior, scaled; on the CPU, as is `noise`.
        chance: Uniform in [0, 1); below `caption_dropout` the row is trained without a caption.
    """

    index: int
    clean: Float[Tensor, "1 c h w"]
    noise: Float[Tensor, "1 c h w"]
    timestep: Int[Tensor, " 1"]
    chance: float

    def drops_caption(self, settings: Lora) -> bool:
        return self.chance < settings.caption_dropout

    @classmethod
    def one(
        cls,
        backbone: Backbone,
        latents: Sequence[tuple[Tensor, Tensor]],
        index: int,
        random: torch.Generator,
        cells: int | None,
        place: int | None = None,
    ) -> Draw:
        """Draw one row.

        Args:
            backbone: Knows how many timesteps there are.
            latents: Mean and deviation of the posterior of every picture.
            index: Of the picture.
            random: Used up by this row alone.
            cells: Side of a random square in latent cells; None is the whole picture.
            place: Of the timestep among those of training, instead of a random one.
        """
        mean, deviation = latents[index]
        if cells is not None:
            top, left = (
                int(torch.randint(side - min(cells, side) + 1, (1,), generator=random))
                for side in mean.shape[-2:]
            )
            window = (..., slice(top, top + cells), slice(left, left + cells))
            mean, deviation = mean[window], deviation[window]
        posterior_noise = torch.randn(mean.shape, generator=random)
        drawn = torch.randint(backbone.schedule.total, (1,), generator=random)
        return cls(
            index=index,
            clean=mean + deviation * posterior_noise,
            noise=torch.randn(mean.shape, generator=random),
            timestep=torch.tensor(
                [backbone.schedule.taught(int(drawn) if place is None else place)]
            ),
            chance=float(torch.rand(1, generator=random)),
        )

    @classmethod
    def of_step(
        cls,
        backbone: Backbone,
        latents: Sequence[tuple[Tensor, Tensor]],
        seed: int,
        step: int,
        batch: int,
        cells: int | None,
    ) -> list[Draw]:
        """The rows of one step; pictures come in a new shuffled order every epoch."""
        draws = []
        for row in range(step * batch, (step + 1) * batch):
            epoch, place = divmod(row, len(latents))
            order = torch.randperm(len(latents), generator=generator(seed, "epoch", epoch))
            random = generator(seed, "row", row)
            draws.append(cls.one(backbone, latents, int(order[place]), random, cells))
        return draws

    @classmethod
    def fixed(
        cls,
        backbone: Backbone,
        latents: Sequence[tuple[Tensor, Tensor]],
        seed: int,
        cells: int | None,
    ) -> list[Draw]:
        """The rows every LoRA is judged on: timesteps spread evenly, noise of their own."""
        total = backbone.schedule.total
        return [
            cls.one(
                backbone,
                latents,
                pair % len(latents),
                generator(seed, "eval", pair),
                cells,
                place=int((pair + 0.5) / EVAL_PAIRS * total),
            )
            for pair in range(EVAL_PAIRS)
        ]
