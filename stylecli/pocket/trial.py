"""The trial that transfer is for: one drawing of an unseen family, and the truth to compare with.

For contents no training saw, drawn by a family it knew, the same content exists in the unseen
family. A transfer wins where pocket-lpips puts it closer to that drawing than the content left as
it is, and closer than the content in the style's colours.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stylecli.artifacts import glyphs, images
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.inversion import invert, null_prediction
from stylecli.backbone.lora import LoraFile
from stylecli.backbone.model import Backbone
from stylecli.engine.training import lora
from stylecli.evaluation.perceptual import PocketLpips
from stylecli.methods import diffstyler
from stylecli.pocket.data import World
from stylecli.recipe import load
from stylecli.recipe.schema import Recipe
from stylecli.tensors import grounds
from stylecli.tensors.colour import Colours

SOURCE = "noto"
PX = 64
CONTENTS = 8


@dataclass(frozen=True, slots=True)
class Trial:
    """One content: its pictures, (1, 3, 64, 64) in [0, 1], and their distances to the truth."""

    content: Float[Tensor, "1 3 h w"]
    style: Float[Tensor, "1 3 h w"]
    result: Float[Tensor, "1 3 h w"]
    truth: Float[Tensor, "1 3 h w"]
    distance: float
    content_copy: float
    palette: float

    @property
    def is_won(self) -> bool:
        return self.distance < min(self.content_copy, self.palette)


def run(backbone: Backbone, lpips: PocketLpips, world: World) -> list[Trial]:
    """Eight contents in each unseen family, with `pocket-cpu` at the model's own size."""
    recipe = load.load("pocket-cpu", environ={}).recipe
    return [
        trial
        for family in (f for f in glyphs.FAMILIES.values() if f.is_held_out)
        for trial in _family(backbone, lpips, world, family.prefix, recipe)
    ]


def share_won(trials: Sequence[Trial]) -> float:
    return sum(trial.is_won for trial in trials) / len(trials)


def _family(
    backbone: Backbone, lpips: PocketLpips, world: World, family: str, recipe: Recipe
) -> Iterator[Trial]:
    contents = _rows(world, SOURCE, held_out=True)
    truths = _rows(world, family, held_out=True)
    shared = sorted(contents.keys() & truths.keys())
    # One picture to learn from, of a content that is not asked for.
    known = _rows(world, family, held_out=False)
    style = picture(world, known[sorted(known)[len(known) // 2]])
    file = _learn(backbone, style, recipe)
    colours = Colours.of([style])
    adapters = Adapters(backbone.unet)
    adapters.add(family, file)
    look = diffstyler.Look(
        weights={family: recipe.sampling.weight},
        prompt=file.trigger or "",
        guidance=recipe.sampling.guidance,
    )
    levels = backbone.schedule.levels(recipe.sampling.steps)
    for name in shared[:: max(1, len(shared) // CONTENTS)][:CONTENTS]:
        content, truth = picture(world, contents[name]), picture(world, truths[name])
        coloured = colours.give(content)
        trajectory = invert(
            backbone.encode_image(coloured), null_prediction(backbone, 1), backbone.schedule, levels
        )
        latents = diffstyler.transfer(backbone, adapters, trajectory, look, recipe.injection)
        result = backbone.decode(latents)
        yield Trial(
            content,
            style,
            result,
            truth,
            float(lpips.distance(result, truth)),
            float(lpips.distance(content, truth)),
            float(lpips.distance(coloured, truth)),
        )
    adapters.remove(family)


def picture(world: World, index: int) -> Float[Tensor, "1 3 h w"]:
    """An icon on white at the model's own size."""
    icon = grounds.place(world.icon(index), PX, 0.9, (0.0, 0.0), 0.0)
    return grounds.compose(icon, torch.ones(3, PX, PX))[None]


def _learn(backbone: Backbone, style: Float[Tensor, "1 3 h w"], recipe: Recipe) -> LoraFile:
    settings = recipe.lora.model_copy(update={"resolution": PX, "crop": "center"})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "style.png"
        Image.fromarray(images.to_pixels(style[0]).numpy()).save(file)
        fitted = lora.fit(
            backbone,
            lora.style_pictures([file], settings.prompt),
            settings,
            seed=0,
            state_file=Path(folder) / "state.safetensors",
            reporter=_Silent(),
        )
    return LoraFile(fitted.tensors, {}, {}, fitted.header)


def _rows(world: World, family: str, *, held_out: bool) -> dict[str, int]:
    return {
        row.content: index
        for index, row in enumerate(world.rows)
        if row.family == family and glyphs.content_is_held_out(row.content) == held_out
    }


class _Silent:
    """A reporter with nothing to say, and the task it gives."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def advance(self, n: int = 1) -> None: ...

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[_Silent]:
        yield self
