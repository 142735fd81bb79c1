"""Questions with known answers for `style gallery`: the same things drawn by two hands.

The content is two to four things drawn by one hand on a ground, the reference the same things
elsewhere and of other sizes, by another hand, on another ground. The answer is the content's layout
drawn by that second hand. In every third question the reference shows one thing more, and in every
third one is missing; a second reference then shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stylecli.artifacts import glyphs
from stylecli.pocket import data
from stylecli.tensors import grounds, scenes, seeds

SOURCE = "noto"
TRAINED = ("twemoji", "fluent-emoji-flat", "noto-v1", "fxemoji")
COUNTS = (2, 3, 4)
KINDS = ("same", "one more", "one missing")
GROUNDS = ("plain", "gradient", "photograph")
ICON_PX = 128

Drawn = Mapping[str, Mapping[str, glyphs.Icon]]


@dataclass(frozen=True, slots=True)
class Question:
    """One content, what it is to be drawn after, and how it would look.

    Attributes:
        references: The one, and where it lacks a thing a second one that shows it.
        answer: The content's things at the content's places by the hand of the references, on the
            content's own ground.
        known: Names of the content's things that the first reference shows.
    """

    number: int
    family: str
    kind: str
    ground: str
    content: scenes.Scene
    references: tuple[scenes.Scene, ...]
    answer: scenes.Scene
    known: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.number:03d}-{self.family}"


def families(icons: Sequence[glyphs.Icon], *, held_out: bool) -> Drawn:
    """Hand -> content -> drawing, of things and hands on one side of the split."""
    hands = [name for name, f in glyphs.FAMILIES.items() if f.is_held_out] if held_out else TRAINED
    found: dict[str, dict[str, glyphs.Icon]] = {name: {} for name in (SOURCE, *hands)}
    for icon in icons:
        is_held_out = glyphs.content_is_held_out(icon.content)
        if icon.family in found and is_held_out == held_out:
            found[icon.family].setdefault(icon.content, icon)
    return found


def ask(
    number: int, drawn: Drawn, photos: Sequence[list[Tensor]], px: int, *, seed: int
) -> Question:
    """A question by its number; kinds, hands and grounds take turns."""
    generator = seeds.generator(seed, "gallery", number)
    hands = [name for name in drawn if name != SOURCE]
    kind = KINDS[number % 3]
    family = hands[number // 3 % len(hands)]
    ground = GROUNDS[number // (3 * len(hands)) % len(GROUNDS)]
    names = _things(drawn, family, generator)
    count = grounds.one_of(COUNTS, generator)
    shown, extra = names[:count], names[count]
    state = generator.get_state()
    content = _scene(shown, drawn[SOURCE], _ground(ground, photos, px, generator), generator)
    generator.set_state(state)
    answer = _scene(shown, drawn[family], _ground(ground, photos, px, generator), generator)
    known = shown[1:] if kind == "one missing" else shown
    theirs = [*known, extra] if kind == "one more" else list(known)
    order = torch.randperm(len(theirs), generator=generator).tolist()
    sets = [[theirs[i] for i in order]]
    if kind == "one missing":
        sets.append([shown[0]])
    references = tuple(
        _scene(some, drawn[family], _ground(ground, photos, px, generator), generator)
        for some in sets
    )
    return Question(number, family, kind, ground, content, references, answer, tuple(known))


def _things(drawn: Drawn, family: str, generator: Generator) -> list[str]:
    """Different things that both hands drew; no siblings, which are nearly the same thing."""
    both = sorted(drawn[SOURCE].keys() & drawn[family].keys())
    found: dict[str, str] = {}
    while len(found) < max(COUNTS) + 1:
        name = grounds.one_of(both, generator)
        found.setdefault(name.split("-")[0], name)
    return list(found.values())


def _scene(
    names: Sequence[str], hand: Mapping[str, glyphs.Icon], ground: Tensor, generator: Generator
) -> scenes.Scene:
    return scenes.arrange([(name, rgba(hand[name].svg)) for name in names], ground, generator)


def _ground(kind: str, photos: Sequence[list[Tensor]], px: int, generator: Generator) -> Tensor:
    make: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: grounds.plain(px, generator)[0],
        "gradient": lambda: grounds.gradient(px, generator)[0],
        "photograph": lambda: data.photo_crop(grounds.one_of(photos, generator), px, generator),
    }
    return make[kind]()


@lru_cache(maxsize=4096)
def rgba(svg: str) -> Float[Tensor, "4 px px"]:
    """A drawing, once."""
    return torch.from_numpy(glyphs.render(svg, ICON_PX).copy()).permute(2, 0, 1).float() / 255
