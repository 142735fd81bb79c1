"""Sheets for people: pictures in a labelled grid, and regions drawn over their picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor
from torch.nn import functional as F

from stylecli.artifacts.images import to_pixels, to_tensor
from stylecli.artifacts.lettering import font_for, length, line_px, wrapped

GAP_PX = 8
# Pictures with a longer side are scaled down to it.
MAX_CELL_PX = 640
# The side of what is left blank where a row or a column holds no picture at all.
BLANK_PX = 32
# Columns narrower than this are spaced out when they have labels; row labels are wrapped at that.
MIN_LABELLED_PX, MAX_ROW_LABEL_PX = 84, 168
# A title and notes get at least this, however narrow the grid.
MIN_PROSE_PX = 320
MAX_LABEL_LINES = 3
# Names inside a picture may be smaller, or they would hide it.
MIN_NAME_PX = 8
WHITE, DARK = "#ffffff", "#222222"
# Okabe and Ito's colours, which every common kind of eye tells apart.
TINTS = ("#e69f00", "#0072b2", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#56b4e9")
TINT = 0.45
# Of maps: their least value, their greatest, and how much of them covers the picture.
COLD, HOT, HEAT = TINTS[1], TINTS[5], 0.7
# An outline is this share of the shorter side.
OUTLINE = 1 / 200
PLATE_PX = 2

Pair = tuple[int, int]
Table = Sequence[Sequence[Image.Image | None]]


def grid(
    rows: Sequence[Sequence[Float[Tensor, "3 _h _w"] | None]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    notes: Sequence[str] = (),
) -> UInt8[Tensor, "h w 3"]:
    """Pictures on white, labels left of the rows and above the columns, notes beneath.

    A row is as high as its highest picture, to which the others are scaled; a column is as wide as
    its widest. No side exceeds 640 px; pictures of one size up to that stay as they are. Equal
    arguments make equal bytes.

    Args:
        rows: In [0, 1]. None is left blank, and so is the end of a row shorter than the others.
        row_labels: None, or one a row; what has no room ends in an ellipsis.
        column_labels: None, or one a column; likewise.
        notes: Each begins a line, and takes as many as it needs.

    Raises:
        ValueError: No column, or labels that are not as many as what they name.
    """
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise ValueError("a sheet without a column")
    for labels, count, what in ((row_labels, len(rows), "row"), (column_labels, columns, "column")):
        if len(labels) not in (0, count):
            raise ValueError(f"{len(labels)} {what} labels for {count}")
    table: list[list[Image.Image | None]] = [
        [*_one_height(row), *[None] * (columns - len(row))] for row in rows
    ]
    widths, heights = _sides(table)
    font = font_for(sorted(widths)[columns // 2])
    if row_labels:
        beside = _row_labels(row_labels, heights, font)
        table = [[label, *row] for label, row in zip(beside, table, strict=True)]
    if column_labels:
        corner = [None] if row_labels else []
        table = [[*corner, *_column_labels(column_labels, widths, font)], *table]
    body = _joined(table)
    room = max(body.width, MIN_PROSE_PX if title or notes else 0)
    heading = _text(wrapped(title, font, room, MAX_LABEL_LINES), font, room)
    beneath = _text([line for note in notes for line in wrapped(note, font, room)], font, room)
    parts = [[part] for part in (heading, body, beneath) if part.height]
    sheet = ImageOps.expand(_joined(parts, centred=False), GAP_PX, WHITE)
    return torch.from_numpy(np.array(sheet))


def overlay(
    picture: Float[Tensor, "3 h w"],
    masks: Sequence[Float[Tensor, "h w"]],
    labels: Sequence[str],
) -> Float[Tensor, "3 h w"]:
    """The picture with every region tinted and outlined in its own colour, and named inside.

    Later regions lie on top. A name stands where its region is broadest and no other name is. A
    region that reaches a half nowhere is tinted, and has neither outline nor name. After seven
    regions the colours come round again.
    """
    masks = [mask.detach().cpu().clamp(0, 1).float() for mask in masks]
    colours = [TINTS[index % len(TINTS)] for index in range(len(masks))]
    drawn = picture.detach().cpu().float().clamp(0, 1)
    for mask, colour in zip(masks, colours, strict=True):
        drawn = torch.lerp(drawn, _paint(colour), TINT * mask)
    for mask, colour in zip(masks, colours, strict=True):
        drawn = torch.where(_outline(mask >= 0.5), _paint(colour), drawn)
    image = Image.fromarray(to_pixels(drawn).numpy())
    font = font_for(min(image.size), MIN_NAME_PX)
    taken: list[tuple[Pair, Pair]] = []
    for mask, colour, label in zip(masks, colours, labels, strict=True):
        region, lines = (mask >= 0.5).numpy(), wrapped(label, font, image.width - 4 * PLATE_PX, 1)
        if lines and region.any():
            half = (length(lines[0], font) // 2 + 2 * PLATE_PX, line_px(font) // 2 + PLATE_PX)
            taken.append((_place(region, half, taken), half))
            _plate(image, lines[0], font, taken[-1], colour)
    return to_tensor(torch.from_numpy(np.array(image)))[0]


def heated(picture: Float[Tensor, "3 h w"], heat: Float[Tensor, "_h _w"]) -> Float[Tensor, "3 h w"]:
    """The picture, pale, with a map of any size over it: blue where it is least, red where most."""
    values = heat.detach().cpu().float()
    low, high = values.min(), values.max()
    shares = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    size = picture.shape[1:]
    large = F.interpolate(shares[None, None], size, mode="bilinear", align_corners=False)[0]
    colours = torch.lerp(_paint(COLD), _paint(HOT), large)
    return torch.lerp(picture.detach().cpu().float().clamp(0, 1), colours, HEAT * (0.5 + large / 2))


def _one_height(row: Sequence[Float[Tensor, "3 _h _w"] | None]) -> list[Image.Image | None]:
    """Every picture of a row as high as the highest, unless that would make it too wide."""
    limited = [
        min(cell.shape[1], cell.shape[1] * MAX_CELL_PX / max(cell.shape[1:]))
        for cell in row
        if cell is not None
    ]
    height = max(limited, default=0)
    return [None if cell is None else _scaled(cell, height) for cell in row]


def _scaled(cell: Float[Tensor, "3 h w"], height: float) -> Image.Image:
    size = cell.shape[1:]
    scale = min(height / size[0], MAX_CELL_PX / size[1])
    wanted = tuple(max(1, round(side * scale)) for side in size)
    if wanted != tuple(size):
        cell = F.interpolate(cell[None].float(), wanted, mode="bicubic", antialias=True)[0]
    return Image.fromarray(to_pixels(cell).numpy())


def _sides(table: Table) -> tuple[list[int], list[int]]:
    """Widths of the columns and heights of the rows."""
    widths = [max((c.width for c in column if c), default=0) for column in zip(*table, strict=True)]
    heights = [max((cell.height for cell in row if cell), default=0) for row in table]
    return [side or BLANK_PX for side in widths], [side or BLANK_PX for side in heights]


def _joined(table: Table, *, centred: bool = True) -> Image.Image:
    """All in their places, a gap between them."""
    widths, heights = _sides(table)
    lefts = list(accumulate(widths, lambda at, side: at + side + GAP_PX, initial=0))
    tops = list(accumulate(heights, lambda at, side: at + side + GAP_PX, initial=0))
    sheet = Image.new("RGB", (lefts[-1] - GAP_PX, tops[-1] - GAP_PX), WHITE)
    for top, height, row in zip(tops, heights, table, strict=False):
        for left, width, cell in zip(lefts, widths, row, strict=False):
            if cell is not None:
                spare = (width - cell.width, height - cell.height) if centred else (0, 0)
                sheet.paste(cell, (left + spare[0] // 2, top + spare[1] // 2))
    return sheet


def _row_labels(
    labels: Sequence[str], heights: Sequence[int], font: ImageFont.FreeTypeFont
) -> list[Image.Image]:
    line = line_px(font)
    fitted = [
        wrapped(label, font, MAX_ROW_LABEL_PX, max(1, height // line))
        for label, height in zip(labels, heights, strict=True)
    ]
    width = max((length(text, font) for lines in fitted for text in lines), default=1)
    return [_text(lines or [""], font, width) for lines in fitted]


def _column_labels(
    labels: Sequence[str], widths: Sequence[int], font: ImageFont.FreeTypeFont
) -> list[Image.Image]:
    rooms = [max(width, MIN_LABELLED_PX) for width in widths]
    fitted = [
        wrapped(label, font, room, MAX_LABEL_LINES)
        for label, room in zip(labels, rooms, strict=True)
    ]
    most = max(1, *(len(lines) for lines in fitted))
    # Blank lines come first, so that a short label stands next to its picture.
    return [
        _text([""] * (most - len(lines)) + lines, font, room, centred=True)
        for lines, room in zip(fitted, rooms, strict=True)
    ]


def _text(
    lines: Sequence[str], font: ImageFont.FreeTypeFont, width: int, *, centred: bool = False
) -> Image.Image:
    line = line_px(font)
    block = Image.new("RGB", (width, len(lines) * line), WHITE)
    pen = ImageDraw.Draw(block)
    for number, text in enumerate(lines):
        left = (width - length(text, font)) // 2 if centred else 0
        pen.text((left, number * line), text, DARK, font)
    return block


def _paint(colour: str) -> Float[Tensor, "3 1 1"]:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return torch.tensor(channels)[:, None, None]


def _outline(region: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """The region's own pixels next to others; the picture's edge is no outline."""
    reach = max(1, round(min(region.shape) * OUTLINE))
    outside = F.max_pool2d((~region).float()[None, None], 2 * reach + 1, 1, reach)[0, 0]
    return region & (outside > 0)


def _place(
    region: Bool[npt.NDArray[np.bool_], "h w"], half: Pair, taken: Sequence[tuple[Pair, Pair]]
) -> Pair:
    """The middle ``(x, y)`` of a plate deep in the region, inside the picture, off other plates."""
    from scipy.ndimage import distance_transform_edt

    height, width = region.shape
    columns = np.arange(width).clip(half[0], max(half[0], width - 1 - half[0]))
    rows = np.arange(height).clip(half[1], max(half[1], height - 1 - half[1]))
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    free = depth.copy()
    for (x, y), (across, down) in taken:
        beside = abs(columns - x) <= half[0] + across
        free[np.outer(abs(rows - y) <= half[1] + down, beside)] = 0
    row, column = divmod(int((free if free.any() else depth).argmax()), width)
    return int(columns[column]), int(rows[row])


def _plate(
    image: Image.Image,
    label: str,
    font: ImageFont.FreeTypeFont,
    place: tuple[Pair, Pair],
    colour: str,
) -> None:
    (x, y), (across, down) = place
    pen = ImageDraw.Draw(image)
    pen.rectangle((x - across, y - down, x + across, y + down), WHITE, colour)
    pen.text((x - across + 2 * PLATE_PX, y - down + PLATE_PX), label, DARK, font)
