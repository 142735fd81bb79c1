"""Whom to believe: what each rater's votes say about the rater."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stylecli.engine.study.ballots import Vote
from stylecli.engine.study.key import COPY, Key
from stylecli.engine.study.questions import STYLE
from stylecli.evaluation.votes import binomial_p

# Of checks, above which a rater's votes are left out.
MAX_FAILED = 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rater:
    """One rater.

    Attributes:
        votes: On items, without those on checks.
        expected: How many there are to cast.
        failed: Checks that were answered wrongly, of `checks` that were answered.
        median_s: For one item, with all its questions.
        lefts: Choices of A among `sided`, which are all that chose a side.
        faults: Why the votes are not believed; empty for most.
    """

    name: str
    votes: int
    expected: int
    failed: int
    checks: int
    median_s: float
    lefts: int
    sided: int
    faults: tuple[str, ...]

    @property
    def side_p(self) -> float:
        """Two-sided, of A and B being chosen equally often."""
        return binomial_p(self.lefts, self.sided)


def judged(votes: Sequence[Vote], key: Key, fastest_s: float) -> list[Rater]:
    """All raters by name, numbers as numbers.

    Args:
        fastest_s: Who spends less on half of the items has not looked.
    """
    by_rater: dict[str, list[Vote]] = {}
    for vote in votes:
        by_rater.setdefault(vote.rater, []).append(vote)
    return [
        _judged(name, by_rater[name], key, fastest_s) for name in sorted(by_rater, key=_natural)
    ]


def _natural(name: str) -> tuple[bool, int, str]:
    return not name.isdecimal(), int(name) if name.isdecimal() else 0, name


def _judged(name: str, votes: Sequence[Vote], key: Key, fastest_s: float) -> Rater:
    by_item: dict[str, dict[str, Vote]] = {}
    for vote in votes:
        by_item.setdefault(vote.place.item, {})[vote.question] = vote
    checks = [
        verdict for answers in by_item.values() if (verdict := _failed(answers, by_item, key)) != ""
    ]
    failed = checks.count("failed")
    times = [next(iter(answers.values())).shown_ms for answers in by_item.values()]
    median_s = statistics.median(times) / 1000
    faults = []
    if failed > MAX_FAILED * len(checks):
        faults.append(f"failed {failed} of {len(checks)} checks")
    if median_s < fastest_s:
        faults.append(f"took {median_s:.1f} s for half of the items")
    sides = [vote.choice for vote in votes if vote.choice != "tie"]
    return Rater(
        name=name,
        votes=sum(vote.place.kind == "item" for vote in votes),
        expected=key.design.per_rater * len(key.questions),
        failed=failed,
        checks=len(checks),
        median_s=median_s,
        lefts=sides.count("A"),
        sided=len(sides),
        faults=tuple(faults),
    )


def _failed(
    answers: Mapping[str, Vote], by_item: Mapping[str, Mapping[str, Vote]], key: Key
) -> str:
    """`passed` or `failed`; nothing for what is no check, or was not answered."""
    place = next(iter(answers.values())).place
    if place.kind == "copy":
        # The content has none of the style: whoever sees the question cannot choose it.
        vote = answers.get(STYLE)
        if vote is None:
            return ""
        return "failed" if _method(vote, key) in (COPY, None) else "passed"
    if place.kind == "again":
        before = by_item.get(place.shown, {})
        both = [(before[q], vote) for q, vote in answers.items() if q in before]
        if not both:
            return ""
        differing = sum(_method(a, key) != _method(b, key) for a, b in both)
        return "failed" if 2 * differing > len(both) else "passed"
    return ""


def _method(vote: Vote, key: Key) -> str | None:
    return key.pairs[vote.place.shown].chosen(vote.choice, is_swapped=vote.place.is_swapped)
