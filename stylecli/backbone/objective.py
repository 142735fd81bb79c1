"""The training objective of a diffusion model (DiffStyler eq. 3), for whatever is being trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from stylecli.backbone.levels import Prediction
from stylecli.backbone.model import Backbone

MIN_SNR = 5.0  # Hang et al. 2023, gamma
# Share of times that are drawn by how much they count; the others evenly, so that none is rare.
BY_WEIGHT = 0.7


def drawn(
    kept: Float[Tensor, " t"], prediction: Prediction = "epsilon"
) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"]]:
    """Of each timestep, how likely it is to be drawn and how much it counts then.

    Both together are the min-SNR weight of an evenly drawn time, of mean 1.

    Args:
        kept: Cumulative alphas.
        prediction: What the model answers with.
    """
    ratio = kept / (1 - kept)
    if prediction == "v_prediction":
        counts = ratio.clamp(max=MIN_SNR) / (ratio + 1)
    else:
        counts = (MIN_SNR / ratio).clamp(max=1)
    counts = counts / counts.sum()
    chances = BY_WEIGHT * counts + (1 - BY_WEIGHT) / len(counts)
    return chances, counts / chances


def diffusion_loss(
    backbone: Backbone,
    clean: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    prompt_embeds: Float[Tensor, "b tokens width"],
) -> Float[Tensor, " b"]:
    """Mean squared error of each row, in float32.

    The papers print an unsquared norm; their code and everybody else's squares it. A device is not
    waited for where all but the embeddings are on the CPU; flows wait for the prompts' lengths.
    """
    device = backbone.device
    latents, target = (
        _sent(rows, device) for rows in backbone.schedule.noised(clean, noise, timesteps)
    )
    output = answer(backbone, latents, timesteps, prompt_embeds)
    return F.mse_loss(output, target.float(), reduction="none").mean(dim=(1, 2, 3))


def answer(
    backbone: Backbone,
    latents: Float[Tensor, "b _seen h w"],
    timesteps: Int[Tensor, " b"],
    prompt_embeds: Float[Tensor, "b tokens width"],
) -> Float[Tensor, "b c h w"]:
    """The UNet's raw output in float32, a timestep a row, where gradients are wanted.

    Editors are shown more channels than they answer with.
    """
    with torch.autocast(
        backbone.device.type, dtype=backbone.dtype, enabled=backbone.dtype != torch.float32
    ):
        output = backbone.call(
            latents.to(backbone.dtype), _sent(timesteps, backbone.device), prompt_embeds
        )
    return output.float()


def _sent(rows: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda" or rows.is_cuda:
        return rows.to(device)
    return rows.pin_memory().to(device, non_blocking=True)
