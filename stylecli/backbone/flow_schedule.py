"""The straight line of a rectified flow as a grid of levels, and steps along it.

``x_sigma = (1 - sigma) x + sigma eps``, and the velocity ``eps - x`` is the same all along, so both
directions are Euler's method on explicit pairs of levels: ``z + (sigma' - sigma) v``. Like DDIM's
step that is affine in what the model answers, with coefficients that no style changes: inversion,
replay, regions and switching work as they do there (`docs/methods/transformers.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylecli.backbone.denoisers.flow import GRID, shifted
from stylecli.backbone.levels import Levels, Schedule, Timesteps
from stylecli.errors import RecipeError


@dataclass(frozen=True)
class FlowSchedule(Schedule):
    """The noise levels of a model for flow matching.

    A timestep is a thousandth of sigma, and levels are rounded to whole ones: so they can be named,
    in files and between runs, as DDIM's are.

    Attributes:
        sigmas: Levels that the model's own sampler visits in so many steps, falling from 1 to 0.
        answers: 1 where the model answers with ``eps - x``, -1 where with ``x - eps``.
        shift: Of the times at which it is taught, towards noise.
        config: What of the scheduler decides the levels.
    """

    sigmas: Callable[[int], Sequence[float]]
    answers: int
    shift: float
    config: Mapping[str, Any]
    prediction_type = "flow"

    @property
    def total(self) -> int:
        return GRID

    def taught(self, place: int) -> int:
        """A shifted sigma, never 0: nothing can be learned of what is clean."""
        (sigma,) = shifted(torch.tensor([(place + 1) / GRID]), self.shift).tolist()
        return max(1, round(GRID * float(sigma)))

    def signal(self, timestep: int) -> float:
        return 1 - timestep / GRID

    def levels(
        self, steps: int, timesteps: Timesteps = None, *, section: str = "sampling"
    ) -> Levels:
        """As `Schedule` says; a list is of thousandths of sigma.

        Raises:
            RecipeError: Two levels would be one, or a way of spreading that is of other models.
        """
        if isinstance(timesteps, str):
            raise RecipeError(
                f"{section}.timesteps {timesteps} is for models that count timesteps, and this one "
                "counts sigmas",
                fix=f"--set {section}.timesteps=null, or a list of thousandths of sigma",
            )
        if timesteps is None:
            visited = sorted(round(GRID * sigma) for sigma in self.sigmas(steps)[:steps])
        else:
            visited = sorted(timesteps)
        if not 0 < visited[0] <= visited[-1] <= GRID or len(set(visited)) < steps:
            raise RecipeError(
                f"{steps} steps do not fit between sigma 0.001 and 1, a thousandth apart at least",
                fix=f"name each of {section}.timesteps once, from 1 to {GRID}"
                if timesteps is not None
                else "use fewer steps; 50 are usual",
            )
        return Levels(tuple(visited), (1.0, *(self.signal(one) for one in visited)))

    def around(self, coarse: Levels, steps: int, timesteps: Timesteps = None) -> Levels:
        """As `Schedule` says: the same levels, since no other grid of its sampler has them all.

        Raises:
            RecipeError: Other steps than are sampled.
        """
        if steps != len(coarse):
            raise RecipeError(
                f"inversion.steps {steps}: a flow is inverted at the levels that are sampled, "
                f"which are {len(coarse)}",
                fix="leave inversion.steps out; inversion.refine_iters makes inversion more exact",
            )
        return coarse

    def noised(
        self,
        clean: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        sigmas = (timesteps / GRID).view(-1, 1, 1, 1).to(clean.device)
        return (1 - sigmas) * clean + sigmas * noise, self.answers * (noise - clean)

    def direction(
        self, model_output: Float[Tensor, "b c h w"], seen: Float[Tensor, "b c h w"], alpha: float
    ) -> Float[Tensor, "b c h w"]:
        """The velocity, towards noise."""
        return self.answers * model_output

    def move(
        self,
        latents: Float[Tensor, "b c h w"],
        direction: Float[Tensor, "b c h w"],
        start: float,
        end: float,
    ) -> Float[Tensor, "b c h w"]:
        # What is kept of the signal is 1 - sigma.
        return latents + (start - end) * direction

    def step(
        self,
        latents: Float[Tensor, "b c h w"],
        model_output: Float[Tensor, "b c h w"],
        start: float,
        end: float,
    ) -> Float[Tensor, "b c h w"]:
        return self.move(latents, self.answers * model_output, start, end)
