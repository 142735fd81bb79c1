"""Text in pictures for people: letters of a size that suits, and lines that fit."""

from __future__ import annotations

import unicodedata

from PIL import ImageFont

# Letters of a 256 px picture are 16 px high.
TEXT_SHARE = 16
MIN_TEXT_PX, MAX_TEXT_PX = 12, 20
ELLIPSIS = "…"
# Pillow's own font knows ASCII and little else.
PLAIN = str.maketrans({"—": "-", "–": "-", "−": "-", "×": "x", "→": ">", "ß": "ss"})  # noqa: RUF001


def wrapped(
    text: str, font: ImageFont.FreeTypeFont, room: int, most: int | None = None
) -> list[str]:
    """Lines no longer than the room; the last of too many ends in an ellipsis."""
    lines = [""]
    for word in plain(text).split():
        longer = f"{lines[-1]} {word}".lstrip()
        if length(longer, font) <= room:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and length(lines[-1] + letter, font) > room:
                lines.append("")
            lines[-1] += letter
    lines = [line for line in lines if line]
    if most is None or len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and length(last + ELLIPSIS, font) > room:
        last = last[:-1]
    return [*lines[: most - 1], last.rstrip() + ELLIPSIS]


def plain(text: str) -> str:
    """Accents left off, and signs that the font lacks replaced by what looks like them."""
    apart = unicodedata.normalize("NFKD", text.translate(PLAIN))
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def font_for(side_px: int, least: int = MIN_TEXT_PX) -> ImageFont.FreeTypeFont:
    """Letters that suit pictures of that side."""
    font = ImageFont.load_default(min(max(side_px // TEXT_SHARE, least), MAX_TEXT_PX))
    # Without a size Pillow would give a bitmap font.
    assert isinstance(font, ImageFont.FreeTypeFont)  # noqa: S101
    return font


def line_px(font: ImageFont.FreeTypeFont) -> int:
    return sum(font.getmetrics())


def length(text: str, font: ImageFont.FreeTypeFont) -> int:
    return -int(-font.getlength(text) // 1)
