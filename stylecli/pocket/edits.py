"""What pocket's editor learns from: scenes of icons, and the same scenes as edits leave them.

Which edits are true is known, because scenes are put together from parts: all of them drawn by
another family, or one of them, one of them away, one in another colour, or the whole seen through
a filter. Asked for whole pictures only, styles would come to mean everything, whatever is named.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Generator, Tensor

from stylecli.artifacts import glyphs
from stylecli.engine.training import checkpoint
from stylecli.methods.regionroute.grids import on_grid
from stylecli.pocket.data import World, photo_crop
from stylecli.pocket.vae import encode
from stylecli.tensors import grounds, scenes
from stylecli.tensors.filters import FILTERS, LUMA

PX = 64
# Of what scenes hold: shards of another version are not read.
VERSION = 2
# Of all things, and of those that it learns to call by their names.
SHARDS, NAMED_SHARDS, SCENES = 40, 20, 250
ROWS = 16
# Things that are drawn by many hands and called by plain words.
FEWEST_FAMILIES, MOST_WORDS = 6, 2
# Names that say little of what is seen, or that many things share.
PEOPLE = {"man", "woman", "men", "women", "person", "people", "girl", "boy", "family", "couple"}
SIGNS = {"button", "clock", "oclock", "sign", "symbol", "mark", "arrow", "square", "circle"}
VAGUE = frozenset({"face", "kiss", "hand", "hands"} | PEOPLE | SIGNS)
# Of one, two or three things; and how often all are of one family.
COUNTS = (0.25, 0.55, 0.2)
ALIKE = 0.8
OVERLAP = 0.1
REMOVED = 0.25
# Things that are told apart at a glance. A model this small learns the looks of five hundred in no
# time that anybody has, and until it did, any of two things will do for either's name.
_KNOWN = """
airplane anchor automobile balloon bell bicycle bread bus candy cow crocodile crown dog dolphin
door elephant eye fire ghost grapes guitar helicopter honeybee horse lemon lipstick microphone
mushroom octopus peach pig rainbow rocket rooster rose sailboat seedling skull snail snake
tangerine television tent tomato turtle umbrella violin watch
"""
KNOWN = frozenset(_KNOWN.split())
COLOURS: Mapping[str, tuple[float, float, float]] = {
    "black": (0.08, 0.08, 0.08),
    "blue": (0.15, 0.3, 0.95),
    "green": (0.1, 0.75, 0.2),
    "pink": (1.0, 0.5, 0.75),
    "purple": (0.55, 0.15, 0.8),
    "red": (0.9, 0.1, 0.1),
    "white": (0.97, 0.97, 0.97),
    "yellow": (0.98, 0.85, 0.1),
}
# What experts are to learn of single things is shown to the editor of whole pictures only.
WHOLE_ONLY = frozenset({"fluent-emoji-high-contrast", "streamline-emojis"})
# Colours whose channels sum to more are laid on without darkening.
BRIGHT = 2.6

Kind = Literal["whole", "redraw", "tint", "remove"]


@dataclass(frozen=True, slots=True)
class Edit:
    """One true answer.

    Attributes:
        target: Its row among a shard's targets.
        look: Family or filter of a restyle, colour of a tint; empty of a removal.
        thing: What is redrawn, tinted or removed, as it is called; empty of whole restyles.
        mask: Where that is seen: its row among a shard's masks; None of whole restyles.
    """

    target: int
    kind: Kind
    look: str
    thing: str
    mask: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """A scene: what is in it, as it is called, and what may be asked of it."""

    things: tuple[str, ...]
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Scenes and their answers as scaled latents, float16.

    Attributes:
        references: One for each of `rows`.
        masks: Of all their things; the shares of the latents' cells that they cover.
    """

    references: Float[Tensor, "n 4 h w"]
    targets: Float[Tensor, "m 4 h w"]
    masks: Float[Tensor, "k h w"]
    rows: tuple[Row, ...]


class Stage:
    """Makes scenes from the contents of a world.

    Args:
        world: Icons and photographs.
        held_out: Of contents that no training may touch, instead of the others.
        among: Of these contents alone.
    """

    def __init__(
        self, world: World, *, held_out: bool = False, among: Collection[str] | None = None
    ) -> None:
        self._world = world
        drawn: dict[str, dict[str, int]] = {}
        for index in world.indices(held_out_content=held_out):
            row = world.rows[index]
            drawn.setdefault(row.content, {})[row.family] = index
        # Content -> family -> row of the icons.
        self._drawn = {
            content: families
            for content, families in sorted(drawn.items())
            if len(families) >= FEWEST_FAMILIES
            and is_plain(content)
            and (among is None or content in among)
        }
        self._contents = tuple(self._drawn)

    def scene(
        self, generator: Generator
    ) -> tuple[Row, list[Float[Tensor, "3 px px"]], list[Float[Tensor, "px px"]]]:
        """A row whose targets count from 1, with its pictures: the reference, then the targets.

        The masks come last, of its things as they are listed.
        """
        things, families = self._cast(generator)
        places = scenes.squares(len(things), OVERLAP, generator)
        ground = self._ground(generator)

        def seen(by: Sequence[str], among: Sequence[int]) -> scenes.Scene:
            icons = [(things[k], self._world.icon(self._drawn[things[k]][by[k]])) for k in among]
            return scenes.drawn(icons, [places[k] for k in among], ground)

        every = range(len(things))
        scene = seen(families, every)
        edits, pictures = [], [scene.picture]

        names = tuple(glyphs.words(thing) for thing in things)

        def keep(picture: Tensor, kind: Kind, look: str, thing: int | None = None) -> None:
            named = "" if thing is None else names[thing]
            edits.append(Edit(len(pictures), kind, look, named, thing))
            pictures.append(picture)

        chosen = int(torch.randint(len(things), (), generator=generator))
        if grounds.flip(REMOVED, generator):
            rest = [k for k in every if k != chosen]
            keep(seen(families, rest).picture, "remove", "", chosen)
        else:
            colour = grounds.one_of(sorted(COLOURS), generator)
            mask = scene.things[chosen].mask
            tinted = tint(scene.picture, COLOURS[colour])
            keep(mask * tinted + (1 - mask) * scene.picture, "tint", colour, chosen)
        for k, thing in enumerate(things):
            hands = sorted(set(self._drawn[thing]) - {families[k]} - WHOLE_ONLY)
            family = grounds.one_of(hands, generator)
            redrawn = [*families[:k], family, *families[k + 1 :]]
            keep(seen(redrawn, every).picture, "redraw", family, k)
        look = grounds.one_of(sorted(FILTERS), generator)
        keep(FILTERS[look](scene.picture), "whole", look)
        others = sorted(self._common(things) - set(families))
        if others:
            family = grounds.one_of(others, generator)
            keep(seen([family] * len(things), every).picture, "whole", family)
        return Row(names, tuple(edits)), pictures, [thing.mask for thing in scene.things]

    def _common(self, things: Sequence[str]) -> set[str]:
        return set.intersection(*(set(self._drawn[thing]) for thing in things))

    def _cast(self, generator: Generator) -> tuple[list[str], list[str]]:
        """What is in a scene, and which family draws each."""
        chances = torch.tensor(COUNTS)
        while True:
            count = 1 + int(torch.multinomial(chances, 1, generator=generator))
            things = [grounds.one_of(self._contents, generator) for _ in range(count)]
            # One name must not be the beginning of another's.
            if len({thing.split("-")[0] for thing in things}) < count:
                continue
            common = self._common(things)
            if not common:
                continue
            family = grounds.one_of(sorted(common), generator)
            if grounds.flip(ALIKE, generator):
                return things, [family] * count
            own = [grounds.one_of(sorted(self._drawn[thing]), generator) for thing in things]
            return things, own

    def _ground(self, generator: Generator) -> Float[Tensor, "3 px px"]:
        lot = grounds.uniform(generator)
        if lot < 0.5:
            return grounds.plain(PX, generator)[0]
        if lot < 0.75:
            return grounds.gradient(PX, generator)[0]
        name = grounds.one_of(list(self._world.photos), generator)
        return photo_crop(self._world.photos[name], PX, generator)


def shard(path: Path, stage: Stage, vae: AutoencoderKL, *, count: int, seed: int) -> Shard:
    """The shard at `path`, made if it is not there yet."""
    if not path.exists():
        _make(path, stage, vae, count, seed)
    tensors, state = checkpoint.load(path)
    stored: list[tuple[list[str], list[tuple[int, Kind, str, str, int | None]]]] = json.loads(
        str(state["rows"])
    )
    rows = tuple(
        Row(tuple(things), tuple(Edit(*each) for each in edits)) for things, edits in stored
    )
    return Shard(tensors["references"], tensors["targets"], tensors["masks"], rows)


@torch.no_grad()
def _make(path: Path, stage: Stage, vae: AutoencoderKL, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    references: list[Tensor] = []
    targets: list[Tensor] = []
    masks: list[Tensor] = []
    rows: list[Any] = []
    for _ in range(count):
        row, pictures, own = stage.scene(generator)
        made, seen = len(targets) - 1, len(masks)
        edits = (
            replace(
                one,
                target=made + one.target,
                mask=None if one.mask is None else seen + one.mask,
            )
            for one in row.edits
        )
        rows.append([row.things, [astuple(one) for one in edits]])
        references.append(pictures[0])
        targets += pictures[1:]
        masks += own
    tensors = {"references": _encoded(vae, references), "targets": _encoded(vae, targets)}
    height, width = tensors["references"].shape[-2:]
    cells = on_grid(torch.stack(masks), (height, width))
    tensors["masks"] = cells.view(-1, height, width).half().contiguous()
    checkpoint.save(path, tensors, {"rows": json.dumps(rows)})


def _encoded(vae: AutoencoderKL, pictures: Sequence[Tensor]) -> Float[Tensor, "n 4 h w"]:
    parts = torch.stack(list(pictures)).split(ROWS)
    means = torch.cat([encode(vae, part).cpu() for part in parts])
    scaled: Tensor = means * vae.config.scaling_factor
    return scaled.half().contiguous()


def is_plain(content: str) -> bool:
    """Whether an icon's name is words that people would use for it.

    >>> [is_plain(name) for name in ("airplane", "keycap-10", "man-in-tuxedo", "grinning-face")]
    [True, False, False, False]
    """
    parts = content.split("-")
    return (
        len(parts) <= MOST_WORDS
        and not any(character.isdigit() for character in content)
        and not VAGUE & set(parts)
        and not content.endswith("oclock")
    )


def tint(
    picture: Float[Tensor, "3 h w"], colour: tuple[float, float, float]
) -> Float[Tensor, "3 h w"]:
    """A picture's light and dark in one colour."""
    grey = torch.einsum("c,chw->hw", torch.tensor(LUMA), picture)[None]
    paint = torch.tensor(colour).view(3, 1, 1)
    if sum(colour) < BRIGHT:
        return (paint * (0.45 + 0.9 * grey)).clamp(0, 1)
    return (0.75 + 0.25 * grey) * paint
