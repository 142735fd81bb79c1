"""Levels of noise, and what a schedule is asked of them, whichever kind of model it belongs to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylecli.errors import RecipeError

Prediction = Literal["epsilon", "v_prediction", "flow"]
# A list of timesteps by the name of how it is spread, or one by one; None is the model's own way.
Timesteps = Literal["leading", "trailing", "linspace", "lcm"] | Sequence[int] | None


@dataclass(frozen=True, slots=True)
class Levels:
    """A sampling grid in ascending noise.

    Attributes:
        timesteps: Training timesteps, strictly increasing, ``N`` of them; of a flow thousandths of
            sigma.
        alphas: How much signal levels ``0 .. N`` keep: cumulative alphas, of a flow ``1 - sigma``.
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.timesteps)

    def restricted_to(self, coarse: Levels) -> list[int]:
        """The level of this grid behind each level of a coarser one.

        Raises:
            RecipeError: A timestep of the coarse grid is missing here.
        """
        row = {timestep: k for k, timestep in enumerate(self.timesteps, start=1)}
        if missing := [t for t in coarse.timesteps if t not in row]:
            raise RecipeError(
                f"inversion.steps {len(self)} skips timestep {missing[0]}, which the "
                f"{len(coarse)} sampling steps need",
                fix=f"leave inversion.steps out, or set it to {len(coarse)} or to a grid that "
                "contains them all, like 999 (1000 where sampling.timesteps is trailing or lcm)",
            )
        return [0, *(row[t] for t in coarse.timesteps)]


class Schedule(ABC):
    """The noise levels of a model, and how its answers carry latents between two of them.

    Attributes:
        config: What decides the levels; part of what made a result.
        prediction_type: What the model answers with.
    """

    config: Mapping[str, Any]
    prediction_type: Prediction

    @property
    @abstractmethod
    def total(self) -> int:
        """Places that training draws its times from."""

    @abstractmethod
    def taught(self, place: int) -> int:
        """The timestep at one of `total` places; all are drawn equally often."""

    @abstractmethod
    def signal(self, timestep: int) -> float:
        """How much of it a timestep keeps; see `Levels`."""

    def signals(self) -> Float[Tensor, " t"]:
        """`signal` of every place that training draws from."""
        return torch.tensor([self.signal(self.taught(place)) for place in range(self.total)])

    @abstractmethod
    def levels(
        self, steps: int, timesteps: Timesteps = None, *, section: str = "sampling"
    ) -> Levels:
        """The grid of ``steps`` timesteps that the model's own sampler would visit.

        Args:
            steps: How many; a list has as many.
            timesteps: How they are spread.
            section: Of the recipe whose `timesteps` a message is to name.

        Raises:
            RecipeError: The model has no such grid.
        """

    @abstractmethod
    def around(self, coarse: Levels, steps: int, timesteps: Timesteps = None) -> Levels:
        """The grid that an inversion walks to leave latents at the levels of a coarser one.

        Raises:
            RecipeError: There is none of so many steps.
        """

    @abstractmethod
    def noised(
        self,
        clean: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """What the model is shown at some timesteps, and what it should answer."""

    @abstractmethod
    def direction(
        self, model_output: Float[Tensor, "b c h w"], seen: Float[Tensor, "b c h w"], alpha: float
    ) -> Float[Tensor, "b c h w"]:
        """What `move` goes along, behind a model output.

        Args:
            model_output: What the model returned, float32.
            seen: The latent it was shown.
            alpha: Signal of the *timestep* it was shown, which in inversion is one level above the
                latent.
        """

    @abstractmethod
    def move(
        self,
        latents: Float[Tensor, "b c h w"],
        direction: Float[Tensor, "b c h w"],
        start: float,
        end: float,
    ) -> Float[Tensor, "b c h w"]:
        """Carry latents between two levels, either way; affine in `direction`."""

    @abstractmethod
    def step(
        self,
        latents: Float[Tensor, "b c h w"],
        model_output: Float[Tensor, "b c h w"],
        start: float,
        end: float,
    ) -> Float[Tensor, "b c h w"]:
        """One sampling step, from the level the model was asked about to another."""
