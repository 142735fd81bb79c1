"""What the journals of a folder tell of its outputs and its runs, added up row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylecli.artifacts import journal
from stylecli.engine.runs import pace
from stylecli.errors import OutputDiffersError

# Shards by which it is worth asking whether together they are all.
MAX_CLASSES = 100_000
# No item takes as many seconds; an integer in JSON may be too long for a float.
NEVER = 1e9

Shard = tuple[int, int]
Row = Mapping[str, Any]


@dataclass(slots=True)
class Ending:
    """How the last attempt at an output ended; small, because there may be a million.

    Attributes:
        failure: Why it failed; None where it was done.
        run: Whose attempt it was.
    """

    finished: str
    failure: str | None
    run: str = ""


@dataclass(slots=True)
class Run:
    """One run, from its rows.

    Attributes:
        end: None while it goes on, and when it was killed.
        finished: When each item was that it worked on, and the seconds it took.
    """

    begin: Row
    end: Row | None = None
    finished: list[tuple[str, float]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.begin.get("run", ""))

    @property
    def about(self) -> object:
        """Equal for runs of one command with the same styles."""
        return self.begin.get("about")

    @property
    def did_all(self) -> bool:
        """Whether nothing failed and nothing was left."""
        end = self.end or {}
        counts = end.get("counts")
        return end.get("exit_status") == 0 and not (
            counts.get("pending") if isinstance(counts, Mapping) else None
        )

    @property
    def started(self) -> str:
        return str(self.begin.get("at", ""))

    @property
    def shard(self) -> Shard | None:
        match self.begin.get("shard"):
            case [int() as i, int() as n] if 1 <= i <= n:
                return i, n
        return None

    @property
    def per_minute(self) -> float | None:
        """Items that it worked on, without the time to load a model; None before there were any."""
        return pace.per_minute(self.started, self.finished)


@dataclass(frozen=True, slots=True)
class History:
    """A folder of results.

    Attributes:
        outputs: Name below the folder -> how its last attempt ended.
        runs: Every run, in the order they began.
    """

    outputs: Mapping[str, Ending]
    runs: Sequence[Run]

    def last_runs(self) -> list[Run]:
        """The last run of each shard, without those that later ones, cut otherwise, did over."""
        last: dict[Shard | None, Run] = {}
        for run in self.runs:
            last.pop(run.shard, None)
            last[run.shard] = run
        runs = list(last.values())
        kept = [
            run
            for number, run in enumerate(runs)
            if not _cover([one.shard or (1, 1) for one in runs[number + 1 :]], run.shard or (1, 1))
        ]
        return sorted(kept, key=lambda run: (run.shard or (0, 0))[::-1])

    def is_past(self, ending: Ending) -> bool:
        """Whether a failure is of an item that a later run, which did all it was to, had no more.

        Its content was removed, or it would have failed or succeeded since.
        """
        own = next((run for run in self.runs if run.name == ending.run), None)
        # Older journals do not say what a run was about.
        return (
            own is not None
            and own.about is not None
            and any(
                run.about == own.about
                and run.shard in (None, own.shard)
                and run.started > ending.finished
                and run.did_all
                for run in self.runs
            )
        )

    def per_minute(self) -> float | None:
        """Of the last run of each shard together, as if they went on side by side."""
        return sum(run.per_minute or 0.0 for run in self.last_runs()) or None


def read(folder: Path) -> History:
    """Read the journals of a folder once for its runs and once for its items.

    Raises:
        InputError: A journal cannot be read.
    """
    runs: dict[str, Run] = {}
    for row in journal.runs(folder):
        name = str(row.get("run"))
        if row["event"] == "started":
            runs[name] = Run(row)
        elif row["event"] == "ended" and name in runs:
            runs[name].end = row
    outputs: dict[str, Ending] = {}
    in_the_way: dict[str, Ending] = {}
    for row in journal.rows(folder):
        # What was refused for what is there says nothing of an output that was tried.
        is_refused = said(row.get("error"), "code") == OutputDiffersError.code
        _keep_last(in_the_way if is_refused else outputs, row)
        run, seconds = runs.get(str(row.get("run"))), row.get("seconds")
        # Without time it was settled before the work began.
        is_made = isinstance(seconds, int | float) and abs(seconds) < NEVER and not is_refused
        if run is not None and is_made:
            run.finished.append((str(row.get("finished", "")), float(seconds or 0.0)))
    return History(in_the_way | outputs, list(runs.values()))


def said(value: object, key: str) -> str:
    """A text in an object of a row, neither of which need be there."""
    return str(value.get(key, "")) if isinstance(value, Mapping) else ""


def _keep_last(outcomes: dict[str, Ending], row: Row) -> None:
    # By its name: equal contents share a key, and other settings make another of the same file.
    name, finished = str(row.get("output") or row["key"]), str(row.get("finished", ""))
    before = outcomes.get(name)
    if before is None or finished >= before.finished:
        failure = None if row.get("status") == "done" else said(row.get("error"), "what")
        outcomes[name] = Ending(finished, failure, str(row.get("run", "")))


def _cover(shards: Sequence[Shard], shard: Shard) -> bool:
    """Whether items of the last shard are all among those of the others.

    >>> _cover([(1, 4), (3, 4)], (1, 2)), _cover([(1, 4)], (1, 2)), _cover([(1, 1)], (2, 3))
    (True, False, True)
    """
    classes = math.lcm(shard[1], *(n for _, n in shards))
    if classes > MAX_CLASSES:
        return False
    mine = range(shard[0] % shard[1], classes, shard[1])
    return bool(shards) and all(any(c % n == i % n for i, n in shards) for c in mine)
