"""Draw the scene of the examples of `style route-apply`.

    python docs/images/draw_route.py node_modules/@iconify-json

Deterministic, and as large as pocket's editor sees pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

from draw_gallery import ground
from gallery_scenes import rgba
from PIL import Image
from route_world import PX

from stylecli.artifacts import glyphs, images
from stylecli.tensors import scenes
from stylecli.tensors.scenes import Square

HAND = "noto"
THINGS = {"mushroom": Square(0.03, 0.39, 0.5), "automobile": Square(0.51, 0.11, 0.46)}
SKY, FIELD = (252, 240, 214), (196, 222, 226)


def main() -> None:
    """Writes `pair.png` beside this file."""
    icons = {(icon.family, icon.content): icon for icon in glyphs.read_icons(Path(sys.argv[1]))}
    things = [(thing, rgba(icons[HAND, thing].svg)) for thing in THINGS]
    scene = scenes.drawn(things, list(THINGS.values()), ground(SKY, FIELD, PX))
    pixels = images.to_pixels(scene.picture)
    Image.fromarray(pixels.numpy()).save(Path(__file__).parent / "pair.png", optimize=True)


if __name__ == "__main__":
    main()
