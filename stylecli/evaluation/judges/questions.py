"""The questions of RSE-Score, from a file with a version (RegionRoute)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

# How a style's name may end, before the questions' own "style".
ENDINGS = (" style", "-style")


def question(wording: str, about: str, *, object_: str, style: str, is_turned: bool = False) -> str:
    """A question with its names filled in.

    Args:
        wording: ``named`` says what the object is; ``plain`` says "the object", like the paper.
        about: ``region`` or ``background``.
        object_: Of the region.
        style: In words, with or without "style" behind it.
        is_turned: Ask for "no or yes", to see whether the order decides.

    >>> question("named", "region", object_="cat", style="pixel-art style")
    'Is the cat in pixel-art style? Answer with one word: yes or no.'
    """
    said = _questions()
    template = said[wording][about]
    bare = style
    for ending in ENDINGS:
        bare = bare.removesuffix(ending)
    # One pass, so that a name that contains a placeholder stays a name.
    filled = template.format(object=object_, style=bare)
    return f"{filled} {said['turned' if is_turned else 'suffix']}"


def version() -> int:
    """Raised whenever a word changes."""
    return int(_questions()["version"])


@cache
def _questions() -> dict[str, Any]:
    text = (files("stylecli") / "assets" / "judges" / "questions.yaml").read_text("utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found
