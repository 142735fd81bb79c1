"""How far the runs of a folder are, from its journals alone; also while they go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stylecli.artifacts import journal
from stylecli.engine.runs import history
from stylecli.engine.runs.history import Run, Shard
from stylecli.errors import InputError

# Failures that are told, the last ones.
TOLD = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """An item whose last attempt failed; `output` is named from the folder."""

    output: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The last run of a folder, or of one shard of the work.

    Attributes:
        is_running: None where nobody can tell: it goes on, or it was killed.
        items: What it was to do and had done before.
        left: Items it did not reach, or has not yet.
        ended: When, by its last sign of life if it was killed; None while it may go on.
        exit_status: As it ended; None while it goes on, or when it was killed.
        per_minute: Items that it worked on, without the time to load a model.
    """

    command: str
    shard: Shard | None
    is_running: bool | None
    items: int
    left: int
    started: str
    ended: str | None
    exit_status: int | None
    per_minute: float | None

    @property
    def seconds_left(self) -> float | None:
        """Until it ends, at the rate it went so far; None when nobody can tell."""
        if not self.is_running or not self.per_minute:
            return None
        return self.left / self.per_minute * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A folder of results.

    Attributes:
        done: Outputs whose last attempt succeeded, in all runs of the folder.
        failed: Outputs whose last attempt failed, without those that nobody asks for any more.
        failures: The last few of those.
        parts: The last run of each shard, in order; runs that later ones did over are left out.
    """

    folder: Path
    done: int
    failed: int
    failures: Sequence[Failure]
    parts: Sequence[Part]

    @property
    def left(self) -> int:
        return sum(part.left for part in self.parts)

    @property
    def per_minute(self) -> float | None:
        """Of all that goes on now together, or of the last run of each shard."""
        running = [part for part in self.parts if part.is_running]
        return sum(part.per_minute or 0.0 for part in running or self.parts) or None

    @property
    def seconds_left(self) -> float | None:
        """Until the last of the runs ends; None when none goes on, or one cannot tell."""
        times = [part.seconds_left for part in self.parts if part.is_running is not False]
        known = [seconds for seconds in times if seconds is not None]
        return max(known) if known and len(known) == len(times) else None


def folders(places: Iterable[Path]) -> list[Path]:
    """Folders with journals: each place itself, else whichever below it have one.

    Args:
        places: As the user named them; a file stands for the folder it is in.

    Raises:
        InputError: There is no journal at or below a place.
    """
    found: dict[Path, None] = {}
    for place in places:
        start = place.parent if place.is_file() else place
        if journal.files(start):
            found[start] = None
            continue
        # All that look like one: only what `files` says of their folders counts.
        below = {one.parent for one in start.rglob("runs*.jsonl") if journal.files(one.parent)}
        if not below:
            what = "holds no journal" if place.exists() else "does not exist"
            raise InputError(f"{place} {what}", fix="give the --output of a run")
        found.update(dict.fromkeys(sorted(below)))
    return list(found)


def read(folder: Path) -> Status:
    """What the journals of a folder say, with the locks for who is at work right now.

    Raises:
        InputError: A journal cannot be read.
    """
    # Asked before and after: a run may begin or end while its journal is read.
    before = journal.held(folder)
    found = history.read(folder)
    held = _held(before, journal.held(folder))
    failed = sorted(
        (one.finished, name, one.failure)
        for name, one in found.outputs.items()
        if one.failure is not None and not found.is_past(one)
    )
    return Status(
        folder=folder,
        done=sum(one.failure is None for one in found.outputs.values()),
        failed=len(failed),
        failures=[Failure(name, what) for _, name, what in failed[-TOLD:]],
        parts=[_part(run, held) for run in found.last_runs()],
    )


def _part(run: Run, held: Mapping[str, bool | None]) -> Part:
    end = run.end
    left = max(0, _count(run.begin, "todo") - len(run.finished))
    items = _count(run.begin, "items")
    ended: str | None = None
    if end is not None:
        is_running: bool | None = False
        ended = str(end.get("at", ""))
        left = _count(end.get("counts"), "pending")
    else:
        is_running = held.get(journal.name(run.shard), False)
        # A run of a single file locks that file, not the folder: nobody can see it from here.
        if is_running is False and items == 1 and run.shard is None:
            is_running = None
        if is_running is False:
            ended = max([run.started, *(at for at, _ in run.finished)])
    status = end.get("exit_status") if end is not None else None
    return Part(
        command=str(run.begin.get("command", "")),
        shard=run.shard,
        is_running=is_running,
        items=items,
        left=left,
        started=run.started,
        ended=ended,
        exit_status=status if isinstance(status, int) else None,
        per_minute=run.per_minute,
    )


def _held(
    before: Mapping[str, bool | None], after: Mapping[str, bool | None]
) -> dict[str, bool | None]:
    """Whoever held a lock at one of two times; then whoever may have, as nobody could tell."""
    return {
        name: before.get(name) or after.get(name) or after.get(name, before.get(name))
        for name in {**before, **after}
    }


def _count(value: object, key: str) -> int:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, int) else 0
