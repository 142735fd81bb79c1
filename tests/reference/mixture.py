"""A denoiser that is exactly right: data drawn from a mixture of Gaussians, in float64.

With ``x0 ~ sum_j w_j N(m_j, s_j^2 I)`` and ``x_t = sqrt(a) x0 + sqrt(1-a) eps``, the noisy law is a
mixture again, ``sum_j w_j N(sqrt(a) m_j, (a s_j^2 + 1 - a) I)``, and the best noise estimate is
``E[eps | x_t] = -sqrt(1-a) grad log p_t(x_t)``. Random UNets are no denoisers; this one is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class Mixture:
    """Independent per position: each channel vector is one draw from the mixture."""

    def __init__(
        self,
        alphas_cumprod: Sequence[float],
        *,
        components: int = 8,
        channels: int = 4,
        spread: float = 1.0,
        width: float = 0.2,
        seed: int = 0,
    ) -> None:
        random = torch.Generator().manual_seed(seed)
        self.alphas_cumprod = alphas_cumprod
        self.means = spread * torch.randn(
            components, channels, generator=random, dtype=torch.float64
        )
        share = 0.5 + torch.rand(components, generator=random, dtype=torch.float64)
        self.deviations = width * share
        weights = 0.5 + torch.rand(components, generator=random, dtype=torch.float64)
        self.weights = weights / weights.sum()

    def draw(self, height: int, width: int, seed: int) -> torch.Tensor:
        """One picture ``[1, channels, height, width]``."""
        random = torch.Generator().manual_seed(seed)
        count = height * width
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=random)
        noise = torch.randn(count, self.means.shape[1], generator=random, dtype=torch.float64)
        points = self.means[chosen] + self.deviations[chosen, None] * noise
        return points.T.reshape(1, -1, height, width)

    def noise(self, latents: torch.Tensor, timestep: int) -> torch.Tensor:
        """``E[eps | latents]`` at a timestep."""
        alpha = self.alphas_cumprod[timestep]
        points = latents.double().movedim(1, -1).unsqueeze(-2)  # [..., 1, c] against [j, c]
        centres = math.sqrt(alpha) * self.means
        variances = alpha * self.deviations**2 + 1 - alpha
        offsets = points - centres
        log_density = (
            self.weights.log()
            - 0.5 * self.means.shape[1] * variances.log()
            - 0.5 * offsets.square().sum(dim=-1) / variances
        )
        responsibilities = log_density.softmax(dim=-1)
        score = -(responsibilities.unsqueeze(-1) * offsets / variances[:, None]).sum(dim=-2)
        return (-math.sqrt(1 - alpha) * score).movedim(-1, 1)

    def velocity(self, latents: torch.Tensor, timestep: int) -> torch.Tensor:
        """The same knowledge as a v-model tells it: ``v = (eps - sqrt(1-a) x_t) / sqrt(a)``."""
        alpha = self.alphas_cumprod[timestep]
        noise = self.noise(latents, timestep)
        return (noise - math.sqrt(1 - alpha) * latents.double()) / math.sqrt(alpha)
