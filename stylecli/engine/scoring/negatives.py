"""The other style that a judge is asked about: drawn where a manifest names none.

The draw belongs to an item's task, not to its row: all methods are asked the same, in whatever
order they stand, and so are all shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from stylecli.engine.scoring.item import Item

COLUMN = "negative_style"


def drawn(items: Sequence[Item], seed: int) -> list[Item]:
    """The items, each that has words for its style also with those of another item's style."""
    spelt: dict[str, str] = {}
    for words in sorted({item.style_text for item in items} - {""}):
        spelt.setdefault(_plain(words), words)
    known = sorted(spelt.items())
    return [
        replace(item, negative_style=_draw(item, known, seed))
        if item.style_text and not item.negative_style
        else item
        for item in items
    ]


def _draw(item: Item, styles: Sequence[tuple[str, str]], seed: int) -> str:
    others = [words for plain, words in styles if plain != _plain(item.style_text)]
    if not others:
        return ""
    number = hashlib.blake2b(f"{seed}\0{item.id}".encode(), digest_size=8).digest()
    return others[int.from_bytes(number, "big") % len(others)]


def _plain(style: str) -> str:
    words = style.casefold().replace("-", " ").split()
    return " ".join(words[:-1] if words[-1:] == ["style"] else words)
