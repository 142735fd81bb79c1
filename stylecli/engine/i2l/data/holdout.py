"""Which pictures no training sees: of styles it never saw, showing things it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Side = Literal["train", "test", "neither"]
# Of contents that several styles share, one in so many is kept from training; of styles, at most.
SHARE = 10
MIN_PICTURES = 2


def sides(styles: Sequence[int], contents: Sequence[int], count: int) -> list[Side]:
    """Where each picture belongs, so that train and test share no style and no content.

    Styles come in the order of their numbers, so a set that grows keeps most of its choice. Things
    that only one style shows cost training nothing and are all used; of the others a tenth is. A
    picture of a held-out style that shows anything else, and one of another style that shows what
    the test does, belongs to neither.

    Args:
        styles: A number for each picture's style, such as `words.number` gives.
        contents: Likewise for what it shows.
        count: About how many pictures to hold out. At most a tenth of the styles are, so there is
            no test where there are fewer than ten.
    """
    style, content = (np.asarray(numbers, dtype=np.uint64) for numbers in (styles, contents))
    if not len(style) or not count:
        return ["train"] * len(style)
    can_test = _is_unshared(style, content) | (content % np.uint64(SHARE) == 0)
    kinds, of = np.unique(style, return_inverse=True)
    usable = np.bincount(of[can_test], minlength=len(kinds))
    enough = np.flatnonzero(usable >= MIN_PICTURES)[: len(kinds) // SHARE]
    needed = int(np.searchsorted(np.cumsum(usable[enough]), count)) + 1
    is_kept = np.isin(of, enough[:needed])
    is_test = is_kept & can_test
    shows_test = np.isin(content, content[is_test])
    return [
        "test" if test else "neither" if kept or shown else "train"
        for test, kept, shown in zip(is_test, is_kept, shows_test, strict=True)
    ]


def _is_unshared(
    style: npt.NDArray[np.uint64], content: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    pairs = np.unique(np.stack([content, style]), axis=1)
    contents, counts = np.unique(pairs[0], return_counts=True)
    return np.isin(content, contents[counts == 1])
