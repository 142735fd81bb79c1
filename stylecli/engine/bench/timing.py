"""Seconds of things done in turns, so that a busy machine slows all of them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch


def wait(device: torch.device) -> None:
    """Until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Watch:
    """Seconds of the named parts of one run; the device is waited for at both ends of each.

    Attributes:
        seconds: By the clock.
        cpu_seconds: Of this process, all threads; what others do on the machine is not in it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the length of the block to a part."""
        wait(self._device)
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        wait(self._device)
        self.seconds[name] += time.perf_counter() - wall
        self.cpu_seconds[name] += time.process_time() - cpu

    @property
    def total(self) -> float:
        """All parts, by the clock."""
        return sum(self.seconds.values())

    @property
    def cpu_total(self) -> float:
        """All parts, of this process."""
        return sum(self.cpu_seconds.values())


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


Side = Callable[[Watch], object]


def in_turns(
    sides: Mapping[str, Side],
    device: torch.device,
    *,
    rounds: int,
    on_turn: Callable[[], object] = lambda: None,
) -> dict[str, list[Watch]]:
    """Every side once a round, each round beginning with another one.

    The caller has warmed them up.
    """
    found: dict[str, list[Watch]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds):
        for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
            watch = Watch(device)
            sides[name](watch)
            found[name].append(watch)
            on_turn()
    return found
