"""Signals that end a run: the first one closes what is open, later ones do not disturb that."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# SIGHUP is a closed terminal or a lost connection; Windows has none.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Terminated(BaseException):
    """SIGTERM or SIGHUP, raised so that ``with`` blocks close what they hold."""

    exit_status = 128 + signal.SIGTERM


@contextmanager
def raised_once() -> Iterator[Callable[[], None]]:
    """Within the block the first signal is raised, as `KeyboardInterrupt` or `Terminated`.

    Yields:
        Call it once the work is over: what comes after is written without being interrupted.
    """
    is_live = True

    def settle() -> None:
        nonlocal is_live
        is_live = False

    def stop(number: int, _frame: object) -> None:
        # Not SIG_IGN instead: the programs that are started from here would inherit it.
        if is_live:
            settle()
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    before = {}
    for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
        handler = signal.getsignal(number)
        # Under nohup, and for what a script sends to the background, some are to be ignored.
        if handler not in (signal.SIG_IGN, None):
            before[number] = handler
            signal.signal(number, stop)
    try:
        yield settle
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
