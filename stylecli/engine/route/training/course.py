"""The training of one expert, step by step: from its beginning, or from where it was left.

Several go on in turns, a step each, and none knows of the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from stylecli.artifacts import curves, store
from stylecli.engine.context import Reporter
from stylecli.engine.route.training.examination import Answer, Examination
from stylecli.engine.route.training.pictures import Pictures
from stylecli.engine.route.training.steps import Figures, Trainer
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.training.checkpoint import JSON
from stylecli.engine.training.interruption import kept
from stylecli.engine.training.log import Log
from stylecli.engine.training.state import Place
from stylecli.errors import UsageError

# Steps whose mean figures make a row of the log.
ROW_STEPS = 20
# What is drawn: by title, the key of each row, and of the examination in it.
PANELS = {
    "error of pictures": "pixels",
    "focus": "focus",
    "cover": "cover",
    "attention on the object": "inside",
}
# What rows of an examination have.
_EXAMINED = "expert"


class Course:
    """One expert's training."""

    def __init__(
        self,
        *,
        trainer: Trainer,
        place: Place,
        write: Callable[[Path], None],
        examination: Examination | None,
        pictures: Pictures | None,
        log: Path,
        reporter: Reporter,
        team: Team = ALONE,
    ) -> None:
        """Take it on; nothing is done yet.

        Args:
            write: Writes the expert as it is now, so that it can be used.
            examination: None where nothing is held out; likewise `pictures`.
            log: File of the figures.
        """
        self.trainer = trainer
        self._place, self._write = place, write
        self._examination, self._pictures = examination, pictures
        self._file, self._reporter, self._team = log, reporter, team
        self._settings = trainer.material.settings
        # The step of the checkpoint that it goes on from.
        self._begun: int | None = None
        self._log: Log | None = None
        self._running = Running()
        self._answer: Answer | None = None

    @property
    def is_done(self) -> bool:
        return self.trainer.done >= self.trainer.settings.steps

    def resume(self, *, force: bool = False) -> None:
        """Put back what a checkpoint has; without one, nothing.

        Args:
            force: Go on from a checkpoint of other settings or data.

        Raises:
            UsageError: A checkpoint is of other settings or data, or of more steps than are asked
                for.
            WeightsError: It is damaged.
        """
        self._begun = self._place.newest()
        self._running = Running.from_json(self._place.resume(self.trainer, force=force))
        self._team.must_agree(f"checkpoints in {self._place.folder}", str(self._begun))
        done, wanted = self.trainer.done, self.trainer.settings.steps
        if 0 < done < wanted:
            self._reporter.note(
                f"{self._file.name.partition('.')[0]}: goes on from step {done} of {wanted}"
            )
        if done > wanted:
            raise UsageError(
                f"{self._place.path(done)} has learned {done} steps, more than route.train.steps "
                f"{wanted}",
                fix=f"--steps {done} takes it as it is, --overwrite begins again",
            )

    def begin(self, *, skipped: int) -> None:
        """Look at what can be seen before the next step.

        Args:
            skipped: Objects too small for the grid, of all that are learned from.

        Raises:
            ItemError: A picture cannot be read, or the disk is full.
        """
        # A checkpoint is written before it is looked at, so the end may have come in between.
        is_cut = bool(self._begun) and self._is_examined
        if self._team.leads:
            self._log = Log(self._file, self._begun, again=_EXAMINED if is_cut else None)
        if self._begun is None:
            row: dict[str, object] = {"step": 0, "skipped": skipped}
            if self._examination is not None:
                row |= self._examination.sit().row()
            self._note(row)
        elif self._begun:
            self._look()

    def kept(self) -> AbstractContextManager[None]:
        """A block, cut off in which it keeps what whole steps have learned."""
        return kept(self.trainer, self._place, self._save, self._reporter)

    def advance(self) -> None:
        """One step, and what is due after it.

        Raises:
            ItemError: The loss is no number, a picture cannot be read, or the disk is full.
        """
        trainer = self.trainer
        self._running.count(trainer.step())
        if trainer.done % ROW_STEPS == 0 or self.is_done:
            self._note(self._running.row(trainer.done))
            self._running = Running()
        is_due = trainer.done % trainer.settings.save_every == 0 or self.is_done
        # To look takes as long as many steps, which an end in the middle of it must not cost.
        if is_due or self._is_examined or self._is_drawn:
            self._save()
        self._look()

    def finish(self) -> Mapping[str, Any]:
        """The figures of the last examination."""
        if self._team.leads:
            draw_curves(self._file)
        return {} if self._answer is None else self._answer.row()

    @property
    def _is_examined(self) -> bool:
        """Whether an examination is due at this step."""
        is_due = self.trainer.done % self._settings.validation.every == 0 or self.is_done
        return self._examination is not None and is_due

    @property
    def _is_drawn(self) -> bool:
        """Likewise of pictures."""
        is_due = self.trainer.done % self._settings.validation.images_every == 0 or self.is_done
        return self._pictures is not None and is_due

    def _look(self) -> None:
        done = self.trainer.done
        if self._examination is not None and self._is_examined:
            self._answer = self._examination.sit()
            self._note({"step": done, **self._answer.row()})
            if self._team.leads:
                draw_curves(self._file)
        if self._pictures is not None and self._is_drawn and self._team.leads:
            sheet = self._place.folder / f"attention-{done:08d}.png"
            self._reporter.note(f"drawing {sheet.parent.name}/{sheet.name}")
            self._pictures.draw(sheet)

    def _save(self) -> None:
        if self._team.leads:
            self._write(self._place.path(self.trainer.done) / self._place.usable)
            self._place.save(self.trainer, self._running.to_json())

    def _note(self, row: Mapping[str, object]) -> None:
        if self._log is not None:
            self._log.add(row)


class Running:
    """Figures of the steps since the last row of the log."""

    def __init__(self) -> None:
        self.steps = 0
        self.sums = dict.fromkeys(("loss", "pixels", "focus", "cover", "inside"), 0.0)
        self.skipped = 0
        self.norm = 0.0
        self.lr = 0.0

    def count(self, figures: Figures) -> None:
        """One step more."""
        self.steps += 1
        for name in self.sums:
            self.sums[name] += getattr(figures, name)
        self.skipped += figures.skipped
        self.norm = max(self.norm, figures.norm)
        self.lr = figures.lr

    def row(self, step: int) -> dict[str, object]:
        """For the log."""
        means = {name: round(total / self.steps, 6) for name, total in self.sums.items()}
        return {
            "step": step,
            **means,
            "skipped": self.skipped,
            "largest_gradient": float(f"{self.norm:.4g}"),
            "lr": float(f"{self.lr:.6g}"),
        }

    def to_json(self) -> dict[str, JSON]:
        """For a checkpoint."""
        return {
            "steps": self.steps,
            "sums": dict(self.sums),
            "skipped": self.skipped,
            "norm": self.norm,
            "lr": self.lr,
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Running:
        """What `to_json` wrote; of nothing, nothing."""
        one = cls()
        if said:
            one.steps, one.sums, one.skipped = said["steps"], dict(said["sums"]), said["skipped"]
            one.norm, one.lr = said["norm"], said["lr"]
        return one


def curves_of(log: Path) -> Path:
    """Where the curves of a log go."""
    return log.with_name(f"{log.name.removesuffix('.log.jsonl')}.curves.png")


def draw_curves(log: Path) -> None:
    """Draw what a log says, anew.

    Raises:
        ItemError: It cannot be written.
    """
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    panels = {}
    for title, key in PANELS.items():
        learned = [(row["step"], row.get(key)) for row in rows]
        held_out, base = (
            [(row["step"], row.get(who, {}).get(key)) for row in rows]
            for who in (_EXAMINED, "base")
        )
        curves_by_name = {"training": learned, "held out": held_out, "model alone": base}
        panels[title] = {
            # What was no number is null.
            name: [(step, value) for step, value in curve if value is not None]
            for name, curve in curves_by_name.items()
        }
    store.save_image(curves_of(log), curves.draw(panels), None)
