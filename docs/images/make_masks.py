"""Masks from words on pocket, scored where the truth is known: scenes of two to five icons.

    python docs/images/make_masks.py node_modules/@iconify-json --scenes 200 -o DIR

Writes the figures `masks.json` and the sheet `masks.jpg` (scenes from best to worst; beside each
the masks found, in the colours of their words). `--contents trained` takes icons whose contents the
ranker has seen, in place of held-out ones; the figures of both stand side by side in the file.
`--photos` adds the wallpapers of `stylecli.pocket.data`, unpacked there, to scikit-image's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw
from torch import Generator, Tensor
from torch.nn import functional as F

from stylecli.artifacts import glyphs
from stylecli.backbone import loading, registry
from stylecli.engine.mask_backends import SHARPNESS
from stylecli.evaluation.perceptual import NATIVE_PX, load_pocket_clip
from stylecli.masks.base import Ranker, Setup
from stylecli.masks.clusters import Clusters, crop, evidence
from stylecli.pocket import data
from stylecli.recipe.finding import Masks
from stylecli.tensors import grounds, scenes, seeds

SCENE_PX = 192
ICON_PX = 128
COUNTS = (2, 3, 4, 5)
GROUNDS = ("plain", "gradient", "photograph")
BOOTSTRAPS = 2000
SHOWN = 8
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4")
POCKET = registry.ASSETS / "pocket"


@dataclass
class Score:
    """What became of one prompt: IoU with the truth by way of finding it."""

    scene: int
    name: str
    count: int
    ground: str
    iou: dict[str, float] = field(default_factory=dict)


@dataclass
class Shown:
    """A scene for the sheet."""

    scene: scenes.Scene
    found: list[Tensor]
    mean: float


def main() -> None:
    """Draw the scenes, find everything in them, write figures and sheet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("icons", type=Path)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--contents", choices=("held-out", "trained"), default="held-out")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", dest="out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    icons = [
        icon
        for icon in glyphs.read_icons(arguments.icons)
        if not glyphs.FAMILIES[icon.family].is_held_out
        and icon.is_held_out == (arguments.contents == "held-out")
    ]
    photos = list(read_photos(arguments.photos))
    rank = ranker()
    backend = Clusters(setup(rank))
    scores: list[Score] = []
    shown: list[Shown] = []
    for number in range(arguments.scenes):
        generator = seeds.generator(arguments.seed, arguments.contents, number)
        count = COUNTS[number % len(COUNTS)]
        ground = GROUNDS[number // len(COUNTS) % len(GROUNDS)]
        scene = draw(icons, photos, count, ground, generator)
        rows, found = examine(scene, backend, rank, number, ground)
        scores += rows
        shown.append(Shown(scene, found, float(np.mean([row.iou["words"] for row in rows]))))
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "masks.json"
    figures = json.loads(file.read_text()) if file.exists() else {}
    figures[arguments.contents] = summary(scores)
    file.write_text(json.dumps(figures, indent=1) + "\n")
    name = "masks" if arguments.contents == "held-out" else "masks-trained"
    sheet(shown).save(arguments.out / f"{name}.jpg", quality=88, optimize=True)


def setup(rank: Ranker) -> Setup:
    """Pocket, and every find kept however weak."""
    source = registry.find("pocket")
    folder = registry.snapshot(source)
    device = torch.device("cpu")
    backbone = loading.load(
        "pocket", folder, fingerprint=loading.fingerprint(folder), device=device
    )
    return Setup(
        settings=Masks(threshold=0.0),
        device=device,
        dtype=torch.float32,
        backbone=lambda: backbone,
        ranker=lambda: rank,
        sharpness=SHARPNESS[source.ranker],
    )


def ranker() -> Ranker:
    """Cosines of pocket-clip."""
    clip = load_pocket_clip(POCKET / "clip")

    @torch.inference_mode()
    def rank(crops: Sequence[Tensor], texts: Sequence[str]) -> Tensor:
        size = (NATIVE_PX, NATIVE_PX)
        small = [F.interpolate(c[None], size, mode="bilinear", antialias=True) for c in crops]
        return clip.image_features(torch.cat(small)) @ clip.text_features(texts).T

    return rank


def read_photos(wallpapers: Path | None) -> Iterable[list[Tensor]]:
    """Each photograph at halving sizes, as `data.photo_crop` wants it."""
    folders = {Path(skimage.data.__file__).parent: data.BUNDLED}
    if wallpapers:
        folders[wallpapers] = data.WALLPAPERS
    for folder, names in folders.items():
        for name in names:
            with Image.open(folder / name) as opened:
                picture = opened.convert("RGB")
            picture.thumbnail((1024, 1024))
            levels = []
            while min(picture.size) >= SCENE_PX:
                levels.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous())
                picture = picture.reduce(2)
            yield levels


def draw(
    icons: Sequence[glyphs.Icon],
    photos: Sequence[list[Tensor]],
    count: int,
    ground: str,
    generator: Generator,
) -> scenes.Scene:
    """A scene of different things on one kind of ground."""
    make: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: grounds.plain(SCENE_PX, generator)[0],
        "gradient": lambda: grounds.gradient(SCENE_PX, generator)[0],
        "photograph": lambda: data.photo_crop(
            grounds.one_of(photos, generator), SCENE_PX, generator
        ),
    }
    under = make[ground]()
    drawn: dict[str, tuple[str, Tensor]] = {}
    while len(drawn) < count:
        icon = grounds.one_of(icons, generator)
        rgba = torch.from_numpy(glyphs.render(icon.svg, ICON_PX)).permute(2, 0, 1).float() / 255
        # Siblings (`cat`, `cat-face`) would both answer to one name.
        drawn.setdefault(icon.content.split("-")[0], (glyphs.words(icon.content), rgba))
    return scenes.arrange(list(drawn.values()), under, generator)


def examine(
    scene: scenes.Scene, backend: Clusters, rank: Ranker, number: int, ground: str
) -> tuple[list[Score], list[Tensor]]:
    """Score every way of finding the things of one scene; also the masks that words found."""
    pixels = (scene.picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    image = Image.fromarray(pixels.numpy())
    names = [thing.name for thing in scene.things]
    together = backend.segment(image, names)
    parts = [one.mask for one in backend.segment(image, [])]
    nothing = torch.zeros(SCENE_PX, SCENE_PX)
    box = F.pad(torch.ones(SCENE_PX // 2, SCENE_PX // 2), [SCENE_PX // 4] * 4)
    inner = [part for part in parts if at_border(part) < 0.5]
    crops = [crop(scene.picture, thing.mask) for thing in scene.things]
    equal, sharpness = torch.ones(len(names)), SHARPNESS["pocket-clip"]
    true = evidence(rank(crops, names), equal, sharpness).argmax(dim=0)
    rows, found = [], []
    for index, thing in enumerate(scene.things):
        finds = [one.mask for one in together if one.prompt == thing.name]
        alone = [one.mask for one in backend.segment(image, [thing.name])]
        score = Score(number, thing.name, len(names), ground)
        found.append(finds[0] if finds else nothing)
        score.iou = {
            "words": overlap(found[-1], thing.mask),
            "words alone": overlap(alone[0] if alone else nothing, thing.mask),
            "best of the finds": max([overlap(one, thing.mask) for one in finds] or [0.0]),
            "true masks, words choose": float(true[index] == index),
            "largest inner cluster": overlap(
                max(inner, key=area) if inner else nothing, thing.mask
            ),
            "largest cluster": overlap(max(parts, key=area), thing.mask),
            "centre box": overlap(box, thing.mask),
        }
        rows.append(score)
    return rows, found


def overlap(found: Tensor, true: Tensor) -> float:
    """Intersection over union of what is more in than out."""
    one, other = found > 0.5, true > 0.5
    return float((one & other).sum() / (one | other).sum().clamp(min=1))


def area(mask: Tensor) -> float:
    return float((mask > 0.5).sum())


def at_border(mask: Tensor) -> float:
    """Share of the picture's border that a mask covers."""
    border = torch.ones_like(mask, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    return float((mask[border] > 0.5).float().mean())


def summary(scores: Sequence[Score]) -> dict[str, object]:
    """Means with 95 % intervals over scenes, and how they depend on scene and ground."""
    made: dict[str, object] = {
        "scenes": len({score.scene for score in scores}),
        "prompts": len(scores),
        "iou": {way: interval(scores, way) for way in scores[0].iou},
        "above 0.5": float(np.mean([score.iou["words"] > 0.5 for score in scores])),
    }
    for key in ("count", "ground"):
        values = sorted({getattr(score, key) for score in scores})
        made[f"by {key}"] = {
            str(value): {
                way: round(mean([s for s in scores if getattr(s, key) == value], way), 4)
                for way in ("words", "best of the finds")
            }
            for value in values
        }
    return made


def mean(scores: Sequence[Score], way: str) -> float:
    return float(np.mean([score.iou[way] for score in scores]))


def interval(scores: Sequence[Score], way: str) -> dict[str, float]:
    """Bootstrap over scenes: the prompts of one scene are not independent."""
    numbers = sorted({score.scene for score in scores})
    sums = np.zeros((len(numbers), 2))
    for score in scores:
        sums[numbers.index(score.scene)] += (score.iou[way], 1)
    random = np.random.default_rng(0)
    drawn = sums[random.integers(len(numbers), size=(BOOTSTRAPS, len(numbers)))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return {
        "mean": round(mean(scores, way), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def sheet(shown: Sequence[Shown]) -> Image.Image:
    """Two columns of picture | masks, the words below in their masks' colours."""
    ranked = sorted(shown, key=lambda one: -one.mean)
    places = np.linspace(0, len(ranked) - 1, min(SHOWN, len(ranked))).round().astype(int)
    line = 11
    height = SCENE_PX + line * max(COUNTS)
    made = Image.new("RGB", (4 * SCENE_PX, height * ((len(places) + 1) // 2)), "white")
    pen = ImageDraw.Draw(made)
    for place, index in enumerate(places):
        one = ranked[index]
        left, top = place % 2 * 2 * SCENE_PX, place // 2 * height
        tinted = one.scene.picture.mean(dim=0).expand(3, -1, -1) * 0.6 + 0.3
        for colour, mask in zip(COLOURS, one.found, strict=False):
            rgb = torch.tensor(bytearray.fromhex(colour[1:]))[:, None, None] / 255
            tinted = tinted * (1 - 0.7 * mask) + rgb * 0.7 * mask
        for column, picture in enumerate((one.scene.picture, tinted)):
            pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
            made.paste(Image.fromarray(pixels.numpy()), (left + column * SCENE_PX, top))
        for row, (colour, thing) in enumerate(zip(COLOURS, one.scene.things, strict=False)):
            iou = overlap(one.found[row], thing.mask)
            words = f"{thing.name}: {iou:.2f}"
            pen.text((left + 4, top + SCENE_PX + line * row), words, fill=colour)
    return made


if __name__ == "__main__":
    main()
