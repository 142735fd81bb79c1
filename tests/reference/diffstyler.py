"""DiffStyler the long way: three rows in one batch, two UNets, every attention matrix formed.

Row 0 is the content's own pass (base weights, empty prompt, stored latent ``Z[k]``); the other rows
are the stylised latent under each prompt (merged weights ``W + scale B A``). Where the method lets
the content steer, row 0's feature or attention matrix replaces or joins the others' (eq. 4 to 6).

Layers are named by hand for Stable Diffusion's decoder: layer ``n`` is resnet ``n % 3`` of up block
``n // 3``, and blocks 1 to 3 own attention.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from . import attention, ddim


@dataclass(frozen=True)
class Settings:
    """What is injected, where and how long, all spelled out."""

    feature_layers: Sequence[int]
    feature_steps: int
    self_layers: Sequence[int]
    cross_layers: Sequence[int]
    kappas: Sequence[float]
    tap: str = "residual"
    mix: str = "probs"
    source: str = "replay"


def kappas(tail: str, steps: int, threshold: int, timesteps: Sequence[int]) -> list[float]:
    """Eq. 5's share of the target's own attention for every step, noisiest first.

    Args:
        tail: Which reading of eq. 5.
        steps: N.
        threshold: ``S_a``: steps of full injection.
        timesteps: Ascending.
    """
    shares = []
    total = float(ddim.TRAIN_STEPS)
    last_full = total * (1 - threshold / steps)  # T_a, counted in timesteps
    for step in range(steps):
        t = timesteps[steps - 1 - step]
        if step < threshold or tail == "full":
            share = 0.0
        elif tail == "hard":
            share = 1.0
        elif tail == "adaptive":
            share = (step + 1 - threshold) / (steps - threshold)
        elif tail == "time":
            share = (last_full - t) / last_full
        else:  # as printed; with no threshold its denominator is 0 and the limit is 1
            share = (last_full - t) / (total - last_full) if threshold else 1.0
        shares.append(min(1.0, max(0.0, share)))
    return shares


def merged(unet: torch.nn.Module, lora: Mapping[str, torch.Tensor], scale: float):
    """A second UNet whose projections are ``W + scale B A``.

    Args:
        unet: Without adapters; left as it is.
        lora: ``<module>.lora_A.weight`` and ``<module>.lora_B.weight``.
        scale: Strength times alpha over rank.
    """
    twin = copy.deepcopy(unet)
    for key, a in lora.items():
        if not key.endswith(".lora_A.weight"):
            continue
        module = key.removesuffix(".lora_A.weight")
        b = lora[f"{module}.lora_B.weight"]
        twin.get_submodule(module).weight.data += scale * (b @ a)
    return twin


class Rows:
    """Attention in which row 0 uses the base weights and the others the merged ones."""

    def __init__(self, base, mix: str, kappa: float | None) -> None:
        self.base = base
        self.mix = mix
        self.kappa = kappa  # None: no injection here

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_: object):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def project(name: str, x: torch.Tensor) -> torch.Tensor:
            first, rest = getattr(self.base, name), getattr(attn, name)
            both = torch.cat([first(x[:1]), rest(x[1:])])
            return attention.split_heads(both, attn.heads)

        query, key = project("to_q", hidden_states), project("to_k", context)
        value = project("to_v", context)
        own = torch.einsum("rhnm,rhmd->rhnd", attention.matrix(query, key), value)
        if self.kappa is not None:
            targets = len(query) - 1
            source = tuple(x[:1].repeat(targets, 1, 1, 1) for x in (query, key))
            mixing = {
                "probs": attention.mix_matrices,
                "qk": attention.mix_queries_and_keys,
            }[self.mix]
            mixed = mixing(source, (query[1:], key[1:]), value[1:], self.kappa)
            own = torch.cat([own[:1], mixed])
        return attn.to_out[0](attention.join_heads(own))


def attention_names(kind: str, layers: Sequence[int]) -> set[str]:
    """Processor names of decoder layers' ``attn1`` or ``attn2``."""
    return {
        f"up_blocks.{n // 3}.attentions.{n % 3}.transformer_blocks.0.{kind}.processor"
        for n in layers
    }


@contextmanager
def wired(unet, styled, settings: Settings, step: int):
    """The merged UNet, wired for one step."""
    injected = attention_names("attn1", settings.self_layers)
    injected |= attention_names("attn2", settings.cross_layers)
    styled.set_attn_processor(
        {
            name: Rows(
                unet.get_submodule(name.removesuffix(".processor")),
                settings.mix,
                settings.kappas[step] if name in injected else None,
            )
            for name in styled.attn_processors
        }
    )

    def share_first_row(_module, _inputs, output):
        return output[:1].expand_as(output)

    hooks = []
    if step < settings.feature_steps:
        for n in settings.feature_layers:
            resnet = styled.up_blocks[n // 3].resnets[n % 3]
            place = resnet.conv2 if settings.tap == "residual" else resnet
            hooks.append(place.register_forward_hook(share_first_row))
    try:
        yield styled
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def transfer(
    unet,
    styled,
    path: Sequence[torch.Tensor],
    timesteps: Sequence[int],
    alphas: Sequence[float],
    *,
    prediction: str,
    null: torch.Tensor,
    uncond: torch.Tensor,
    cond: torch.Tensor,
    guidance: float,
    settings: Settings,
) -> torch.Tensor:
    """The stylised latent of one content.

    Args:
        unet: Base weights.
        styled: From `merged`.
        path: The content's latents at levels 0 .. N.
        timesteps: Ascending.
        alphas: Of levels 0 .. N.
        prediction: ``epsilon`` or ``v_prediction``.
        null: Embedding of the empty prompt, ``[1, tokens, width]``.
        uncond: Of the negative prompt.
        cond: Of the prompt.
        guidance: ``u + g (c - u)``, for every g, 1 included.
        settings: What is injected.
    """
    steps = len(timesteps)
    here, own_path = path[-1], path[-1]
    for step in range(steps):
        k = steps - step
        source = path[k] if settings.source == "replay" else own_path
        rows = torch.cat([source, here, here])
        with wired(unet, styled, settings, step) as model:
            output = model(
                rows, timesteps[k - 1], encoder_hidden_states=torch.cat([null, uncond, cond])
            ).sample
        from_source, u, c = output.chunk(3)
        guided = u + guidance * (c - u)
        noise = ddim.noise_in(guided, here, alphas[k], prediction)
        here = ddim.renoise(here, noise, alphas[k], alphas[k - 1])
        noise = ddim.noise_in(from_source, own_path, alphas[k], prediction)
        own_path = ddim.renoise(own_path, noise, alphas[k], alphas[k - 1])
    return here


@dataclass(frozen=True)
class Layer:
    """One region of eq. 8: a mask after overlaps, and for every step a model with its words."""

    share: torch.Tensor
    styled: Sequence[torch.nn.Module]
    uncond: Sequence[torch.Tensor]
    cond: Sequence[torch.Tensor]
    guidance: float


@torch.no_grad()
def paint(
    unet,
    layers: Sequence[Layer],
    rest: torch.Tensor,
    path: Sequence[torch.Tensor],
    timesteps: Sequence[int],
    alphas: Sequence[float],
    *,
    prediction: str,
    null: torch.Tensor,
    settings: Settings,
) -> torch.Tensor:
    """Eq. 8 in every layer's noise; what no layer covers (`rest`) is the path itself, as in eq. 7.

    A background that is denoised is a layer like any other, of the base model, and leaves no rest.
    """
    here = path[-1]
    for step in range(len(timesteps)):
        k = len(timesteps) - step
        blended = torch.zeros_like(here)
        for layer in layers:
            rows = torch.cat([path[k], here, here])
            words = torch.cat([null, layer.uncond[step], layer.cond[step]])
            with wired(unet, layer.styled[step], settings, step) as model:
                output = model(rows, timesteps[k - 1], encoder_hidden_states=words).sample
            _, u, c = output.chunk(3)
            guided = u + layer.guidance * (c - u)
            noise = ddim.noise_in(guided, here, alphas[k], prediction)
            blended = blended + layer.share * noise
        covered = sum(layer.share for layer in layers)
        # Where nothing is covered the noise is of no use; elsewhere the shares may not sum to one.
        noise = blended / torch.where(covered > 0, covered, torch.ones_like(covered))
        stepped = ddim.renoise(here, noise, alphas[k], alphas[k - 1])
        here = covered * stepped + rest * path[k - 1]
    return here
