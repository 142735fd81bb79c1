"""Captions as they are compared: without case, punctuation and spare blanks."""

from __future__ import annotations

import hashlib
import re

_MARKS = re.compile(r"[\W_]+")


def plain(text: str) -> str:
    """A text by which equal captions are equal.

    >>> plain(" A Light-house,  on a cliff. ")
    'a light house on a cliff'
    """
    return _MARKS.sub(" ", text.casefold()).strip()


def says(caption: str, style: str | None) -> bool:
    """Whether a caption names the style, in whole words.

    >>> says("a fox, ink wash", "Ink wash"), says("a pink fox", "ink"), says("a fox", None)
    (True, False, False)
    """
    wanted = plain(style or "")
    return bool(wanted) and f" {wanted} " in f" {plain(caption)} "


def number(text: str) -> int:
    """64 bits that stand for a text, wherever and whenever it is asked."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
