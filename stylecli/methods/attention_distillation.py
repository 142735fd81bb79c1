"""Attention Distillation: latents are led to where their attention is the style's.

Zhou et al., CVPR 2025, in the form that only optimises: nothing is sampled, and no noise is added.
The latents of the content are changed by Adam, one update at each of many timesteps, until their
self-attention gives what the same queries would find in the style, while the queries themselves
stay near the content's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.capture import Capture, Captured, Part
from stylecli.backbone.layers import self_attention
from stylecli.backbone.model import Backbone
from stylecli.backbone.updates import checkpointing, gradients, loss_scale
from stylecli.errors import ItemError
from stylecli.recipe.baselines import Distill
from stylecli.tensors.attention import attention
from stylecli.tensors.losses import over_layers


def targets(
    queries: Mapping[str, Float[Tensor, "rows _h _n _d"]], style: Captured, scale: float
) -> dict[str, Float[Tensor, "rows _h _n _d"]]:
    """What the same queries find in the style, by layer; without gradients (eq. 3)."""
    with torch.no_grad():
        return {
            layer: attention(query.detach(), style.keys[layer], style.values[layer], scale)
            for layer, query in queries.items()
        }


def losses(
    captured: Captured, content: Captured, style: Captured, weight: float, scale: float = 1.0
) -> Float[Tensor, " rows"]:
    """The loss of every row: distance to the style's attention, and to the content's queries.

    Args:
        captured: Queries and outputs of the latents, with gradients.
        content: Queries; a row for each, or one for all.
        style: Keys and values; likewise.
        weight: Of the content's part (lambda).
        scale: Factor of the target's logits.
    """
    wanted = targets(captured.queries, style, scale)
    distilled = over_layers(captured.outputs, wanted)
    return distilled + weight * over_layers(captured.queries, content.queries)


def one_update(
    latents: Float[Tensor, "b c h w"],
    optimiser: torch.optim.Optimizer,
    look: Callable[[Tensor], Captured],
    loss: Callable[[Captured], Float[Tensor, " b"]],
    *,
    scale: float = 1.0,
) -> Float[Tensor, " b"]:
    """Change latents once, in place, and return their losses before.

    Args:
        latents: A leaf that the optimiser knows, alone.
        look: Queries and outputs of the latents at a timestep.
        loss: Of each row.
        scale: What the loss is multiplied with on its way through the model.
    """
    with torch.enable_grad():
        each = loss(look(latents))
        (latents.grad,) = gradients(each, [latents], scale)
    optimiser.step()
    return each.detach()


def distil(
    backbone: Backbone,
    content: Float[Tensor, "b c h w"],
    styles: Sequence[Float[Tensor, "1 c _h _w"]],
    settings: Distill,
    *,
    on_step: Callable[[], object] = lambda: None,
) -> list[Float[Tensor, "b c h w"]]:
    """Restyle contents after each of several pictures.

    Costs an update one row per content and one per style, both cut short, and for every content and
    style a row forwards and backwards. Each result is, bit for bit, what it would be without the
    other styles.

    Args:
        content: Clean latents; no more rows than pass the model together.
        styles: Clean latents of one picture each, of any size.
        settings: How many updates, and how they weigh.
        on_step: Called after each timestep.

    Raises:
        RecipeError: A layer that this UNet does not have, or more updates than timesteps.
        ItemError: The updates ended in NaN or infinity.
    """
    capture = Capture(self_attention(backbone.unet, settings.layers, section="distill"))
    timesteps = reversed(backbone.schedule.levels(settings.iterations).timesteps)
    # Clones: what was made in inference mode can be no part of a graph.
    null = backbone.encode_prompt([""]).clone()
    rows = null.expand(len(content), -1, -1)
    found = [content.float().clone().requires_grad_() for _ in styles]
    optimisers = [torch.optim.Adam([latents], lr=settings.lr) for latents in found]
    stop = not settings.gradient_checkpointing

    def seen(
        latents: Tensor, timestep: int, prompt: Tensor, *parts: Part, stop: bool = True
    ) -> Captured:
        with capture.recording(*parts, stop=stop) as captured:
            backbone.predict(latents, timestep, prompt)
        return captured

    def look(latents: Tensor, timestep: int) -> Captured:
        return seen(latents, timestep, rows, "queries", "outputs", stop=stop)

    with capture.installed(backbone.unet), checkpointing(backbone.unet, not stop):
        for timestep in timesteps:
            with torch.no_grad():
                own = seen(content, timestep, rows, "queries")
            for latents, optimiser, style in zip(found, optimisers, styles, strict=True):
                with torch.no_grad():
                    theirs = seen(style, timestep, null, "keys", "values")
                one_update(
                    latents,
                    optimiser,
                    partial(look, timestep=timestep),
                    partial(
                        losses,
                        content=own,
                        style=theirs,
                        weight=settings.content_weight,
                        scale=settings.scale,
                    ),
                    scale=loss_scale(backbone.dtype),
                )
            on_step()
    if not all(torch.isfinite(latents).all() for latents in found):
        raise ItemError("the updates ended in NaN or infinity", fix="lower distill.lr")
    return [latents.detach() for latents in found]
