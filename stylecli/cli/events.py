"""``--log-json``: what happens, one JSON object a line, for programs that collect logs."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stylecli.artifacts.files import to_json
from stylecli.errors import UsageError

SCHEMA_VERSION = 1
# Every night the same, and as many as there are pictures; the summary counts them.
UNEVENTFUL = ("skipped", "pending")


class EventLog:
    """An open log; a `stylecli.cli.console.Listener`.

    Each line is one write to the end of the file, so several processes may share it, and carries
    an ``invocation`` by which their lines are told apart.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        """Open the file, or make it.

        Raises:
            UsageError: It cannot be written, or is where a journal of results would be.
        """
        from stylecli.artifacts.journal import NAME  # brings in locks, which --help need not

        if NAME.fullmatch(path.name):
            raise UsageError(
                f"--log-json {path} has the name of a journal", fix="call it events.jsonl"
            )
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise UsageError(
                f"--log-json {path} cannot be written: {error.strerror}",
                fix="name a file in a folder that exists",
            ) from error
        self._path = path
        self._warn = warn
        self._invocation = secrets.token_hex(4)
        self._is_torn = False
        self._has_warned = False

    def hear(self, event: str, said: Mapping[str, Any]) -> None:
        """Add a line; where that fails the work goes on, and the first time is said.

        Items on which no work was done have none.
        """
        if event == "item" and said.get("status") in UNEVENTFUL:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        envelope = {
            "schema_version": SCHEMA_VERSION,
            "time": time,
            "event": event,
            "invocation": self._invocation,
        }
        line = to_json({**said, **envelope}).encode() + b"\n"
        try:
            self._append(line)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                self._warn(f"--log-json {self._path} cannot be written: {error.strerror}")

    def _append(self, line: bytes) -> None:
        # A disk that was full for a while may have taken half a line.
        data = b"\n" + line if self._is_torn else line
        self._is_torn = os.write(self._file, data) < len(data)
        if self._is_torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        os.close(self._file)
