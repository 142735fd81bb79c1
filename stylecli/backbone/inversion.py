"""DDIM inversion: a clean latent walked to noise, every level kept.

Guidance 1 and the empty prompt, so a trajectory depends on the image alone and serves every style.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.levels import Levels, Schedule
from stylecli.backbone.model import Backbone

Predict = Callable[[Tensor, int], Tensor]
Pairing = Literal["target", "matched"]
# A refinement pass that moves the latent by less than this share has converged.
CONVERGED = 1e-4


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The latents some images pass through on their way to noise.

    Attributes:
        levels: The grid, strictly increasing.
        latents: ``latents[0]`` is the clean encoding, ``latents[k]`` the latent at
            ``levels.timesteps[k - 1]``; scaled, float32.
    """

    levels: Levels
    latents: Float[Tensor, "levels b c h w"]

    def at(self, timestep: int) -> Float[Tensor, "b c h w"]:
        """The latents at one timestep.

        Raises:
            KeyError: The inversion never visited it; a neighbour is not substituted.
        """
        if timestep not in self.levels.timesteps:
            raise KeyError(timestep)
        return self.latents[self.levels.timesteps.index(timestep) + 1]


@torch.inference_mode()
def invert(
    clean: Float[Tensor, "b c h w"],
    predict: Predict,
    schedule: Schedule,
    levels: Levels,
    *,
    keep: Levels | None = None,
    pairing: Pairing = "target",
    refine_iters: int = 0,
    on_step: Callable[[], object] = lambda: None,
    on_warning: Callable[[str], object] = lambda _: None,
) -> Trajectory:
    """Walk latents from level 0 to ``N``: ``Z[k] = move(Z[k-1], eps(Z[k-1], t_k), k-1 -> k)``.

    Args:
        clean: Scaled latents, float32.
        predict: Raw model output for latents at a timestep, empty prompt.
        schedule: Turns model outputs into what latents are moved along.
        levels: The grid to walk.
        keep: A coarser grid: only its levels are stored.
        pairing: The timestep the model is told: of the level being entered (``target``, as the
            reference code and DDIMInverseScheduler), or of the one being left (``matched``).
        refine_iters: Fixed-point passes per level; each asks the model again at the level entered,
            so that sampling retraces the trajectory.
        on_step: Called after each level.
        on_warning: Told when refinement moves away from its fixed point.

    Raises:
        RecipeError: `keep` has a timestep that `levels` lacks.
    """
    stored = levels.restricted_to(keep) if keep is not None else list(range(len(levels) + 1))
    latents = clean.float()
    kept = [latents]
    for k in range(1, len(levels) + 1):
        start, end = levels.alphas[k - 1], levels.alphas[k]
        seen_level = k if pairing == "target" else k - 1
        timestep = levels.timesteps[seen_level - 1] if seen_level else 0
        alpha = levels.alphas[seen_level] if seen_level else schedule.signal(0)
        noise = schedule.direction(predict(latents, timestep), latents, alpha)
        entered = schedule.move(latents, noise, start, end)
        # Measured against where the step starts: passes that grow would hide their own changes.
        best, scale = entered, _norms(latents)
        last_change, is_open = torch.full_like(scale, float("inf")), scale == scale
        for _ in range(refine_iters):
            timestep, alpha = levels.timesteps[k - 1], end
            noise = schedule.direction(predict(best, timestep), best, alpha)
            entered = schedule.move(latents, noise, start, end)
            change = _norms(entered - best) / scale
            if (is_open & (change > last_change)).any():
                on_warning(f"refinement diverges at timestep {timestep}; the best pass is kept")
            # Each image on its own, so that it does not matter which others share the batch.
            is_open = is_open & (change <= last_change)
            best = torch.where(is_open, entered, best)
            last_change = torch.where(is_open, change, last_change)
            is_open = is_open & (change >= CONVERGED)
            if not is_open.any():
                break
        latents = best
        if k in stored:
            kept.append(latents)
        on_step()
    return Trajectory(keep or levels, torch.stack(kept))


def _norms(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 1 1"]:
    norms: Tensor = torch.linalg.vector_norm(latents, dim=(1, 2, 3), keepdim=True)
    return norms


@torch.inference_mode()
def reconstruct(
    trajectory: Trajectory, predict: Predict, schedule: Schedule
) -> Float[Tensor, "b c h w"]:
    """Sample back from the last level without guidance: what the trajectory loses on the way."""
    levels, latents = trajectory.levels, trajectory.latents[-1]
    for k in range(len(levels), 0, -1):
        output = predict(latents, levels.timesteps[k - 1])
        latents = schedule.step(latents, output, levels.alphas[k], levels.alphas[k - 1])
    return latents


def null_prediction(backbone: Backbone, rows: int) -> Predict:
    """The model under the empty prompt, one row per latent."""
    prompt_embeds = backbone.encode_prompt([""]).expand(rows, -1, -1)

    def predict(latents: Tensor, timestep: int) -> Tensor:
        return backbone.predict(latents, timestep, prompt_embeds)

    return predict
