"""How a job is made and what became of it: what runs and those who work for them have in common."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from stylecli.artifacts import store
from stylecli.engine.context import Reporter
from stylecli.engine.plan import Job, below
from stylecli.engine.provenance import SCHEMA_VERSION, carrier, named, without_folders
from stylecli.errors import StyleError


class Maker(Protocol):
    """Makes jobs in three stages, so that disk and model work at the same time.

    Attributes:
        batch: How many the model makes together.
    """

    batch: int

    def load(self, job: Job) -> Any:
        """Read what the job needs from the disk; called in any thread.

        Raises:
            ItemError: It cannot be read.
        """

    def bucket(self, job: Job, loaded: Any) -> Hashable:
        """Jobs of equal buckets may be made together."""

    def make(self, group: Sequence[tuple[Job, Any]]) -> Sequence[Any]:
        """What the model makes of some jobs of one bucket and what was loaded for each.

        Raises:
            ItemError: One of them cannot be made.
        """

    def save(self, job: Job, made: Any) -> Mapping[str, Any]:
        """Write the files and return figures worth keeping; called in any thread.

        Raises:
            ItemError: They cannot be written.
        """

    def shrink(self) -> str | None:
        """Take less memory for one job from here on, and say how; None when nothing is left."""


class OneByOne:
    """A maker of jobs that are read, made and written in one go."""

    batch = 1

    def __init__(
        self,
        make: Callable[[Job], Mapping[str, Any]],
        shrink: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._make = make
        self._shrink = shrink

    def load(self, job: Job) -> None:
        """Nothing."""

    def bucket(self, job: Job, loaded: None) -> Hashable:
        return job.output

    def make(self, group: Sequence[tuple[Job, None]]) -> Sequence[Mapping[str, Any]]:
        return [self._make(job) for job, _ in group]

    def save(self, job: Job, made: Mapping[str, Any]) -> Mapping[str, Any]:
        return made

    def shrink(self) -> str | None:
        return self._shrink()


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one job.

    Attributes:
        status: ``pending`` is one that the run did not reach.
        error: Why it failed, when it did.
        details: Figures of this item: losses, PSNR.
    """

    job: Job
    status: Literal["done", "skipped", "failed", "pending"]
    seconds: float = 0.0
    error: StyleError | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The same for whoever runs it now: files as they were named."""
        return {
            "schema_version": SCHEMA_VERSION,
            "key": self.job.key,
            "command": self.job.command,
            "status": self.status,
            "output": str(self.job.output),
            "seconds": round(self.seconds, 3),
            "seed": self.job.seed,
            "inputs": [named(item) for item in self.job.inputs],
            "error": self.error.as_row() if self.error else None,
            "details": dict(self.details),
        }

    def journal_row(self, folder: Path) -> dict[str, Any]:
        """The same for whoever reads it later, perhaps elsewhere: names of files, no folders.

        Args:
            folder: The journal's; outputs are named from there.
        """
        output = self.job.output
        row = self.row() | {"output": below(folder, output)}
        if self.job.sheet is not None:
            row["sheet"] = below(folder, self.job.sheet)
        if self.status != "failed":
            file = carrier(output)
            row |= {"bytes": file.stat().st_size, "sha256": store.file_sha256(file)}
        if row["error"]:
            files = [output, *(item.path for item in self.job.inputs)]
            for key in ("what", "fix"):
                row["error"][key] = without_folders(row["error"][key], files)
        return row


# Carries out jobs: one result for each, done or failed, in any order; what it raises fails all.
Work = Callable[[Sequence[Job], Callable[[], Maker], Reporter], Generator[Result, None, None]]
