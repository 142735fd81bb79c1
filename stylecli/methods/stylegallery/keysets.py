"""Who looks where: for every size of layer, which tokens of a content look at which keys.

Pictures are numbered: references from 0, behind them the contents. A *key set* names regions of
pictures whose tokens are looked at together; content regions with the same one are one group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylecli.methods.stylegallery import grids
from stylecli.methods.stylegallery.match import Match
from stylecli.recipe.gallery import Gallery

# A picture and regions of it; none is all of it.
Piece = tuple[int, tuple[int, ...]]
KeySet = tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Tokens of one content that look at the same keys; without rows, all of them."""

    rows: Int[Tensor, " n"] | None
    keys: KeySet


@dataclass(frozen=True, slots=True)
class Parts:
    """The tokens of a content, region by region, and where each token is in that order."""

    rows: Sequence[Int[Tensor, " _n"]]
    places: Int[Tensor, " n"]


@dataclass(frozen=True, slots=True)
class Level:
    """The plan of all layers of one size.

    Attributes:
        groups: Of every content.
        weights: What each token's distance counts for; None where all count alike.
        picked: The tokens of every piece that somebody looks at; None is all of them.
        left_out: How many tokens of its pictures a key set leaves out.
        parts: Of every content.
    """

    groups: Sequence[Sequence[Group]]
    weights: Float[Tensor, "b n"] | None
    picked: Mapping[Piece, Int[Tensor, " _m"] | None]
    left_out: Mapping[KeySet, int]
    parts: Sequence[Parts]


def key_sets(
    matches: Sequence[Match], own: int, references: int, *, masks: bool
) -> dict[int, KeySet]:
    """What every region of a content looks at, where its style counts for anything.

    Args:
        matches: Of the content's regions.
        own: The content's number, for what is kept.
        references: How many there are.
        masks: Off, all look at all references.
    """
    found: dict[int, KeySet] = {}
    for match in matches:
        if not match.strength:
            continue
        if match.style is None:
            found[match.content] = ((own, (match.content,)),)
        elif not masks:
            found[match.content] = tuple((number, ()) for number in range(references))
        else:
            found[match.content] = ((match.style, tuple(sorted(set(match.regions)))),)
    return found


def levels(
    contents: Sequence[tuple[Int[Tensor, "h w"], Sequence[Match]]],
    references: Sequence[Int[Tensor, "_h _w"]],
    spans: Mapping[str, int],
    settings: Gallery,
    device: torch.device,
) -> dict[str, Level]:
    """The plan of every layer, made once for a run.

    Args:
        contents: Labels and matches of each, all of one size. Regions that no match speaks of look
            at nothing.
        references: Labels of each.
        spans: Cells to a token each way, by layer.
        settings: Which keys, and how regions come to a layer's size.
        device: Of rows and keys.

    Raises:
        ValueError: A match names a region that its picture does not have.
    """
    pictures = [*references, *(labels for labels, _ in contents)]
    wanted = [
        key_sets(matches, len(references) + at, len(references), masks=settings.masks)
        for at, (_, matches) in enumerate(contents)
    ]
    strengths = [{match.content: match.strength for match in matches} for _, matches in contents]
    made = {
        span: _level(
            [grids.labels_at(labels, span, settings.key_masks).flatten() for labels, _ in contents],
            wanted,
            strengths,
            _Picker(pictures, span, settings.key_masks, device),
        )
        for span in set(spans.values())
    }
    return {layer: made[span] for layer, span in spans.items()}


def pictures_of(plan: Mapping[str, Level]) -> list[int]:
    """Whose keys and values somebody looks at."""
    return sorted({picture for level in plan.values() for picture, _ in level.picked})


@dataclass(frozen=True, slots=True)
class _Picker:
    """Finds the tokens of pieces at one size."""

    pictures: Sequence[Tensor]
    span: int
    how: grids.How
    device: torch.device

    def keys(self, piece: Piece) -> Tensor | None:
        number, regions = piece
        if not regions:
            return None
        cells = grids.of_regions(self.pictures[number], regions)
        try:
            found = grids.keys_at(cells, self.span, self.how)
        except ValueError as error:
            raise ValueError(f"picture {number} has no region {regions}") from error
        return None if len(found) == self.whole(number) else found.to(self.device)

    def whole(self, number: int) -> int:
        return math.prod(grids.size_at(self.pictures[number], self.span))


def _level(
    labels: Sequence[Int[Tensor, " n"]],
    wanted: Sequence[Mapping[int, KeySet]],
    strengths: Sequence[Mapping[int, float]],
    picker: _Picker,
) -> Level:
    groups = [_groups(*one, picker.device) for one in zip(labels, wanted, strict=True)]
    looked_at = {group.keys for some in groups for group in some}
    picked = {piece: picker.keys(piece) for keys in looked_at for piece in keys}
    return Level(
        groups=groups,
        weights=_weights(labels, wanted, strengths, picker.device),
        picked=picked,
        left_out={
            keys: sum(_left(picked[p], picker.whole(p[0])) for p in keys) for keys in looked_at
        },
        parts=[_parts(one, picker.device) for one in labels],
    )


def _left(picked: Tensor | None, whole: int) -> int:
    return 0 if picked is None else whole - len(picked)


def _groups(
    labels: Int[Tensor, " n"], wanted: Mapping[int, KeySet], device: torch.device
) -> list[Group]:
    members: dict[KeySet, list[int]] = {}
    for region, keys in wanted.items():
        members.setdefault(keys, []).append(region)
    found = []
    for keys, regions in members.items():
        rows = grids.of_regions(labels, tuple(regions)).nonzero()[:, 0]
        if len(rows):  # a small region may be gone at this size
            found.append(Group(None if len(rows) == len(labels) else rows.to(device), keys))
    return found


def _weights(
    labels: Sequence[Int[Tensor, " n"]],
    wanted: Sequence[Mapping[int, KeySet]],
    strengths: Sequence[Mapping[int, float]],
    device: torch.device,
) -> Float[Tensor, "b n"] | None:
    found = torch.zeros(len(labels), len(labels[0]))
    for row, one, looking, strength in zip(found, labels, wanted, strengths, strict=True):
        for region in looking:
            row[one == region] = strength[region]
    return None if bool((found == 1).all()) else found.to(device)


def _parts(labels: Int[Tensor, " n"], device: torch.device) -> Parts:
    rows = [(labels == region).nonzero()[:, 0] for region in labels.unique()]
    return Parts([one.to(device) for one in rows], torch.cat(rows).argsort().to(device))
