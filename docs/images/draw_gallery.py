"""Draw the two references of the examples of `style gallery`.

    python docs/images/draw_gallery.py node_modules/@iconify-json

Deterministic: the pictures in `gallery/` are exactly what it writes. Each shows two of the four
things of `scene.png`, drawn by another hand on another ground.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stylecli.artifacts import glyphs, images
from stylecli.tensors.grounds import compose, place

PX = 256
# Name -> hand, colours of the ground at its top and bottom, and things with their side and shift.
REFERENCES = {
    "sunset": (
        "fluent-emoji-flat",
        ((250, 190, 120), (226, 112, 120)),
        {"red-heart": (0.44, (-0.22, 0.2)), "airplane": (0.5, (0.2, -0.2))},
    ),
    "meadow": (
        "noto-v1",
        ((236, 240, 196), (150, 196, 110)),
        {"house": (0.48, (-0.21, -0.17)), "pizza": (0.46, (0.22, 0.2))},
    ),
}


def ground(top: tuple[int, int, int], bottom: tuple[int, int, int], px: int) -> Tensor:
    ends = torch.tensor([top, bottom], dtype=torch.float32) / 255
    share = torch.linspace(0, 1, px)[None, :, None]
    rows = ends[0][:, None, None] * (1 - share) + ends[1][:, None, None] * share
    return rows.expand(3, px, px)


def main() -> None:
    icons = {(icon.family, icon.content): icon for icon in glyphs.read_icons(Path(sys.argv[1]))}
    folder = Path(__file__).parent / "gallery"
    folder.mkdir(exist_ok=True)
    for name, (hand, colours, things) in REFERENCES.items():
        picture = ground(*colours, PX)
        for thing, (side, shift) in things.items():
            drawn = glyphs.render(icons[hand, thing].svg, PX).copy()
            rgba = torch.from_numpy(drawn).permute(2, 0, 1).float() / 255
            picture = compose(place(rgba, PX, side, shift, 0.0), picture)
        pixels = images.to_pixels(picture.clamp(0, 1))
        Image.fromarray(pixels.numpy()).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
