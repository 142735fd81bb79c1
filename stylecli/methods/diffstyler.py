"""DiffStyler: a style LoRA, steered by the content image's own pass (AAAI 2026 and arXiv v1).

Per step, the base model (no LoRA, empty prompt) looks at the stored latent ``Z[k]`` of the content
and leaves behind the feature of decoder layer 4 and the queries and keys of layers 4 to 11; then
the LoRA model predicts noise for the stylised latent with those in place (eq. 4 to 6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.attention import Exchange
from stylecli.backbone.inversion import Trajectory
from stylecli.backbone.layers import decoder_layers, select
from stylecli.backbone.model import Backbone
from stylecli.backbone.sampling import Step, denoise, guided
from stylecli.errors import ItemError
from stylecli.recipe.schema import Injection


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the result should look like.

    Attributes:
        weights: Adapter name -> strength; empty is the base model.
        prompt: Usually the caption the LoRA was trained with.
        negative: Negative prompt; unused at guidance 1.
        guidance: Classifier-free guidance scale; 1 is off.
        style_noise: Inverted latent of the style image: its channel statistics replace those of the
            first latent (StyleID eq. 7). None keeps the content's.
    """

    weights: Mapping[str, float]
    prompt: str
    negative: str = ""
    guidance: float = 1.0
    style_noise: Float[Tensor, "1 c h w"] | None = None


def kappa(
    step: int, *, steps: int, injection: Injection, timestep: int, num_train_timesteps: int
) -> float:
    """The target's share of its own attention at one step (eq. 5): 0 is all source, 1 is none.

    The paper's ``kappa_t`` divides by ``T - T_a`` what it counts down in timesteps; only in *steps*
    does it reach 1 at the end for any threshold. ``adaptive`` counts steps, ``time`` repairs the
    denominator, ``printed`` is the formula as it stands, cut to [0, 1].

    >>> kappa(49, steps=50, injection=Injection(), timestep=1, num_train_timesteps=1000)
    1.0
    """
    start = injection.attn_steps
    if step < start:
        return 0.0
    threshold = num_train_timesteps * (1 - start / steps)
    match injection.attn_tail:
        case "full":
            return 0.0
        case "hard":
            return 1.0
        case "adaptive":
            share = (step + 1 - start) / (steps - start)
        case "time":
            share = (threshold - timestep) / threshold if threshold else 1.0
        case "printed":
            rest = num_train_timesteps - threshold
            share = (threshold - timestep) / rest if rest else 1.0
    return min(1.0, max(0.0, share))


def adain(
    content: Float[Tensor, "b c h w"], style: Float[Tensor, "1 c hs ws"]
) -> Float[Tensor, "b c h w"]:
    """Give latents the channel means and deviations of others (StyleID eq. 7)."""

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(dim=(2, 3), keepdim=True), x.std(dim=(2, 3), keepdim=True)

    mean, deviation = statistics(content)
    style_mean, style_deviation = statistics(style)
    return (content - mean) / deviation * style_deviation + style_mean


def transfer(
    backbone: Backbone,
    adapters: Adapters,
    trajectory: Trajectory,
    look: Look,
    injection: Injection,
    *,
    on_step: Callable[[], object] = lambda: None,
) -> Float[Tensor, "b c h w"]:
    """Restyle the contents of a trajectory; one content is a batch of one.

    Costs one source row per content for every step that injects anything, and two target rows (one
    at guidance 1, or when both prompts are the same).

    Returns:
        Latents of the stylised images.

    Raises:
        RecipeError: A layer that this UNet does not have.
        ItemError: The model returned NaN or infinity.
    """
    levels = trajectory.levels
    contents = trajectory.latents.shape[1]
    layers = decoder_layers(backbone.unet)
    attention = [
        name
        for layer in select(layers, injection.attn_layers, key="attn_layers", with_attention=True)
        for name in layer.self_attention
    ] + [
        name
        for layer in select(layers, injection.attn_cross, key="attn_cross", with_attention=True)
        for name in layer.cross_attention
    ]
    features = select(layers, injection.feature_layers, key="feature_layers", with_attention=False)
    shares = [
        kappa(
            step,
            steps=len(levels),
            injection=injection,
            timestep=levels.timesteps[len(levels) - step - 1],
            num_train_timesteps=len(backbone.schedule.alphas_cumprod),
        )
        if attention
        else 1.0
        for step in range(len(levels))
    ]

    def injects_features(step: int) -> bool:
        return bool(features) and step < injection.feature_steps

    active = [i for i in range(len(levels)) if injects_features(i) or shares[i] < 1]
    last_active = max(active, default=-1)

    is_guided = look.guidance != 1 and look.prompt != look.negative
    prompts = [look.negative, look.prompt] if is_guided else [look.prompt]
    prompt_embeds = backbone.encode_prompt(prompts).repeat_interleave(contents, dim=0)
    null_embeds = backbone.encode_prompt([""]).expand(contents, -1, -1)
    exchange = Exchange(
        features=features, attention=attention, tap=injection.feature_tap, mix=injection.attn_mix
    )
    replays = injection.source == "replay"
    source_latents = trajectory.latents[-1]

    def look_at_source(step: Step) -> None:
        nonlocal source_latents
        if step.index > last_active or (replays and step.index not in active):
            return
        if replays:
            source_latents = trajectory.latents[step.level]
        with (
            adapters.use({}),
            exchange.taking(
                features=injects_features(step.index),
                attention=shares[step.index] < 1,
                stop=replays,
            ),
        ):
            output = backbone.predict(source_latents, step.timestep, null_embeds)
        if not replays:
            source_latents = backbone.schedule.step(
                source_latents, output, levels.alphas[step.level], levels.alphas[step.level - 1]
            )

    def predict(latents: Tensor, step: Step) -> Tensor:
        look_at_source(step)
        rows = latents.repeat(2, 1, 1, 1) if is_guided else latents
        with (
            adapters.use(look.weights),
            exchange.giving(features=injects_features(step.index), kappa=shares[step.index]),
        ):
            output = backbone.predict(rows, step.timestep, prompt_embeds)
        if is_guided:
            uncond, cond = output.chunk(2)
            return guided(uncond, cond, look.guidance)
        return output

    latents = trajectory.latents[-1]
    if look.style_noise is not None:
        latents = adain(latents, look.style_noise)
    with exchange.installed(backbone.unet):
        for _step, stepped in denoise(latents, predict, backbone.schedule, levels):
            latents = stepped
            on_step()
    if not torch.isfinite(latents).all():
        raise ItemError("the model returned NaN or infinity", fix="use --dtype float32 or bfloat16")
    return latents
