"""Who is compared, on what, and which pictures meet: under ids that tell nothing of whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from stylecli.engine.scoring.item import Item
from stylecli.engine.scoring.items import choose_method
from stylecli.engine.study.design import digest, handed_out
from stylecli.engine.study.key import COPY, Pair
from stylecli.errors import InputError, UsageError

ID_DIGITS = 12
Hashes = Mapping[str, Mapping[str, str]]


def methods(found: Sequence[Item], ours: str, against: Sequence[str]) -> list[str]:
    """Ours and then the others, in the order they were named or met; all where none was named.

    Raises:
        InputError: There are no others.
        UsageError: One that was named is not there, or is ours.
    """
    ours = choose_method(found, ours)
    others = list(dict.fromkeys(item.method for item in found if item.method != ours))
    if not others:
        raise InputError(
            f"all results are of one method, {ours!r}: there is nothing to compare",
            fix="add results of another, in the manifest or as a folder",
        )
    if ours in against:
        raise UsageError(f"--against {ours} is --ours", fix="name another method")
    if against:
        others = [choose_method(found, name) for name in dict.fromkeys(against)]
    return [ours, *others]


def tasks(
    found: Sequence[Item], methods: Sequence[str], *, seed: int, most: int | None
) -> tuple[dict[str, dict[str, Item]], list[str]]:
    """Id -> method -> result, for what all methods have; and the ids that some lack.

    Args:
        most: Where there are more, the seed draws so many.

    Raises:
        InputError: Nothing is of all methods.
    """
    every: dict[str, dict[str, Item]] = {}
    for item in found:
        if item.method in methods:
            every.setdefault(item.id, {})[item.method] = item
    whole = [id_ for id_, task in every.items() if len(task) == len(methods)]
    if not whole:
        raise InputError(
            f"no result is of all methods: {', '.join(methods)}",
            fix="equal ids are equal tasks: check the column id, or the names in the folders",
        )
    drawn = set(sorted(whole, key=lambda id_: digest(str(seed), id_))[:most])
    incomplete = [id_ for id_, task in every.items() if len(task) < len(methods)]
    return {id_: every[id_] for id_ in whole if id_ in drawn}, incomplete


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
