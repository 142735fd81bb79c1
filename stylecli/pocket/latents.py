"""What the denoiser learns from: pictures already encoded, with words for what, how and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Generator, Tensor

from stylecli.artifacts import glyphs
from stylecli.engine.training import checkpoint
from stylecli.pocket.data import World, photo_crop, photo_words
from stylecli.pocket.vae import encode
from stylecli.tensors import grounds

PHOTO_STYLE = "photo"


@dataclass(frozen=True, slots=True)
class View:
    """One picture and its words: what it shows, in which style, and on what ground."""

    picture: Float[Tensor, "3 px px"]
    content: str
    style: str
    ground: str


@dataclass(frozen=True, slots=True)
class Bank:
    """Encoded views of one size.

    Attributes:
        latents: float16, already multiplied by the scaling factor.
        words: `(content, style, ground)` per row.
    """

    latents: Float[Tensor, "n 4 h w"]
    words: list[tuple[str, str, str]]

    def __len__(self) -> int:
        return len(self.words)


def caption(words: tuple[str, str, str], generator: Generator) -> str:
    """Everything 50 %, content only 25 %, style only 12 %, nothing 13 % (for guidance)."""
    content, style, ground = words
    lot = grounds.uniform(generator)
    if lot < 0.50:
        parts = [content, style, ground]
    elif lot < 0.75:
        parts = [content, ground]
    elif lot < 0.87:
        parts = [style, ground if grounds.flip(0.5, generator) else ""]
    else:
        parts = []
    return ", ".join(part for part in parts if part)


def view(
    world: World,
    families: Sequence[Sequence[int]],
    px: int,
    photo_share: float,
    generator: Generator,
) -> View:
    """A photograph's window, or an icon whole or close up on some ground.

    Args:
        families: Rows that may be drawn, one sequence per family.
    """
    if grounds.flip(photo_share, generator):
        name = grounds.one_of(list(world.photos), generator)
        crop = photo_crop(world.photos[name], px, generator)
        return View(crop, photo_words(name), PHOTO_STYLE, "")
    if grounds.flip(0.5, generator):
        rows = grounds.one_of(families, generator)
    else:
        rows = [row for family in families for row in family]
    index = grounds.one_of(rows, generator)
    row = world.rows[index]
    ground, words = _ground(world, px, generator)
    if grounds.flip(0.75, generator):
        scale, reach = grounds.interval(0.86, 1.0, generator), 0.03
    else:
        scale = grounds.interval(1.1, 2.4, generator)
        reach, words = (scale - 1) / 2, "close up"
    shift = (grounds.interval(-reach, reach, generator), grounds.interval(-reach, reach, generator))
    icon = grounds.place(world.icon(index), px, scale, shift, 0.0)
    style = glyphs.FAMILIES[row.family].style
    return View(grounds.compose(icon, ground), glyphs.words(row.content), style, words)


@torch.no_grad()
def bank(
    path: Path,
    world: World,
    vae: AutoencoderKL,
    *,
    px: int,
    count: int,
    photo_share: float,
    seed: int,
) -> Bank:
    """The bank at `path`, made if it is not there yet."""
    if path.exists():
        tensors, state = checkpoint.load(path)
        stored: list[list[str]] = state["words"]  # type: ignore[assignment]
        return Bank(tensors["latents"], [(c, s, g) for c, s, g in stored])
    generator = torch.Generator().manual_seed(seed)
    families = by_family(world, world.indices())
    batches, words = [], []
    for start in range(0, count, 64):
        views = [
            view(world, families, px, photo_share, generator) for _ in range(min(64, count - start))
        ]
        with torch.autocast(vae.device.type, torch.bfloat16):
            mean = encode(vae, torch.stack([v.picture for v in views])).cpu()
        batches.append((mean * vae.config.scaling_factor).half())
        words += [(v.content, v.style, v.ground) for v in views]
    result = Bank(torch.cat(batches), words)
    checkpoint.save(path, {"latents": result.latents}, {"words": [list(w) for w in words]})
    return result


def by_family(world: World, indices: Sequence[int]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for index in indices:
        groups.setdefault(world.rows[index].family, []).append(index)
    return [groups[name] for name in sorted(groups)]


def _ground(world: World, px: int, generator: Generator) -> tuple[Float[Tensor, "3 px px"], str]:
    lot = grounds.uniform(generator)
    if lot < 0.5:
        return torch.ones(3, px, px), ""
    if lot < 0.75:
        ground, word = grounds.plain(px, generator)
        return ground, f"on {word}"
    if lot < 0.87:
        return grounds.gradient(px, generator)[0], "on a gradient"
    name = grounds.one_of(list(world.photos), generator)
    return photo_crop(world.photos[name], px, generator), "on a photo"
