"""How far a predictor is, by differences on fixed pictures, noise and noise levels.

The loss of a step says next to nothing: it moves with the times and pictures drawn by far more than
with what was learned. The same rows with the LoRA of their own style, of another, of grey and with
none differ in nothing else, so their differences show in hundreds of rows what losses would in
hundreds of thousands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from stylecli.engine.i2l.data.items import Item
from stylecli.engine.i2l.data.tuples import Tuples
from stylecli.engine.i2l.training import measures
from stylecli.engine.i2l.training.caches import Look
from stylecli.engine.i2l.training.draws import Batch
from stylecli.engine.i2l.training.steps import Material, in_model, losses, predicted
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.training.optimising import middles
from stylecli.methods.i2l.predictor import Predictor
from stylecli.recipe.i2l import Validation
from stylecli.tensors.seeds import generator

# Those that pass the model together, where training lets as many, and whose LoRAs are measured.
CHUNK = 8
# As many as the paper compares with.
REFERENCES = 4
# Times that levels are chosen among.
DRAWN = 4096
BASE, MATCH, OTHER, GREY = range(4)
# Rows of another LoRA, less those of the own: above zero is better.
DIFFERENCES: Mapping[str, int] = {"base": BASE, "mis": OTHER, "grey": GREY}


@dataclass(frozen=True, slots=True)
class Question:
    """One fixed row."""

    target: Item
    references: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an examination found.

    Attributes:
        losses: Of no LoRA, that of the own style, of another and of grey; by question and level.
        levels: The times.
        splits: Of each question.
        measured: Of some of the LoRAs.
    """

    losses: Float64[Tensor, "4 questions levels"]
    levels: Sequence[float]
    splits: Sequence[str]
    measured: measures.Measured

    def difference(self, name: str, split: str | None = None) -> tuple[float, float]:
        """Mean of a difference, and its standard error; a question is one draw."""
        kept = [split in (None, own) for own in self.splits]
        rows = self._difference(name)[torch.tensor(kept)].mean(dim=1)
        return _mean(rows)

    def row(self) -> dict[str, object]:
        """For the log."""
        names = ("base", "match", "mis", "grey")
        means = self.losses.mean(dim=(1, 2)).tolist()
        row: dict[str, object] = {
            "losses": {name: round(mean, 6) for name, mean in zip(names, means, strict=True)}
        }
        for name in DIFFERENCES:
            row[f"d_{name}"] = _said(*self.difference(name)) | {
                "by_level": [
                    _said(*_mean(column)) | {"time": round(level, 4)}
                    for column, level in zip(
                        self._difference(name).unbind(1), self.levels, strict=True
                    )
                ]
            }
            kinds = sorted(set(self.splits))
            if len(kinds) > 1:
                row[f"d_{name}"] |= {  # type: ignore[operator]
                    "by_split": {kind: _said(*self.difference(name, kind)) for kind in kinds}
                }
        return row | self.measured.row()

    def _difference(self, name: str) -> Float64[Tensor, "questions levels"]:
        return self.losses[DIFFERENCES[name]] - self.losses[MATCH]


class Examination:
    """Fixed questions, and what the model alone answers."""

    def __init__(
        self,
        material: Material,
        tuples: Tuples,
        settings: Validation,
        seed: int,
        *,
        team: Team = ALONE,
        rows: int = CHUNK,
    ) -> None:
        """Choose the questions.

        Args:
            tuples: Of held-out pictures of several styles, one target each.
            rows: At most so many pass the model together.
        """
        self.questions = questions(tuples, settings.tuples)
        self._material, self._seed, self._team = material, seed, team
        self._rows_at_once = min(CHUNK, rows)
        self._levels = levels(material, settings.sigmas, seed)
        self._base: Float64[Tensor, "questions levels"] | None = None

    @torch.no_grad()
    def sit(self, predictor: Predictor) -> Answer:
        """Ask everything of the predictor as it is; the processes of a team share the questions."""
        found = torch.zeros(4, len(self.questions), len(self._levels), dtype=torch.float64)
        is_first = self._base is None
        rows = self._rows_at_once
        for at in self._team.share(range(0, len(self.questions), rows)):
            found[:, at : at + rows] = self._chunk(predictor, at, ask_base=is_first)
        self._team.add_up([found])
        if self._base is None:
            self._base = found[BASE].clone()
        found[BASE] = self._base
        some = self.questions[:CHUNK]
        packed = self._loras(predictor, some, self._material.encoded.tokens)
        measured = measures.measure(predictor, packed, self._material.denoiser)
        splits = [question.target.split for question in self.questions]
        return Answer(found, self._levels, splits, measured)

    def _chunk(
        self, predictor: Predictor, at: int, *, ask_base: bool
    ) -> Float64[Tensor, "4 questions levels"]:
        encoded = self._material.encoded
        some = self.questions[at : at + self._rows_at_once]
        own = self._loras(predictor, some, encoded.tokens)
        grey = self._loras(predictor, some, encoded.grey)
        others = self._others(at, len(some))
        far = self._loras(predictor, [self.questions[one] for one in others], encoded.tokens)
        ways: list[tuple[int, Tensor | None]] = [(MATCH, own), (OTHER, far), (GREY, grey)]
        if ask_base:
            ways.append((BASE, None))
        found = torch.zeros(4, len(some), len(self._levels), dtype=torch.float64)
        slots = list(range(len(some)))
        for column, level in enumerate(self._levels):
            batch = self._rows(at, some, level, column)
            for way, packed in ways:
                with in_model(predictor, packed, slots, self._material.denoiser):
                    found[way, :, column] = losses(self._material.denoiser, batch).double().cpu()
        return found

    def _others(self, at: int, count: int) -> list[int]:
        """For each question the next whose style is another."""
        total = len(self.questions)
        found = []
        for own in range(at, at + count):
            style = self.questions[own].target.style_id
            ahead = ((own + step) % total for step in range(1, total))
            found.append(next(o for o in ahead if self.questions[o].target.style_id != style))
        return found

    def _loras(self, predictor: Predictor, some: Sequence[Question], look: Look) -> Tensor:
        """LoRAs of questions; each alone, for not all have equally many references."""
        device = self._material.denoiser.device
        return torch.cat(
            [
                predicted(
                    predictor,
                    torch.stack([look(item) for item in one.references])[None].to(device),
                    self._material.denoiser,
                )
                for one in some
            ]
        )

    def _rows(self, at: int, some: Sequence[Question], level: float, column: int) -> Batch:
        denoiser, encoded = self._material.denoiser, self._material.encoded
        clean = [encoded.latents(one.target) for one in some]
        noise = [
            denoiser.draw_noise(own, generator(self._seed, "examination", at + place, column))
            for place, own in enumerate(clean)
        ]
        device = denoiser.device
        return Batch(
            tokens=torch.zeros(len(some), 1, 1, 1),
            clean=torch.cat(clean).to(device),
            noise=torch.cat(noise).to(device),
            times=torch.full((len(some),), level, device=device),
            prompts=[encoded.text(one.target.caption) for one in some],
            slots=list(range(len(some))),
        )


def questions(tuples: Tuples, count: int) -> list[Question]:
    """Fixed rows, one target each."""
    picks = tuples.fixed(count, REFERENCES)
    return [Question(pick.targets[0], pick.references) for pick in picks]


def can_compare(tuples: Tuples, count: int) -> bool:
    """Whether so many questions are of more than one style."""
    return len({pick.style_id for pick in tuples.fixed(count, 1)}) > 1


def levels(material: Material, count: int, seed: int) -> list[float]:
    """The middles of equally likely parts of the times that training draws."""
    chance = generator(seed, "levels")
    drawn = material.denoiser.sample_times(DRAWN, chance, shift=material.shift)
    return middles(drawn, count)


def _mean(rows: Float64[Tensor, " questions"]) -> tuple[float, float]:
    error = float(rows.std() / math.sqrt(len(rows))) if len(rows) > 1 else math.inf
    return float(rows.mean()), error


def _said(mean: float, error: float) -> dict[str, object]:
    return {"mean": round(mean, 6), "se": round(error, 6) if math.isfinite(error) else None}
