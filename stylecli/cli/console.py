"""The only code that prints: results to stdout, everything said to people to stderr.

`console` is the one instance. It satisfies `stylecli.engine.context.Reporter`, so engine functions
report to it without knowing it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from stylecli.artifacts.files import to_json
from stylecli.errors import StyleError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SCHEMA_VERSION = 1
SECONDS_BETWEEN_LINES = 30.0
LISTED_FAILURES = 20


class Task(Protocol):
    """Progress through a known number of units."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more units as done."""


class Console:
    """Streams, output mode and the tally of one invocation."""

    def __init__(self) -> None:
        self.json = False
        self.quiet = False
        self.debug = False
        self.counts: Counter[str] = Counter()
        self.lost_results = False
        self._mute = False
        self._failed: list[str] = []
        self._bars: Progress | None = None

    def set_mode(self, *, json: bool = False, quiet: bool = False, debug: bool = False) -> None:
        """Choose how to speak; also forgets the tally of an earlier invocation."""
        self.json, self.quiet, self.debug = json, quiet, debug
        self.lost_results = self._mute = False
        self.counts.clear()
        self._failed.clear()

    # Results: stdout.

    def result(self, row: Mapping[str, Any], text: str | None = None) -> None:
        """One line for one item.

        Args:
            row: With ``--json``, printed as it is plus ``schema_version``. A ``status`` is counted
                for the summary; ``failed`` makes the exit status 3 and shows ``error`` on stderr.
            text: The line without ``--json``; default: the ``output`` of the row, empty: none.
        """
        status = str(row.get("status", ""))
        if status:
            self.counts[status] += 1
        error = row.get("error")
        if status == "failed":
            name = _name(row)
            self._failed.append(name)
            if isinstance(error, Mapping):
                what, fix = str(error.get("what", "")), str(error.get("fix", ""))
                self._say_two("failed", what if name in what else f"{name}: {what}", fix)
        if self.json:
            self._out(to_json({"schema_version": SCHEMA_VERSION, **row}))
        elif text is not None:
            if text:
                self._out(text)
        elif status != "failed" and row.get("output") is not None:
            self._out(str(row["output"]))

    # Talk: stderr.

    def note(self, text: str) -> None:
        """Say something once; silent with ``-q``."""
        if not self.quiet:
            self._err(text)

    def warn(self, text: str) -> None:
        """Say something the user should not miss; said with ``-q`` too."""
        self._err(f"{self._paint('warning', '33')}  {text}")

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        """Show progress: a bar with the time left on a terminal, else a line now and then."""
        if self.quiet:
            yield _Silent()
        elif _is_animated():
            with self._bar(label, total) as bar:
                yield bar
        else:
            yield _Lines(self, label, total)

    @contextmanager
    def _bar(self, label: str, total: int) -> Iterator[Task]:
        from rich.console import Console as Terminal
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        outermost = self._bars is None
        if self._bars is None:
            # stdout may be a pipe that someone reads: only stderr is ours to draw on.
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Terminal(stderr=True),
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bars.start()
        bars, row = self._bars, self._bars.add_task(label, total=total)
        try:
            yield _Bar(bars, row)
        finally:
            bars.remove_task(row)
            if outermost:
                bars.stop()
                self._bars = None

    # Endings.

    def fail(self, error: StyleError) -> None:
        """The two lines of a known failure."""
        self._say_two("error", error.what, error.fix)

    def crash(self, error: BaseException) -> None:
        """A failure nobody foresaw: one line, or the traceback with ``--debug``."""
        if self.debug:
            self._err("".join(traceback.format_exception(error)).rstrip())
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        fix = "" if self.debug else "run again with --debug to see where, and report it"
        self._say_two("error", f"unexpected {said.splitlines()[0]}", fix)

    def close(self, exit_status: int, error: Mapping[str, str] | None) -> None:
        """List what failed and, with ``--json``, print the summary as the last line."""
        if self._failed:
            shown = ", ".join(self._failed[:LISTED_FAILURES])
            rest = len(self._failed) - LISTED_FAILURES
            more = f" and {rest} more" if rest > 0 else ""
            what = f"{len(self._failed)} of {self.counts.total()} items failed: {shown}{more}"
            self._say_two("error", what, "run the same command again to retry only these")
        if self.json:
            summary = {
                "schema_version": SCHEMA_VERSION,
                "summary": True,
                "exit_status": exit_status,
                "error": error,
                "counts": {**self.counts, "items": self.counts.total()},
            }
            self._out(to_json(summary))

    # The two streams.

    def _say_two(self, word: str, what: str, fix: str) -> None:
        first, *others = what.splitlines() or [""]
        self._err(f"{self._paint(word.ljust(5), '31')}  {first}")
        for line in others:
            self._err(f"       {line}")
        if fix:
            self._err(f"{self._paint('fix  ', '32')}  {fix}")

    def _stop_printing(self, error: OSError) -> None:
        """The work goes on: a reader that left (`| head`) got what it wanted."""
        self._mute = True
        with contextlib.suppress(OSError):
            # What is left in the buffer would fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            self.lost_results = True
            what = f"standard output cannot be written: {error.strerror or error}"
            self._say_two("error", what, "free some space, or send it elsewhere")

    def _out(self, line: str) -> None:
        if self._mute:
            return
        try:
            self._print(line)
        except OSError as error:
            self._stop_printing(error)

    def _print(self, line: str) -> None:
        if self._bars is not None and sys.stdout.isatty():
            # One screen for both streams: let the bar make room, or it would be drawn over.
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def _err(self, line: str) -> None:
        if self._bars is not None:
            from rich.text import Text

            self._bars.console.print(Text.from_ansi(line), soft_wrap=True)
        else:
            # Nobody may be left to hear it either (`2>&1 | head`).
            with contextlib.suppress(OSError):
                print(line, file=sys.stderr, flush=True)

    @staticmethod
    def _paint(word: str, code: str) -> str:
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return word if plain or not sys.stderr.isatty() else f"\x1b[1;{code}m{word}\x1b[0m"


@dataclass(frozen=True, slots=True)
class _Bar:
    bars: Progress
    row: TaskID

    def advance(self, n: int = 1) -> None:
        self.bars.advance(self.row, n)


class _Silent:
    def advance(self, n: int = 1) -> None:
        """Nobody listens."""


class _Lines:
    """Progress for log files: a line every half minute, none for short tasks."""

    def __init__(self, owner: Console, label: str, total: int) -> None:
        self._owner, self._label, self._total = owner, label, total
        self._done = 0
        self._began = self._spoke = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._spoke < SECONDS_BETWEEN_LINES:
            return
        self._spoke = now
        left = (now - self._began) / max(self._done, 1) * max(self._total - self._done, 0)
        self._owner.note(
            f"{self._label}  {self._done}/{self._total}, {duration(now - self._began)} so far, "
            f"about {duration(left)} left"
        )


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(42.4), duration(125), duration(7300)
    ('42 s', '2 min 05 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes as people say them.

    >>> size(512), size(1_500_000)
    ('512 B', '1.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _is_animated() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _name(row: Mapping[str, Any]) -> str:
    inputs = row.get("inputs")
    if isinstance(inputs, list | tuple) and inputs and isinstance(inputs[0], Mapping):
        return str(inputs[0].get("name", ""))
    return str(row.get("output") or row.get("key") or "item")


console = Console()
