"""What of a picture is asked for: words, points and boxes, as typed and as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stylecli.errors import ItemError, UsageError
from stylecli.masks.base import Box

Point = tuple[float, float, bool]


@dataclass(frozen=True, slots=True)
class Asked:
    """What to look for; nothing at all is every region there is.

    Attributes:
        points: ``(x, y, belongs)`` in pixels of the upright picture; together they describe one
            thing.
        boxes: ``(left, top, right, bottom)``; one thing in each.
    """

    texts: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()

    @classmethod
    def of(
        cls, texts: Sequence[str], points: Sequence[str] = (), boxes: Sequence[str] = ()
    ) -> Asked:
        """From what was typed.

        Raises:
            UsageError: Not coordinates, words and places at once, or points that leave out
                everything.
        """
        asked = cls(
            tuple(dict.fromkeys(text.strip() for text in texts)),
            tuple(point(text) for text in points),
            tuple(box(text) for text in boxes),
        )
        if not all(asked.texts):
            raise UsageError("--text is empty", fix="give words, such as --text deer")
        if asked.texts and asked.at_places:
            raise UsageError(
                "--text and --point or --box were both given",
                fix="one command finds words, another what lies at a place",
            )
        if asked.points and not any(belongs for *_, belongs in asked.points):
            raise UsageError(
                "every --point leaves something out, so nothing is in",
                fix="give one without a minus, such as --point 120,80",
            )
        return asked

    @property
    def at_places(self) -> bool:
        return bool(self.points or self.boxes)

    @property
    def everything(self) -> bool:
        return not (self.texts or self.at_places)

    def as_dict(self) -> dict[str, Any]:
        """For keys and provenance."""
        return {"texts": self.texts, "points": self.points, "boxes": self.boxes}

    def check(self, name: str, width: int, height: int) -> None:
        """See that every place lies in a picture.

        Raises:
            ItemError: One does not.
        """
        for x, y, _ in self.points:
            if not (0 <= x < width and 0 <= y < height):
                raise ItemError(
                    f"{name}: point {x:g},{y:g} lies outside its {width}x{height} px",
                    fix=f"x from 0 to {width - 1}, y from 0 to {height - 1}",
                )
        for left, top, right, bottom in self.boxes:
            if left < 0 or top < 0 or right > width or bottom > height:
                raise ItemError(
                    f"{name}: box {left:g},{top:g},{right:g},{bottom:g} reaches outside its "
                    f"{width}x{height} px",
                    fix=f"x from 0 to {width}, y from 0 to {height}",
                )


def point(text: str) -> Point:
    """``X,Y``, or ``X,Y,-`` for a place that does not belong.

    Raises:
        UsageError: Anything else.

    >>> point("12,30"), point("12,30.5,-")
    ((12.0, 30.0, True), (12.0, 30.5, False))
    """
    numbers, sign = text.split(","), "+"
    if len(numbers) == 3:
        sign = numbers.pop().strip()
    found = _numbers(numbers)
    if len(found) != 2 or sign not in ("+", "-"):
        raise UsageError(
            f"--point {text!r} is not X,Y", fix="such as --point 120,80; 120,80,- leaves it out"
        )
    return found[0], found[1], sign == "+"


def box(text: str) -> Box:
    """``X0,Y0,X1,Y1``: left, top, right and bottom edge.

    Raises:
        UsageError: Anything else, or no area.

    >>> box("0,10,50,20")
    (0.0, 10.0, 50.0, 20.0)
    """
    found = _numbers(text.split(","))
    if len(found) != 4:
        raise UsageError(f"--box {text!r} is not X0,Y0,X1,Y1", fix="such as --box 20,30,200,180")
    left, top, right, bottom = found
    if left >= right or top >= bottom:
        raise UsageError(
            f"--box {text!r} has no area", fix="left and top edge first, then right and bottom"
        )
    return left, top, right, bottom


def _numbers(texts: Sequence[str]) -> list[float]:
    """The numbers, or nothing where one is not one."""
    try:
        found = [float(text) for text in texts]
    except ValueError:
        return []
    return found if all(map(math.isfinite, found)) else []
