"""What is measured of predicted LoRAs; each part writes one file of rows, and pictures to show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from i2l_world import CELLS, Pair, Studio, World
from jaxtyping import Float
from make_gallery import Quiet
from PIL import Image
from torch import Tensor

from stylecli.artifacts import glyphs, images
from stylecli.backbone import row_loras
from stylecli.backbone.registry import ASSETS
from stylecli.backbone.row_loras import Factors
from stylecli.engine.training import lora
from stylecli.evaluation.perceptual import load_pocket_clip, load_pocket_lpips
from stylecli.recipe import load
from stylecli.tensors.seeds import derive

LPIPS = load_pocket_lpips(ASSETS / "pocket" / "lpips")
REFERENCES = 4
NUMBERS = (1, 2, 4, 8)
SCALES = (1.0, 2.0, 4.0)
NEGATIVES = ("neutral", "same", "none")
PAIRS: Mapping[str, int] = {"easy": 200, "medium": 100, "hard": 120}
SEEDS = 2
FEW = 50
LEARNED_STYLES, OF_EACH = 20, 5
CHOICES, BEST = 50, 5
SHOWN = 12
# `sampling.weight` of the recipe, which is what a user gets who says nothing.
SHIPPED_STRENGTH = 0.6


def distances(world: World, studio: Studio, work: Path, share: float) -> None:
    """Base, neutral, matched, and the LoRA of another style, on equal noise."""
    rows = []
    for cell in CELLS:
        pairs = world.pairs(cell, round(share * PAIRS[cell]), seed=0)
        own = studio.predicted([_references(world, pair, REFERENCES) for pair in pairs])
        factors = _joined(own, studio.neutral(REFERENCES))
        count = len(pairs)
        ways: dict[str, list[int | None]] = {
            "base": [None] * count,
            "neutral": [count] * count,
            "matched": list(range(count)),
            "mismatched": [_other(pairs, place) for place in range(count)],
        }
        truth = torch.stack([world.drawn(pair.style, pair.target) for pair in pairs])
        totals = {way: torch.zeros(count) for way in ways}
        for seed in range(SEEDS):
            made = {
                way: studio.drawn(_words(pairs), _seeds(pairs, seed), factors, slots)
                for way, slots in ways.items()
            }
            for way, pictures in made.items():
                totals[way] += _distance(pictures, truth) / SEEDS
            if seed == 0:
                _keep(work / f"{cell}.png", world, pairs, [*made.values(), truth])
        rows += _rows(pairs, {"cell": cell}, totals)
        _write(work / "distances.jsonl", rows)


def numbers(world: World, studio: Studio, work: Path, share: float) -> None:
    """One to eight references of the same style."""
    pairs = world.pairs("easy", round(share * 2 * FEW), seed=1)
    truth = torch.stack([world.drawn(pair.style, pair.target) for pair in pairs])
    found = {}
    for number in NUMBERS:
        factors = studio.predicted([_references(world, pair, number) for pair in pairs])
        made = studio.drawn(_words(pairs), _seeds(pairs, 0), factors, list(range(len(pairs))))
        found[f"{number}"] = _distance(made, truth)
    _write(work / "numbers.jsonl", _rows(pairs, {}, found))


def guidance(world: World, studio: Studio, work: Path, share: float) -> None:
    """Which LoRA the other side of guidance has, and how far it goes."""
    pairs = world.pairs("easy", round(share * FEW), seed=2)
    count = len(pairs)
    own = studio.predicted([_references(world, pair, REFERENCES) for pair in pairs])
    factors = _joined(own, studio.neutral(REFERENCES))
    slots: list[int | None] = list(range(count))
    sides: dict[str, list[int | None]] = {
        "neutral": [count] * count,
        "same": slots,
        "none": [None] * count,
    }
    truth = torch.stack([world.drawn(pair.style, pair.target) for pair in pairs])
    clip = load_pocket_clip(ASSETS / "pocket" / "clip")
    choices = sorted(set(_words(pairs)))[:CHOICES]
    others = [[one, *(c for c in choices if c != one)][:CHOICES] for one in _words(pairs)]
    asked = [("neutral", 1.0, 1.0), *((m, s, 1.0) for s in SCALES[1:] for m in NEGATIVES)]
    rows, shown = [], []
    for mode, scale, strength in [*asked, ("neutral", 2.0, SHIPPED_STRENGTH)]:
        # Both factors of the product have their part in it.
        weaker = Factors(factors.shapes, factors.packed * strength**0.5)
        made = studio.drawn(
            *(_words(pairs), _seeds(pairs, 0), weaker, slots), guidance=scale, negative=sides[mode]
        )
        shown.append(made)
        told = [
            float(_is_best(clip.image_features(picture[None]), clip.text_features(words)))
            for picture, words in zip(made, others, strict=True)
        ]
        figures = {"distance": _distance(made, truth), "content": torch.tensor(told)}
        side = mode if scale != 1 else "off"
        about = {"mode": side if strength == 1 else f"{side}, strength {strength:g}"}
        rows += _rows(pairs, about | {"scale": scale}, figures)
        _write(work / "guidance.jsonl", rows)
    _keep(work / "guidance.png", world, pairs, [*shown, truth])


def learned(world: World, studio: Studio, work: Path, share: float) -> None:
    """Against a LoRA that was trained for 200 steps on the same references."""
    count = round(share * LEARNED_STYLES)
    named = world.pairs("easy", count, seed=3)
    pairs = [
        Pair(one.style, other.target, one.references)
        for one in named
        for other in _others(world, one, OF_EACH)
    ]
    sets = [_references(world, pair, REFERENCES) for pair in named]
    predicted = studio.predicted(sets)
    trained = _trained(studio, named, sets, work)
    slots: list[int | None] = [place for place in range(count) for _ in range(OF_EACH)]
    truth = torch.stack([world.drawn(pair.style, pair.target) for pair in pairs])
    words, seeds = _words(pairs), _seeds(pairs, 0)
    made = {
        "base": studio.drawn(words, seeds, None, [None] * len(pairs)),
        "predicted": studio.drawn(words, seeds, predicted, slots),
        "trained": studio.drawn(words, seeds, trained, slots),
    }
    rows = []
    for way, pictures in made.items():
        found = [
            _nearest(world, pair, picture) for pair, picture in zip(pairs, pictures, strict=True)
        ]
        figures = {
            "distance": _distance(pictures, truth),
            "content": torch.tensor([float(is_own) for is_own, _ in found]),
            "copied": torch.tensor([float(is_copy) for _, is_copy in found]),
        }
        rows += _rows(pairs, {"way": way}, figures)
    _write(work / "learned.jsonl", rows)
    _keep(work / "learned.png", world, pairs, [*made.values(), truth])
    _prompts(world, studio, work, named[:3])


def _prompts(world: World, studio: Studio, work: Path, pairs: Sequence[Pair]) -> None:
    """One LoRA, twenty prompts: a row of references, then what it draws and the base draws."""
    rows = []
    for pair in pairs:
        factors = studio.predicted([_references(world, pair, REFERENCES)])
        words = [glyphs.words(icon.content) for icon in world.icons[pair.style.style.family]][:20]
        seeds = [derive("prompts", word) for word in words]
        own = studio.drawn(words, seeds, factors, [0] * len(words))
        base = studio.drawn(words, seeds, None, [None] * len(words))
        references = _references(world, pair, REFERENCES)
        lead = torch.cat([*references, torch.ones(3, 64, 64 * (len(words) - REFERENCES))], dim=2)
        rows += [lead, torch.cat([*base], dim=2), torch.cat([*own], dim=2)]
    _save(work / "prompts.png", torch.cat(rows, dim=1))


def _trained(
    studio: Studio, pairs: Sequence[Pair], sets: Sequence[Sequence[Tensor]], work: Path
) -> Factors:
    """As `style train-lora` does it, at the pictures' own size, captions naming the things."""
    settings = load.load("pocket-cpu", overrides=("lora.resolution=64", "lora.crop=center")).recipe
    courses = []
    for place, (pair, pictures) in enumerate(zip(pairs, sets, strict=True)):
        own = []
        for number, picture in enumerate(pictures):
            file = work / "lora" / f"{place}-{number}.png"
            file.parent.mkdir(exist_ok=True)
            _save(file, picture)
            words = glyphs.words(pair.references[number].content)
            own.append(lora.StylePicture(file, f"{place}-{number}", words))
        courses.append(lora.Course(own, work / "lora" / f"{place}.state.safetensors"))
    fitted = lora.fit_together(
        studio.backbone, courses, settings.lora, seed=0, reporter=Quiet(), rows=len(courses)
    )
    # Their own layers and rank: the recipe's, which is what a user would get.
    return Factors.stacked(
        [row_loras.pairs({k: v.float() for k, v in one.tensors.items()}) for one in fitted]
    )


def _nearest(world: World, pair: Pair, picture: Tensor) -> tuple[bool, bool]:
    """Whether the nearest of fifty drawings of the hand is the thing asked for, or a reference."""
    references = [icon.content for icon in pair.references[:REFERENCES]]
    pool = [icon for icon in world.icons[pair.style.style.family]
            if icon.content not in {pair.target.content, *references}]  # fmt: skip
    start = derive("choices", pair.style.id, pair.target.content) % len(pool)
    others = [*pool[start:], *pool[:start]][: CHOICES - 1 - REFERENCES]
    chosen = [pair.target, *pair.references[:REFERENCES], *others]
    drawings = torch.stack([world.drawn(pair.style, icon) for icon in chosen])
    best = int(_distance(picture[None].expand_as(drawings), drawings).argmin())
    return best == 0, 1 <= best <= REFERENCES


def _others(world: World, pair: Pair, count: int) -> list[Pair]:
    """Other things of the same style, none of which is a reference."""
    known = {icon.content for icon in pair.references}
    pool = [icon for icon in world.icons[pair.style.style.family] if icon.content not in known]
    start = derive("others", pair.style.id) % len(pool)
    chosen = [*pool[start:], *pool[:start]][:count]
    return [Pair(pair.style, icon, pair.references) for icon in chosen]


def _references(world: World, pair: Pair, count: int) -> list[Tensor]:
    return [world.drawn(pair.style, icon) for icon in pair.references[:count]]


def _other(pairs: Sequence[Pair], place: int) -> int:
    """The next pair of another style."""
    own = pairs[place].style.id
    ahead = (*range(place + 1, len(pairs)), *range(place))
    return next(number for number in ahead if pairs[number].style.id != own)


def _joined(own: Factors, neutral: Factors) -> Factors:
    return Factors(own.shapes, torch.cat([own.packed, neutral.packed]))


def _words(pairs: Sequence[Pair]) -> list[str]:
    return [glyphs.words(pair.target.content) for pair in pairs]


def _seeds(pairs: Sequence[Pair], seed: int) -> list[int]:
    return [derive("i2l noise", seed, pair.style.id, pair.target.content) for pair in pairs]


@torch.inference_mode()
def _distance(
    made: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, " b"]:
    return torch.cat(
        [
            LPIPS.distance(some, others)
            for some, others in zip(made.split(100), truth.split(100), strict=True)
        ]
    )


def _is_best(picture: Float[Tensor, "1 d"], texts: Float[Tensor, "n d"]) -> bool:
    """The first text is among the best few."""
    return 0 in (picture @ texts.T)[0].topk(min(BEST, len(texts))).indices.tolist()


def _rows(
    pairs: Sequence[Pair], about: Mapping[str, Any], figures: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    return [
        {
            **about,
            "style": pair.style.id,
            "content": pair.target.content,
            **{name: round(float(values[place]), 5) for name, values in figures.items()},
        }
        for place, pair in enumerate(pairs)
    ]


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _keep(path: Path, world: World, pairs: Sequence[Pair], columns: Sequence[Tensor]) -> None:
    """References and then each column, for a few pairs."""
    step = max(1, len(pairs) // SHOWN)
    lines = [
        torch.cat(
            [
                *_references(world, pairs[place], REFERENCES),
                torch.ones(3, 64, 8),
                *(column[place] for column in columns),
            ],
            dim=2,
        )
        for place in list(range(0, len(pairs), step))[:SHOWN]
    ]
    _save(path, torch.cat(lines, dim=1))


def _save(path: Path, picture: Float[Tensor, "3 h w"]) -> None:
    Image.fromarray(images.to_pixels(picture.clamp(0, 1)).numpy()).save(path)


PARTS: Mapping[str, Callable[[World, Studio, Path, float], None]] = {
    "distances": distances,
    "numbers": numbers,
    "guidance": guidance,
    "learned": learned,
}
