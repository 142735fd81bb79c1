"""COCO's compressed run lengths written out, one bit after another; slow, and easy to check."""

from __future__ import annotations

from collections.abc import Sequence


def runs_of(mask: Sequence[Sequence[bool]]) -> list[int]:
    """Lengths of outside and inside in turn, down the columns from the left."""
    counts, value, length = [], False, 0
    for column in range(len(mask[0])):
        for row in mask:
            if row[column] != value:
                counts.append(length)
                value, length = row[column], 0
            length += 1
    return [*counts, length]


def text_of(counts: Sequence[int]) -> str:
    """The text for them: differences from the fourth on, five bits a character, low ones first."""
    text = ""
    for place, count in enumerate(counts):
        number = count - counts[place - 2] if place > 2 else count
        while True:
            bits = number % 32
            number = (number - bits) // 32
            # Done once what is left only repeats the sign that the last bits already show.
            is_last = number == (-1 if bits >= 16 else 0)
            text += chr(48 + bits + (0 if is_last else 32))
            if is_last:
                break
    return text
