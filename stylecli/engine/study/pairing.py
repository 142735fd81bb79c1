"""Which two pictures meet, under ids and in an order that tell nothing of whose they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from stylecli.engine.study.design import digest, handed_out
from stylecli.engine.study.key import COPY, Pair

ID_DIGITS = 12
Hashes = Mapping[str, Mapping[str, str]]


def meetings(methods: Sequence[str], *, all_pairs: bool) -> list[tuple[str, str]]:
    """The first method with each other one, or all with all.

    >>> meetings(["ours", "a", "b"], all_pairs=False)
    [('ours', 'a'), ('ours', 'b')]
    """
    return [pair for pair in combinations(methods, 2) if all_pairs or methods[0] in pair]


def items(
    tasks: Sequence[str], met: Sequence[tuple[str, str]], hashes: Hashes, secret: str
) -> dict[str, Pair]:
    """Every task with every meeting, by id, in the order in which they are handed out."""
    order = sorted(tasks, key=lambda task: digest(secret, task))
    return dict(_pair(task, a, b, hashes[task], secret) for task, (a, b) in handed_out(order, met))


def copies(
    tasks: Sequence[str], methods: Sequence[str], hashes: Hashes, secret: str
) -> dict[str, Pair]:
    """For each task the content itself against a result of one of the methods."""

    def rival(task: str) -> str:
        return methods[int(digest(secret, task, COPY)[:8], 16) % len(methods)]

    return dict(_pair(task, COPY, rival(task), hashes[task], secret) for task in tasks)


def _pair(task: str, a: str, b: str, hashes: Mapping[str, str], secret: str) -> tuple[str, Pair]:
    drawn = digest(secret, task, a, b)
    # A digit that is not part of the id, which everybody sees.
    if int(drawn[-1], 16) % 2:
        a, b = b, a
    return drawn[:ID_DIGITS], Pair(task, a, b, (hashes[a], hashes[b]))
