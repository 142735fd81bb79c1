"""StyleID the long way: every attention matrix formed, every picture's pass run to its end.

Chung, Hyun and Heo 2024. Content and style have been inverted. A layer of the stylised picture uses
``softmax(tau Q~ K_s^T / sqrt(d)) V_s`` with ``Q~ = gamma Q_c + (1 - gamma) Q_cs`` (eq. 5 and 6),
and the first latent is the content's noise with the style's channel statistics (eq. 7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch

from . import attention, ddim

# Stable Diffusion's decoder layers 6 to 11, all by hand.
LAYERS = [
    f"up_blocks.{block}.attentions.{index}.transformer_blocks.0.attn1.processor"
    for block in (2, 3)
    for index in (0, 1, 2)
]


def attend(query_content, query, key_style, value_style, gamma: float, temperature: float):
    """One layer, all of its matrix written out."""
    mixed = gamma * query_content + (1 - gamma) * query
    weights = attention.matrix(temperature * mixed, key_style)
    return torch.einsum("rhnm,rhmd->rhnd", weights, value_style)


def adain(content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """Eq. 7, one channel at a time."""
    channels = []
    for own, theirs in zip(content[0], style[0], strict=True):
        scaled = (own - own.mean()) / own.std()
        channels.append(scaled * theirs.std() + theirs.mean())
    return torch.stack(channels)[None]


class Layer:
    """Attention that notes its queries, keys and values, and may be answered for."""

    def __init__(self, name: str, notes: dict, answer: Callable | None) -> None:
        self.name = name
        self.notes = notes
        self.answer = answer

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_: object):
        def project(linear):
            return attention.split_heads(linear(hidden_states), attn.heads)

        query, key, value = (project(linear) for linear in (attn.to_q, attn.to_k, attn.to_v))
        self.notes[self.name] = query, key, value
        if self.answer is None:
            out = torch.einsum("rhnm,rhmd->rhnd", attention.matrix(query, key), value)
        else:
            out = self.answer(self.name, query)
        return attn.to_out[0](attention.join_heads(out))


@contextmanager
def noted(unet, layers: Sequence[str], answer: Callable | None = None):
    """Inside, what those layers compute is in the dictionary this gives."""
    before = dict(unet.attn_processors)
    notes: dict = {}
    changed = {name: Layer(name, notes, answer) for name in layers}
    unet.set_attn_processor({**before, **changed})
    try:
        yield notes
    finally:
        unet.set_attn_processor(before)


@torch.no_grad()
def stylise(
    unet,
    content: Sequence[torch.Tensor],
    style: Sequence[torch.Tensor],
    timesteps: Sequence[int],
    alphas: Sequence[float],
    *,
    prediction: str,
    null: torch.Tensor,
    gamma: float,
    temperature: float,
    layers: Sequence[str] = LAYERS,
) -> torch.Tensor:
    """One content after one style; both as latents at levels 0 .. N."""
    here = adain(content[-1], style[-1])
    for k in range(len(timesteps), 0, -1):
        t = timesteps[k - 1]
        with noted(unet, layers) as of_content:
            unet(content[k], t, encoder_hidden_states=null)
        with noted(unet, layers) as of_style:
            unet(style[k], t, encoder_hidden_states=null)

        def answer(name, query, of_content=of_content, of_style=of_style):
            _, key, value = of_style[name]
            return attend(of_content[name][0], query, key, value, gamma, temperature)

        with noted(unet, layers, answer):
            output = unet(here, t, encoder_hidden_states=null).sample
        noise = ddim.noise_in(output, here, alphas[k], prediction)
        here = ddim.renoise(here, noise, alphas[k], alphas[k - 1])
    return here
