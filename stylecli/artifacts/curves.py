"""Curves for people: a panel for each figure, over the same steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from stylecli.artifacts.lettering import font_for, length, line_px
from stylecli.artifacts.sheets import DARK, GAP_PX, TINTS, WHITE

WIDTH_PX, HEIGHT_PX = 420, 220
# Room for numbers, left of a panel and beneath it.
LEFT_PX, BELOW_PX = 64, 24
AXIS = "#bbbbbb"
LINE_PX, DOT_PX = 2, 3

# Steps and values, in growing order.
Curve = Sequence[tuple[float, float]]


def draw(panels: Mapping[str, Mapping[str, Curve]], *, columns: int = 2) -> UInt8[Tensor, "h w 3"]:
    """One panel beside the other, each from its own least value to its own greatest.

    Args:
        panels: By their titles, curves by their names; one without a point is left out.

    Raises:
        ValueError: There is no panel.
    """
    if not panels:
        raise ValueError("a sheet of curves without a panel")
    rows = -(-len(panels) // columns)
    wide, high = (min(columns, len(panels)), WIDTH_PX), (rows, HEIGHT_PX)
    sides = [count * px + (count + 1) * GAP_PX for count, px in (wide, high)]
    sheet = Image.new("RGB", (sides[0], sides[1]), WHITE)
    for place, (title, curves) in enumerate(panels.items()):
        row, column = divmod(place, columns)
        left, top = (
            GAP_PX + at * (px + GAP_PX) for at, px in ((column, WIDTH_PX), (row, HEIGHT_PX))
        )
        sheet.paste(_panel(title, curves), (left, top))
    return torch.from_numpy(np.array(sheet))


def _panel(title: str, curves: Mapping[str, Curve]) -> Image.Image:
    panel = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), WHITE)
    pen, font = ImageDraw.Draw(panel), font_for(HEIGHT_PX)
    line = line_px(font)
    finite = {
        name: [point for point in curve if math.isfinite(point[1])]
        for name, curve in curves.items()
    }
    shown = {name: curve for name, curve in finite.items() if curve}
    pen.text((LEFT_PX, 0), title, DARK, font)
    box = (LEFT_PX, 2 * line, WIDTH_PX - GAP_PX, HEIGHT_PX - BELOW_PX)
    pen.rectangle(box, outline=AXIS)
    points = [point for curve in shown.values() for point in curve]
    if not points:
        return panel
    across, up = (_range([point[axis] for point in points]) for axis in (0, 1))

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x, y = (
            (value - low) / (high - low)
            for value, (low, high) in zip(point, (across, up), strict=True)
        )
        return box[0] + x * (box[2] - box[0]), box[3] - y * (box[3] - box[1])

    for mark, above in ((up[1], box[1]), (up[0], box[3] - line)):
        text = f"{mark:.3g}"
        pen.text((LEFT_PX - GAP_PX - length(text, font), above), text, DARK, font)
    for mark, left in zip(across, (box[0], box[2]), strict=True):
        text = f"{mark:.0f}"
        pen.text((min(left, WIDTH_PX - length(text, font)), box[3] + 2), text, DARK, font)
    named_at: float = LEFT_PX
    for place, (name, curve) in enumerate(shown.items()):
        colour = TINTS[place % len(TINTS)]
        if len(curve) > 1:
            pen.line([at(point) for point in curve], colour, LINE_PX)
        for x, y in (at(curve[0]), at(curve[-1])):
            pen.ellipse((x - DOT_PX, y - DOT_PX, x + DOT_PX, y + DOT_PX), colour)
        pen.text((named_at, line), name, colour, font)
        named_at += length(name, font) + 2 * GAP_PX
    return panel


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest; a little around them where they are the same."""
    low, high = min(values), max(values)
    if low < high:
        return low, high
    around = abs(low) / 10 or 1.0
    return low - around, high + around
