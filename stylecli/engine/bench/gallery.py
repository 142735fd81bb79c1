"""StyleGallery's third stage on a scene: ours, and the authors' way of computing it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylecli.backbone.model import Backbone
from stylecli.engine.bench import reference
from stylecli.engine.bench.scene import Scene
from stylecli.engine.bench.timing import Watch
from stylecli.methods.stylegallery.match import Match
from stylecli.methods.stylegallery.optimise import Reference, Subject, stylise
from stylecli.recipe.gallery import Gallery
from stylecli.recipe.schema import Recipe
from stylecli.tensors.seeds import generator

# Of the method's cost model: one reference, and as many regions of either picture.
REGIONS = 6


def settings(recipe: Recipe, **changes: Any) -> Gallery:
    """The recipe's, with one update at each timestep, in the layers that the reference knows."""
    fixed = {"mode": "optimize", "iterations": 1, "refresh": 1, "layers": "last_six"}
    return Gallery.model_validate(recipe.gallery.model_dump() | fixed | changes)


def stripes(cells: Float[Tensor, "1 c h w"]) -> Int[Tensor, "h w"]:
    """Labels of equal regions, one below the other."""
    height, width = cells.shape[-2:]
    rows = torch.arange(height) * REGIONS // height + 1
    return rows[:, None].expand(height, width).contiguous()


def pictures(scene: Scene) -> tuple[Subject, Reference]:
    """A content and a reference; each region takes the style of the one opposite."""
    clean = scene.clean[0]
    noise = torch.randn(2, *clean.shape, generator=generator("bench", "noise")).to(clean.device)
    labels = stripes(scene.clean)
    matches = [Match(number, 0, (REGIONS + 1 - number,)) for number in range(1, REGIONS + 1)]
    content = Subject(clean.clone(), noise[0], labels, matches)
    return content, Reference(clean.flip(-1), noise[1], labels)


def ours(scene: Scene, watch: Watch, given: Gallery) -> Tensor:
    """The content after some timesteps."""
    content, style = pictures(scene)
    with watch.part("lead"):
        return stylise(scene.backbone, [content], [style], given, seeds=[0])


class Plain:
    """The reference of the tests: whole passes one by one, attention of all pairs for each region.

    In the model's own type, but for what the masks multiply, which the authors' are float32 for.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._method = reference.module("stylegallery")

    def __call__(self, watch: Watch, given: Gallery) -> Tensor:
        """The same content after as many timesteps."""
        scene, backbone = self._scene, self._scene.backbone
        content, style = (
            self._method.Picture(one.clean[None], one.noise[None], one.labels)
            for one in pictures(scene)
        )
        timesteps = backbone.schedule.levels(given.steps, given.timesteps).timesteps[::-1]
        with watch.part("lead"), _cast(backbone):
            path = self._method.stylise(
                backbone.unet,
                content,
                [style],
                {number: (0, (REGIONS + 1 - number,)) for number in range(1, REGIONS + 1)},
                timesteps,
                null=backbone.encode_prompt([""]).clone(),
                settings=self._method.Settings(
                    lr=given.lr, content_weight=given.content_weight, scale=given.attn_scale
                ),
            )
        found: Tensor = path[-1]
        return found


def _cast(backbone: Backbone) -> Any:
    """The reference keeps latents in float32 and knows no other type; the model may."""
    return backbone.unet.register_forward_pre_hook(
        lambda _module, given: (given[0].to(backbone.dtype), *given[1:])
    )
