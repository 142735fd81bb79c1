"""StyleID: the content's queries look at the style's keys and values (Chung et al., CVPR 2024).

Nothing is learned. Content and style are inverted, and at every step their own stored latents pass
the model beside the stylised one: the content leaves its queries, each style its keys and values.
Nothing of that is kept beyond the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.capture import Capture, Captured
from stylecli.backbone.finite import see_finite
from stylecli.backbone.inversion import Trajectory
from stylecli.backbone.layers import self_attention
from stylecli.backbone.model import Backbone
from stylecli.backbone.sampling import Step, walk
from stylecli.recipe.baselines import StyleId
from stylecli.tensors.attention import attention
from stylecli.tensors.channels import adain


def attend(
    query_content: Float[Tensor, "rows heads n d"],
    query: Float[Tensor, "rows heads n d"],
    key_style: Float[Tensor, "_ heads m d"],
    value_style: Float[Tensor, "_ heads m d"],
    gamma: float,
    temperature: float,
) -> Float[Tensor, "rows heads n d"]:
    """What a layer of the stylised picture gives (eq. 5 and 6).

    Args:
        query_content: Of the content at this timestep.
        query: Of the stylised picture.
        key_style: Of the style at this timestep, which may have another number of tokens.
        value_style: Likewise.
        gamma: Share of the content's queries.
        temperature: Factor of the logits.
    """
    preserved = gamma * query_content + (1 - gamma) * query
    return attention(preserved, key_style, value_style, temperature)


def stylise(
    backbone: Backbone,
    content: Trajectory,
    styles: Sequence[Trajectory],
    settings: StyleId,
    *,
    on_step: Callable[[], object] = lambda: None,
) -> list[Float[Tensor, "b c h w"]]:
    """Restyle the contents of a trajectory after each of several pictures.

    Costs a step one row per content, cut short, one row per style, cut short, and one row per
    content and style. Each result is, bit for bit, what it would be without the other styles.

    Args:
        content: One content is a batch of one; no more rows than pass the model together.
        styles: Of one picture each, of any size, on the same levels.
        settings: Where and how strongly.
        on_step: Called after each step.

    Raises:
        RecipeError: A layer that this UNet does not have.
        ItemError: The model returned NaN or infinity.
        WeightsError: Its weights hold them.
    """
    capture = Capture(self_attention(backbone.unet, settings.layers, section="styleid"))
    null = backbone.encode_prompt([""])
    null_rows = null.expand(content.latents.shape[1], -1, -1)
    noise = content.latents[-1]
    starts = [adain(noise, style.latents[-1]) if settings.adain else noise for style in styles]
    alphas = content.levels.alphas

    def advance(latents: Tensor, step: Step) -> Tensor:
        with capture.recording("queries", stop=True) as own:
            backbone.predict(content.latents[step.level], step.timestep, null_rows)
        stepped = []
        for here, style in zip(latents.chunk(len(styles)), styles, strict=True):
            with capture.recording("keys", "values", stop=True) as theirs:
                backbone.predict(style.latents[step.level], step.timestep, null)
            with capture.replaced(_looking(own, theirs, settings)):
                output = backbone.predict(here, step.timestep, null_rows)
            stepped.append(
                backbone.schedule.step(here, output, alphas[step.level], alphas[step.level - 1])
            )
        return torch.cat(stepped)

    with capture.installed(backbone.unet):
        for _step, walked in walk(torch.cat(starts), advance, content.levels):
            latents = walked
            on_step()
    see_finite(latents, backbone)
    return list(latents.chunk(len(styles)))


def _looking(
    content: Captured, style: Captured, settings: StyleId
) -> Callable[[str, Tensor], Tensor]:
    """How a layer answers at one step."""

    def look(layer: str, query: Tensor) -> Tensor:
        return attend(
            content.queries[layer],
            query,
            style.keys[layer],
            style.values[layer],
            settings.gamma,
            settings.temperature,
        )

    return look
