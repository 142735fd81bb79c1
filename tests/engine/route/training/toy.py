"""Pairs small enough to learn from in seconds, in the layout of `style route-data`; a tiny editor.

A picture is a grey ramp with noise and one square; its object in a style is the same square in
another colour.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stylecli.artifacts.store import file_sha256
from stylecli.backbone.editors import unet_edit
from stylecli.backbone.editors.unet_edit import UnetEdit
from stylecli.engine.route.data import items
from stylecli.engine.route.training.caches import Encoded
from stylecli.engine.route.training.steps import Material
from stylecli.methods.regionroute.styles import Style, instruct
from stylecli.recipe.route import Route
from tests import tiny

PX = 32
STYLES = (Style("line_art", "line-art", ("lineart",)), Style("pixel_art", "pixel-art"))
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "line_art": (250, 250, 250),
    "pixel_art": (20, 60, 230),
}
OBJECTS = ("cat", "dog", "red cat")


def dataset(
    folder: Path,
    *,
    styles: Sequence[Style] = STYLES,
    pictures: int = 4,
    held_out: int = 2,
    sizes: Sequence[tuple[int, int]] = ((PX, PX),),
) -> Path:
    """A set on disk; picture n has the n-th of the sizes (height, width), round and round."""
    for name in ("images", "masks", "targets"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(pictures + held_out):
        height, width = sizes[number % len(sizes)]
        chance = np.random.default_rng(number)
        ramp = np.linspace(60, 180, width)[None, :, None].repeat(height, 0).repeat(3, 2)
        pixels = (ramp + chance.normal(0, 8, ramp.shape)).clip(0, 255).astype(np.uint8)
        top, left = (int(chance.integers(2, side // 2)) for side in (height, width))
        high, wide = height // 3 + number % 3, width // 3 + number % 2
        inside = np.zeros((height, width), dtype=bool)
        inside[top : top + high, left : left + wide] = True
        pixels[inside] = (200, 40, 40)
        source, mask = f"images/{number}.png", f"masks/{number}_thing.png"
        Image.fromarray(pixels).save(folder / source)
        Image.fromarray(inside).convert("1").save(folder / mask)
        for style in styles:
            styled = pixels.copy()
            styled[inside] = COLOURS[style.id]
            target = f"targets/{style.id}/{number}_thing.png"
            (folder / target).parent.mkdir(exist_ok=True)
            Image.fromarray(styled).save(folder / target)
            name = OBJECTS[number % len(OBJECTS)]
            words = instruct(name, style)
            files = {"source": source, "target": target, "mask": mask}
            rows.append(
                {
                    "id": f"{style.id}/{number}/thing",
                    "image_id": str(number),
                    "source": source,
                    "target": target,
                    "size": [height, width],
                    "style_id": style.id,
                    "prompt": words.prompt,
                    "edits": [
                        {
                            "object": name,
                            "style_id": style.id,
                            "object_span": list(words.object_span),
                            "style_span": list(words.style_span),
                            "mask": mask,
                            "area": high * wide / (height * width),
                            "bbox": [left, top, left + wide, top + high],
                        }
                    ],
                    "split": "train" if number < pictures else "val",
                    "seed": number,
                    "sha256": {role: file_sha256(folder / one) for role, one in files.items()},
                    "quality": {},
                }
            )
    write(folder, rows, styles)
    return folder


def write(folder: Path, rows: Sequence[Mapping[str, object]], styles: Sequence[Style]) -> None:
    """The three files that tell of the others."""
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "samples.jsonl").write_text(text)
    about = [
        {"id": one.id, "phrase": one.phrase, "aliases": list(one.aliases), "text": one.text}
        for one in styles
    ]
    (folder / "dataset.json").write_text(json.dumps({"format": 1, "styles": about}))
    ids: dict[str, list[object]] = {split: [] for split in items.SPLITS}
    for row in rows:
        ids[str(row["split"])].append(row["image_id"])
    (folder / "excluded_ids.json").write_text(json.dumps(ids))


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


@cache
def saved(folder: Path) -> Path:
    """A tiny editor's folder; made once for each folder."""
    return tiny.save_folder(folder / "editor", edits=True)


def editor(folder: Path, dtype: torch.dtype = torch.float32) -> UnetEdit:
    """The tiny editor, loaded through the real route onto the CPU."""
    made = saved(folder)
    return unet_edit.load(
        "tiny",
        made,
        fingerprint=unet_edit.fingerprint(made, None),
        device=torch.device("cpu"),
        dtype=dtype,
    )


def material(made: UnetEdit, settings: Route, *, is_kept: bool = False) -> Material:
    """What experts learn with."""
    side = settings.data.resolution or made.native_px
    return Material(made, Encoded(made, side=side, is_kept=is_kept, warn=print), settings)
