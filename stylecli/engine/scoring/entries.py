"""What a scored row leaves behind once its pictures are forgotten.

A hundred thousand rows, and the copies beside each, must not fill the memory: they are kept in
columns of numbers, and every text once. `Entry` is one row of these, put together when asked for.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from stylecli.artifacts.store import digest
from stylecli.engine.scoring.rows import Bench, Scored

T = TypeVar("T", bound=Hashable)
Codes = NDArray[np.int64]
# In place of the code of something that a row does not have.
ABSENT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The part of a row that statistics need.

    Attributes:
        content: What tells contents apart: `content_group`, or the picture's digest.
        style: The same for styles.
        family: `style_family`, where the item has one.
        features: Metric -> keys in the store, of the output and of the styles; only of those that
            look at features of many rows, and that this row can count for.
        reasons: Metric -> why it has no value here.
    """

    id: str
    method: str
    content: str
    style: str
    values: Mapping[str, float]
    features: Mapping[str, tuple[str, ...]]
    reasons: Mapping[str, str]
    family: str = ""

    @classmethod
    def of(cls, scored: Scored, bench: Bench) -> Entry:
        """Of a scored case."""
        case = scored.case
        extractors = {m.name: m.fid or m.similar for m in bench.metrics if m.fid or m.similar}
        # Made once for the metrics that share them: there may be a hundred thousand rows.
        keys = {
            extractor: tuple(
                bench.feature_key(extractor, shot) for shot in (case.output, *case.styles)
            )
            for extractor in dict.fromkeys(extractors.values())
        }
        return cls(
            id=case.item.id,
            method=case.method,
            content=case.item.content_group or (case.content.key if case.content else case.item.id),
            style=case.item.style_family or digest([shot.key for shot in case.styles]),
            values=scored.values,
            features={
                name: keys[extractor]
                for name, extractor in extractors.items()
                if name not in scored.reasons
            },
            reasons=scored.reasons,
            family=case.item.style_family,
        )


class Words(Generic[T]):
    """Things by number, each kept once, in the order they were first met."""

    def __init__(self) -> None:
        self._codes: dict[T, int] = {}
        self._things: list[T] = []

    def __len__(self) -> int:
        return len(self._things)

    def __getitem__(self, code: int) -> T:
        return self._things[code]

    def code(self, thing: T) -> int:
        """Its number, a new one if it was not met before."""
        found = self._codes.setdefault(thing, len(self._things))
        if found == len(self._things):
            self._things.append(thing)
        return found


class Shared:
    """What the rows of all methods have in common, so that their codes mean the same."""

    def __init__(self) -> None:
        self.ids: Words[str] = Words()
        self.contents: Words[str] = Words()
        self.styles: Words[str] = Words()
        self.families: Words[str] = Words()
        self.keys: Words[str] = Words()
        self.references: Words[tuple[str, ...]] = Words()
        self.reasons: Words[tuple[tuple[str, str], ...]] = Words()


class Entries(Sequence[Entry]):
    """Rows of one method in columns.

    Args:
        shared: That of the other methods, for whoever compares them.
    """

    def __init__(self, method: str, shared: Shared) -> None:
        self.method = method
        self.shared = shared
        self._ids, self._contents, self._styles, self._families, self._reasons = (
            array("i") for _ in range(5)
        )
        self._values: dict[str, array[float]] = {}
        self._outputs: dict[str, array[int]] = {}
        self._references: dict[str, array[int]] = {}

    def append(self, entry: Entry) -> None:
        """Add a row."""
        rows, shared = len(self), self.shared
        self._ids.append(shared.ids.code(entry.id))
        self._contents.append(shared.contents.code(entry.content))
        self._styles.append(shared.styles.code(entry.style))
        self._families.append(shared.families.code(entry.family))
        self._reasons.append(shared.reasons.code(tuple(entry.reasons.items())))
        for metric in entry.values.keys() - self._values.keys():
            self._values[metric] = array("d", [math.nan]) * rows
        for metric, column in self._values.items():
            column.append(entry.values.get(metric, math.nan))
        for metric in entry.features.keys() - self._outputs.keys():
            self._outputs[metric] = array("i", [ABSENT]) * rows
            self._references[metric] = array("i", [ABSENT]) * rows
        for metric, outputs in self._outputs.items():
            output, *styles = entry.features.get(metric, ("",))
            is_there = metric in entry.features
            outputs.append(shared.keys.code(output) if is_there else ABSENT)
            code = shared.references.code(tuple(styles)) if is_there else ABSENT
            self._references[metric].append(code)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, row: int) -> Entry: ...
    @overload
    def __getitem__(self, row: slice) -> list[Entry]: ...
    def __getitem__(self, row: int | slice) -> Entry | list[Entry]:
        if isinstance(row, slice):
            return [self[r] for r in range(*row.indices(len(self)))]
        shared = self.shared
        return Entry(
            id=shared.ids[self._ids[row]],
            method=self.method,
            content=shared.contents[self._contents[row]],
            style=shared.styles[self._styles[row]],
            family=shared.families[self._families[row]],
            values={m: c[row] for m, c in self._values.items() if not math.isnan(c[row])},
            features={
                metric: (
                    shared.keys[outputs[row]],
                    *shared.references[self._references[metric][row]],
                )
                for metric, outputs in self._outputs.items()
                if outputs[row] != ABSENT
            },
            reasons=dict(shared.reasons[self._reasons[row]]),
        )

    def where(self, kept: NDArray[np.bool_]) -> Entries:
        """Those rows only."""
        found = Entries(self.method, self.shared)

        def some(column: array[int]) -> array[int]:
            return array("i", np.asarray(column, dtype=np.int32)[kept].tobytes())

        found._ids, found._contents, found._styles, found._families, found._reasons = map(
            some, (self._ids, self._contents, self._styles, self._families, self._reasons)
        )
        found._values = {
            metric: array("d", np.asarray(column)[kept].tobytes())
            for metric, column in self._values.items()
        }
        found._outputs = {metric: some(column) for metric, column in self._outputs.items()}
        found._references = {metric: some(column) for metric, column in self._references.items()}
        return found

    def column(self, metric: str) -> NDArray[np.float64]:
        """A metric's number in every row; NaN where there is none."""
        return np.array(self._values.get(metric, array("d", [math.nan]) * len(self)))

    @property
    def ids(self) -> Codes:
        """Of the tasks, by `shared.ids`."""
        return np.array(self._ids, dtype=np.int64)

    @property
    def contents(self) -> Codes:
        """Of the contents, by `shared.contents`."""
        return np.array(self._contents, dtype=np.int64)

    @property
    def styles(self) -> Codes:
        """Of the styles, by `shared.styles`."""
        return np.array(self._styles, dtype=np.int64)

    def outputs(self, metric: str) -> Codes:
        """For a set metric: of the outputs' features, by `shared.keys`, or `ABSENT`."""
        return self._features(self._outputs, metric)

    def references(self, metric: str) -> Codes:
        """The same for those of the styles together, by `shared.references`."""
        return self._features(self._references, metric)

    def why_not(self, metric: str) -> Counter[str]:
        """How often a metric has no value for which reason."""
        found: Counter[str] = Counter()
        for code, count in Counter(self._reasons).items():
            found[dict(self.shared.reasons[code]).get(metric, "not scored")] += count
        return found

    def content_names(self) -> Iterator[str]:
        """Each content of these rows, once."""
        return (self.shared.contents[code] for code in np.unique(self.contents).tolist())

    def _features(self, columns: Mapping[str, array[int]], metric: str) -> Codes:
        absent = array("i", [ABSENT]) * len(self)
        return np.array(columns.get(metric, absent), dtype=np.int64)


def in_columns(rows: Iterable[Entry], shared: Shared | None = None) -> Entries:
    """Rows of one method, put into columns where they are not yet."""
    if isinstance(rows, Entries) and (shared is None or rows.shared is shared):
        return rows
    kept = list(rows)
    found = Entries(kept[0].method if kept else "", shared or Shared())
    for entry in kept:
        found.append(entry)
    return found


def shared_of(*methods: Sequence[Entry]) -> Shared:
    """What these methods share: what they were made with, or something new."""
    found = {id(rows.shared): rows.shared for rows in methods if isinstance(rows, Entries)}
    return next(iter(found.values())) if len(found) == 1 else Shared()


def in_order(codes: Codes, words: Words[str]) -> Codes:
    """The codes renumbered by the order of their words, which no order of rows can change."""
    used = np.unique(codes)
    ranks = np.empty(len(words), dtype=np.int64)
    ranks[sorted(used.tolist(), key=words.__getitem__)] = np.arange(len(used))
    found: Codes = ranks[codes]
    return found
