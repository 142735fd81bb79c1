"""What people say about matches: as text, as JSON, or by editing a report.

    gallery.match     sky=ref3:2+5   4=keep   4=painting.png*0.5   a region's style, its strength
    gallery.only      sky            2        all other regions are kept
    gallery.exclude   ref1:4         ref2     no automatic choice takes it
    gallery.strength  sky=0.5        2=1.5    whatever the style, it counts for so much

A region of the content is its number or a name, which may stand for several. A reference is
``refN``, or its file's name with or without the ending; ``refN`` is always the Nth. Without
regions it is taken whole. What is left of the last ``=`` is the region.

They apply in the order ``exclude``, ``only``, ``match``, ``strength``, the last of one key after
the first, and what comes later wins: a region named in ``match`` need not be named in ``only``,
and takes what is excluded too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from stylecli.errors import UsageError, did_you_mean
from stylecli.methods.stylegallery.match import Exclude, Match, Override, Strength, Take
from stylecli.methods.stylegallery.names import Known
from stylecli.recipe.gallery import Gallery

KEEP = "keep"
MAX_STRENGTH = 1000.0
NUMBERS = re.compile(r"[0-9]+(\+[0-9]+)*")
SAID = ("content", "style", "regions", "keep", "strength")
# What only tells of a choice in a report.
TOLD = ("score", "margin", "low_confidence", "source")

Choice = tuple[int, int | None, tuple[int, ...]]


def read(
    settings: Gallery,
    known: Known,
    *,
    files: Mapping[str, Any] | None = None,
    automatic: Sequence[Match] = (),
) -> tuple[Override, ...]:
    """The overrides of a recipe, for `match.choose`.

    Args:
        settings: Its `match`, `only`, `exclude` and `strength`.
        known: Of this content and its references.
        files: The parsed JSON of those entries of `match` that `names_file` picks out.
        automatic: As for `from_json`.

    Raises:
        UsageError: An entry says nothing, or names what there is not.
    """
    found: list[Override] = []
    for entry in settings.exclude:
        found += _Entry(f"gallery.exclude {entry!r}", known).excluded(entry)
    found += _others_kept(settings.only, known)
    for entry in settings.match:
        if names_file(entry):
            found += from_json((files or {})[entry], known, automatic=automatic, name=entry)
        else:
            found += _Entry(f"gallery.match {entry!r}", known).matched(entry)
    for entry in settings.strength:
        found += _Entry(f"gallery.strength {entry!r}", known).weighted(entry)
    return tuple(found)


def names_file(entry: str) -> bool:
    """Whether an entry of `gallery.match` is a file of JSON: this module opens none."""
    return entry.lower().endswith(".json")


def from_json(
    data: object, known: Known, *, automatic: Sequence[Match] = (), name: str = "overrides"
) -> tuple[Override, ...]:
    """Overrides from parsed JSON: one of them, a list, or a report with its ``matches``.

    A report holds for every region it lists. Matches in it that would be chosen anyway stay
    automatic; all others become the user's, whether edited or of other settings.

    Args:
        data: Each is ``{"content": 3, "style": "ref2", "regions": [2, 5]}``,
            ``{"content": 5, "keep": true}``, ``{"content": 2, "strength": 0.5}`` or
            ``{"exclude": {"style": "ref1", "region": 4}}``. Content and style may be names as in
            text; a style that is a number counts from 0.
        known: Of this content and its references.
        automatic: What is chosen without overrides.
        name: Of the file, for errors.

    Raises:
        UsageError: An entry says nothing, or names what there is not.
    """
    is_report = isinstance(data, Mapping) and "matches" in data
    entries = data["matches"] if is_report else data  # type: ignore[index]  # a mapping
    if isinstance(entries, Mapping):
        entries = [entries]
    if not isinstance(entries, list):
        raise UsageError(
            f"{name}: neither overrides nor a report with matches",
            fix='write [{"content": 1, "style": "ref1", "regions": [2]}]',
        )
    choices: set[Choice] = set()
    if is_report:
        choices = {(one.content, one.style, one.regions) for one in automatic}
    found: list[Override] = []
    for count, entry in enumerate(entries, start=1):
        said = _Entry(f"{name}, entry {count}", known).from_json(entry)
        found += said if entry.get("source") == "user" else [_held(one, choices) for one in said]
    return tuple(found)


def _held(said: Override, choices: Set[Choice]) -> Override:
    """An automatic choice that nobody changed is still one, and held on to."""
    if isinstance(said, Take) and (said.content, said.style, said.regions) in choices:
        return replace(said, source="auto")
    return said


def _others_kept(only: Sequence[str], known: Known) -> list[Override]:
    if not only:
        return []
    named = {
        number
        for entry in only
        for number in known.regions(entry.strip(), f"gallery.only {entry!r}")
    }
    regions = range(1, len(known.areas) + 1)
    return [Take(number, None) for number in regions if number not in named]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One thing somebody wrote; `where` opens every error about it."""

    where: str
    known: Known

    def matched(self, text: str) -> list[Override]:
        left, right = self._sides(text, "sky=ref1:2, 4=keep")
        place, strength = right, None
        before, star, factor = right.rpartition("*")
        if star and self.known.find(right, self.where) is None:
            place, strength = before.strip(), self._factor(factor)
        style, regions = (None, ()) if place == KEEP else self._place(place)
        return [
            Take(content, style, regions, strength)
            for content in self.known.regions(left, self.where)
        ]

    def excluded(self, text: str) -> list[Override]:
        style, regions = self._place(text.strip())
        return [Exclude(style, region) for region in regions] or [Exclude(style)]

    def weighted(self, text: str) -> list[Override]:
        left, right = self._sides(text, "sky=0.5")
        factor = self._factor(right)
        return [Strength(content, factor) for content in self.known.regions(left, self.where)]

    def from_json(self, entry: object) -> list[Override]:
        row = self._row(entry, ("exclude", *SAID, *TOLD))
        if "exclude" in row:
            return self._exclusion(row)
        if "content" not in row:
            raise self._error("does not say which region", 'begin with "content": 1')
        strength = self._factor(row["strength"]) if "strength" in row else None
        contents = self.known.regions(self._word(row, "content"), self.where)
        if row.get("style") == "keep":
            row = {**row, "style": None, "keep": True}
        if row.get("keep", False) is not False:
            if row["keep"] is not True or row.get("style") is not None:
                raise self._error(
                    '"keep" is true and stands without a style', "take one of the two away"
                )
            return [Take(content, None, (), strength) for content in contents]
        if "style" in row:
            style = self.known.reference(self._word(row, "style"), self.where)
            regions = self._regions(style, row.get("regions", []))
            return [Take(content, style, regions, strength) for content in contents]
        if strength is None or "regions" in row:
            raise self._error(
                "does not say where the style comes from", 'add "style": "ref1", or "keep": true'
            )
        return [Strength(content, strength) for content in contents]

    def _exclusion(self, row: Mapping[str, Any]) -> list[Override]:
        if len(row) > 1:
            raise self._error("an exclusion stands alone", "write two entries")
        ban = self._row(row["exclude"], ("style", "region"))
        if "style" not in ban:
            raise self._error("does not say of which reference", 'add "style": "ref1"')
        style = self.known.reference(self._word(ban, "style"), self.where)
        if "region" not in ban:
            return [Exclude(style)]
        (region,) = self._regions(style, [ban["region"]])
        return [Exclude(style, region)]

    def _sides(self, text: str, example: str) -> tuple[str, str]:
        left, _, right = (part.strip() for part in text.rpartition("="))
        if not left or not right:
            raise self._error("nothing is on one side of a =", f"write such as {example}")
        return left, right

    def _place(self, text: str) -> tuple[int, tuple[int, ...]]:
        """A reference and its regions; names with a colon in them go before regions."""
        style = self.known.find(text, self.where)
        head, colon, tail = text.rpartition(":")
        if style is not None or not colon:
            return self.known.reference(text, self.where), ()
        style = self.known.reference(head, self.where)
        if not NUMBERS.fullmatch(tail):
            raise self._error(f"{tail!r} names no regions", "write numbers such as 2 or 2+5")
        return style, self.known.regions_of(style, map(int, tail.split("+")), self.where)

    def _factor(self, written: object) -> float:
        try:
            factor = float(written)  # type: ignore[arg-type]  # refused below
        except (TypeError, ValueError):
            factor = -1.0
        if isinstance(written, bool) or not 0 <= factor <= MAX_STRENGTH:
            raise self._error(
                f"{written!r} is no strength", f"write a number from 0 to {MAX_STRENGTH:g}"
            )
        return factor

    def _row(self, entry: object, keys: Iterable[str]) -> Mapping[str, Any]:
        if not isinstance(entry, Mapping):
            raise self._error(f"{entry!r} is no override", 'write {"content": 1, "keep": true}')
        keys = tuple(keys)
        for key in entry:
            if key not in keys:
                raise self._error(
                    f"unknown key {key!r}", f"{did_you_mean(key, keys)}keys are {', '.join(keys)}"
                )
        return entry

    def _word(self, row: Mapping[str, Any], key: str) -> str | int:
        word = row[key]
        if isinstance(word, bool) or not isinstance(word, str | int):
            raise self._error(f"{key} is {word!r}", "write a number or a name")
        return word

    def _regions(self, style: int, numbers: object) -> tuple[int, ...]:
        if not isinstance(numbers, list) or any(type(number) is not int for number in numbers):
            raise self._error(f"regions are {numbers!r}", "write a list of numbers")
        return self.known.regions_of(style, numbers, self.where)

    def _error(self, what: str, fix: str) -> UsageError:
        return UsageError(f"{self.where}: {what}", fix=fix)
