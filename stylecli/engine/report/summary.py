"""What happened, in short: counts, runs, what failed alike, and which settings differ."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stylecli.engine.report.items import Settings
from stylecli.engine.report.journals import Folder, mapping, number, text
from stylecli.engine.report.scores import Scores
from stylecli.engine.runs import history, pace
from stylecli.engine.runs.history import Run

# A key with more values than this is listed by how many it has.
LISTED_VALUES = 8
# Errors that differ in a name or a number only are one; this many kinds are listed.
LISTED_CAUSES = 12


@dataclass(slots=True)
class Tally:
    """What is known once every record has been seen; none of them is kept.

    Attributes:
        used: Number of a set of settings -> how many items were made with it.
        times: When the first was finished, and the last.
        causes: Code and fix of an error -> what was said each time.
    """

    counts: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    used: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    times: list[str] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    causes: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one record."""
        self.counts[record["status"]] += 1
        self.commands[record["command"]] += 1
        self.seconds += record["seconds"] or 0
        if record.get("settings") is not None:
            self.used[record["settings"]] += 1
        if pace.stamp(record["finished"]) is not None:
            times = sorted([*self.times, record["finished"]])
            self.times = [times[0], times[-1]]
        for name, value in record["metrics"].items():
            self.figures[name].append(value)
        if error := record["error"]:
            # By the fix, as what is wrong names the item.
            self.causes[error["code"], error["fix"]].append(error["what"])

    def failures(self) -> list[dict[str, Any]]:
        """Kinds of failure, the most frequent first, each with one that is typical."""
        kinds = sorted(self.causes.items(), key=lambda one: (-len(one[1]), one[0]))
        return [
            {"code": code, "fix": fix, "count": len(said), "what": said[0]}
            for (code, fix), said in kinds[:LISTED_CAUSES]
        ]

    def metrics(self, scores: Scores) -> list[dict[str, Any]]:
        """Every figure with its mean and range."""
        return [
            {
                "name": name,
                "better": scores.better.get(name, ""),
                "meaning": scores.meaning.get(name, ""),
                "n": len(values),
                "mean": sum(values) / len(values),
                "low": min(values),
                "high": max(values),
            }
            for name, values in sorted(self.figures.items())
        ]


def settings(
    sets: Sequence[Settings], used: Mapping[int, int]
) -> tuple[dict[str, str], list[dict[str, Any]], list[dict[str, str]]]:
    """Settings of all; those that differ, with how many items have which; what is each set's own.

    >>> one, two = {"steps": "50", "seed": "1"}, {"steps": "50", "seed": "2"}
    >>> settings([one, two], {0: 3, 1: 1})[0]
    {'steps': '50'}
    """
    keys = sorted({key for one in sets for key in one})
    common = {}
    differing: list[dict[str, Any]] = []
    for key in keys:
        values: Counter[str] = Counter()
        for at, one in enumerate(sets):
            values[one.get(key, "not set")] += used.get(at, 0)
        if len(values) == 1:
            common[key] = next(iter(values))
            continue
        listed = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))
        differing.append(
            {"key": key, "values": listed[:LISTED_VALUES], "others": len(listed[LISTED_VALUES:])}
        )
    own = [{key: value for key, value in one.items() if key not in common} for one in sets]
    return common, differing, own


def runs(folders: Iterable[Folder]) -> tuple[list[dict[str, Any]], float | None]:
    """Every run that its journal tells of, in order of time, and how many items a minute.

    Of a single folder alone: nobody knows whether several were at work side by side.
    """
    whole = {folder.path.resolve(): folder for folder in folders}
    told = [(folder, history.read(folder.path)) for folder in whole.values()]
    found = [_run(folder, run) for folder, one in told for run in one.runs]
    per_minute = told[0][1].per_minute() if len(told) == 1 else None
    return sorted(found, key=lambda run: (run["at"], run["folder"])), per_minute


def _run(folder: Folder, run: Run) -> dict[str, Any]:
    began, ended = run.begin, run.end
    counts = mapping(ended.get("counts")) if ended else {}
    times = (pace.stamp(text(began.get("at"))), pace.stamp(text(mapping(ended).get("at"))))
    seconds = times[1] - times[0] if times[0] is not None and times[1] is not None else None
    return {
        "at": text(began.get("at")),
        "folder": folder.label,
        "command": text(began.get("command")),
        "shard": "/".join(map(str, run.shard or ())),
        "items": number(began.get("items")),
        "counts": {name: number(counts.get(name)) or 0 for name in ("done", "failed", "skipped")},
        "seconds": seconds,
        "rate": pace.rate(run.per_minute),
        "exit_status": number(ended.get("exit_status")) if ended else None,
        "ended": ended is not None,
    }
