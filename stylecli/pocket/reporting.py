"""What the engine says of a part that it trains, in the lines that the other parts print."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

EVERY_SECONDS = 60.0


class Plain:
    """A reporter that writes lines to standard error."""

    def note(self, text: str) -> None:
        """A line."""
        sys.stderr.write(f"{text}\n")

    def warn(self, text: str) -> None:
        """A line that stands out."""
        sys.stderr.write(f"warning: {text}\n")

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Progress]:
        """How far it is, once a minute."""
        yield Progress(label, total)


class Progress:
    """A task under way."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._done, self._told = 0, time.monotonic()

    def advance(self, n: int = 1) -> None:
        """Count, and tell now and then."""
        self._done += n
        if time.monotonic() - self._told >= EVERY_SECONDS:
            self._told = time.monotonic()
            sys.stderr.write(f"{self._label}: {self._done} of {self._total}\n")
