"""``--notify``: a program that is told of runs that failed."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from stylecli.artifacts.files import to_json

LIMIT_SECONDS = 60.0
# All is well, or somebody pressed Ctrl-C and knows.
NOT_WORTH_TELLING = (0, 128 + signal.SIGINT)
_STANDARD_ERROR = 2


def words(command: str) -> list[str]:
    """A command line as a program and its arguments; no shell reads it.

    Raises:
        ValueError: It is empty, or a quote is not closed.

    >>> words("mail -s 'it broke' me@example.org")
    ['mail', '-s', 'it broke', 'me@example.org']
    """
    found = shlex.split(command)
    if not found:
        raise ValueError("it is empty")
    return found


class Notifier:
    """Runs the program once the run is over; a `stylecli.cli.console.Listener`."""

    def __init__(self, program: list[str], warn: Callable[[str], None]) -> None:
        self._program, self._warn = program, warn
        self._summary: Mapping[str, Any] = {}
        if shutil.which(program[0]) is None:
            # Better learnt now than from the silence after a failure.
            warn(f"--notify: {program[0]} is not a program of this machine")

    def hear(self, event: str, said: Mapping[str, Any]) -> None:
        """Keep the summary."""
        if event == "summary":
            self._summary = said

    def close(self) -> None:
        """Tell the program of a failure; what it does itself changes nothing here."""
        status = self._summary.get("exit_status", 0)
        if status in NOT_WORTH_TELLING:
            return
        environ = {
            "STYLE_EXIT_STATUS": str(status),
            "STYLE_COMMAND": str(self._summary.get("command", "")),
        }
        try:
            ended = self._run(to_json(self._summary), os.environ | environ)
        except subprocess.TimeoutExpired:
            self._warn(f"--notify: {self._program[0]} was stopped after {LIMIT_SECONDS:.0f} s")
        except OSError as error:
            self._warn(f"--notify: {self._program[0]} did not start: {error.strerror}")
        else:
            if ended:
                self._warn(f"--notify: {self._program[0]} ended with status {ended}")

    def _run(self, text: str, environ: Mapping[str, str]) -> int:
        process = subprocess.Popen(  # noqa: S603 - the user's own program, without a shell
            self._program,
            stdin=subprocess.PIPE,
            # Standard output is for results.
            stdout=_STANDARD_ERROR,
            env=environ,
            text=True,
            encoding="utf-8",
            # Of its own, so that what it starts can be stopped too.
            start_new_session=True,
        )
        try:
            process.communicate(text, timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return process.returncode
