"""The loop every part trains in: cosine rate, EMA, checkpoints, a log line now and then.

Run the same command again to resume: the checkpoint in the work folder holds weights, averages,
moments, counters and the generator's state.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Generator, Tensor, distributed, nn

from stylecli.engine.training import checkpoint
from stylecli.errors import UsageError

Losses = dict[str, Tensor]
MEETING_STEPS = 10
FIRST_LINES = (1, 50, 150)


class Part(Protocol):
    """Something trainable: what it learns with and how it is examined."""

    @property
    def module(self) -> nn.Module:
        """What is optimised and averaged."""
        ...

    def losses(self, progress: float, generator: Generator) -> Losses:
        """One batch's terms, already weighted; the loop minimises their sum.

        Args:
            progress: Share of the budget that is spent, in [0, 1].
            generator: The only source of chance.
        """
        ...

    def figures(self) -> Mapping[str, float]:
        """Cheap held-out figures of the module as it stands, for the log."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How long and how fast; `steps` wins over `hours`."""

    hours: float = 1.0
    steps: int | None = None
    learning_rate: float = 2e-4
    final_share: float = 0.02
    warmup_steps: int = 100
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    weight_decay: float = 1e-2
    checkpoint_seconds: float = 180.0
    figures_seconds: float = 180.0
    seed: int = 0


@dataclass(slots=True)
class Run:
    """A training in progress.

    Attributes:
        average: Exponential moving average of every weight and statistic, by name.
        elapsed: Seconds spent in steps, over all restarts.
    """

    part: Part
    settings: Settings
    path: Path
    optimizer: torch.optim.AdamW
    generator: Generator
    average: dict[str, Tensor]
    step: int = 0
    elapsed: float = 0.0
    recent: dict[str, float] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        if self.settings.steps is not None:
            return min(1.0, self.step / max(1, self.settings.steps))
        return min(1.0, self.elapsed / (3600 * self.settings.hours))

    def save(self) -> None:
        tensors = {f"model.{n}": p for n, p in _weights(self.part.module).items()}
        tensors |= {f"average.{n}": p for n, p in self.average.items()}
        moments = checkpoint.optimizer_tensors(self.optimizer)
        tensors |= {f"optimizer.{n}": p for n, p in moments.items()}
        tensors["generator"] = self.generator.get_state()
        checkpoint.save(self.path, tensors, {"step": self.step, "elapsed": self.elapsed})

    def resume(self) -> bool:
        """Take up the checkpoint, if there is one.

        Raises:
            UsageError: It is of a part that has other weights; nothing was taken up.
        """
        try:
            tensors, state = checkpoint.load(self.path)
        except FileNotFoundError:
            return False
        own = {f"model.{n}": p.shape for n, p in _weights(self.part.module).items()}
        if own != {n: p.shape for n, p in tensors.items() if n.startswith("model.")}:
            raise UsageError(
                f"{self.path} is the checkpoint of another model",
                fix="move it away, or choose another --work",
            )
        with torch.no_grad():
            for name, weight in _weights(self.part.module).items():
                weight.copy_(tensors[f"model.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
        checkpoint.restore_optimizer(self.optimizer, _under(tensors, "optimizer."))
        self.generator.set_state(tensors["generator"])
        self.step, self.elapsed = int(str(state["step"])), float(str(state["elapsed"]))
        return True

    def advance(self) -> None:
        """One step of the optimiser and of the averages."""
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        terms = self.part.losses(self.progress, self.generator)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.part.module.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._follow()
        for name, term in terms.items():
            value = float(term.detach())
            self.recent[name] = 0.98 * self.recent.get(name, value) + 0.02 * value
        if distributed.is_initialized() and self.is_meeting:
            self._meet()
        self.elapsed += time.perf_counter() - started
        if distributed.is_initialized() and self.is_meeting:
            self._agree_on_time()

    @property
    def is_meeting(self) -> bool:
        """Whether the workers, if there are several, hold the same weights after this step."""
        return not distributed.is_initialized() or self.step % MEETING_STEPS == 0

    @torch.no_grad()
    def _meet(self) -> None:
        """All workers go on from the mean of their weights and moments.

        Averaging every few steps instead of every gradient (local SGD, Stich 2019) costs less and
        lets a worker whose core is busy catch up.
        """
        tensors = list(_weights(self.part.module).values())
        moments = checkpoint.optimizer_tensors(self.optimizer)
        tensors += [moment for name, moment in moments.items() if not name.endswith(".step")]
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def _agree_on_time(self) -> None:
        """The first worker's clock, so that all of them stop after the same step."""
        clock = torch.tensor(self.elapsed, dtype=torch.float64)
        distributed.broadcast(clock, src=0)
        self.elapsed = float(clock)

    def _learning_rate(self) -> float:
        warmup = min(1.0, (self.step + 1) / max(1, self.settings.warmup_steps))
        cosine = 0.5 + 0.5 * math.cos(math.pi * self.progress)
        share = self.settings.final_share + (1 - self.settings.final_share) * cosine
        return self.settings.learning_rate * warmup * share

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        names, now = zip(*_weights(self.part.module).items(), strict=True)
        torch._foreach_lerp_([self.average[name] for name in names], list(now), 1 - decay)


def start(part: Part, settings: Settings, path: Path) -> Run:
    """A run that continues the checkpoint at `path`, or begins from the part's weights."""
    run = Run(
        part=part,
        settings=settings,
        path=path,
        optimizer=torch.optim.AdamW(
            part.module.parameters(),
            lr=settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=settings.weight_decay,
        ),
        generator=torch.Generator().manual_seed(settings.seed),
        average={name: weight.clone() for name, weight in _weights(part.module).items()},
    )
    run.resume()
    if distributed.is_initialized() and (rank := distributed.get_rank()):
        # The checkpoint's generator is the first worker's; the others must draw other batches.
        run.generator.manual_seed(settings.seed + 1_000_003 * rank + run.step)
    return run


def train(run: Run, *, export: Callable[[Run], None], log: Path) -> None:
    """Step until the budget is spent; then save and export.

    Args:
        run: Advanced in place.
        export: Writes the averaged weights somewhere usable; called at every checkpoint.
        log: JSON lines: step, seconds, running losses, figures.
    """
    is_first = not distributed.is_initialized() or distributed.get_rank() == 0
    saved = shown = time.monotonic()
    while run.progress < 1 or not run.is_meeting:
        run.advance()
        if not (is_first and run.is_meeting):
            continue
        now = time.monotonic()
        if now - shown > run.settings.figures_seconds or run.step in FIRST_LINES:
            _write_line(log, run)
            shown = time.monotonic()
        if now - saved > run.settings.checkpoint_seconds:
            run.save()
            export(run)
            saved = time.monotonic()
    if is_first:
        run.save()
        export(run)
        _write_line(log, run)


def join(rank: int, workers: int, rendezvous: Path) -> None:
    """Make this process one of `workers` that average their weights, one thread each.

    Two single-threaded workers are steadier than two threads on a machine that does other work:
    a thread that waits for a busy core holds up every operation, a worker only every step.
    """
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=workers
    )


class averaged:  # noqa: N801  a context manager reads as a verb form
    """The module carries its averaged weights inside the block, its own again afterwards."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._own: dict[str, Tensor] = {}

    @torch.no_grad()
    def __enter__(self) -> nn.Module:
        for name, weight in _weights(self._run.part.module).items():
            self._own[name] = weight.clone()
            weight.copy_(self._run.average[name])
        return self._run.part.module

    @torch.no_grad()
    def __exit__(self, *_: object) -> None:
        for name, weight in _weights(self._run.part.module).items():
            weight.copy_(self._own[name])


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and the running statistics of norms, not counters or constants."""
    return {n: t for n, t in module.state_dict().items() if t.is_floating_point()}


def _write_line(log: Path, run: Run) -> None:
    with averaged(run):
        figures = dict(run.part.figures())
    line = {"step": run.step, "seconds": round(run.elapsed), **run.recent, **figures}
    rounded = {name: round(value, 4) for name, value in line.items()}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(rounded) + "\n")


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
