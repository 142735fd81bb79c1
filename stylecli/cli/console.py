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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from stylecli.artifacts.files import to_json
from stylecli.cli.progress import Bars, Lines, Silent, Task
from stylecli.errors import StyleError

SCHEMA_VERSION = 1
LISTED_FAILURES = 20


class Listener(Protocol):
    """Is told, beside the two streams, what happens; it keeps its own troubles to itself."""

    def hear(self, event: str, said: Mapping[str, Any]) -> None:
        """One of: start, plan, item, note, warning, error; summary, once and nearly last."""

    def close(self) -> None:
        """The run is over and summed up."""


class Console:
    """Streams, output mode and the tally of one invocation.

    Attributes:
        typed: The command line.
    """

    def __init__(self) -> None:
        self.json = False
        self.quiet = False
        self.debug = False
        self.counts: Counter[str] = Counter()
        self.lost_results = False
        self.typed: Sequence[str] = ()
        self._began = time.monotonic()
        self._mute = False
        self._failed: list[str] = []
        self._listeners: list[Listener] = []
        self._bars = Bars()

    def begin(self, typed: Sequence[str]) -> None:
        """Forget an earlier invocation; from here on time and items are counted."""
        self.typed = typed
        self._began = time.monotonic()
        self.lost_results = self._mute = False
        self.counts.clear()
        self._failed.clear()

    def set_mode(self, *, json: bool = False, quiet: bool = False, debug: bool = False) -> None:
        """Choose how to speak."""
        self.json, self.quiet, self.debug = json, quiet, debug

    # Programs that listen.

    @property
    def is_heard(self) -> bool:
        """Whether anybody beside the two streams is told what happens."""
        return bool(self._listeners)

    def listen(self, listener: Listener) -> None:
        """From here on tell it too; the first to come is the last to be closed."""
        self._listeners.append(listener)

    def tell(self, event: str, said: Mapping[str, Any]) -> None:
        """Tell the listeners, and nobody else."""
        for listener in self._listeners:
            listener.hear(event, said)

    # Results: stdout.

    def result(self, row: Mapping[str, Any], text: str | None = None) -> None:
        """One line for one item.

        Args:
            row: With ``--json``, printed as it is plus ``schema_version``. A ``status`` is counted
                for the summary; ``failed`` makes the exit status 3 and shows ``error`` on stderr.
            text: The line without ``--json``; default: the ``output`` of the row, empty: none.
                What is ``pending`` has no line: `close` says how much there is.
        """
        status = str(row.get("status", ""))
        if status:
            self.counts[status] += 1
            self.tell("item", row)
        error = row.get("error")
        if status == "failed":
            name = _name(row)
            self._failed.append(name)
            if isinstance(error, Mapping):
                what, fix = str(error.get("what", "")), str(error.get("fix", ""))
                self._say_two("failed", what if name in what else f"{name}: {what}", fix)
        if self.json:
            self._out(to_json({"schema_version": SCHEMA_VERSION, **row}))
        elif status == "pending":
            return
        elif text is not None:
            if text:
                self._out(text)
        elif status != "failed" and row.get("output") is not None:
            self._out(str(row["output"]))

    # Talk: stderr.

    def note(self, text: str) -> None:
        """Say something once; silent with ``-q``."""
        self.tell("note", {"text": text})
        if not self.quiet:
            self._err(text)

    def warn(self, text: str) -> None:
        """Say something the user should not miss; said with ``-q`` too."""
        self.tell("warning", {"text": text})
        self._err(f"{self._paint('warning', '33')}  {text}")

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        """Show progress: a bar with the time left on a terminal, else a line now and then."""
        if self.quiet:
            yield Silent()
        elif _is_animated():
            with self._bars.bar(label, total) as bar:
                yield bar
        else:
            yield Lines(self.note, label, total)

    # Endings.

    def fail(self, error: StyleError) -> None:
        """The two lines of a known failure."""
        self.tell("error", error.as_row())
        self._say_two("error", error.what, error.fix)

    def crash(self, error: BaseException) -> None:
        """A failure nobody foresaw: one line, or the traceback with ``--debug``."""
        known = StyleError(f"{type(error).__name__}: {error}")
        self.tell("error", known.as_row())
        if self.debug:
            self._err("".join(traceback.format_exception(error)).rstrip())
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        fix = "" if self.debug else "run again with --debug to see where, and report it"
        self._say_two("error", f"unexpected {said.splitlines()[0]}", fix)

    def close(self, command: str, exit_status: int, error: Mapping[str, str] | None) -> int:
        """List what failed, say what is left, and sum up for programs.

        Returns:
            The exit status, which is not 0 where results could not be written.
        """
        if self._failed:
            shown = ", ".join(self._failed[:LISTED_FAILURES])
            rest = len(self._failed) - LISTED_FAILURES
            more = f" and {rest} more" if rest > 0 else ""
            what = f"{len(self._failed)} of {self.counts.total()} items failed: {shown}{more}"
            self._say_two(
                "error",
                what,
                "each line says what to do; the same command again retries only these",
            )
        if left := self.counts["pending"]:
            self.note(f"{left} left for the next run")
        summary = {
            "schema_version": SCHEMA_VERSION,
            "command": command,
            "exit_status": exit_status,
            "error": error,
            "counts": {**self.counts, "items": self.counts.total()},
            "seconds": round(time.monotonic() - self._began, 3),
        }
        if self.json:
            self._out(to_json({**summary, "summary": True}))
        if self.lost_results and not exit_status:
            summary["exit_status"] = exit_status = StyleError.exit_status
        self.tell("summary", summary)
        while self._listeners:
            self._listeners[-1].close()
            self._listeners.pop()
        return exit_status

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
        # One screen for both streams: let the bar make room, or it would be drawn over.
        if not (sys.stdout.isatty() and self._bars.say(line)):
            print(line, flush=True)

    def _err(self, line: str) -> None:
        if not self._bars.say(line):
            # Nobody may be left to hear it either (`2>&1 | head`).
            with contextlib.suppress(OSError):
                print(line, file=sys.stderr, flush=True)

    @staticmethod
    def _paint(word: str, code: str) -> str:
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return word if plain or not sys.stderr.isatty() else f"\x1b[1;{code}m{word}\x1b[0m"


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
