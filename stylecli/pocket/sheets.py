"""Sample sheets for people: what the models draw, looked at before anything ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stylecli.artifacts import glyphs
from stylecli.pocket import vae as autoencoder
from stylecli.pocket.data import World
from stylecli.pocket.judge import Models, generate
from stylecli.pocket.trial import Trial

GAP_PX = 4
CONTENTS = ("red heart", "airplane", "fire", "alarm clock", "house", "pizza")
SCENES = (
    "mountain path, photo",
    "stream in a forest, photo",
    "coffee cup, photo",
    "red heart, bold flat style, on blue",
    "airplane, glossy 3d style, on a gradient",
    "house, outlined pastel style, on yellow",
)


def draw(models: Models, world: World, trials: Sequence[Trial], folder: Path) -> list[Path]:
    """Write every sheet; the rows of each are named in the model card."""
    folder.mkdir(parents=True, exist_ok=True)
    sheets = {
        "text-to-image": _families(models),
        "sizes": _sizes(models),
        "reconstruction": _reconstruction(models, world),
        "colours": _colours(models),
        "transfer": _transfers(trials),
    }
    return [_write(folder / f"{name}.png", rows) for name, rows in sheets.items()]


def grid(pictures: Float[Tensor, "rows columns 3 h w"]) -> Image.Image:
    """All pictures on white, a narrow gap between them."""
    rows, columns, _, height, width = pictures.shape
    sheet = torch.ones(3, rows * (height + GAP_PX) + GAP_PX, columns * (width + GAP_PX) + GAP_PX)
    for row in range(rows):
        for column in range(columns):
            top, left = (GAP_PX + row * (height + GAP_PX), GAP_PX + column * (width + GAP_PX))
            sheet[:, top : top + height, left : left + width] = pictures[row, column]
    pixels = sheet.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.contiguous().numpy())


def _families(models: Models) -> Float[Tensor, "rows columns 3 h w"]:
    styles = [family.style for family in glyphs.FAMILIES.values() if not family.is_held_out]
    prompts = [f"{content}, {style}" for content in CONTENTS for style in styles]
    pictures = generate(models.backbone, prompts, seed=1)
    return torch.stack(pictures.split(len(styles)))


def _sizes(models: Models) -> Float[Tensor, "rows columns 3 h w"]:
    return torch.stack(generate(models.backbone, list(SCENES), px=128, seed=2).split(3))


def _reconstruction(models: Models, world: World) -> Float[Tensor, "rows columns 3 h w"]:
    examples: Mapping[str, Tensor] = autoencoder.held_out_pictures(world, px=128)
    pictures = torch.cat([examples["icons"][::11][:5], examples["unseen"][::7][:5]])
    again = autoencoder.reconstruct(models.backbone.vae, pictures)
    return torch.stack([pictures[:5], again[:5], pictures[5:], again[5:]])


def _colours(models: Models) -> Float[Tensor, "rows columns 3 h w"]:
    patches = autoencoder.flat_patches(32)
    again = autoencoder.reconstruct(models.backbone.vae, patches)
    return torch.stack([patches[:32], again[:32], patches[32:], again[32:]])


def _write(path: Path, pictures: Float[Tensor, "rows columns 3 h w"]) -> Path:
    grid(pictures).save(path, optimize=True)
    return path


def _transfers(trials: Sequence[Trial]) -> Float[Tensor, "rows columns 3 h w"]:
    """Content | style | result | truth, two of them beside each other; best first, worst last."""
    ranked = sorted(trials, key=lambda trial: trial.distance / trial.content_copy)
    chosen = ranked[:4] + ranked[len(ranked) // 2 - 2 : len(ranked) // 2 + 2] + ranked[-4:]
    pictures = [torch.cat([t.content, t.style, t.result, t.truth]) for t in chosen]
    return torch.stack(
        [torch.cat(pair) for pair in zip(pictures[::2], pictures[1::2], strict=True)]
    )
