"""Scenes of icons: two or three things of one hand on a plain ground, and one of them to change.

Where each thing is seen is known to the pixel, and so is what another hand would make of it: the
same scene with the named thing drawn by that one. Validation shows contents that training never
does, unless objects are chosen by name: of those it shows other scenes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Generator, Tensor

from stylecli.artifacts import glyphs, images, store
from stylecli.artifacts.glyphs import Icon
from stylecli.engine.route.data.items import TRAIN, VAL
from stylecli.engine.route.data.making import Styled, Subject, View, png
from stylecli.errors import InputError
from stylecli.methods.regionroute.styles import Style
from stylecli.recipe.route import Data
from stylecli.tensors import scenes
from stylecli.tensors.grounds import flip, gradient, one_of, plain
from stylecli.tensors.scenes import Scene, Square
from stylecli.tensors.seeds import generator

# Other contents, arrangements or grounds make another set.
DRAWING = 1
# Contents that few hands draw are called what nobody says.
MIN_FAMILIES = 5
MAX_WORDS = 3
# Half of the scenes have a third thing, and half of the grounds blend two colours.
THIRD, BLENDED = 0.4, 0.5
# Arrangements that are looked at before the best of them is taken.
TRIES = 24
# Draws of contents in a row that may come to nothing.
DRAWS = 10_000
# Share of the smaller of two icons' squares that the other may cover; their corners are empty.
OVERLAP = 0.04
# A thing stands out from its ground by this much, in the mean of its strongest channel.
MIN_CONTRAST = 0.25
# A pixel belongs to a thing that covers half of it; to one that is drawn anew from here on.
COVERED, TOUCHED = 0.5, 0.02
# A thing covers this share of the picture, so that it is more than a few cells of attention.
MIN_AREA = 0.05
# Families that draw in lines of one colour leave a filter nothing to change.
ONE_COLOUR = frozenset({"fluent-emoji-high-contrast"})
# Of icons that are at hand.
MAX_BYTES = 128 * 2**20
# Words of signs and emblems, which are no things to point at, and of what a name is told from.
_NO_THINGS = """
aquarius aries arrow arrows asterisk badge bars biohazard button cancer capricorn circle cl
copyright cross curl dash dashes decoration diamond divide dna emblem eight exclamation exit female
flag flags free gemini gesture gesturing hamsa hash hashtag heart hearts heavy id infinity
information input japanese khanda large latin leo letter letters libra lis loop male mark medium
minus mode multiply ng no number numbers oclock off ok om on oncoming ophiuchus part pisces play
plus point points prohibited question radioactive record recycling registered sagittarius scorpio
sign slash small soon square suit symbol symbols taurus thirty top trade triangle up virgo warning
wavy yang yin zzz
"""
NO_THINGS = frozenset(_NO_THINGS.split())
STREAM = "route-data scenes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What scenes are asked for.

    Attributes:
        icons: The folder of npm's packages.
        styles: All of the set.
        hands: Families that draw the named thing anew, and no scene themselves.
        px: Side of the pictures.
    """

    icons: Path
    styles: Sequence[Style]
    hands: Sequence[str]
    data: Data
    px: int
    seed: int


@dataclass(frozen=True, slots=True)
class Cast:
    """What is in a scene, the hindmost first.

    Attributes:
        named: Which of the contents changes.
    """

    contents: tuple[str, ...]
    family: str
    named: int


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """A scene with everything in its place."""

    cast: Cast
    places: list[Square]
    ground: Float[Tensor, "3 px px"]
    scene: Scene


class Scenes:
    """Scenes as a source of a set, and hands that draw one of their things anew."""

    def __init__(self, wanted: Wanted) -> None:
        """Read the icons and choose what is in every scene; none is drawn.

        Raises:
            InputError: A family is missing, or draws too few things; or too few families are left
                to draw scenes.
        """
        self._wanted = wanted
        self._hands = list(wanted.hands)
        train = {prefix: f for prefix, f in glyphs.FAMILIES.items() if not f.is_held_out}
        if not set(train) - ONE_COLOUR - set(self._hands):
            raise InputError(
                "every family of icons is a style of the set, and none is left to draw its scenes",
                fix="leave out a --style-name",
            )
        self._icons = _shared(glyphs.read_icons(wanted.icons, train))
        data = wanted.data
        self._casts: dict[str, Cast] = {}
        self.subjects: list[Subject] = []
        self.left_out: Mapping[str, int] = {}
        for split, count in ((VAL, data.held_out), (TRAIN, data.images)):
            for image_id, cast in zip(self._ids(split, count), self._drawn(split), strict=False):
                self._casts[image_id] = cast
                name = glyphs.words(cast.contents[cast.named])
                self.subjects.append(Subject(image_id, name, split))
        self.facts: Mapping[str, Any] = {
            "source": "scenes",
            "families": {name: store.file_sha256(wanted.icons / name / "icons.json")
                         for name in train},
            "hands": self._hands,
            "images": data.images,
            "held_out": data.held_out,
            "areas": [data.min_area, data.max_area],
            "objects": list(data.objects),
            "px": wanted.px,
            "seed": wanted.seed,
            "drawing": DRAWING,
        }  # fmt: skip
        # Large enough to be scaled down wherever a thing may be put.
        side = glyphs.RENDER_PX * -(-wanted.px // glyphs.RENDER_PX)
        self._ready = lru_cache(max(1, MAX_BYTES // (4 * side**2)))(lambda svg: _rgba(svg, side))
        self._staged = lru_cache(1)(self._stage)

    def view(self, subject: Subject) -> View:
        """See `making.Source`."""
        staged = self._staged(subject.image_id)
        pixels = images.to_pixels(staged.scene.picture)
        mask = staged.scene.things[staged.cast.named].mask
        # What the file holds, to the bit: targets are made of this, and not of finer shades.
        picture = images.to_float(pixels)
        return View(png(Image.fromarray(pixels.numpy())), ".png", picture, mask >= COVERED)

    def origin(self, image_id: str) -> Path | None:
        """See `making.Source`."""
        return None

    def about(self) -> Mapping[str, Any]:
        """Whose drawings they are."""
        return {
            "families": [
                {"prefix": f.prefix, "author": f.author, "licence": f.licence}
                for f in glyphs.FAMILIES.values()
                if not f.is_held_out
            ]
        }

    def anew(self, subject: Subject, family: str) -> Styled:
        """The scene with the named thing by another hand.

        Its mask is where either drawing of it is to be seen, so that none of the old one stays.
        """
        staged = self._staged(subject.image_id)
        scene = self._paint(staged.cast, staged.places, staged.ground, anew=family)
        before, after = (one.things[staged.cast.named].mask for one in (staged.scene, scene))
        touched = torch.maximum(before, after) >= TOUCHED
        return Styled(scene.picture, touched, 0, {})

    def _ids(self, split: str, count: int) -> list[str]:
        kind = "" if split == TRAIN else f"{split}-"
        return [f"scene-{self._wanted.seed}-{kind}{place:05}" for place in range(count)]

    def _drawn(self, split: str) -> Iterator[Cast]:
        """Casts without end; more of them never change the first ones.

        Raises:
            InputError: Nothing is drawn by enough families, or not together with anything else.
        """
        data = self._wanted.data
        held = split == VAL and not data.objects
        pool = {
            content: drawings
            for (content, is_held), drawings in self._icons.items()
            if is_held == held and not self._is_confusing(content)
        }
        names = sorted(
            content
            for content, drawings in pool.items()
            if self._can_change(drawings) and data.takes(glyphs.words(content))
        )
        others = sorted(pool)
        chance = generator(self._wanted.seed, STREAM, split)
        if not names and data.objects:
            raise InputError(
                f"none of the objects that are asked for ({', '.join(data.objects)}) is drawn by "
                f"{MIN_FAMILIES} families and by {', '.join(self._hands) or 'any'}, and not kept "
                "out of training",
                fix="ask for others, such as dog, car or banana",
            )
        if not names:
            raise InputError(
                f"no {'held-out ' * held}content is drawn by {MIN_FAMILIES} families and by "
                f"{', '.join(self._hands) or 'any'}",
                fix="npm install the whole packages",
            )
        in_vain = 0
        while in_vain < DRAWS:
            cast = self._cast(names, others, pool, chance)
            in_vain = 0 if cast is not None else in_vain + 1
            if cast is not None:
                yield cast
        raise InputError(
            f"no two {'held-out ' * held}contents are drawn by one family that is no style of "
            f"the set, in {DRAWS} draws",
            fix="leave out a --style-name, or npm install the whole packages",
        )

    def _cast(
        self,
        names: Sequence[str],
        others: Sequence[str],
        pool: Mapping[str, Mapping[str, Icon]],
        chance: Generator,
    ) -> Cast | None:
        """One draw; None where the things are called too much alike, or no hand draws them all."""
        count = 2 + flip(THIRD, chance)
        name = one_of(names, chance)
        contents = [name, *(one_of(others, chance) for _ in range(count - 1))]
        words = [word for content in contents for word in content.split("-")]
        shared = set.intersection(*(set(pool[content]) for content in contents))
        families = sorted(shared - ONE_COLOUR - set(self._hands))
        if len(set(words)) < len(words) or not families:
            return None
        order = torch.randperm(count, generator=chance).tolist()
        contents = [contents[place] for place in order]
        return Cast(tuple(contents), one_of(families, chance), contents.index(name))

    def _can_change(self, drawings: Mapping[str, Icon]) -> bool:
        return all(hand in drawings for hand in self._hands)

    def _is_confusing(self, content: str) -> bool:
        """Whether its name says a style, or is that of a sign."""
        words = content.split("-")
        said = {word for style in self._wanted.styles for word in style.text.split()}
        is_name = len(words) <= MAX_WORDS and content.replace("-", "").isalpha()
        return not is_name or bool(NO_THINGS & set(words)) or bool(said & set(words))

    def _stage(self, image_id: str) -> Staged:
        """The first arrangement in which all is well to be seen, or the best of some."""
        cast = self._casts[image_id]
        chance = generator(STREAM, image_id)
        tried: list[tuple[float, Staged]] = []
        while len(tried) < TRIES and (not tried or tried[-1][0] < 1):
            places = scenes.squares(len(cast.contents), OVERLAP, chance)
            draw = gradient if flip(BLENDED, chance) else plain
            ground, _ = draw(self._wanted.px, chance)
            staged = Staged(cast, places, ground, self._paint(cast, places, ground))
            tried.append((self._score(staged), staged))
        return max(tried, key=lambda each: each[0])[1]

    def _score(self, staged: Staged) -> float:
        """At least 1 where every thing, by whichever hand, stands out and has its size."""
        cast, data = staged.cast, self._wanted.data
        seen = [
            _contrast(staged.scene, place, staged.ground) for place in range(len(cast.contents))
        ]
        area = float((staged.scene.things[cast.named].mask >= COVERED).float().mean())
        if area > data.max_area:
            return 0.0
        score = min(*seen, area / max(data.min_area, MIN_AREA) * MIN_CONTRAST)
        if score >= MIN_CONTRAST:
            for hand in self._hands:
                anew = self._paint(cast, staged.places, staged.ground, anew=hand)
                score = min(score, _contrast(anew, cast.named, staged.ground))
        return score / MIN_CONTRAST

    def _paint(
        self,
        cast: Cast,
        places: Sequence[Square],
        ground: Float[Tensor, "3 px px"],
        *,
        anew: str | None = None,
    ) -> Scene:
        icons = []
        for place, content in enumerate(cast.contents):
            family = anew if anew is not None and place == cast.named else cast.family
            drawing = self._icons[content, self._is_held(content)][family]
            icons.append((content, self._ready(drawing.svg).float() / 255))
        return scenes.drawn(icons, places, ground)

    def _is_held(self, content: str) -> bool:
        return (content, True) in self._icons


class ByHand:
    """A family of icons as somebody who restyles: the named thing is drawn as that one would."""

    def __init__(self, source: Scenes) -> None:
        self._source = source
        self.facts: Mapping[str, Any] = {"stylist": "drawing"}

    def styled(self, subject: Subject, view: View, style: Style) -> Styled:
        """See `making.Hand`."""
        return self._source.anew(subject, style.id)


def family_styles() -> list[Style]:
    """The hands that training may see, as styles."""
    return [
        Style(family.prefix, family.style.removesuffix(" style"))
        for family in glyphs.FAMILIES.values()
        if not family.is_held_out
    ]


def _shared(icons: Sequence[Icon]) -> dict[tuple[str, bool], dict[str, Icon]]:
    """Contents that enough families draw, and whether they are held out: family -> drawing."""
    found: dict[tuple[str, bool], dict[str, Icon]] = {}
    for (family, held), drawings in glyphs.by_family(icons).items():
        for icon in drawings:
            found.setdefault((icon.content, held), {})[family] = icon
    return {key: each for key, each in found.items() if len(each) >= MIN_FAMILIES}


def _rgba(svg: str, px: int) -> UInt8[Tensor, "4 px px"]:
    return torch.from_numpy(glyphs.render(svg, px)).permute(2, 0, 1).contiguous()


def _contrast(scene: Scene, place: int, ground: Float[Tensor, "3 px px"]) -> float:
    """How far a thing is from its ground where it is seen."""
    mask = scene.things[place].mask
    weight = float(mask.sum())
    if weight < 1:
        return 0.0
    return float(((scene.picture - ground).abs().amax(dim=0) * mask).sum()) / weight
