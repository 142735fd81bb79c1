"""Scenes of two things by one hand, what may be asked of either, and the true answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from gallery_scenes import rgba
from jaxtyping import Float
from torch import Generator, Tensor

from stylecli.artifacts import glyphs
from stylecli.engine.route.data.scenes import NO_THINGS
from stylecli.methods.regionroute.styles import PAPER, Style
from stylecli.pocket.edits import KNOWN
from stylecli.tensors import grounds, scenes, seeds
from stylecli.tensors.filters import FILTERS
from stylecli.tensors.scenes import Scene, Square

PX = 64
# Two of the families restyle and draw no scene themselves; the others draw and do not restyle.
HANDS = ("fluent-emoji-high-contrast", "streamline-emojis")
STYLES = (
    *PAPER,
    *(Style(name, glyphs.FAMILIES[name].style.removesuffix(" style")) for name in HANDS),
)
# How the two things lie, and what they are called: by names that the editor learned, by names of
# things that no training saw, or by others of what it learned; the rest is known to be hard.
KINDS = ("seen", "unseen", "alias", "tiny", "duplicate", "touching", "containing", "occluded")
HELD_OUT = ("unseen",)
# What people call a thing that no caption calls so; where one does, the two are different things.
ALIASES: Mapping[str, str] = {
    "automobile": "car",
    "airplane": "jet",
    "bicycle": "bike",
    "bear": "teddy",
    "bouquet": "flowers",
    "cat": "kitty",
    "chicken": "hen",
    "cooking": "pan",
    "dog": "puppy",
    "doughnut": "donut",
    "eyeglasses": "spectacles",
    "frog": "toad",
    "hamburger": "burger",
    "handbag": "purse",
    "helicopter": "chopper",
    "hot-beverage": "coffee",
    "motorcycle": "motorbike",
    "mouse": "rodent",
    "octopus": "squid",
    "old-key": "key",
    "pig": "hog",
    "rabbit": "bunny",
    "sailboat": "yacht",
    "television": "tv",
    "tangerine": "orange",
    "watch": "wristwatch",
}
# Enough of a thing is seen, and it stands out from its ground.
MIN_AREA, MIN_CONTRAST, TRIES = 0.04, 0.25, 200
MIN_FAMILIES, MAX_WORDS = 5, 2

Drawings = Mapping[str, Mapping[str, glyphs.Icon]]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A scene of two things.

    Attributes:
        called: What either of them is called in an instruction.
        anew: Hand -> the scene with the first, the second, and both drawn by it.
    """

    id: str
    kind: str
    scene: Scene
    called: tuple[str, str]
    anew: Mapping[str, tuple[Scene, Scene, Scene]]

    @property
    def picture(self) -> Float[Tensor, "3 px px"]:
        return self.scene.picture

    def mask(self, thing: int) -> Float[Tensor, "px px"]:
        """Where one of them is seen."""
        return self.scene.things[thing].mask

    def region(self, thing: int, style: Style) -> Float[Tensor, "px px"]:
        """Where the true answer differs from the scene: both drawings, of one that is redrawn."""
        if style.id in FILTERS:
            return self.mask(thing)
        return torch.maximum(self.mask(thing), self.anew[style.id][thing].things[thing].mask)

    def truth(self, thing: int, style: Style) -> Float[Tensor, "3 px px"]:
        """The scene with one of them in a style."""
        if style.id in FILTERS:
            return torch.lerp(self.picture, FILTERS[style.id](self.picture), self.mask(thing))
        return self.anew[style.id][thing].picture

    def whole(self, style: Style) -> Float[Tensor, "3 px px"]:
        """All of it in a style."""
        if style.id in FILTERS:
            return FILTERS[style.id](self.picture)
        return self.anew[style.id][-1].picture


class World:
    """Icons that several hands draw, on either side of the split."""

    def __init__(self, packages: Path) -> None:
        families = {name: f for name, f in glyphs.FAMILIES.items() if not f.is_held_out}
        by_side: dict[bool, dict[str, dict[str, glyphs.Icon]]] = {False: {}, True: {}}
        icons = glyphs.read_icons(packages, families)
        for (family, is_held_out), drawings in glyphs.by_family(icons).items():
            for icon in drawings:
                by_side[is_held_out].setdefault(icon.content, {})[family] = icon
        self._sides = {side: _plain(drawn) for side, drawn in by_side.items()}
        contents = by_side[False].keys() | by_side[True].keys()
        self._aliases = {name: alias for name, alias in ALIASES.items() if alias not in contents}

    def ask(self, kind: str, number: int, seed: int = 0) -> Question:
        """A question by its number; another number is another scene."""
        chance = seeds.generator(seed, "route proof", kind, number)
        drawn = self._sides[kind in HELD_OUT]
        for _ in range(TRIES):
            names = self._names(kind, drawn, chance)
            shared = set.intersection(*(set(drawn[name]) for name in names))
            if not shared - set(HANDS):
                continue
            own = grounds.one_of(sorted(shared - set(HANDS)), chance)
            ground = (grounds.gradient if grounds.flip(0.5, chance) else grounds.plain)(PX, chance)
            places = _places(kind, chance)

            paint = partial(_painted, drawn, names, places, ground[0])
            scene = paint(own, own)
            if _is_clear(kind, scene, ground[0]):
                called = self._called(kind, names[0]), self._called(kind, names[1])
                anew = {
                    hand: (paint(hand, own), paint(own, hand), paint(hand, hand)) for hand in HANDS
                }
                return Question(f"{kind}-{number:03}", kind, scene, called, anew)
        raise RuntimeError(f"no scene of the kind {kind} in {TRIES} tries")

    def _names(self, kind: str, drawn: Drawings, chance: Generator) -> tuple[str, str]:
        pool = sorted(drawn) if kind in HELD_OUT else sorted(KNOWN & set(drawn))
        if kind == "alias":
            pool = [name for name in pool if name in self._aliases]
        one = grounds.one_of(pool, chance)
        if kind == "duplicate":
            return one, one
        words = set(one.split("-"))
        return one, grounds.one_of([n for n in pool if not words & set(n.split("-"))], chance)

    def _called(self, kind: str, name: str) -> str:
        return self._aliases[name] if kind == "alias" else glyphs.words(name)


def _plain(drawn: Drawings) -> dict[str, Mapping[str, glyphs.Icon]]:
    """Things with a short name that are no signs."""
    return {
        content: by
        for content, by in drawn.items()
        if len(by) >= MIN_FAMILIES
        and set(HANDS) <= set(by)
        and len(words := content.split("-")) <= MAX_WORDS
        and content.replace("-", "").isalpha()
        and not NO_THINGS & set(words)
    }


def _painted(
    drawn: Drawings,
    names: Sequence[str],
    places: Sequence[Square],
    ground: Float[Tensor, "3 px px"],
    *hands: str,
) -> Scene:
    icons = [(name, rgba(drawn[name][hand].svg)) for name, hand in zip(names, hands, strict=True)]
    return scenes.drawn(icons, places, ground)


def _places(kind: str, chance: Generator) -> list[Square]:
    if kind in ("touching", "containing", "occluded", "tiny"):
        return _near(kind, chance)
    return scenes.squares(2, 0.04, chance)


def _near(kind: str, chance: Generator) -> list[Square]:
    """Two squares that lie as their kind says, the first one hindmost; mirrored half the time."""
    if kind == "tiny":
        side = grounds.interval(0.16, 0.22, chance)
        left, top = grounds.interval(0.05, 0.2, chance), grounds.interval(0.1, 0.7, chance)
        squares = [Square(left, top, side), Square(0.4, grounds.interval(0.05, 0.4, chance), 0.55)]
    elif kind == "touching":
        side, top = grounds.interval(0.4, 0.47, chance), grounds.interval(0.1, 0.4, chance)
        squares = [Square(0.5 - side * 0.97, top, side), Square(0.5 - side * 0.03, top, side)]
    elif kind == "containing":
        side = grounds.interval(0.26, 0.32, chance)
        squares = [
            Square(0.12, 0.12, 0.76),
            Square(grounds.interval(0.3, 0.42, chance), grounds.interval(0.3, 0.42, chance), side),
        ]
    else:
        top = grounds.interval(0.15, 0.3, chance)
        squares = [Square(0.1, top, 0.5), Square(0.36, top + 0.08, 0.5)]
    if grounds.flip(0.5, chance):
        squares = [Square(1 - s.x - s.side, s.y, s.side) for s in squares]
    return squares


def _is_clear(kind: str, scene: Scene, ground: Float[Tensor, "3 px px"]) -> bool:
    for thing in scene.things:
        weight = float(thing.mask.sum())
        least = MIN_AREA / 4 if kind in ("tiny", "containing", "occluded") else MIN_AREA
        if weight < least * PX * PX:
            return False
        apart = (scene.picture - ground).abs().amax(dim=0)
        if float((apart * thing.mask).sum()) / weight < MIN_CONTRAST:
            return False
    return True
