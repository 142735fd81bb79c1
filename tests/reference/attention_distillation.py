"""Attention Distillation the long way: every matrix formed, and Adam spelled out.

Zhou et al. 2025, the form that optimises a latent. At a timestep, in every chosen layer,

    T = softmax(s Q K_s^T / sqrt(d)) V_s        of a constant Q
    L = sum_l mean |O_l - T_l| + lambda sum_l mean |Q_l - Qc_l|

with Q and O of the latent, K_s and V_s of the style's clean latent, Qc of the content's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from . import attention
from .styleid import LAYERS, noted

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def attended(query, key, value):
    return torch.einsum("rhnm,rhmd->rhnd", attention.matrix(query, key), value)


def loss(latent: Mapping, content: Mapping, style: Mapping, weight: float, scale: float = 1.0):
    """Of one picture: ``(query, key, value)`` of each layer, by name.

    Args:
        latent: Of what is changed, with its graph.
        content: Of the content.
        style: Of the style.
        weight: Lambda.
        scale: Factor of the target's logits.
    """
    to_style, to_content = 0.0, 0.0
    for name, (query, key, value) in latent.items():
        _, key_style, value_style = style[name]
        fixed = query.detach()
        target = attended(scale * fixed, key_style, value_style)
        difference = attended(query, key, value) - target
        to_style = to_style + difference.abs().sum() / difference.numel()
        apart = query - content[name][0]
        to_content = to_content + apart.abs().sum() / apart.numel()
    return to_style + weight * to_content


@dataclass
class Adam:
    """Kingma and Ba 2015, algorithm 1, for one tensor."""

    lr: float
    first: torch.Tensor
    second: torch.Tensor
    count: int = 0

    def step(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.first = BETA_1 * self.first + (1 - BETA_1) * gradient
        self.second = BETA_2 * self.second + (1 - BETA_2) * gradient**2
        mean = self.first / (1 - BETA_1**self.count)
        spread = self.second / (1 - BETA_2**self.count)
        return value - self.lr * mean / (spread.sqrt() + EPSILON)


def distil(
    unet,
    content: torch.Tensor,
    style: torch.Tensor,
    timesteps: Sequence[int],
    *,
    null: torch.Tensor,
    lr: float,
    weight: float,
    scale: float = 1.0,
    layers: Sequence[str] = LAYERS,
) -> list[torch.Tensor]:
    """The latent after every update; clean latents of one content and one style.

    Args:
        timesteps: In the order they are visited.
    """
    here = content.clone()
    adam = Adam(lr, torch.zeros_like(here), torch.zeros_like(here))
    path = []
    for t in timesteps:
        with torch.no_grad(), noted(unet, layers) as of_content:
            unet(content, t, encoder_hidden_states=null)
        with torch.no_grad(), noted(unet, layers) as of_style:
            unet(style, t, encoder_hidden_states=null)
        leaf = here.clone().requires_grad_()
        with noted(unet, layers) as of_latent:
            unet(leaf, t, encoder_hidden_states=null)
        loss(of_latent, of_content, of_style, weight, scale).backward()
        here = adam.step(here, leaf.grad)
        path.append(here)
    return path
