"""Families of icons in which a hand is a colour, and a thing a shape."""

from __future__ import annotations

import json
from pathlib import Path

from stylecli.artifacts import glyphs

BODIES = (
    '<circle cx="8" cy="8" r="7" fill="{}"/>',
    '<rect x="2" y="1" width="11" height="14" fill="{}"/>',
    '<path d="M8 0L16 16L0 16Z" fill="{}"/>',
)
SEEN = ("airplane", "banana", "candle", "drum", "eagle", "fountain-pen", "guitar", "honey-pot")
HELD = tuple(
    name for name in ("axe", "bomb", "camera", "goat", "ring", "seal", "socks", "telephone")
    if glyphs.content_is_held_out(name)
)  # fmt: skip
# Signs, and what a style is called, are nothing to restyle.
CONFUSING = ("stop-button", "line-chart", "kiss-woman-man-child", "keycap-1")


def colour(prefix: str) -> tuple[int, int, int]:
    """What a family draws in."""
    number = list(glyphs.FAMILIES).index(prefix)
    return (number * 37 + 40) % 256, (number * 91) % 256, 0x80


def packages(folder: Path) -> Path:
    """Every family, drawing the same things; one draws what no other does."""
    for prefix in glyphs.FAMILIES:
        red, green, blue = colour(prefix)
        names = [*SEEN, *HELD, *CONFUSING, *(["yeti"] if prefix == "noto" else [])]
        drawn = {
            name: {"body": BODIES[place % 3].format(f"#{red:02x}{green:02x}{blue:02x}")}
            for place, name in enumerate(names)
        }
        (folder / prefix).mkdir(parents=True)
        (folder / prefix / "icons.json").write_text(
            json.dumps({"prefix": prefix, "width": 16, "height": 16, "icons": drawn})
        )
    return folder
