"""What people may call regions and references, and what they are told about a name that is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from stylecli.errors import UsageError, did_you_mean
from stylecli.methods.stylegallery.match import ref

# Longer lists in an error are cut.
MOST_LISTED = 12


@dataclass(frozen=True, slots=True)
class Known:
    """The regions of a content and its references, by all of their names.

    Attributes:
        areas: Of the content's regions, region 1 first, in shares of the picture.
        references: File names of the references, in order.
        counts: How many regions each reference has; None where nobody has looked yet.
        number_of: The content's regions that a name stands for; empty for an unknown one.
        names: Those known beforehand, for errors to list.
    """

    areas: Sequence[float]
    references: Sequence[str]
    counts: Sequence[int] | None
    number_of: Callable[[str], Sequence[int]]
    names: Sequence[str] = ()

    def regions(self, word: str | int, where: str) -> tuple[int, ...]:
        """The content's regions called `word`.

        Raises:
            UsageError: There are none; it opens with `where`, and lists what there is.
        """
        if isinstance(word, int) or word.isdecimal():
            if 1 <= int(word) <= len(self.areas):
                return (int(word),)
            # Before the pictures were looked at nobody knows how many there are.
            fix = "regions count from 1" if self.counts is None else self._all_regions()
            raise UsageError(f"{where}: the content has no region {word}", fix=fix)
        if found := tuple(self.number_of(word)):
            return found
        raise UsageError(
            f"{where}: no region of the content is called {word!r}",
            fix=did_you_mean(word, self.names) + self._all_regions(),
        )

    def find(self, word: str, where: str) -> int | None:
        """The reference called `word`: ``refN``, else a file's name with or without its ending.

        Raises:
            UsageError: Several files have that name.
        """
        for style in range(len(self.references)):
            if word == ref(style):
                return style
        for called in (_name, _stem):
            fitting = [at for at, name in enumerate(self.references) if called(name) == word]
            if len(fitting) > 1:
                raise UsageError(
                    f"{where}: {word!r} may be {' or '.join(map(self._shown, fitting))}",
                    fix=f"write {' or '.join(map(ref, fitting))}",
                )
            if fitting:
                return fitting[0]
        return None

    def reference(self, word: str | int, where: str) -> int:
        """The reference called `word`; a number counts from 0.

        Raises:
            UsageError: There is none, or several files have that name.
        """
        if isinstance(word, int):
            if 0 <= word < len(self.references):
                return word
            raise UsageError(
                f"{where}: there is no style {word}; numbers count from 0",
                fix=self._all_references(),
            )
        if (style := self.find(word, where)) is not None:
            return style
        raise UsageError(
            f"{where}: no reference is called {word!r}",
            fix=did_you_mean(word, map(_name, self.references)) + self._all_references(),
        )

    def regions_of(self, style: int, numbers: Iterable[int], where: str) -> tuple[int, ...]:
        """The numbers of regions of a reference, ascending and each once.

        Raises:
            UsageError: It has no such region.
        """
        found = tuple(sorted(set(numbers)))
        for number in found:
            if number < 1 or (self.counts is not None and number > self.counts[style]):
                raise UsageError(
                    f"{where}: {ref(style)} has no region {number}",
                    fix=f"{self._shown(style)} counts its regions from 1",
                )
        return found

    def _shown(self, style: int) -> str:
        name = _name(self.references[style])
        if self.counts is None:
            return f"{ref(style)} ({name})"
        count = self.counts[style]
        plural = "" if count == 1 else "s"
        return f"{ref(style)} ({name}, {count} region{plural})"

    def _all_regions(self) -> str:
        regions = [f"{number} ({area:.0%})" for number, area in enumerate(self.areas, start=1)]
        names = f"; names are {_listed(self.names)}" if self.names else ""
        return f"regions are {_listed(regions)}{names}"

    def _all_references(self) -> str:
        return f"references are {_listed([self._shown(at) for at in range(len(self.references))])}"


def _name(file: str) -> str:
    return PurePath(file).name


def _stem(file: str) -> str:
    return PurePath(file).stem


def _listed(items: Sequence[str]) -> str:
    more = len(items) - MOST_LISTED
    return ", ".join(items[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
