"""DDIM with eta 0, by way of the clean image (Song, Meng and Ermon 2021, eq. 12).

Every move is written as: guess the clean latent, then put noise back for the new level. Inversion
is the same move with the levels swapped. No scheduler object, no algebra saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

Model = Callable[[torch.Tensor, int], torch.Tensor]

TRAIN_STEPS = 1000


def alphas_cumprod(beta_start: float = 0.00085, beta_end: float = 0.012) -> torch.Tensor:
    """Stable Diffusion's noise: the square roots of the betas are evenly spaced."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def leading_grid(steps: int, offset: int = 1) -> list[int]:
    """Ascending timesteps 0, s, 2s, ... plus the offset, with s = T // N."""
    return [k * (TRAIN_STEPS // steps) + offset for k in range(steps)]


def trailing_grid(steps: int) -> list[int]:
    """Ascending timesteps, back from T - 1 in strides of T / N, each rounded half to even."""
    return sorted(round(TRAIN_STEPS - k * TRAIN_STEPS / steps) - 1 for k in range(steps))


def linspace_grid(steps: int) -> list[int]:
    """Ascending timesteps spread evenly over 0 .. T - 1, both ends included."""
    return [round(k * (TRAIN_STEPS - 1) / (steps - 1)) for k in range(steps)]


def level_alphas(timesteps: Sequence[int]) -> list[float]:
    """Cumulative alphas of levels 0 .. N; level 0 has the noise of timestep 0."""
    table = alphas_cumprod().tolist()
    return [table[0], *(table[t] for t in timesteps)]


def noise_in(output: torch.Tensor, seen: torch.Tensor, alpha: float, prediction: str):
    """The noise behind a model output, at the level the model was told.

    ``v = sqrt(a) eps - sqrt(1-a) x0`` and ``seen = sqrt(a) x0 + sqrt(1-a) eps``, solved for eps.
    """
    if prediction == "epsilon":
        return output
    return alpha**0.5 * output + (1 - alpha) ** 0.5 * seen


def renoise(latent: torch.Tensor, noise: torch.Tensor, start: float, end: float) -> torch.Tensor:
    """From one level to another: take the noise out, put it back at the new level's strength."""
    clean = (latent - math.sqrt(1 - start) * noise) / math.sqrt(start)
    return math.sqrt(end) * clean + math.sqrt(1 - end) * noise


def invert(
    clean: torch.Tensor,
    model: Model,
    timesteps: Sequence[int],
    alphas: Sequence[float],
    prediction: str = "epsilon",
) -> list[torch.Tensor]:
    """All levels 0 .. N. Entering level k, the model is told the timestep of level k."""
    path = [clean]
    for k in range(1, len(timesteps) + 1):
        here = path[-1]
        output = model(here, timesteps[k - 1])
        noise = noise_in(output, here, alphas[k], prediction)
        path.append(renoise(here, noise, alphas[k - 1], alphas[k]))
    return path


def sample(
    noisy: torch.Tensor,
    model: Model,
    timesteps: Sequence[int],
    alphas: Sequence[float],
    prediction: str = "epsilon",
) -> torch.Tensor:
    """From level N to level 0. Leaving level k, the model is told the timestep of level k."""
    here = noisy
    for k in range(len(timesteps), 0, -1):
        output = model(here, timesteps[k - 1])
        noise = noise_in(output, here, alphas[k], prediction)
        here = renoise(here, noise, alphas[k], alphas[k - 1])
    return here
