"""From votes to figures: shares, how sure they are, strengths, and whether raters agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from stylecli.engine.study import ballots, raters
from stylecli.engine.study.ballots import Ballots, Vote
from stylecli.engine.study.key import Key
from stylecli.engine.study.questions import Question
from stylecli.engine.study.raters import Rater
from stylecli.errors import InputError
from stylecli.evaluation import statistics
from stylecli.evaluation.agreement import fleiss_kappa, krippendorff_alpha
from stylecli.evaluation.statistics import Interval
from stylecli.evaluation.votes import binomial_p, bradley_terry


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How often the first of two methods was chosen.

    Attributes:
        n: Votes that chose one of the two; shares are of these.
        ties: Votes that chose neither.
        wilson: Limits, were all votes independent.
        crossed: Limits that allow for raters and results being drawn: votes of one rater, and
            votes on one result, go together.
        p: Exact binomial, two-sided, against one half.
        p_holm: Adjusted for all questions and pairs of the study.
    """

    question: Question
    method: str
    rival: str
    chosen: int
    n: int
    ties: int
    wilson: tuple[float, float]
    crossed: Interval
    p: float
    p_holm: float = math.nan

    @property
    def share(self) -> float:
        return self.chosen / self.n if self.n else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Whether raters who saw the same items said the same, and whether a side drew them.

    Attributes:
        fleiss: NaN unless every item had equally many raters.
        lefts: Choices of A among `sided`.
    """

    question: Question
    items: int
    raters: int
    fleiss: float
    krippendorff: float
    lefts: int
    sided: int

    @property
    def side_p(self) -> float:
        return binomial_p(self.lefts, self.sided)


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Everything a tally found.

    Attributes:
        raters: All of them, also those that were left out.
        left_out: Names of raters whose votes are in no figure.
        shares: Baselines against ours first, then the others among themselves.
        strengths: Question -> method -> strength; empty unless baselines met one another.
    """

    key: Key
    ballots: Ballots
    raters: Sequence[Rater]
    left_out: Sequence[str]
    shares: Sequence[Share]
    agreements: Sequence[Agreement]
    strengths: dict[str, dict[str, float]]


def tally(
    folder: Path,
    files: Sequence[str],
    *,
    fastest_s: float,
    keep_all: bool,
    seed: int,
    resamples: int,
) -> Count:
    """Count the votes on the page in `folder`.

    Args:
        fastest_s: See `raters.judged`.
        keep_all: Believe those with faults too; they are told of all the same.

    Raises:
        InputError: The study or a file of votes is not as it should be, or nobody is left.
    """
    key = Key.read(folder)
    cast = ballots.read(files, key)
    every = raters.judged(cast.votes, key, fastest_s)
    left_out = [] if keep_all else [rater.name for rater in every if rater.faults]
    if len(left_out) == len(every):
        raise InputError(
            "no rater is left: " + "; ".join(f"{one.name} {one.faults[0]}" for one in every[:3]),
            fix="--fastest SECONDS, or --keep-all to count them nevertheless",
        )
    gone = set(left_out)
    votes = [v for v in cast.votes if v.place.kind == "item" and v.rater not in gone]
    by_question = {q.key: [v for v in votes if v.question == q.key] for q in key.questions}
    pairs = _pairs(key)
    shares = [
        _share(question, pair, by_question[question.key], key, seed, resamples)
        for question in key.questions
        for pair in pairs
    ]
    adjusted = statistics.holm([share.p for share in shares])
    have_met = any(key.ours not in pair for pair in pairs)
    return Count(
        key=key,
        ballots=cast,
        raters=every,
        left_out=left_out,
        shares=[replace(share, p_holm=p) for share, p in zip(shares, adjusted, strict=True)],
        agreements=[_agreement(q, by_question[q.key], key) for q in key.questions],
        strengths={
            q.key: _strengths([s for s in shares if s.question == q], key.methods)
            for q in key.questions
            if have_met
        },
    )


def _pairs(key: Key) -> list[tuple[str, str]]:
    """Those that met, as (whose votes, against whom)."""
    met = {frozenset((key.pairs[id_].first, key.pairs[id_].second)) for id_ in key.design.items}
    every = [(b, a) if a == key.ours else (a, b) for a, b in combinations(key.methods, 2)]
    return [pair for pair in every if frozenset(pair) in met]


def _share(
    question: Question,
    pair: tuple[str, str],
    votes: Iterable[Vote],
    key: Key,
    seed: int,
    resamples: int,
) -> Share:
    own = [vote for vote in votes if set(pair) == set(_methods(vote, key))]
    decided = [(vote, method) for vote in own if (method := _chosen(vote, key)) is not None]
    chosen = sum(method == pair[0] for _, method in decided)
    return Share(
        question=question,
        method=pair[0],
        rival=pair[1],
        chosen=chosen,
        n=len(decided),
        ties=len(own) - len(decided),
        wilson=statistics.wilson(chosen, len(decided)),
        crossed=statistics.mean_interval(
            [float(method == pair[0]) for _, method in decided],
            [vote.rater for vote, _ in decided],
            [key.pairs[vote.place.shown].task for vote, _ in decided],
            seed=seed,
            resamples=resamples,
        ),
        p=binomial_p(chosen, len(decided)),
    )


def _agreement(question: Question, votes: Sequence[Vote], key: Key) -> Agreement:
    by_item: dict[str, list[str]] = {}
    for vote in votes:
        by_item.setdefault(vote.place.shown, []).append(_name(vote, key))
    names = sorted({name for said in by_item.values() for name in said})
    counts = [[Counter(said)[name] for name in names] for said in by_item.values()]
    is_equal = len({sum(row) for row in counts}) == 1
    sides = [vote.choice for vote in votes if vote.choice != "tie"]
    return Agreement(
        question=question,
        items=len(by_item),
        raters=len({vote.rater for vote in votes}),
        fleiss=fleiss_kappa(counts) if is_equal else math.nan,
        krippendorff=krippendorff_alpha(list(by_item.values())),
        lefts=sides.count("A"),
        sided=len(sides),
    )


def _strengths(shares: Sequence[Share], methods: Sequence[str]) -> dict[str, float]:
    wins = [[0.0] * len(methods) for _ in methods]
    for share in shares:
        a, b = methods.index(share.method), methods.index(share.rival)
        wins[a][b] += share.chosen + share.ties / 2
        wins[b][a] += share.n - share.chosen + share.ties / 2
    return dict(zip(methods, bradley_terry(wins), strict=True))


def _methods(vote: Vote, key: Key) -> tuple[str, str]:
    pair = key.pairs[vote.place.shown]
    return pair.first, pair.second


def _chosen(vote: Vote, key: Key) -> str | None:
    pair = key.pairs[vote.place.shown]
    return pair.chosen(vote.choice, is_swapped=vote.place.is_swapped)


def _name(vote: Vote, key: Key) -> str:
    """What was chosen, in words that mean the same for every item: the earlier of its methods."""
    method = _chosen(vote, key)
    if method is None:
        return "tie"
    return "earlier" if method == min(_methods(vote, key), key=key.methods.index) else "later"
