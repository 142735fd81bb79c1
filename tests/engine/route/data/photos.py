"""Photographs with outlines, in the layouts that their makers publish; four of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

WIDE, HIGH = 160, 120
Box = tuple[int, int, int, int]
# Left, top, right, bottom of the one object of each picture.
BOXES: Sequence[Box] = ((20, 20, 90, 80), (60, 30, 130, 100), (30, 40, 100, 110), (70, 10, 150, 70))
# Of the second object in COCO's fourth picture, a dog.
SECOND: Box = (5, 60, 65, 118)
NAMES = ("dog", "cat", "bus", "dining table")


def photograph(file: Path, seed: int) -> None:
    """A picture unlike any other."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((WIDE, HIGH), Image.Resampling.BICUBIC).save(file)


def inside(box: Box) -> np.ndarray:
    """1 in the box."""
    mask = np.zeros((HIGH, WIDE), dtype=np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def polygon(box: Box) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


def coco(folder: Path, first: int = 100) -> Path:
    """Instances of COCO, with their pictures beside the annotations as the archives unpack.

    The second picture's object is in run lengths; the third has a second object of its kind, and
    one that is a crowd; the fourth has two objects.
    """
    notes = []
    for place, box in enumerate(BOXES):
        photograph(folder / "train2017" / f"{first + place:012}.jpg", first + place)
        outline: object = [polygon(box)]
        if place == 1:
            flat = inside(box).T.reshape(-1)
            edges = np.flatnonzero(np.diff(flat)) + 1
            outline = {"size": [HIGH, WIDE], "counts": np.diff([0, *edges, flat.size]).tolist()}
        notes.append((first + place, place + 1, outline, 0))
    notes += [
        (first + 2, 1, [polygon((5, 5, 70, 70))], 0),
        (first + 2, 1, [polygon((80, 5, 150, 70))], 0),
        (first + 2, 2, {"size": [HIGH, WIDE], "counts": [0, HIGH * WIDE]}, 1),
        (first + 3, 1, [polygon(SECOND)], 0),
    ]
    said = {
        "images": [
            {"id": first + place, "file_name": f"{first + place:012}.jpg", "width": WIDE,
             "height": HIGH}
            for place in range(len(BOXES))
        ],
        "annotations": [
            {"id": number, "image_id": image, "category_id": kind, "segmentation": outline,
             "iscrowd": crowd, "area": 1.0, "bbox": [0, 0, 1, 1]}
            for number, (image, kind, outline, crowd) in enumerate(notes)
        ],
        "categories": [{"id": place + 1, "name": name} for place, name in enumerate(NAMES)],
    }  # fmt: skip
    file = folder / "annotations" / "instances_train2017.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(said))
    return file


def grounded(folder: Path, first: int = 100) -> Path:
    """TokenCompose's list: masks in four channels, phrases without one, and phrases of no thing."""
    lines = []
    for place, (box, name) in enumerate(zip(BOXES, NAMES, strict=True)):
        stem = f"{first + place:012}"
        photograph(folder / "images" / f"{stem}.jpg", first + place)
        phrase = f"a {name}"
        mask = f"seg/{stem}/mask_{stem}_{phrase.replace(' ', '_')}.png"
        (folder / mask).parent.mkdir(parents=True)
        grey = inside(box)[..., None] * np.array([200, 200, 200], dtype=np.uint8)
        opaque = np.full((HIGH, WIDE, 1), 255, dtype=np.uint8)
        Image.fromarray(np.concatenate([grey, opaque], axis=-1)).save(folder / mask)
        pairs = [["the top", mask], [phrase, mask], ["a thing nobody saw", None]]
        text = f"{phrase} on the top of something"
        lines.append(json.dumps({"file_name": f"{stem}.jpg", "text": text, "attn_list": pairs}))
    file = folder / "train.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def voc(folder: Path) -> Path:
    """Relabelled VOC: the class by its number at the end of the name."""
    for place, (box, number) in enumerate(zip(BOXES, (12, 8, 6, 11), strict=True)):
        stem = f"2007_{place:06}_{number:02}"
        photograph(folder / f"{stem}_im.png", place)
        Image.fromarray(inside(box) * 255).save(folder / f"{stem}_gt.png")
    return folder


def big(folder: Path) -> Path:
    """BIG: the class by its name, in two subsets."""
    for place, (box, name) in enumerate(
        zip(BOXES, ("dog", "cat", "bus", "diningtable"), strict=True)
    ):
        subset = folder / ("val" if place % 2 else "test")
        photograph(subset / f"{name}_{place:04}_im.jpg", place)
        # Soft edges at which half of white parts inside from outside.
        mask = np.where(inside(box) > 0, 255, 90).astype(np.uint8)
        Image.fromarray(mask).save(subset / f"{name}_{place:04}_gt.png")
    return folder
