"""Icons in many styles: the same things drawn by thousands of hands, so truth comes in pairs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int16
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stylecli.artifacts import glyphs, images, store
from stylecli.artifacts.files import to_json
from stylecli.artifacts.glyphs import Icon
from stylecli.engine.i2l.data import styles
from stylecli.engine.i2l.data.items import TRAIN, Item
from stylecli.engine.i2l.data.making import Made, encoded, keep
from stylecli.engine.i2l.data.styles import Counts, Named
from stylecli.errors import InputError
from stylecli.tensors.seeds import derive

# Other icons, treatments or ways to draw them make another set.
DRAWING = 2
# Styles of a unit, all of one family, which then has most of its icons at hand.
TOGETHER = 16
# Of icons that are at hand.
MAX_BYTES = 128 * 2**20
# Icons are drawn so many times larger, then averaged, which is how the base model saw them.
OVERSIZE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What set of icons is asked for.

    Attributes:
        icons: The folder of npm's packages.
        per_style: Pictures of a style, where so many things are drawn in its family.
    """

    icons: Path
    counts: Counts
    per_style: int
    px: int
    seed: int


class Icons:
    """Every style's pictures; a style that training does not see shows what it does not see."""

    def __init__(self, wanted: Wanted) -> None:
        """Read the icons and draw the styles.

        Raises:
            InputError: A family is missing, or draws too few things for a style.
        """
        self._wanted = wanted
        self._icons = glyphs.by_family(glyphs.read_icons(wanted.icons))
        self.styles = styles.drawn(wanted.counts, wanted.seed)
        self._units = _units(self.styles)
        self.unit_names = [f"{unit[0].id} to {unit[-1].id}" for unit in self._units]
        self.total = sum(len(self._shown(style)) for style in self.styles)
        self.facts: Mapping[str, Any] = {
            "source": "icons",
            "families": {
                prefix: store.file_sha256(wanted.icons / prefix / "icons.json")
                for prefix in glyphs.FAMILIES
            },
            "styles": asdict(wanted.counts),
            "per_style": wanted.per_style,
            "px": wanted.px,
            "seed": wanted.seed,
            "drawing": DRAWING,
        }
        size = OVERSIZE * wanted.px
        self._ready = lru_cache(MAX_BYTES // (8 * wanted.px**2))(lambda svg: _summed(svg, size))

    def make(self, unit: int, folder: Path) -> Iterator[Made]:
        """See `making.Source`."""
        for style in self._units[unit]:
            for icon in self._shown(style):
                yield self._item(style, icon, folder)

    def extras(self) -> Mapping[str, str]:
        """How each style draws, for who wants the same thing drawn by another."""
        return {"styles.jsonl": "".join(f"{to_json(style.row())}\n" for style in self.styles)}

    def about(self) -> Mapping[str, Any]:
        """Whose drawings they are."""
        return {
            "families": [
                {"prefix": f.prefix, "author": f.author, "licence": f.licence}
                for f in glyphs.FAMILIES.values()
            ]
        }

    def _shown(self, style: Named) -> list[Icon]:
        """What a style draws: as likely one thing as another, each once."""
        pool = self._icons.get((style.style.family, style.split != TRAIN), [])
        if len(pool) < 2:
            kind = "train" if style.split == TRAIN else "held-out"
            raise InputError(
                f"{style.style.family} draws {len(pool)} things of the {kind} contents; a style "
                "needs two",
                fix="npm install the whole package",
            )
        chance = random.Random(derive(self._wanted.seed, "i2l-data", style.id))  # noqa: S311
        return chance.sample(pool, min(self._wanted.per_style, len(pool)))

    def _item(self, style: Named, icon: Icon, folder: Path) -> Item:
        scale = 255 * OVERSIZE**2
        picture = style.style.draw(
            self._ready(icon.svg).float() / scale, derive(style.id, icon.content)
        )
        data, suffix = encoded(Image.fromarray(images.to_pixels(picture).numpy()))
        name, sha256 = keep(folder, data, suffix)
        return Item(
            id=f"{style.id}-{icon.content}",
            style_id=style.id,
            folder=folder,
            name=name,
            caption=glyphs.words(icon.content),
            width=self._wanted.px,
            height=self._wanted.px,
            sha256=sha256,
            style_caption=style.caption,
            content_id=icon.content,
            split=style.split,
            licence=glyphs.FAMILIES[icon.family].licence,
        )


def _units(found: Sequence[Named]) -> list[list[Named]]:
    by_family: dict[tuple[str, str], list[Named]] = {}
    for style in found:
        by_family.setdefault((style.split, style.style.family), []).append(style)
    return [
        group[start : start + TOGETHER]
        for group in by_family.values()
        for start in range(0, len(group), TOGETHER)
    ]


def _summed(svg: str, px: int) -> Int16[Tensor, "4 _half _half"]:
    """An icon at half the size, premultiplied, every pixel the sum of those it covers."""
    drawn: Float[Tensor, "4 _px _px"] = torch.from_numpy(glyphs.render(svg, px)).permute(2, 0, 1)
    return F.avg_pool2d(drawn.float()[None], OVERSIZE, divisor_override=1)[0].to(torch.int16)
