"""Progress for people: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol, TextIO, cast

from stylecli.engine.runs.pace import duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SECONDS_BETWEEN_LINES = 30.0


class Task(Protocol):
    """Progress through a known number of units."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more units as done."""


class Bars:
    """The bars that are on the screen, one below the other."""

    def __init__(self) -> None:
        self._drawn: Progress | None = None

    def say(self, line: str) -> bool:
        """Print above the bars; False where there are none, and nothing was printed."""
        if self._drawn is None:
            return False
        from rich.text import Text

        self._drawn.console.print(Text.from_ansi(line), soft_wrap=True)
        return True

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Task]:
        """One more bar for the length of the block."""
        from rich.console import Console as Terminal
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        outermost = self._drawn is None
        if self._drawn is None:
            # stdout may be a pipe that someone reads: only stderr is ours to draw on.
            self._drawn = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Terminal(file=cast(IO[str], _Sturdy(sys.stderr))),
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._drawn.start()
        drawn, row = self._drawn, self._drawn.add_task(label, total=total)
        try:
            yield _Bar(drawn, row)
        finally:
            drawn.remove_task(row)
            if outermost:
                drawn.stop()
                self._drawn = None


class _Sturdy:
    """Standard error for bars, which are drawn whether or not somebody is left to see them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@dataclass(frozen=True, slots=True)
class _Bar:
    drawn: Progress
    row: TaskID

    def advance(self, n: int = 1) -> None:
        self.drawn.advance(self.row, n)


class Silent:
    """Progress that nobody wants to see."""

    def advance(self, n: int = 1) -> None:
        """Nothing."""


class Lines:
    """Progress for log files: a line every half minute, none for short tasks."""

    def __init__(self, say: Callable[[str], None], label: str, total: int) -> None:
        self._say, self._label, self._total = say, label, total
        self._done = 0
        self._began = self._spoke = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._spoke < SECONDS_BETWEEN_LINES:
            return
        self._spoke = now
        left = (now - self._began) / max(self._done, 1) * max(self._total - self._done, 0)
        self._say(
            f"{self._label}  {self._done}/{self._total}, {duration(now - self._began)} so far, "
            f"about {duration(left)} left"
        )
