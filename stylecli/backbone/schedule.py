"""Noise levels, and the one formula that moves a latent between two of them.

Level ``0`` is the clean latent with ``alphas[0] = final_alpha_cumprod``; level ``k`` has the noise
of ``timesteps[k - 1]``. Both directions of DDIM use `move` on explicit pairs of levels, so no
scheduler guesses a neighbour (`docs/methods/diffstyler.md`, "Levels").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylecli.backbone.levels import Levels, Prediction, Schedule, Timesteps
from stylecli.errors import RecipeError, WeightsError


@dataclass(frozen=True, slots=True)
class NoiseSchedule(Schedule):
    """What a scheduler config says about noise, and nothing about stepping."""

    alphas_cumprod: tuple[float, ...]
    final_alpha: float
    prediction_type: Prediction
    config: Mapping[str, Any]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read any Stable Diffusion scheduler config (DDIM, PNDM, Euler...).

        Raises:
            WeightsError: The config asks for what DDIM does not do: clipped samples, thresholding
                or a prediction type other than epsilon and v_prediction.
        """
        from diffusers import DDIMScheduler

        try:
            scheduler = DDIMScheduler.from_config(dict(config) | {"clip_sample": False})
        except (NotImplementedError, ValueError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise WeightsError(
                f"scheduler/scheduler_config.json: {reason}", fix="copy or pull the folder again"
            ) from error
        kept = scheduler.config
        if kept.prediction_type not in ("epsilon", "v_prediction"):
            raise WeightsError(
                f"scheduler/scheduler_config.json: prediction_type {kept.prediction_type!r}",
                fix="use a model that predicts epsilon or v_prediction",
            )
        if kept.thresholding:
            raise WeightsError(
                "scheduler/scheduler_config.json: thresholding is on",
                fix="set it to false; DDIM inversion is only exact without it",
            )
        return cls(
            alphas_cumprod=tuple(scheduler.alphas_cumprod.double().tolist()),
            final_alpha=float(scheduler.final_alpha_cumprod),
            prediction_type=kept.prediction_type,
            config={
                key: kept[key]
                for key in (
                    "num_train_timesteps",
                    "beta_schedule",
                    "beta_start",
                    "beta_end",
                    "steps_offset",
                    "set_alpha_to_one",
                    "timestep_spacing",
                    "rescale_betas_zero_snr",
                    "prediction_type",
                )
            },
        )

    def levels(
        self, steps: int, timesteps: Timesteps = None, *, section: str = "sampling"
    ) -> Levels:
        """The grid of ``steps`` timesteps that one of diffusers' schedulers would visit.

        Only its list is taken: what is stepped with is always `move`.

        Args:
            steps: How many; a list has as many.
            timesteps: How they are spread over the levels of training: as the model's own scheduler
                config says, by another rule of DDIM's, as LCM's scheduler takes them from 50 of
                training (`lcm`), or one by one in any order.
            section: Of the recipe whose `timesteps` a message is to name.

        Raises:
            RecipeError: More steps than training timesteps, or a grid that runs past the last one.
        """
        total = len(self.alphas_cumprod)
        if steps > total:
            raise RecipeError(
                f"{steps} steps; the model knows {total}", fix=f"allowed 1 to {total}"
            )
        visited = tuple(sorted(self._visited(steps, timesteps, section)))
        if visited[-1] >= total:
            is_listed = timesteps is not None and not isinstance(timesteps, str)
            raise RecipeError(
                f"{steps} steps end at timestep {visited[-1]}; the last one is {total - 1}",
                fix="name timesteps that the model knows"
                if is_listed
                else f"use at most {total - 1} steps: this scheduler starts counting at 1",
            )
        alphas = (self.final_alpha, *(self.alphas_cumprod[t] for t in visited))
        return Levels(visited, alphas)

    def around(self, coarse: Levels, steps: int, timesteps: Timesteps = None) -> Levels:
        """The grid that an inversion walks to leave latents at the levels of a coarser one.

        Args:
            coarse: What is sampled.
            steps: Of the inversion: as many are the same grid, others the grid of that number which
                is spread in the same way.
            timesteps: How `coarse` is spread. LCM's are some of the trailing grid's; around a list
                the model's own way is taken.

        Raises:
            RecipeError: More steps than training timesteps, or a timestep of `coarse` is missing.
        """
        if steps == len(coarse):
            return coarse
        spacing = timesteps if isinstance(timesteps, str) else None
        levels = self.levels(steps, "trailing" if spacing == "lcm" else spacing)
        levels.restricted_to(coarse)
        return levels

    def _visited(self, steps: int, timesteps: Timesteps, section: str) -> Sequence[int]:
        from diffusers import DDIMScheduler, LCMScheduler

        if timesteps is not None and not isinstance(timesteps, str):
            return timesteps
        config = dict(self.config) | {"clip_sample": False}
        if timesteps == "lcm":
            scheduler = LCMScheduler.from_config(config)
            most = scheduler.config.original_inference_steps
            if steps > most:
                raise RecipeError(
                    f"{section}.timesteps lcm has {most} timesteps, and {steps} steps need more",
                    fix=f"use at most {most} steps, or {section}.timesteps=trailing",
                )
        else:
            spacing = {} if timesteps is None else {"timestep_spacing": timesteps}
            scheduler = DDIMScheduler.from_config(config | spacing)
        scheduler.set_timesteps(steps)
        # The library's trailing grid counts down in fractions, and for some numbers of steps (103)
        # rounding lets it take one more, to timestep -1.
        return [int(t) for t in scheduler.timesteps if t >= 0]

    @property
    def total(self) -> int:
        return len(self.alphas_cumprod)

    def taught(self, place: int) -> int:
        return place

    def signal(self, timestep: int) -> float:
        return self.alphas_cumprod[timestep]

    def noised(
        self,
        clean: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        alphas = torch.tensor([self.alphas_cumprod[step] for step in timesteps.tolist()])
        alphas = alphas.view(-1, 1, 1, 1).to(clean.device)
        signal, spread = alphas.sqrt(), (1 - alphas).sqrt()
        latents = signal * clean + spread * noise
        if self.prediction_type == "epsilon":
            return latents, noise
        return latents, signal * noise - spread * clean

    def move(
        self,
        latents: Float[Tensor, "b c h w"],
        direction: Float[Tensor, "b c h w"],
        start: float,
        end: float,
    ) -> Float[Tensor, "b c h w"]:
        return move(latents, direction, start, end)

    def direction(
        self, model_output: Float[Tensor, "b c h w"], seen: Float[Tensor, "b c h w"], alpha: float
    ) -> Float[Tensor, "b c h w"]:
        """The noise estimate behind a model output.

        Args:
            model_output: What the UNet returned, float32.
            seen: The latent it was shown.
            alpha: Cumulative alpha of the *timestep* it was shown, which in inversion is one level
                above the latent; a v-model then behaves exactly like its epsilon twin.
        """
        if self.prediction_type == "epsilon":
            return model_output
        return math.sqrt(alpha) * model_output + math.sqrt(1 - alpha) * seen

    def step(
        self,
        latents: Float[Tensor, "b c h w"],
        model_output: Float[Tensor, "b c h w"],
        start: float,
        end: float,
    ) -> Float[Tensor, "b c h w"]:
        """One sampling step, from the level the model was asked about to another.

        For v-models through the denoised estimate, which survives schedules whose noisiest level
        has no signal at all (``alpha = 0``).
        """
        if self.prediction_type == "epsilon":
            return move(latents, model_output, start, end)
        pred_original = math.sqrt(start) * latents - math.sqrt(1 - start) * model_output
        noise = math.sqrt(start) * model_output + math.sqrt(1 - start) * latents
        return math.sqrt(end) * pred_original + math.sqrt(1 - end) * noise


def move(
    latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], start: float, end: float
) -> Float[Tensor, "b c h w"]:
    """Carry latents between two noise levels along a noise estimate: DDIM with eta 0, both ways.

    ``sqrt(end/start) z + (sqrt(1-end) - sqrt(end (1-start)/start)) eps``; affine in ``noise``.

    >>> import torch
    >>> z, eps = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    >>> float(move(z, eps, 0.25, 1.0))
    2.0
    """
    scale = math.sqrt(end / start)
    return scale * latents + (math.sqrt(1 - end) - scale * math.sqrt(1 - start)) * noise
