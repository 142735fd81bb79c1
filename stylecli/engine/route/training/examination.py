"""How far an expert is, on held-out pairs, fixed noise and fixed noise levels.

The loss of a step moves with the pairs and times drawn. The same rows with the expert and without
differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from stylecli.backbone.experts import Experts
from stylecli.engine.route.data.items import Sample
from stylecli.engine.route.training import draws
from stylecli.engine.route.training.draws import Batch, Lesson
from stylecli.engine.route.training.steps import Material, Measure, answered, looking, measured
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.training.optimising import middles
from stylecli.methods.regionroute import losses, measures
from stylecli.tensors.seeds import generator

# Times that levels are chosen among.
DRAWN = 4096
PLACES = 6


@dataclass(frozen=True, slots=True)
class Answer:
    """What an examination found.

    Attributes:
        expert: Figures by their names, with the expert at work.
        base: Likewise, of the model alone.
    """

    expert: Mapping[str, float]
    base: Mapping[str, float]

    def row(self) -> dict[str, object]:
        """For the log."""
        return {"expert": dict(self.expert), "base": dict(self.base)}


class Examination:
    """Fixed questions, and what the model alone answers."""

    def __init__(
        self,
        style_id: str,
        experts: Experts,
        material: Material,
        samples: Sequence[Sample],
        seed: int,
        *,
        team: Team = ALONE,
    ) -> None:
        """Choose the questions.

        Args:
            samples: Held-out pairs of the style; the first of them are asked about.
        """
        settings = material.settings.validation
        self.samples = tuple(samples[: settings.pairs])
        self._style_id, self._experts, self._material = style_id, experts, material
        self._seed, self._team = seed, team
        latents = material.encoded.target(self.samples[0])
        self._levels = self._chosen_levels(latents, settings.levels)
        self._measures: Mapping[str, Measure] = {
            "focus": lambda maps, mask: losses.focus(maps, mask, material.forms),
            "cover": lambda maps, mask: losses.cover(maps, mask, material.forms),
            "inside": measures.inside_mass,
            "lift": measures.lift,
            "iou": lambda maps, mask: measures.iou(maps, mask, material.forms),
            "hit": lambda maps, mask: measures.argmax_hit(maps, mask).float(),
        }
        self._base: dict[str, float] | None = None

    @torch.no_grad()
    def sit(self) -> Answer:
        """Ask everything of the expert as it is; processes of a team share the questions."""
        if self._base is None:
            with self._experts.none():
                self._base = self._asked()
        with self._experts.only(self._style_id):
            return Answer(self._asked(), self._base)

    def _asked(self) -> dict[str, float]:
        names = ("pixels", *self._measures)
        # The last column counts the rows that have attention to measure.
        found = torch.zeros(len(names) + 1, dtype=torch.float64)
        editor, loss = self._material.editor, self._material.settings.loss
        questions = [
            (sample, level, f"{place} {column}")
            for place, sample in enumerate(self.samples)
            for column, level in enumerate(self._levels)
        ]
        with looking(editor, loss, always=True) as probe:
            assert probe is not None  # noqa: S101 - it was asked for
            for sample, level, name in self._team.share(questions):
                some = self._row(sample, level, name)
                errors, seen = answered(self._material, some, probe)
                assert seen is not None  # noqa: S101 - likewise
                found += self._figures(some, errors, seen.maps)
        self._team.add_up([found])
        rows = [len(questions)] + [max(1.0, float(found[-1]))] * len(self._measures)
        return {
            name: round(float(total) / count, PLACES)
            for name, total, count in zip(names, found[:-1], rows, strict=True)
        }

    def _figures(
        self, some: Batch, errors: Float[Tensor, " b"], maps: Float[Tensor, "b n e"]
    ) -> Float64[Tensor, " figures"]:
        each = [measured(maps, some, one).sum() for one in self._measures.values()]
        usable = some.usable.any(dim=1).sum()
        return torch.stack([errors.sum(), *each, usable]).double().cpu()

    def _row(self, sample: Sample, level: float, name: str) -> Batch:
        """One question at one level; each alone, for sizes differ."""
        chance = generator(self._seed, "examination", self._style_id, name)
        lesson = Lesson(sample, has_text=True, has_picture=True, chance=chance)
        return draws.batch(self._material.editor, self._material.encoded, [lesson], time=level)

    def _chosen_levels(self, latents: Tensor, count: int) -> list[float]:
        chance = generator(self._seed, "levels")
        is_even = self._material.settings.train.times == "even"
        drawn = draws.times(self._material.editor, DRAWN, latents, chance, is_even=is_even)
        return middles(drawn, count)
