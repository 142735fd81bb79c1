"""What is done already: asked of the outputs, and of the journals where those are mute."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from stylecli.artifacts import journal, store
from stylecli.artifacts.files import unwritable
from stylecli.artifacts.journal import Outcome
from stylecli.engine.plan import Job, below
from stylecli.engine.provenance import carrier
from stylecli.engine.runs import pace
from stylecli.engine.runs.making import Result
from stylecli.errors import OutputDiffersError

# By how much the clock of a file server may differ from ours.
CLOCK_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Known:
    """What a folder's journals say.

    Attributes:
        folder: Whose journals.
        outcomes: How every key ended last for each output; files without provenance are recognised
            by it.
        torn: When runs were at work that were killed or ended early, in seconds since 1970. They
            may have left files without their rows.
        is_torn: The last run was one of them.
    """

    folder: Path = Path()
    outcomes: Mapping[tuple[str, str], Outcome] = field(default_factory=dict)
    torn: tuple[tuple[float, float], ...] = ()
    is_torn: bool = False
    _failed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, folder: Path) -> Known:
        """Read the journals of a folder, which may not be there.

        Raises:
            InputError: One of them cannot be read.
        """
        outcomes = journal.outcomes(folder)
        newest: dict[str, Outcome] = {}
        for (_, output), outcome in outcomes.items():
            if output not in newest or outcome.finished >= newest[output].finished:
                newest[output] = outcome
        failed = frozenset(name for name, one in newest.items() if one.status == "failed")
        runs = journal.runs(folder)
        begun = [row for row in runs if row["event"] == "started"]
        torn = tuple(_torn(begun, {row.get("run"): row for row in runs if row["event"] == "ended"}))
        last = pace.stamp(str(begun[-1].get("at"))) if begun else None
        return cls(folder, outcomes, torn, any(start == last for start, _ in torn), failed)

    def outcome(self, job: Job) -> Outcome | None:
        """How a job ended last, by just these inputs and settings."""
        return self.outcomes.get((job.key, below(self.folder, job.output)))

    def status(self, job: Job) -> str:
        """The same in a word; empty if nobody tried it."""
        outcome = self.outcome(job)
        return "" if outcome is None else outcome.status

    def has_failed(self, job: Job) -> bool:
        """Whether a job's output failed last, perhaps with other inputs."""
        return below(self.folder, job.output) in self._failed

    def failed(self, jobs: Iterable[Job]) -> tuple[list[Job], list[Job]]:
        """Those that have failed, and the others."""
        apart: tuple[list[Job], list[Job]] = ([], [])
        for job in jobs:
            apart[not self.has_failed(job)].append(job)
        return apart

    def was_torn_at(self, moment: float) -> bool:
        """Whether a file of this time may be of a run that could not write its row."""
        return any(
            start - CLOCK_SECONDS <= moment <= end + CLOCK_SECONDS for start, end in self.torn
        )


def pending(
    jobs: Sequence[Job], known: Known, *, overwrite: bool = False
) -> tuple[list[Job], list[Result]]:
    """Split jobs into what is left to do, and what needs no model: done already, or in the way."""
    todo: list[Job] = []
    settled: list[Result] = []
    for job in jobs:
        try:
            output = _state(job, job.output, known)
            others = {
                file: _state(job, file, known)
                for file in (job.sheet, *job.beside)
                if file is not None
            }
        except OSError as error:
            settled.append(Result(job, "failed", error=unwritable(job.output, error)))
            continue
        states = {job.output: output, **others}
        if all(state == "done" for state in states.values()):
            settled.append(Result(job, "skipped"))
        elif overwrite or "foreign" not in states.values():
            # Made before without the sheet that is asked for now: make both again, the same.
            is_own = output != "absent" or (job.strip and known.is_torn)
            todo.append(replace(job, redo=True) if is_own and output != "foreign" else job)
        else:
            in_the_way = next(file for file, state in states.items() if state == "foreign")
            error_ = OutputDiffersError(
                f"{in_the_way} exists and was made from something else, or changed since",
                fix="use --overwrite, or another --output",
            )
            settled.append(Result(job, "failed", error=error_))
    return todo, settled


def _state(job: Job, file: Path, known: Known) -> Literal["absent", "done", "redo", "foreign"]:
    """What is there in place of an output or its sheet."""
    carrying = carrier(file)
    # An empty file holds nothing that could be lost.
    if not carrying.exists() or not (status := carrying.stat()).st_size:
        return "absent"
    said = store.read_provenance(carrying)
    outcome = known.outcome(job) if file == job.output else None
    is_noted = outcome is not None and outcome.status == "done" and outcome.bytes is not None
    if said is not None:
        if said.get("key") != job.key:
            return "foreign"
        if outcome is not None and is_noted and outcome.bytes != status.st_size:
            # Cut short by a disk or a copy, or edited by a program that kept the note.
            return "redo" if known.was_torn_at(status.st_mtime) else "foreign"
        # It says what made it, and was not to.
        return "redo" if job.strip else "done"
    if file != job.output:
        # Nothing tells the sheets of stripped files apart.
        return "done" if job.strip else "foreign"
    if outcome is not None and is_noted:
        is_same = outcome.bytes == status.st_size and outcome.sha256 == store.file_sha256(carrying)
        return "done" if is_same else "foreign"
    return "redo" if job.strip and known.was_torn_at(status.st_mtime) else "foreign"


def _torn(
    begun: Sequence[Mapping[str, Any]], ended: Mapping[object, Mapping[str, Any]]
) -> Iterator[tuple[float, float]]:
    """From its beginning to its early end, or to the next run of the same part."""
    for i, row in enumerate(begun):
        end = ended.get(row.get("run"))
        if end is not None and not end.get("early"):
            continue
        following = (r.get("at") for r in begun[i + 1 :] if r.get("shard") == row.get("shard"))
        start = pace.stamp(str(row.get("at")))
        stop = pace.stamp(str(end.get("at") if end is not None else next(following, "")))
        if start is not None:
            yield start, time.time() if stop is None else stop
