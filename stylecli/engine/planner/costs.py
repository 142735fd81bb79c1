"""Seconds and peak memory of a command's work under any device settings."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from stylecli.engine.planner import memory
from stylecli.engine.planner.clock import Clock
from stylecli.engine.planner.passes import Pass, Passes
from stylecli.engine.planner.phases import Phase, Phases
from stylecli.engine.planner.walk import Call
from stylecli.engine.planner.work import Work
from stylecli.recipe.schema import Device, Recipe

# Reading weights, and moving them to a GPU from where it can fetch them itself: bytes a second.
READ_RATE, BUS_RATE = 1e9, 12e9
# A process that took longer than this until now has done more than load libraries.
MOST_START = 20.0
# Of a trajectory: as it is kept, as it was made, and as a batch.
TRAJECTORIES = 3
# LoRAs that a wardrobe holds, unless one picture asks for more.
LOADED = 8
# Rows whose pace is compared with that of one.
MANY = 8
# What a run does before its work and a plan does not, as a share of what both do.
LOADING = 0.25


@dataclass(frozen=True, slots=True)
class Part:
    """One phase of the work.

    Attributes:
        rows: Of the UNet, or pictures.
        memory_bytes: The peak while it runs.
    """

    name: str
    rows: int
    seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run with nothing cached.

    Attributes:
        timed: Share of the seconds whose operations were timed rather than scaled.
    """

    seconds: float
    memory_bytes: int
    parts: tuple[Part, ...] = ()
    timed: float = 0.0


class Planner:
    """Knows what a command's work costs; nothing of the model is loaded for it."""

    def __init__(
        self, passes: Passes, recipe: Recipe, work: Work, clock: Clock, *, libraries: int
    ) -> None:
        """Plan some work.

        Args:
            passes: Of the model.
            recipe: Of the run; its device settings are only those that plans begin with.
            work: What is asked for.
            clock: Of the device.
            libraries: Bytes of a process without a model.
        """
        self.work = work
        self.recipe = recipe
        self.clock = clock
        self._passes = passes
        self._phases = Phases(passes, recipe, work)
        self._device = clock.device
        self._libraries = libraries
        self._started = min(time.process_time(), MOST_START)

    def measure(self, settings: Device, *, checkpointing: bool) -> None:
        """Time the operations of the work under some settings; others are scaled from these."""
        if self.clock.timed:
            return
        calls: Counter[Call] = Counter()
        for phase in self._phases.under(settings, checkpointing=checkpointing):
            for call, count in phase.one.walk.calls.items():
                calls[call] += count * max(1, round(phase.factor))
        if self._is_gpu:
            for call in self._many.walk.calls:
                calls[call] += 1
        with torch.no_grad():
            self.clock.time(calls)

    def cost(self, settings: Device, *, checkpointing: bool) -> Cost:
        """Seconds and memory under some settings."""
        phases = list(self._phases.under(settings, checkpointing=checkpointing))
        seconds: dict[str, float] = {"start": self._start}
        rows: Counter[str] = Counter()
        alive_in: dict[str, list[Phase]] = {}
        timed = 0.0
        for phase in phases:
            taken, of_timed = self._seconds(phase, settings)
            seconds[phase.name] = seconds.get(phase.name, 0.0) + taken
            timed += of_timed
            rows[phase.name] += round(phase.rows)
            alive_in.setdefault(phase.name, []).append(phase)
        total = sum(seconds.values())
        parts = [
            Part(name, rows[name], seconds[name], self._memory(some, settings))
            for name, some in alive_in.items()
        ]
        parts.insert(0, Part("start", 0, seconds["start"], self._memory([], settings)))
        return Cost(
            total,
            self._memory(phases, settings),
            tuple(parts),
            timed / max(total - self._start, 1e-9),
        )

    @cached_property
    def _start(self) -> float:
        # Loading the libraries took this process as long as it will take the run.
        return self._started * (1 + LOADING) + self._passes.stored / READ_RATE

    def _seconds(self, phase: Phase, settings: Device) -> tuple[float, float]:
        """Of a phase, and of that what was timed."""
        calls = phase.one.walk.calls
        computed = self.clock.seconds(calls) * phase.factor
        if phase.needs == "unet":
            computed *= self._pace(phase.at_once) / self._pace(phase.one.rows)
        timed = self.clock.seconds({c: n for c, n in calls.items() if c in self.clock.timed})
        python = self.clock.layer_seconds * phase.one.walk.modules * phase.calls
        # A GPU computes while Python goes ahead; a CPU does one after the other.
        seconds = max(computed, python) if self._is_gpu else computed + python
        if self._is_gpu and settings.offload == "blocks" and phase.needs == "unet":
            seconds += phase.calls * self._passes.largest_block[1] / BUS_RATE
        elif self._is_gpu and settings.offload != "none" and phase.needs != "text":
            seconds += self._phases.groups(settings) * self._passes.weights[phase.needs] / BUS_RATE
        return seconds, timed * phase.factor

    @property
    def _many(self) -> Pass:
        return self._passes.plain(self.work.height, self.work.width, MANY)

    def _pace(self, rows: int) -> float:
        """Seconds of a row among so many: a GPU is not filled by a few."""
        if not self._is_gpu:
            return 1.0
        alone = self.clock.seconds(self._passes.plain(self.work.height, self.work.width).walk.calls)
        among = self.clock.seconds(self._many.walk.calls) / MANY
        # One part is every row's own, the other is shared.
        shared = max(0.0, (alone - among) / (1 - 1 / MANY))
        return alone - shared + shared / rows

    @property
    def _is_gpu(self) -> bool:
        return self._device.type == "cuda"

    def _memory(self, phases: Sequence[Phase], settings: Device) -> int:
        passes, work = self._passes, self.work
        weights = passes.weights
        cells = work.height * work.width // passes.latent_px**2
        levels = self.recipe.sampling.steps + 1
        latents = 4.0 * settings.batch * levels * cells * passes.latent_channels
        trajectory = latents if "inversion" in work.rows else 0.0
        loras = 4.0 * passes.lora_numbers * min(work.looks, LOADED) + passes.widened
        if not self._is_gpu:
            # Read ahead, at work, and waiting to be written.
            canvases = min(work.items, 4 * settings.batch)
            pictures = 27.0 * work.height * work.width * canvases + memory.READING * work.picture_px
            resident = sum(weights.values()) + loras + TRAJECTORIES * trajectory + pictures
            before = [p.alive_in_heap for p in phases if p.name != "decode"]
            after = [p.alive_in_heap for p in phases if p.name == "decode"]
            return memory.of_process(self._libraries, resident, before, after)
        peaks = [memory.of_gpu(loras + trajectory + self._resident("vae", settings), 0.0)]
        for phase in phases:
            resident = loras + trajectory + self._resident(phase.needs, settings)
            peaks.append(memory.of_gpu(resident, phase.alive.both))
        return max(peaks)

    def _resident(self, needs: str, settings: Device) -> float:
        weights = self._passes.weights
        if settings.offload == "none":
            return sum(weights.values())
        if settings.offload == "blocks" and needs == "unet":
            largest, blocks = self._passes.largest_block
            return weights["unet"] - blocks + largest
        return weights[needs]
