"""Whether regions are things, and whether matches lead to the right ones, where both are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from gallery_scenes import Question
from torch import Tensor
from torch.nn import functional as F

from stylecli.backbone.model import Backbone
from stylecli.engine.gallery.sight import Sight
from stylecli.evaluation.palette import to_lab
from stylecli.methods.stylegallery import descriptors, dfcc, match
from stylecli.recipe.schema import Recipe
from stylecli.tensors.scenes import Scene

Way = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Cut:
    """One picture in regions.

    Attributes:
        true: Of every pixel 0 for the ground, or the number of a thing of the scene.
        found: Of every pixel its region.
    """

    scene: Scene
    regions: dfcc.Regions
    described: descriptors.Described
    true: Tensor
    found: Tensor

    def region_of(self, thing: int) -> int:
        """The region that most of a thing's pixels lie in."""
        return int(self.found[self.true == thing].bincount().argmax())

    def shown_by(self, region: int) -> int:
        """What most of a region's pixels show; 0 is the ground."""
        return int(self.true[self.found == region].bincount().argmax())

    def number(self, name: str) -> int | None:
        """Of a thing by its name."""
        names = [thing.name for thing in self.scene.things]
        return names.index(name) + 1 if name in names else None


def true_labels(scene: Scene) -> Tensor:
    """0 for the ground, or the number of the thing that covers most of a pixel."""
    masks = torch.stack([thing.mask for thing in scene.things])
    best, which = masks.max(dim=0)
    return torch.where(best > 0.5, which + 1, 0)


def cut(
    scene: Scene, seen: dfcc.Seen, recipe: Recipe, sight: Sight, *, with_truth: bool = False
) -> Cut:
    """Divide a picture and describe its regions; `with_truth` the true masks are painted."""
    true = true_labels(scene)
    painted = true + 1 if with_truth else None
    settings = recipe.dfcc.model_copy(update={"mask_mode": "only"}) if with_truth else recipe.dfcc
    seed = recipe.sampling.seed
    segments = None
    if not with_truth:
        segments = sight.segments(scene.picture, recipe, seen=seen, seed=seed)
    regions = dfcc.divide(seen, settings, seed=seed, segments=segments, painted=painted)
    semantics = sight.semantics(scene.picture, regions.labels, recipe)
    matching = recipe.matching.model_copy(update={"semantics": sight.semantics_kind(recipe)})
    described = descriptors.describe(seen, regions.labels, matching, semantics=semantics)
    found = F.interpolate(regions.labels[None, None].float(), true.shape, mode="nearest")[0, 0]
    return Cut(scene, regions, described, true, found.long())


def see(backbone: Backbone, scenes: Sequence[Scene], recipe: Recipe) -> list[dfcc.Seen]:
    return dfcc.see(backbone, torch.stack([one.picture for one in scenes]), recipe.dfcc)


def figures(
    question: Question,
    seen: Sequence[dfcc.Seen],
    recipe: Recipe,
    sight: Sight,
    *,
    with_truth: bool,
) -> dict[str, object]:
    """All that is known of one question's regions and matches, for one way to cut pictures up."""
    scenes = (question.content, *question.references)
    content, *styles = (
        cut(scene, one, recipe, sight, with_truth=with_truth)
        for scene, one in zip(scenes, seen, strict=True)
    )
    first = styles[:1]
    return {
        "regions": int(content.found.max()),
        "overlaps": overlaps(content),
        "known": {
            "gallery": verdicts(content, first, chosen(content, first, recipe), question.known),
            "palette": verdicts(content, first, by_palette(content, first), question.known),
        },
        "ground": {
            "gallery": ground(content, styles[0], chosen(content, first, recipe)),
            "palette": ground(content, styles[0], by_palette(content, first)),
            "random": random_ground(styles[0]),
        },
        # All things of the content, with the first reference alone and with all there are.
        "all": {
            str(count): verdicts(
                content,
                styles[:count],
                chosen(content, styles[:count], recipe),
                [thing.name for thing in question.content.things],
            )
            for count in range(1, len(styles) + 1)
        },
    }


def overlaps(one: Cut) -> list[dict[str, float]]:
    """IoU of each thing with its best region, and with all regions that show mostly it."""
    rows = []
    numbers = range(1, int(one.found.max()) + 1)
    of_thing = {number: one.shown_by(number) for number in numbers}
    for thing in range(1, len(one.scene.things) + 1):
        true = one.true == thing
        if not true.any():
            continue
        alone = max(_iou(one.found == number, true) for number in numbers)
        mine = torch.tensor([number for number, shown in of_thing.items() if shown == thing])
        rows.append({"best": alone, "union": _iou(torch.isin(one.found, mine), true)})
    return rows


def chosen(content: Cut, styles: Sequence[Cut], recipe: Recipe) -> Mapping[int, Way]:
    """Region of the content -> reference and region, as the recipe matches them."""
    table = match.score(content.described, [one.described for one in styles], recipe.matching)
    return {
        one.content: None if one.style is None else (one.style, one.regions[0])
        for one in match.choose(table, recipe.matching)
    }


def by_palette(content: Cut, styles: Sequence[Cut]) -> Mapping[int, Way]:
    """The same by the nearest mean colour."""
    theirs = {
        (style, number): _colour(one, number)
        for style, one in enumerate(styles)
        for number in range(1, int(one.found.max()) + 1)
    }
    return {
        number: min(theirs, key=lambda way: float((theirs[way] - _colour(content, number)).norm()))
        for number in range(1, int(content.found.max()) + 1)
    }


def verdicts(
    content: Cut, styles: Sequence[Cut], ways: Mapping[int, Way], names: Sequence[str]
) -> list[dict[str, float]]:
    """For every named thing of the content whether its region's match is the thing.

    ``right``: the match is the region of the same thing in some reference. ``strict``: both regions
    also show mostly that thing, and no other or the ground. ``random``: the chance that a region
    drawn at random is right.
    """
    rows = []
    for name in names:
        thing = content.number(name)
        if thing is None or not (content.true == thing).any():
            continue
        region = content.region_of(thing)
        way = ways[region]
        wanted = {
            (style, one.region_of(number))
            for style, one in enumerate(styles)
            if (number := one.number(name)) is not None and (one.true == number).any()
        }
        is_right = way in wanted
        shows = (
            is_right
            and way is not None
            and content.shown_by(region) == thing
            and styles[way[0]].shown_by(way[1]) == styles[way[0]].number(name)
        )
        total = sum(int(one.found.max()) for one in styles)
        rows.append(
            {"right": float(is_right), "strict": float(shows), "random": len(wanted) / total}
        )
    return rows


def ground(content: Cut, style: Cut, ways: Mapping[int, Way]) -> float:
    """The share of the ground whose style comes from a region that is mostly ground."""
    counts = content.found[content.true == 0].bincount().tolist()
    right = [
        count * (style.shown_by(way[1]) == 0)
        for region, count in enumerate(counts)
        if count and (way := ways[region]) is not None
    ]
    return sum(right) / sum(counts)


def random_ground(style: Cut) -> float:
    """The same for regions drawn at random."""
    total = int(style.found.max())
    return sum(style.shown_by(number) == 0 for number in range(1, total + 1)) / total


def _iou(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum().clamp(min=1))


def _colour(one: Cut, region: int) -> Tensor:
    return to_lab(one.scene.picture[None])[0][:, one.found == region].mean(dim=1)
