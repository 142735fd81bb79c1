"""The README's picture of `style i2l-predict`: `i2l.jpg`, and the references in `i2l/`.

    python docs/images/make_i2l_sheet.py node_modules/@iconify-json --work DIR

Draws the references and runs the README's commands on them as a user would. References are icons of
fluent-emoji (MIT, Microsoft) and noto (Apache-2.0, Google), drawn in ways that no training saw.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from pathlib import Path

from i2l_world import World
from PIL import Image

from stylecli.artifacts import images
from stylecli.artifacts.sheets import grid
from stylecli.engine.i2l.data.styles import Named
from stylecli.tensors.treatments import Style

HERE = Path(__file__).parent
NIGHT = {"from": [0.09, 0.05, 0.28], "to": [0.2, 0.08, 0.42], "angle": 0.8}
SEA = {"from": [0.45, 0.9, 0.95], "to": [0.45, 0.9, 0.95], "angle": 0.0}
CHERRY = {"from": [0.93, 0.2, 0.45], "to": [0.93, 0.2, 0.45], "angle": 0.0}
HANDS = {
    "night": Style("noto", (("hue", {"angle": 3.9, "saturation": 1.2}),), NIGHT),
    "sea": Style(
        "fluent-emoji-flat",
        (("duotone", {"dark": [0.02, 0.16, 0.2], "light": [0.95, 1.0, 0.9]}),),
        SEA,
    ),
    "cherry": Style(
        "fluent-emoji", (("outline", {"colour": [0.1, 0.0, 0.05], "width": 0.04}),), CHERRY
    ),
}
PROMPTS = ("airplane", "pizza", "alarm clock")
REFERENCES = 4
# Predicted LoRAs are for full strength; the recipe's is for those that were trained.
FULL = ("--set", "sampling.weight=1", "--guidance", "4")


def main() -> None:
    """References, LoRAs, pictures, and all of them side by side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("icons", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    world = World(given.icons)
    rows = []
    for hand, style in HANDS.items():
        chosen = random.Random(5).sample(world.icons[style.family], REFERENCES)  # noqa: S311
        folder = HERE / "i2l" / hand
        folder.mkdir(parents=True, exist_ok=True)
        references = [folder / f"{icon.content}.png" for icon in chosen]
        for path, icon in zip(references, chosen, strict=True):
            picture = images.to_pixels(world.drawn(Named(hand, "easy", style), icon))
            Image.fromarray(picture.numpy()).save(path, optimize=True)
        lora, drawn = given.work / f"{hand}.safetensors", given.work / hand
        _style("i2l-predict", folder, "-o", lora)
        words = [word for prompt in PROMPTS for word in ("-p", prompt)]
        _style("generate", *words, "--lora", lora, *FULL, "--size", "64", "-o", f"{drawn}/")
        restyled = given.work / f"{hand}-cat.png"
        _style("transfer", HERE / "chelsea.png", "--lora", lora, "-o", restyled)
        made = [drawn / f"{prompt.replace(' ', '-')}__{hand}.png" for prompt in PROMPTS]
        rows.append([*references, *made, HERE / "chelsea.png", restyled])
    cells = [[_square(path) for path in row] for row in rows]
    labels = ["references", "", "", "", *PROMPTS, "photograph", "transfer"]
    sheet = grid(cells, column_labels=labels)
    Image.fromarray(sheet.numpy()).save(HERE / "i2l.jpg", quality=88, optimize=True)


def _style(*words: object) -> None:
    command = [sys.executable, "-m", "stylecli", *map(str, words)]
    subprocess.run(command, check=True)  # noqa: S603


def _square(path: Path) -> object:
    """The middle of a picture, at the size of a cell."""
    picture = images.to_float(images.read(path).pixels)
    side = min(picture.shape[1:])
    top, left = ((length - side) // 2 for length in picture.shape[1:])
    return images.scaled(picture[:, top : top + side, left : left + side], (112, 112))


if __name__ == "__main__":
    main()
