"""Sizes that pairs are seen at: few shapes of about one area, so that pairs can pass together."""

from __future__ import annotations

import math

# Heights and widths that FLUX.1 Kontext was trained at; the others are these, turned.
_TALL = (
    (1568, 672), (1504, 688), (1456, 720), (1392, 752), (1328, 800), (1248, 832), (1184, 880),
    (1104, 944), (1024, 1024),
)  # fmt: skip
SHAPES = _TALL + tuple((width, height) for height, width in reversed(_TALL[:-1]))
_SIDE = 1024


def sizes(*, side: int, multiple: int) -> tuple[tuple[int, int], ...]:
    """Heights and widths with about the area of a square of this side, tall ones first.

    >>> sizes(side=512, multiple=16)[:3]
    ((784, 336), (752, 352), (736, 352))
    """

    def fitted(px: int) -> int:
        return max(1, round(px * side / _SIDE / multiple)) * multiple

    return tuple(dict.fromkeys((fitted(height), fitted(width)) for height, width in SHAPES))


def bucket(size: tuple[int, int], *, side: int, multiple: int) -> tuple[int, int]:
    """The one whose shape is nearest to a picture's; it is scaled to that, and nothing is cut off.

    >>> bucket((480, 640), side=1024, multiple=16)
    (880, 1184)
    """
    shape = math.log(size[0] / size[1])

    def off(fitting: tuple[int, int]) -> float:
        return abs(math.log(fitting[0] / fitting[1]) - shape)

    return min(sizes(side=side, multiple=multiple), key=off)
