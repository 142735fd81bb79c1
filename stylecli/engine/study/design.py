"""Who sees what, in which order, and on which side: functions of the seed, the rater and the item.

The page computes the same in `assets/study/study.js`; a test holds the two against each other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Kind = Literal["item", "again", "copy"]
# What an item is called where a rater meets it for the second time.
AGAIN = "-again"
# One in so many is a check.
CHECKED = 10
# Longer numbers are names: a phone number is nobody's turn.
TURN_DIGITS = 9

Task = TypeVar("Task")
Meeting = TypeVar("Meeting")


@dataclass(frozen=True, slots=True)
class Place:
    """One item as one rater meets it.

    Attributes:
        item: As votes call it.
        shown: The item whose pictures these are; `item` itself unless it is met again.
        is_swapped: The item's second picture is A.
        order: From 1.
    """

    item: str
    shown: str
    kind: Kind
    is_swapped: bool
    order: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """All that the places of every rater follow from.

    Attributes:
        items: Ids in the order in which they are handed out, the first again after the last.
        copies: Ids of the items in which the content itself is one of the two.
        per_rater: How many of `items` each rater sees, before checks.
    """

    seed: int
    items: tuple[str, ...]
    copies: tuple[str, ...]
    per_rater: int

    @property
    def checks(self) -> tuple[int, int]:
        """How many items a rater meets again, and how many copies."""
        every = max(1, (self.per_rater + CHECKED // 2) // CHECKED)
        copies = min(every // 2, len(self.copies))
        return min(every - copies, self.per_rater), copies

    @property
    def length(self) -> int:
        """What one rater votes on."""
        return self.per_rater + sum(self.checks)

    @property
    def round(self) -> int:
        """Raters in turn until all items were handed out equally often."""
        return math.lcm(len(self.items), self.per_rater) // self.per_rater

    def places(self, rater: str) -> list[Place]:
        """What the rater meets, in that order.

        Raters who call themselves 1, 2, 3, … get the next items each, so that after any number of
        them no item was seen more than once more often than another. Other names begin somewhere
        at random.
        """
        again, copied = self.checks
        start = self._turn(rater) * self.per_rater
        own = [self.items[(start + at) % len(self.items)] for at in range(self.per_rater)]
        copies = self._drawn(rater, self.copies)[:copied]
        order = self._drawn(rater, [*own, *copies])
        swapped = {item: self._is_swapped(rater, item) for item in order}
        for item in sorted(own, key=lambda item: self._digest(rater, item + AGAIN))[:again]:
            half = len(order) // 2 + 1
            # Half of the page away from where it was, so that nobody remembers.
            order.insert((order.index(item) + half) % (len(order) + 1), item + AGAIN)
            swapped[item + AGAIN] = not swapped[item]
        return [
            Place(
                item,
                item.removesuffix(AGAIN),
                "again" if item.endswith(AGAIN) else "copy" if item in copies else "item",
                swapped[item],
                at,
            )
            for at, item in enumerate(order, start=1)
        ]

    def _turn(self, rater: str) -> int:
        if rater.isdecimal() and len(rater) <= TURN_DIGITS:
            return max(0, int(rater) - 1)
        return int(self._digest(rater, "")[:8], 16)

    def _drawn(self, rater: str, items: Sequence[str]) -> list[str]:
        return sorted(items, key=lambda item: self._digest(rater, item))

    def _is_swapped(self, rater: str, item: str) -> bool:
        return int(self._digest(rater, item)[-1], 16) % 2 == 1

    def _digest(self, rater: str, item: str) -> str:
        return digest(str(self.seed), rater, item)


def digest(*words: str) -> str:
    """Thirty-two hexadecimal digits that nobody guesses who does not know the words."""
    return hashlib.blake2b("\n".join(words).encode(), digest_size=16).hexdigest()


def handed_out(tasks: Sequence[Task], pairs: Sequence[Meeting]) -> list[tuple[Task, Meeting]]:
    """Every task with every pair: neighbours differ in task, and their pairs take turns.

    >>> handed_out(["cat", "dog"], ["a b", "a c"])
    [('cat', 'a b'), ('dog', 'a c'), ('cat', 'a c'), ('dog', 'a b')]
    """
    return [
        (task, pairs[(at + turn) % len(pairs)])
        for turn in range(len(pairs))
        for at, task in enumerate(tasks)
    ]
