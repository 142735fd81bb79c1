"""Put the pictures of the README's two `style gallery` lines side by side.

    python docs/images/make_gallery_sheet.py gallery.png gallery.regions.png mine.png

Of the first line the result and what explains it, of the second the result.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

SHOWN = ("scene.png", "gallery/meadow.png", "gallery/sunset.png")
SIDE, GAP, WIDTH = 240, 10, 1240


def main() -> None:
    result, explained, overruled = (Image.open(name).convert("RGB") for name in sys.argv[1:])
    height = explained.height * WIDTH // explained.width
    pictures = [
        *(Image.open(Path(__file__).parent / name) for name in SHOWN),
        result,
        overruled,
    ]
    sheet = Image.new("RGB", (WIDTH, SIDE + GAP + height), "white")
    for at, picture in enumerate(pictures):
        sheet.paste(picture.convert("RGB").resize((SIDE, SIDE)), (at * (SIDE + GAP), 0))
    sheet.paste(explained.resize((WIDTH, height), Image.Resampling.LANCZOS), (0, SIDE + GAP))
    sheet.save(Path(__file__).parent / "gallery.jpg", quality=88)


if __name__ == "__main__":
    main()
