"""A training from its first step, or from where it was left, to its last."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stylecli.backbone.lora_algebra import effective_rank
from stylecli.backbone.row_loras import views
from stylecli.engine.context import Reporter
from stylecli.engine.i2l.training import sheets
from stylecli.engine.i2l.training.steps import Figures, Trainer, predicted
from stylecli.engine.i2l.training.validation import Answer, Examination
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.training.checkpoint import JSON
from stylecli.engine.training.interruption import kept
from stylecli.engine.training.log import Log
from stylecli.engine.training.state import Place
from stylecli.recipe.i2l import Validation

# Steps whose mean loss makes a row of the log.
ROW_STEPS = 50
# A predictor that cannot tell styles apart by then never will.
PATIENCE_STEPS = 10_000
ENOUGH_ERRORS = 2.0
# Shares of k: what a new predictor should have, and what a good one never falls below.
FRESH_RANK, LEAST_RANK = 0.8, 0.4
# Times are counted in so many parts of the whole.
TIME_BINS = 10


@dataclass(frozen=True, slots=True)
class Course:
    """What is done besides learning, and where it goes.

    Attributes:
        write: Writes the predictor as it is now, so that it can be used.
        examination: None where nothing is held out.
        log: File of the figures.
        skipped: Pictures that are not learned from, by reason.
    """

    trainer: Trainer
    place: Place
    write: Callable[[Path], None]
    examination: Examination | None
    settings: Validation
    log: Path
    reporter: Reporter
    skipped: Mapping[str, int]
    seed: int
    team: Team = ALONE

    def run(self, *, force: bool = False) -> Mapping[str, Any]:
        """Train to the end; the figures of the last examination.

        Args:
            force: Go on from a checkpoint of other settings or data.

        Raises:
            UsageError: A checkpoint is of other settings or data.
            ItemError: The loss is no number, a picture cannot be read, or the disk is full.
        """
        trainer, steps = self.trainer, self.trainer.settings.steps
        begun = self.place.newest()
        running = Running.from_json(self.place.resume(trainer, force=force))
        self.team.must_agree(f"checkpoints in {self.place.folder}", str(begun))
        log = Log(self.log, begun) if self.team.leads else None
        if begun is None:
            self._begin(log)
        answer: Answer | None = None
        with self.reporter.task("train", steps) as task:
            task.advance(trainer.done)
            while trainer.done < steps:
                running.count(self._step(running))
                task.advance()
                if trainer.done % ROW_STEPS == 0 or trainer.done == steps:
                    self._note(log, running.row(trainer.done))
                    running = Running()
                answer = self._look(log) or answer
                if trainer.done % trainer.settings.save_every == 0 and trainer.done < steps:
                    self._save(running)
        if self.examination is not None and answer is None:
            answer = self._examined(log)
        return {} if answer is None else summary(answer)

    def _step(self, running: Running) -> Figures:
        with kept(self.trainer, self.place, lambda: self._save(running), self.reporter):
            return self.trainer.step()

    def _begin(self, log: Log | None) -> None:
        """What can be seen before the first step."""
        rank, most = self._first_rank(), self.trainer.predictor.shape.rank
        text = f"rows of a layer point in {rank:.2f} of {most} directions"
        if rank < FRESH_RANK * most:
            self.reporter.warn(f"{text}; raise i2l.predictor.query_std")
        else:
            self.reporter.note(text)
        row = {"step": 0, "effective_rank": round(rank, 3), "skipped": dict(self.skipped)}
        if self.examination is not None:
            with self.trainer.averaged() as predictor:
                row |= self.examination.sit(predictor).row()
        self._note(log, row)

    @torch.no_grad()
    def _first_rank(self) -> float:
        material, predictor = self.trainer.material, self.trainer.predictor
        batch = material.batch(material.draws.at(0)[:1])
        packed = predicted(predictor, batch.tokens, material.denoiser)
        downs = [down for down, _ in views(predictor.row_shapes, packed).values()]
        return float(torch.stack([effective_rank(down).mean() for down in downs]).mean())

    def _look(self, log: Log | None) -> Answer | None:
        """What is due after a step."""
        done, is_last = self.trainer.done, self.trainer.done == self.trainer.settings.steps
        if self.examination is None:
            return None
        answer = None
        if done % self.settings.every == 0 or is_last:
            answer = self._examined(log)
        if (done % self.settings.images_every == 0 or is_last) and self.team.leads:
            sheet = self.place.folder / f"sheet-{done:08d}.png"
            self.reporter.note(f"drawing {sheet.name}")
            with self.trainer.averaged() as predictor:
                sheets.draw(
                    sheet,
                    predictor,
                    self.trainer.material,
                    self.examination.questions,
                    self.seed,
                )
        return answer

    def _examined(self, log: Log | None) -> Answer:
        assert self.examination is not None  # noqa: S101 - callers looked
        with self.trainer.averaged() as predictor:
            answer = self.examination.sit(predictor)
        alarms = self._alarms(answer)
        for alarm in alarms:
            self.reporter.warn(alarm)
        row = {"step": self.trainer.done, **answer.row()}
        self._note(log, row | ({"alarms": alarms} if alarms else {}))
        return answer

    def _alarms(self, answer: Answer) -> list[str]:
        found = []
        done, most = self.trainer.done, self.trainer.predictor.shape.rank
        mean, error = answer.difference("mis")
        if done >= PATIENCE_STEPS and mean <= ENOUGH_ERRORS * error:
            found.append(
                f"after {done} steps the LoRA of another style does as well "
                f"(difference {mean:.5f} +- {error:.5f}): references count for nothing"
            )
        if answer.measured.rank < LEAST_RANK * most:
            found.append(
                f"rows of a layer point in {answer.measured.rank:.2f} of {most} directions"
            )
        return found

    def _save(self, running: Running) -> None:
        if not self.team.leads:
            return
        self.write(self.place.path(self.trainer.done) / self.place.usable)
        self.place.save(self.trainer, running.to_json())

    def _note(self, log: Log | None, row: Mapping[str, object]) -> None:
        if log is not None:
            log.add(row)


class Running:
    """Figures of the steps since the last row of the log."""

    def __init__(self) -> None:
        self.steps = 0
        self.loss = 0.0
        self.norm = 0.0
        self.lr = 0.0
        self.references: Counter[str] = Counter()
        self.times = [0] * TIME_BINS

    def count(self, figures: Figures) -> None:
        """One step more."""
        self.steps += 1
        self.loss += figures.loss
        self.norm = max(self.norm, figures.norm)
        self.lr = figures.lr
        self.references[str(figures.references)] += 1
        for time in figures.times:
            self.times[min(TIME_BINS - 1, math.floor(time * TIME_BINS))] += 1

    def row(self, step: int) -> dict[str, object]:
        """For the log."""
        return {
            "step": step,
            "loss": round(self.loss / max(1, self.steps), 6),
            "largest_gradient": float(f"{self.norm:.4g}"),
            "lr": float(f"{self.lr:.6g}"),
            "references": dict(sorted(self.references.items())),
            "times": self.times,
        }

    def to_json(self) -> dict[str, JSON]:
        """For a checkpoint."""
        return {
            "steps": self.steps,
            "loss": self.loss,
            "norm": self.norm,
            "lr": self.lr,
            "references": dict(self.references),
            "times": list(self.times),
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Running:
        """What `to_json` wrote; of nothing, nothing."""
        one = cls()
        if said:
            one.steps, one.loss = said["steps"], said["loss"]
            one.norm, one.lr = said["norm"], said["lr"]
            one.references, one.times = Counter(said["references"]), list(said["times"])
        return one


def summary(answer: Answer) -> dict[str, Any]:
    """What is told of a finished training."""
    figures: dict[str, Any] = {}
    for name in ("base", "mis", "grey"):
        mean, error = answer.difference(name)
        figures[f"d_{name}"] = [round(mean, 6), round(error, 6)]
    return figures
