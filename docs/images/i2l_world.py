"""Styles no predictor saw, what they draw, and pictures drawn in them by many LoRAs at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stylecli.artifacts import glyphs, images
from stylecli.artifacts.glyphs import Icon
from stylecli.backbone import row_loras
from stylecli.backbone.model import Backbone
from stylecli.backbone.row_loras import Factors
from stylecli.backbone.sampling import Step, denoise, guided
from stylecli.engine.i2l import predictors
from stylecli.engine.i2l.data import styles
from stylecli.engine.i2l.data.styles import Named
from stylecli.methods.i2l.encoders.base import Encoder
from stylecli.tensors.seeds import derive, generator

PX, STEPS = 64, 25
GREY = 128
MOST_REFERENCES = 8
CELLS = ("easy", "medium", "hard")
# Rows that pass the model together.
ROWS = 64


@dataclass(frozen=True, slots=True)
class Pair:
    """A thing to draw, and drawings of other things by the hand that is asked for."""

    style: Named
    target: Icon
    references: tuple[Icon, ...]


class World:
    """Icons, by family; held-out contents only."""

    def __init__(self, packages: Path) -> None:
        found: dict[str, dict[str, Icon]] = {}
        for icon in glyphs.read_icons(packages):
            held = {glyphs.content_is_held_out(word) for word in (icon.name, icon.content)}
            if held == {True}:
                found.setdefault(icon.family, {}).setdefault(icon.content, icon)
        self.icons = {family: list(own.values()) for family, own in found.items()}
        self._ready: dict[str, Tensor] = {}

    @cached_property
    def styles(self) -> dict[str, list[Named]]:
        """Of each cell."""
        every = styles.drawn(styles.Counts(), seed=0)
        return {cell: [one for one in every if one.split == cell] for cell in CELLS}

    def pairs(self, cell: str, count: int, seed: int) -> list[Pair]:
        """Styles in turn, each time with other things."""
        found = []
        for number in range(count):
            style = self.styles[cell][number % len(self.styles[cell])]
            chance = random.Random(derive("i2l proof", seed, cell, number))  # noqa: S311
            target, *others = chance.sample(self.icons[style.style.family], MOST_REFERENCES + 1)
            found.append(Pair(style, target, tuple(others)))
        return found

    def drawn(self, style: Named, icon: Icon) -> Float[Tensor, "3 64 64"]:
        """As the hand draws it."""
        if icon.svg not in self._ready:
            rgba = torch.from_numpy(glyphs.render(icon.svg, 2 * PX)).permute(2, 0, 1).float() / 255
            self._ready[icon.svg] = F.avg_pool2d(rgba[None], 2)[0]
        return style.style.draw(self._ready[icon.svg], derive(style.id, icon.content))


class Studio:
    """The frozen model, and LoRAs for it from pictures."""

    def __init__(self, backbone: Backbone, predictor: Path, encoder: Encoder) -> None:
        self.backbone = backbone
        self.predictor, self.config = predictors.load(predictor)
        self._encoder = encoder
        self._levels = backbone.schedule.levels(STEPS)
        self._words: dict[str, Tensor] = {}

    @torch.inference_mode()
    def predicted(self, sets: Sequence[Sequence[Tensor]]) -> Factors:
        """One LoRA for each set of references, all of one number."""
        squares = [
            torch.stack([self._encoder.prepared(images.to_pixels(one)) for one in each])
            for each in sets
        ]
        tokens = torch.stack([self._encoder(each) for each in squares])
        packed = torch.cat([self.predictor(some) for some in tokens.split(ROWS)])
        return self.predictor.factors(packed)

    def neutral(self, count: int) -> Factors:
        """Of as many grey pictures."""
        return self.predicted([[torch.full((3, PX, PX), GREY / 255)] * count])

    @torch.inference_mode()
    def drawn(
        self,
        words: Sequence[str],
        seeds: Sequence[int],
        factors: Factors | None,
        slots: Sequence[int | None],
        *,
        guidance: float = 1.0,
        negative: Sequence[int | None] | None = None,
    ) -> Float[Tensor, "b 3 64 64"]:
        """Pictures from words, each from its own noise and with its own LoRA.

        Args:
            slots: The LoRA of each picture; None is the base model.
            guidance: 1 is off.
            negative: The LoRA of the empty prompt's pass.
        """
        made = []
        for first in range(0, len(words), ROWS):
            some = slice(first, first + ROWS)
            own = negative[some] if negative is not None else []
            made.append(self._batch(words[some], seeds[some], factors, slots[some], guidance, own))
        return torch.cat(made)

    def _batch(
        self,
        words: Sequence[str],
        seeds: Sequence[int],
        factors: Factors | None,
        slots: Sequence[int | None],
        guidance: float,
        negative: Sequence[int | None],
    ) -> Tensor:
        noise = torch.cat(
            [torch.randn(1, 4, PX // 4, PX // 4, generator=generator(seed)) for seed in seeds]
        )
        embeds = torch.cat([self._embedded(each) for each in words])
        empty = self._embedded("").expand_as(embeds)

        def seen(latents: Tensor, step: Step, own: Sequence[int | None], prompts: Tensor) -> Tensor:
            if factors is None:
                return self.backbone.predict(latents, step.timestep, prompts)
            with row_loras.applied(self.backbone.unet, factors, own):
                return self.backbone.predict(latents, step.timestep, prompts)

        def predict(latents: Tensor, step: Step) -> Tensor:
            cond = seen(latents, step, slots, embeds)
            if guidance == 1:
                return cond
            return guided(seen(latents, step, negative, empty), cond, guidance)

        steps = denoise(noise, predict, self.backbone.schedule, self._levels)
        *_, (_, latents) = steps
        return self.backbone.decode(latents)

    def _embedded(self, words: str) -> Tensor:
        if words not in self._words:
            self._words[words] = self.backbone.encode_prompt([words])
        return self._words[words]
