"""Numbers that `style evaluate` left, found again for each output."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from stylecli.engine.report.journals import Entry, mapping, number, text
from stylecli.engine.scoring.report import AGGREGATE, ROWS
from stylecli.errors import InputError

# Numbers of a row that measure nothing.
NOT_METRICS = ("schema_version",)


@dataclass(frozen=True, slots=True)
class Scores:
    """The rows of one evaluation.

    Attributes:
        better: Metric -> ``higher``, ``lower`` or nothing known.
        meaning: Metric -> what it measures.
    """

    rows: Mapping[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    better: Mapping[str, str] = field(default_factory=dict)
    meaning: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Scores:
        """What an evaluation wrote to its folder.

        Raises:
            InputError: It has no rows.
        """
        rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        try:
            with (folder / ROWS).open(encoding="utf-8", errors="replace") as stream:
                for line in stream:
                    row = _object(line)
                    if name := text(row.get("output")):
                        rows[name].append(row)
        except OSError as error:
            raise InputError(
                f"--scores {folder}: no {ROWS} to read: {error.strerror}",
                fix="give the --output of `style evaluate`",
            ) from error
        try:
            about = mapping(_object((folder / AGGREGATE).read_text("utf-8")).get("metrics"))
        except (OSError, UnicodeDecodeError):
            about = {}  # only says which way is better
        return cls(
            rows,
            {name: text(mapping(one).get("better")) for name, one in about.items()},
            {name: text(mapping(one).get("definition")) for name, one in about.items()},
        )

    def of(self, entry: Entry) -> dict[str, float]:
        """The numbers of one output; none where its name could be one of several."""
        rows = self.rows.get(PurePosixPath(entry.name).name, [])
        own = [row for row in rows if row.get("method") == entry.folder.path.resolve().name]
        found = own or rows
        if len(found) != 1:
            return {}
        numbers = {name: number(value) for name, value in found[0].items()}
        return {
            name: value
            for name, value in numbers.items()
            if value is not None and name not in NOT_METRICS
        }


def _object(line: str) -> Mapping[str, Any]:
    try:
        return mapping(json.loads(line))
    except (json.JSONDecodeError, RecursionError):
        return {}
