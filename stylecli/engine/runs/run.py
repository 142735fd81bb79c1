"""Carry out a plan: settle what is done, hand on the rest, write down what became of each job."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from stylecli.artifacts import store
from stylecli.artifacts.journal import Journal
from stylecli.engine.context import Reporter
from stylecli.engine.plan import Job
from stylecli.engine.runs.known import Known, pending
from stylecli.engine.runs.making import Maker, Result, Work
from stylecli.errors import (
    DiskFullError,
    ItemError,
    MemoryExhaustedError,
    OutputDiffersError,
    UsageError,
)

# Inputs that each item has of its own.
OWN = ("content", "prompt", "mask")
# When the run is stopped from outside and nobody says how.
INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """How a run treats what it meets.

    Attributes:
        overwrite: Replace outputs that were made from something else.
        retry_failed: Only what the journal says failed last.
        limit: At most this many items of work; what is done already does not count.
        max_failures: End the run when so many have failed.
    """

    overwrite: bool = False
    retry_failed: bool = False
    limit: int | None = None
    max_failures: int | None = None


def execute(
    jobs: Sequence[Job],
    start: Callable[[], Maker],
    journal: Journal,
    reporter: Reporter,
    work: Work,
    handling: Handling,
    shard: tuple[int, int] | None = None,
) -> Generator[Result, None, None]:
    """Yield a result for every job, as each is finished and written down.

    Args:
        jobs: From a plan.
        start: Loads what the jobs need and returns what makes them; called only if there is work.
        journal: Open; gets a row for each job that was done or failed, and two for the run.
        reporter: Told of progress.
        work: Carries out what is left to do.
        handling: What to redo, and when to stop.
        shard: For the journal.

    Raises:
        StyleError: Anything that would fail every job, such as missing weights.
        MemoryExhaustedError: Once all is done that could be, when something did not fit.
    """
    known = Known.of(journal.folder)
    todo, settled = pending(jobs, known, overwrite=handling.overwrite)
    left: list[Job] = []
    if handling.retry_failed:
        todo, left = known.failed(todo)
        in_the_way, others = known.failed(one.job for one in settled if one.status == "failed")
        kept = {job.output for job in in_the_way}
        settled = [one for one in settled if one.status == "skipped" or one.job.output in kept]
        left += others
    else:
        # Last, or a few that never succeed would use up every limit.
        bad, fresh = known.failed(todo)
        todo = fresh + bad
    if handling.limit is not None:
        todo, left = todo[: handling.limit], todo[handling.limit :] + left
    with _Run(journal, handling.max_failures) as run:
        run.begin(jobs, len(todo), shard)
        for result in settled:
            # One row tells of what is in the way, not one for every night.
            expected = "done" if result.status == "skipped" else "failed"
            is_noted = known.status(result.job) == expected
            if result.status == "skipped" and known.has_failed(result.job):
                is_noted = False  # other settings failed since; what is there is well
            yield run.settle(result, is_noted=is_noted)
        if todo and not run.is_over():
            missing = {job.output: job for job in todo}
            with closing(work(todo, start, reporter)) as results:
                for result in results:
                    del missing[result.job.output]
                    yield run.settle(result)
                    if run.is_over():
                        break
            todo = list(missing.values())
        for job in [*todo, *left]:
            yield run.settle(Result(job, "pending"), is_noted=True)
    if (error := run.broken or run.exhausted) is not None:
        raise error


class _Run:
    """The rows that one run writes, and what they come to."""

    def __init__(self, journal: Journal, max_failures: int | None) -> None:
        self.id = secrets.token_hex(6)
        self.counts: Counter[str] = Counter()
        self.exhausted: MemoryExhaustedError | None = None
        self.broken: ItemError | None = None
        self._tried_in_vain = 0
        self._is_over = False
        self._journal = journal
        self._max_failures = max_failures

    def begin(self, jobs: Sequence[Job], todo: int, shard: tuple[int, int] | None) -> None:
        """Say what is meant to be done, so that others can tell how far it is.

        Raises:
            UsageError: The journal cannot be written; nothing was done.
        """
        command = jobs[0].command if jobs else ""
        looks = {item.sha256 for job in jobs for item in job.inputs if item.role not in OWN}
        try:
            self._journal.note(
                "started",
                run=self.id,
                command=command,
                # Two lines of a crontab may fill one folder.
                about=store.digest([command, sorted(looks)])[:16],
                items=len(jobs),
                todo=todo,
                shard=shard,
            )
        except ItemError as error:
            raise UsageError(error.what, fix=error.fix) from error

    def is_over(self) -> bool:
        """Whether it ends before its time: too many failures, or a full disk."""
        return self._is_over

    def settle(self, result: Result, *, is_noted: bool = False) -> Result:
        """Count a result and write it down; a row that cannot be written ends the run."""
        if not is_noted:
            result = self._written(result)
        self.counts[result.status] += 1
        error = result.error
        if isinstance(error, MemoryExhaustedError):
            self.exhausted = error
        # What is in the way of its output was not tried.
        is_vain = result.status == "failed" and not isinstance(error, OutputDiffersError)
        self._tried_in_vain += is_vain
        is_enough = self._max_failures is not None and self._tried_in_vain >= self._max_failures
        self._is_over |= is_enough or isinstance(error, DiskFullError)
        return result

    def _written(self, result: Result) -> Result:
        folder = self._journal.folder
        try:
            row = result.journal_row(folder)
        except OSError as error:
            # Somebody moved it away as soon as it was there.
            gone = ItemError(
                f"{result.job.output} vanished before it was noted: {error.strerror}",
                fix="leave results where they are until the run has ended",
            )
            result = replace(result, status="failed", error=gone)
            row = result.journal_row(folder)
        if result.status == "skipped":
            # The run that made it was killed between the file and its row.
            row |= {"status": "done", "seconds": None}
        try:
            self._journal.append({"run": self.id, **row})
        except ItemError as error:
            # The item is what it is; its row is missing, and the next ones would be.
            self._is_over, self.broken = True, error
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        status = ItemError.exit_status if self.counts["failed"] else 0
        why = error or self.broken or self.exhausted
        if why is not None:
            status = int(getattr(why, "exit_status", INTERRUPTED))
        with suppress(ItemError):  # which then is why it ended
            self._journal.note(
                "ended",
                run=self.id,
                exit_status=status,
                counts=dict(self.counts),
                early=error is not None or self._is_over,
            )
