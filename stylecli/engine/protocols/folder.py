"""The folder of a protocol's tasks: written so that the same data give the same bytes."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stylecli.artifacts.files import replacing, to_json, unwritable, write_atomic
from stylecli.artifacts.store import digest
from stylecli.engine.context import Reporter
from stylecli.engine.protocols.megastyle import LORAS, PICTURES
from stylecli.engine.protocols.tasks import ROWS, TASKS, Source
from stylecli.errors import InputError, OutputDiffersError

ABOUT, SCRIPT = "protocol.json", "run.sh"
# All that is ours in the folder; results may lie beside it.
OURS = (TASKS, LORAS, ROWS, SCRIPT, "tasks", "masks", PICTURES)
HEADER = """\
#!/bin/sh
# sh run.sh RESULTS [OPTION...]: fills the folder RESULTS; every command gets the options.
# The status is that of the last command that failed.
out=${1:?a folder for the results}
shift
here=$(dirname "$0")
status=0
"""


@dataclass(frozen=True, slots=True)
class Made:
    """What was written.

    Attributes:
        left_out: Why how many pictures are in no task.
    """

    tasks: int
    left_out: Mapping[str, int]


class Folder:
    """Where tasks go."""

    def __init__(self, path: Path, protocol: str, source: Source, *, overwrite: bool) -> None:
        """Look at what is there.

        Raises:
            OutputDiffersError: Tasks of something else, and not to be overwritten.
        """
        self._path, self._source, self._overwrite = path, source, overwrite
        self._about = {"protocol": protocol, "recipe": source.recipe, **source.facts}
        self._key = digest(self._about)
        self.check()

    def check(self) -> None:
        """Refuse to mix two protocols.

        Raises:
            OutputDiffersError: See `__init__`.
        """
        if self._overwrite or not any((self._path / name).exists() for name in (ABOUT, *OURS)):
            return
        known = self._known()
        # What a run left that did not come to its end is nobody's.
        if known.get("is_whole", not known) and known.get("key") != self._key:
            raise OutputDiffersError(
                f"{self._path} holds other tasks, or tasks of other data",
                fix="--overwrite replaces them, or choose another --output",
            )

    def write(self, reporter: Reporter) -> Made:
        """Make all tasks anew; killed on the way, the same command goes on.

        Raises:
            InputError: The source has no task.
            ItemError: A picture cannot be read, or the disk is full.
        """
        about = {"key": self._key, **self._about}
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            if self._known().get("key") != self._key:
                self._clear()
        except OSError as error:
            raise unwritable(self._path, error) from error
        write_atomic(self._path / ABOUT, _page({**about, "is_whole": False}))
        try:
            count = self._tasks(reporter)
        except InputError:
            self._forget()
            raise
        write_atomic(self._path / SCRIPT, self._script().encode())
        left_out = dict(sorted(self._source.left_out.items()))
        counts = {"tasks": count, "left_out": left_out, "is_whole": True}
        write_atomic(self._path / ABOUT, _page({**about, **counts}))
        return Made(count, left_out)

    def _tasks(self, reporter: Reporter) -> int:
        known: set[str] = set()
        with ExitStack() as files, reporter.task("tasks", 0) as progress:
            streams: dict[str, BinaryIO] = {}

            def line(name: str, row: Mapping[str, Any]) -> None:
                if name not in streams:
                    (self._path / name).parent.mkdir(exist_ok=True)
                    streams[name] = files.enter_context(replacing(self._path / name))
                streams[name].write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

            for task in self._source.tasks(self):
                name = str(task.row["output"])
                if name in known:
                    raise InputError(
                        f"two tasks would both be called {name}",
                        fix="give their pictures names that differ in more than marks",
                    )
                known.add(name)
                for name, row in task.run.items():
                    line(name, row)
                line(ROWS, task.row)
                progress.advance()
            if not known:
                raise nothing(self._source)
        return len(known)

    def put(self, name: str, data: bytes) -> None:
        """See `tasks.Shelf`."""
        file = self._path / name
        file.parent.mkdir(exist_ok=True)
        if not file.is_file() or file.read_bytes() != data:
            write_atomic(file, data)

    def drop(self, name: str) -> None:
        """See `tasks.Shelf`."""
        (self._path / name).unlink(missing_ok=True)

    def _script(self) -> str:
        commands = "".join(f"{one} || status=$?\n" for one in self._source.script())
        return f"{HEADER}{commands}exit $status\n"

    def _known(self) -> Mapping[str, Any]:
        try:
            found = json.loads((self._path / ABOUT).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _forget(self) -> None:
        """Leave nothing of a source that cannot be used; pictures of the user's stay."""
        self._clear()
        (self._path / ABOUT).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._path.rmdir()

    def _clear(self) -> None:
        for name in OURS:
            old = self._path / name
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)


def nothing(source: Source) -> InputError:
    """There is no task at all, and why."""
    reasons = ", ".join(f"{count} {why}" for why, count in source.left_out.most_common())
    return InputError(
        f"no picture makes a task{f'; left out: {reasons}' if reasons else ''}",
        fix="name other sources",
    )


def _page(value: Mapping[str, Any]) -> bytes:
    return json.dumps(json.loads(to_json(value)), indent=1).encode() + b"\n"
