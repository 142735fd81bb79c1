"""Jobs without pictures, and makers without a model, for tests of what carries jobs out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stylecli.engine.plan import Input, Job
from stylecli.errors import ItemError


class Listener:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    warn = note

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Listener]:
        yield self

    def advance(self, n: int = 1) -> None:
        """Nobody watches."""


def job(folder: Path, name: str, *, strip: bool = False) -> Job:
    content = Input("content", Path(f"{name}.png"), f"sha-{name}")
    return Job(f"key-{name}", "transfer", (content,), folder / f"{name}.bin", 1, strip=strip)


def jobs(folder: Path, count: int) -> list[Job]:
    return [job(folder, f"{i:03}") for i in range(count)]


class FakeMaker:
    """Writes a job's name; what goes wrong, and how long things take, is told by name.

    What is large fits once so many of the steps that spare memory were taken.
    """

    def __init__(
        self,
        *,
        batch: int = 1,
        sizes: Callable[[str], object] = lambda _: 0,
        bad: Mapping[str, Exception] | None = None,
        room: int = 10**9,
        steps: Sequence[str] = (),
        large: Mapping[str, int] | None = None,
        seconds: tuple[float, float, float] = (0, 0, 0),
    ) -> None:
        self.batch = batch
        self.groups: list[list[str]] = []
        self.held = self.most_held = 0
        self.threads: dict[str, set[str]] = {"load": set(), "make": set(), "save": set()}
        self._sizes, self._bad, self._room, self._seconds = sizes, bad or {}, room, seconds
        self._steps, self._large = list(steps), large or {}
        self.taken: list[str] = []
        self.tried: list[str] = []
        self._guard = threading.Lock()

    def load(self, job: Job) -> str:
        self._note("load", 1)
        self._fail("load", job)
        return job.content.path.stem

    def bucket(self, job: Job, loaded: str) -> Any:
        return self._sizes(loaded)

    def make(self, group: Sequence[tuple[Job, str]]) -> list[str]:
        self._note("make", 0)
        if len(group) > self._room:
            raise MemoryError
        for one, name in group:
            self.tried.append(name)
            if self._large.get(name, 0) > len(self.taken):
                raise MemoryError
            self._fail("make", one)
        self.groups.append([name for _, name in group])
        return [name for _, name in group]

    def save(self, job: Job, made: str) -> dict[str, Any]:
        self._note("save", -1)
        self._fail("save", job)
        job.output.write_text(made)
        return {"name": made}

    def shrink(self) -> str | None:
        if not self._steps:
            return None
        self.taken.append(self._steps.pop(0))
        return self.taken[-1]

    def _note(self, stage: str, change: int) -> None:
        time.sleep(self._seconds[("load", "make", "save").index(stage)])
        with self._guard:
            self.threads[stage].add(threading.current_thread().name)
            self.held += change
            self.most_held = max(self.most_held, self.held)

    def _fail(self, stage: str, job: Job) -> None:
        error = self._bad.get(f"{stage} {job.content.path.stem}")
        if error is not None:
            if stage != "save":
                with self._guard:
                    self.held -= 1
            raise error


def broken(name: str) -> ItemError:
    return ItemError(f"{name} is broken", fix="mend it")
