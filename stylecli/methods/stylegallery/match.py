"""Which region of which reference every region of a content takes its style from.

StyleGallery (CVPR 2026), section "Region matching". Regions count from 1 and references from 0;
in files and for people references are ``ref1``, ``ref2`` and so on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.errors import UsageError
from stylecli.methods.stylegallery.descriptors import Described, unit
from stylecli.recipe.gallery import Matching
from stylecli.tensors import circles

TERMS = ("stat", "sem", "geo")
# A choice is uncertain that beat the next one by less, or that shows something less alike.
MIN_MARGIN, MIN_SEMANTICS = 0.02, 0.2

Source = Literal["auto", "user"]
Column = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Match:
    """Where one region's style comes from.

    Attributes:
        content: The region.
        style: The reference; None is the content itself, which keeps the region as it is.
        regions: Of that reference, together; none is the whole picture.
        strength: Factor of what the style counts for there.
        score: Of the pair, before diversity; the mean where several regions were named.
        margin: Ahead of the next best; 0 where nothing was chosen among others.
        low_confidence: Worth a look: nearly another one, or not alike in what it shows.
        source: Who chose.
    """

    content: int
    style: int | None
    regions: tuple[int, ...]
    strength: float = 1.0
    score: float = 0.0
    margin: float = 0.0
    low_confidence: bool = False
    source: Source = "auto"

    def as_row(self) -> dict[str, Any]:
        """For a report, in the words that an override in JSON has too."""
        kept = {"keep": True} if self.style is None else {"style": ref(self.style)}
        return {
            "content": self.content,
            **kept,
            "regions": list(self.regions),
            "strength": self.strength,
            "score": self.score,
            "margin": self.margin,
            "low_confidence": self.low_confidence,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Every region of the content against every region of every reference.

    Attributes:
        scores: Unweighted, in the order of `TERMS`.
        columns: Reference and region of each column, ascending.
        totals: The weighted sums that the choice goes by.
    """

    scores: Float[Tensor, "r c 3"]
    columns: tuple[Column, ...]
    totals: Float[Tensor, "r c"]

    def as_rows(self) -> list[dict[str, Any]]:
        """One row a pair; numbers are exact."""
        return [
            {"content": region + 1, "style": ref(style), "region": theirs}
            | dict(zip(TERMS, self.scores[region, column].tolist(), strict=True))
            | {"total": float(self.totals[region, column])}
            for region in range(len(self.totals))
            for column, (style, theirs) in enumerate(self.columns)
        ]


@dataclass(frozen=True, slots=True)
class Take:
    """A region's style is this; see `Match` for the fields.

    With `source` ``auto`` it holds on to an earlier automatic choice of one region, is reported as
    one, and gives way to exclusions and to whatever a user said of the region.
    """

    content: int
    style: int | None
    regions: tuple[int, ...] = ()
    strength: float | None = None
    source: Source = "user"


@dataclass(frozen=True, slots=True)
class Exclude:
    """No region may choose this one; without a number, none of the reference."""

    style: int
    region: int | None = None


@dataclass(frozen=True, slots=True)
class Strength:
    """What a region's style counts for, wherever it comes from."""

    content: int
    factor: float


Override = Take | Exclude | Strength


def ref(style: int) -> str:
    """The name of a reference for people.

    >>> ref(0)
    'ref1'
    """
    return f"ref{style + 1}"


def score(content: Described, styles: Sequence[Described], settings: Matching) -> Table:
    """Compare all regions (section 2); a term that either picture lacks is 0."""
    # Picture by picture: one product of all may round by the place of a column in it.
    parts = [_terms(content, style) for style in styles]
    scores = torch.cat(parts, dim=1)
    stat, sem, geo = scores.unbind(dim=2)
    return Table(
        scores=scores,
        columns=tuple(
            (style, region)
            for style, part in enumerate(parts)
            for region in range(1, part.shape[1] + 1)
        ),
        totals=settings.statistics_weight * stat
        + settings.semantics_weight * sem
        + settings.geometry_weight * geo,
    )


def choose(
    table: Table, settings: Matching, overrides: Sequence[Override] = ()
) -> tuple[Match, ...]:
    """One match for every region of the content, in order.

    Each takes the best of all references' regions, the first of equals. With `diversity` a region
    that was chosen loses for those who choose later; the largest chooses first, and what people
    chose counts from the beginning.

    Overrides apply in order. The last that gives one region a style holds, against diversity and
    exclusions too; the last strength of a region holds, wherever its style comes from. Exclusions
    bind all automatic choices, those before them as well.

    Raises:
        UsageError: Everything is excluded, and a region has no style of its own.
    """
    takes = _takes(overrides)
    free = _free(table.columns, overrides)
    uses = Counter(
        at for take in takes.values() if take.source == "user" for at in _named(table, take)
    )
    matches = []
    for content, strength in enumerate(_strengths(len(table.totals), overrides), start=1):
        take = takes.get(content)
        if take is not None and take.source == "user":
            matches.append(_by_user(table, take, strength))
            continue
        worth = {
            at: float(table.totals[content - 1, at])
            - settings.diversity * uses[at] / len(table.totals)
            for at in free
        }
        held = [at for at in _named(table, take) if at in worth] if take else []
        column = held[0] if held else _best(worth, content)
        uses[column] += 1
        matches.append(_automatic(table, settings, content, column, worth, strength))
    return tuple(matches)


def _terms(content: Described, style: Described) -> Float[Tensor, "r s 3"]:
    geometry = circles.iou(content.circles, style.circles)
    terms = [torch.zeros_like(geometry), torch.zeros_like(geometry), geometry]
    if content.statistics is not None and style.statistics is not None:
        terms[0] = content.statistics.double() @ style.statistics.double().T
    if content.semantics is not None and style.semantics is not None:
        terms[1] = unit(content.semantics.double()) @ unit(style.semantics.double()).T
    return torch.stack(terms, dim=2)


def _free(columns: Sequence[Column], overrides: Sequence[Override]) -> list[int]:
    """The columns that no exclusion names."""
    bans = {(one.style, one.region) for one in overrides if isinstance(one, Exclude)}
    return [
        at
        for at, (style, region) in enumerate(columns)
        if not bans & {(style, region), (style, None)}
    ]


def _takes(overrides: Sequence[Override]) -> dict[int, Take]:
    """By region, the last that a user gave it; else the last that it held on to."""
    found: dict[int, Take] = {}
    for source in ("auto", "user"):
        found |= {
            one.content: one for one in overrides if isinstance(one, Take) and one.source == source
        }
    return found


def _strengths(count: int, overrides: Sequence[Override]) -> list[float]:
    """Of every region of the content, the last that was given."""
    found = [1.0] * count
    for one in overrides:
        if isinstance(one, Strength):
            found[one.content - 1] = one.factor
        elif isinstance(one, Take) and one.strength is not None:
            found[one.content - 1] = one.strength
    return found


def _named(table: Table, take: Take) -> list[int]:
    """The columns that make up what was taken; none where a region keeps its own style."""
    return [
        at
        for at, (style, region) in enumerate(table.columns)
        if style == take.style and (not take.regions or region in take.regions)
    ]


def _best(worth: Mapping[int, float], content: int) -> int:
    """The first column of the largest worth."""
    if not worth:
        raise UsageError(
            f"region {content} has nothing to choose from: every region of every reference "
            "is excluded",
            fix=f"exclude less, or say where it takes its style from: gallery.match {content}=ref1",
        )
    return max(worth, key=worth.__getitem__)


def _automatic(
    table: Table,
    settings: Matching,
    content: int,
    column: int,
    worth: Mapping[int, float],
    strength: float,
) -> Match:
    others = [value for at, value in worth.items() if at != column]
    margin = worth[column] - max(others) if others else 0.0
    is_close = bool(others) and margin < MIN_MARGIN
    has_semantics = settings.semantics != "none" and settings.semantics_weight > 0
    semantics = float(table.scores[content - 1, column, TERMS.index("sem")])
    style, region = table.columns[column]
    return Match(
        content=content,
        style=style,
        regions=(region,),
        strength=strength,
        score=float(table.totals[content - 1, column]),
        margin=margin,
        low_confidence=is_close or (has_semantics and semantics < MIN_SEMANTICS),
    )


def _by_user(table: Table, take: Take, strength: float) -> Match:
    columns = _named(table, take)
    score = float(table.totals[take.content - 1, columns].mean()) if columns else 0.0
    return Match(take.content, take.style, take.regions, strength, score, source="user")
