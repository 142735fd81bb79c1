"""What all cases of one run share: the scene, the instruments, and how much of everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from stylecli.backbone import hollow
from stylecli.engine.bench import ceiling, scene
from stylecli.engine.bench.report import (
    Ceiling,
    Figure,
    Machine,
    Ratio,
    Report,
    Row,
    Setting,
    Side,
    Versions,
)
from stylecli.engine.bench.scene import Scene
from stylecli.engine.bench.timing import Spread, Watch, in_turns
from stylecli.engine.session import Session

Effort = Literal["quick", "default", "full"]


# Sides of the latents that the aims speak of.
JUDGED_CELLS = 64


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of everything an effort is.

    Attributes:
        steps: Sampling steps at most; None is the recipe's.
        authors: Of the authors' 999 steps, each way.
        passes: Of one pass, in every round.
        training: Optimiser steps.
        styles: Of one content at once, where time is taken.
        counted: Of one content at once, where rows are counted.
    """

    steps: int | None
    rounds: int
    authors: int
    passes: int
    training: int
    styles: int
    counted: tuple[int, ...]


AMOUNTS: Mapping[Effort, Amount] = {
    "quick": Amount(3, 1, 3, 2, 8, 2, (1,)),
    "default": Amount(4, 2, 6, 3, 16, 3, (1, 3)),
    "full": Amount(None, 2, 50, 10, 60, 3, (1, 3, 10)),
}


class Bench:
    """One run on one machine."""

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        effort: Effort = "default",
        size: tuple[int, int] | None = None,
    ) -> None:
        """Decide how much; the model is loaded when something is measured.

        Args:
            session: The recipe, the device and the weights.
            name: What the recipe is called.
            effort: How much of everything.
            size: Width and height in pixels; None is the recipe's.
        """
        self.session = session
        self.amount = AMOUNTS[effort]
        side = session.recipe.sampling.size
        self.size = size or (side, side)
        steps = session.recipe.sampling.steps
        self.steps = min(steps, self.amount.steps or steps)
        self.recipe = scene.shortened(session.recipe, self.steps)
        self._name, self._effort = name, effort

    def aim(self, bound: float) -> float | None:
        """What the project aims at; None for pictures too small to judge by."""
        latent_px = self.session.backbone.latent_px
        return bound if min(self.size) >= JUDGED_CELLS * latent_px else None

    def report(self, rows: Iterable[Row]) -> Report:
        """The rows of a run, and what they were measured on and with."""
        context, injection = self.session.context, self.recipe.injection
        setting = Setting(
            effort=self._effort,
            # Of a local folder no more than its own name.
            backbone=Path(self.session.source.name).name,
            fingerprint=self.session.fingerprint,
            recipe=Path(self._name).name,
            width_px=self.size[0],
            height_px=self.size[1],
            steps=self.steps,
            recipe_steps=self.session.recipe.sampling.steps,
            feature_steps=injection.feature_steps,
            attn_steps=injection.attn_steps,
            attn_tail=injection.attn_tail,
            guidance=self.recipe.sampling.guidance,
            lora_rank=self.recipe.lora.rank,
            rounds=self.amount.rounds,
            authors_steps=self.amount.authors,
        )
        machine = Machine.here(context.device, context.dtype)
        return Report.of(Versions.here(), machine, setting, list(rows))

    @cached_property
    def scene(self) -> Scene:
        """At the size that was asked for, in fewer steps, with as many styles as are measured."""
        styles = self.amount.styles
        return scene.real(self.session.backbone, self.recipe, self.size, styles=styles)

    def hollow(self) -> Scene:
        """The same without numbers, to count operations on."""
        height, width = self.scene.clean.shape[-2:]
        session = self.session
        made = hollow.backbone(
            session.source.kind,
            session.folder,
            dtype=session.context.dtype,
            size_px=session.recipe.sampling.size,
        )
        return scene.hollow(made, self.recipe, (width, height))

    @cached_property
    def ceilings(self) -> list[Ceiling]:
        """Of matrix products and of convolutions."""
        context = self.session.context
        rates = {
            "matmul": ceiling.matmul(context.device, context.dtype),
            "convolution": ceiling.convolution(context.device, context.dtype),
        }
        return [
            Ceiling(
                name=name,
                flops_per_second=Figure.of(rate.clock),
                per_cpu_second=rate.cpu.high,
            )
            for name, rate in rates.items()
        ]

    def turns(
        self,
        work: Mapping[str, Callable[[Watch], object]],
        warm: Mapping[str, Callable[[Watch], object]] | None = None,
    ) -> dict[str, list[Watch]]:
        """Everything once to warm up, then some rounds in turns.

        Args:
            work: What is timed.
            warm: Shorter work that warms up as well, by the same names.
        """
        context, rounds = self.session.context, self.amount.rounds
        with context.reporter.task(f"time {', '.join(work)}", len(work) * (rounds + 1)) as task:
            for name, one in work.items():
                (warm or {}).get(name, one)(Watch(context.device))
                task.advance(1)
            return in_turns(work, context.device, rounds=rounds, on_turn=lambda: task.advance(1))

    def side(self, case: str, name: str, watches: Sequence[Watch], **facts: Any) -> Side:
        """A row of what was timed."""
        totals = Spread.of([watch.total for watch in watches])
        cpu = Spread.of([watch.cpu_total for watch in watches])
        flops, most = facts.get("flops"), self.ceilings[0]
        rate, seconds = most.flops_per_second.high, totals.median
        if self.session.context.device.type == "cpu":
            rate, seconds = most.per_cpu_second, cpu.median
        return Side(
            case=case,
            name=name,
            seconds=Figure.of(totals),
            cpu_seconds=Figure.of(cpu),
            parts={
                part: Spread.of([watch.seconds[part] for watch in watches]).median
                for part in watches[0].seconds
            },
            utilisation=None if flops is None else flops / seconds / rate,
            **facts,
        )

    def against(
        self, case: str, shown: Mapping[str, Sequence[Watch]], name: str
    ) -> Iterator[Ratio]:
        """How many times as fast as one of them each of the others is."""
        for side, watches in shown.items():
            if side != name:
                yield Ratio(
                    name=f"{case}: {name} / {side}",
                    value=quotients(
                        [watch.total for watch in shown[name]], [watch.total for watch in watches]
                    ),
                    cpu=quotients(
                        [watch.cpu_total for watch in shown[name]],
                        [watch.cpu_total for watch in watches],
                    ),
                    how="time; in turns, by rounds",
                )


def quotients(above: Sequence[float], below: Sequence[float]) -> Figure:
    """Of two things measured in the same rounds, round by round."""
    return Figure.of(Spread.of([a / b for a, b in zip(above, below, strict=True)]))
