"""Draw the scene of the examples of `style route-apply`.

    python docs/images/draw_route.py node_modules/@iconify-json

Deterministic, and as large as pocket's editor sees pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from draw_gallery import ground
from PIL import Image
from route_world import PX

from stylecli.artifacts import glyphs, images
from stylecli.tensors.grounds import compose, place

HAND = "noto"
# Things with their side and shift.
THINGS = {"dog": (0.5, (-0.22, 0.14)), "automobile": (0.46, (0.24, -0.16))}
SKY, FIELD = (252, 240, 214), (196, 222, 226)


def main() -> None:
    """Writes `pair.png` beside this file."""
    icons = {(icon.family, icon.content): icon for icon in glyphs.read_icons(Path(sys.argv[1]))}
    picture = ground(SKY, FIELD, PX)
    for thing, (side, shift) in THINGS.items():
        drawn = glyphs.render(icons[HAND, thing].svg, glyphs.RENDER_PX).copy()
        rgba = torch.from_numpy(drawn).permute(2, 0, 1).float() / 255
        picture = compose(place(rgba, PX, side, shift, 0.0), picture)
    pixels = images.to_pixels(picture.clamp(0, 1))
    Image.fromarray(pixels.numpy()).save(Path(__file__).parent / "pair.png", optimize=True)


if __name__ == "__main__":
    main()
