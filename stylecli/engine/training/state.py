"""Checkpoints of a training: folders beside the file that is to be, the last few of them.

Each holds what was learned so far as it can be used, and what it takes besides to go on. The state
is written last, so a folder without it is one whose writer was killed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from stylecli.engine.training import checkpoint
from stylecli.engine.training.checkpoint import JSON
from stylecli.errors import UsageError, WeightsError

STATE = "state.safetensors"
_NAME = re.compile(r"step-(\d{8})")
_OPTIMISER, _OWN, _AVERAGES = "optimiser.", "own.", "averages."


class Learner(Protocol):
    """What is trained.

    Attributes:
        done: Steps.
        averages: Of the parameters, where they are averaged.
        is_torn: A step was cut off while it changed the parameters.
    """

    done: int
    averages: dict[str, Tensor] | None
    is_torn: bool

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """Its moments are part of the state."""
        ...

    def parameters(self) -> dict[str, nn.Parameter]:
        """All that learn, in the optimiser's order."""
        ...


def folder_of(output: Path) -> Path:
    """Where the training of a file keeps its checkpoints and its sheets."""
    return output.with_name(f"{output.stem}.training")


def log_of(output: Path) -> Path:
    """Where it writes its figures."""
    return output.with_name(f"{output.stem}.log.jsonl")


@dataclass(frozen=True, slots=True)
class Place:
    """The checkpoints of one training.

    Attributes:
        settings: Digest of all settings that decide what is learned.
        data: Of the set.
        keep: How many stay.
        usable: Name of the file in each that can be used; whoever trains writes it.
    """

    folder: Path
    settings: str
    data: str
    keep: int
    usable: str

    def path(self, step: int) -> Path:
        """Of one checkpoint."""
        return self.folder / f"step-{step:08d}"

    def newest(self) -> int | None:
        """The step of the last that is whole."""
        return max(self._steps(), default=None)

    def save(self, trainer: Learner, running: Mapping[str, JSON]) -> None:
        """Keep what the next step starts from; what can be used is there already.

        Raises:
            ItemError: The disk is full; older checkpoints are still there.
        """
        tensors = {
            f"{_OPTIMISER}{name}": value
            for name, value in checkpoint.optimizer_tensors(trainer.optimiser).items()
        }
        own = trainer.parameters().items()
        tensors |= {f"{_OWN}{name}": value.detach() for name, value in own}
        averages = trainer.averages or {}
        tensors |= {f"{_AVERAGES}{name}": value for name, value in averages.items()}
        said: dict[str, JSON] = {
            "settings": self.settings,
            "data": self.data,
            "step": trainer.done,
            "running": dict(running),
        }
        checkpoint.save(self.path(trainer.done) / STATE, tensors, said)
        for step in sorted(self._steps())[: -self.keep]:
            self._remove(step)

    def resume(self, trainer: Learner, *, force: bool = False) -> dict[str, JSON]:
        """Put everything back as the last checkpoint has it; what was counted then.

        Args:
            force: Go on where settings or data are others now.

        Raises:
            UsageError: They are.
            WeightsError: It is damaged, or of another size.
        """
        step = self.newest()
        if step is None:
            return {}
        file = self.path(step) / STATE
        tensors, state = checkpoint.load(file)
        self._refuse_others(file, state, force=force)
        own = _part(tensors, _OWN)
        _refuse_misfit(trainer, own, file)
        with torch.no_grad():
            for name, parameter in trainer.parameters().items():
                parameter.copy_(own[name])
        if trainer.averages is not None:
            # A training that begins to average now begins where it is.
            averages = _part(tensors, _AVERAGES) or own
            for name, value in trainer.averages.items():
                value.copy_(averages[name])
        checkpoint.restore_optimizer(trainer.optimiser, _part(tensors, _OPTIMISER))
        trainer.done = int(str(state["step"]))
        running = state["running"]
        return running if isinstance(running, dict) else {}

    def clear(self) -> None:
        """Remove all checkpoints, and the folder where nothing else is in it."""
        if not self.folder.is_dir():
            return
        for entry in self.folder.iterdir():
            if match := _NAME.fullmatch(entry.name):
                self._remove(int(match[1]))
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _refuse_others(self, file: Path, state: Mapping[str, JSON], *, force: bool) -> None:
        others = [what for what in ("settings", "data") if state.get(what) != getattr(self, what)]
        if others and not force:
            raise UsageError(
                f"{file.parent} was left by a training with other {' and '.join(others)}",
                fix="--force-resume goes on from it all the same, --overwrite begins again",
            )

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        named = ((entry, _NAME.fullmatch(entry.name)) for entry in self.folder.iterdir())
        return [int(match[1]) for entry, match in named if match and (entry / STATE).is_file()]

    def _remove(self, step: int) -> None:
        # The state first: without it nobody takes what is left for a checkpoint.
        for name in (STATE, self.usable):
            (self.path(step) / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody put a file of theirs there
            self.path(step).rmdir()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _refuse_misfit(trainer: Learner, own: Mapping[str, Tensor], file: Path) -> None:
    wanted = {name: value.shape for name, value in trainer.parameters().items()}
    if wanted != {name: value.shape for name, value in own.items()}:
        raise WeightsError(
            f"{file.parent} holds something of another size than what is trained",
            fix="resume with the sizes it was begun with, or begin again: --overwrite",
        )
