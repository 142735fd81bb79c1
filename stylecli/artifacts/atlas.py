"""Regions of several pictures side by side: what belongs together has one colour."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from stylecli.artifacts.images import to_pixels, to_tensor
from stylecli.artifacts.lettering import font_for, line_px, wrapped

Colour = tuple[int, int, int]

# Hues this share of a turn apart are never near one that came shortly before.
GOLDEN, FIRST_HUE = 0.381966, 0.56
SATURATION, VALUE = 0.78, 0.92
GREY: Colour = (150, 150, 150)
WHITE: Colour = (255, 255, 255)
DARK: Colour = (34, 34, 34)
TINT, TINT_OF_GREY = 0.5, 0.65
# Borders are this share of the shorter side, and numbers as high as that.
BORDER, NUMBER = 1 / 220, 1 / 15
MIN_NUMBER_PX, MAX_NUMBER_PX = 9, 30
# Numbers on white sixteen times as large have edges without steps.
FINE = 4
PER_ROW, GAP_PX, PANEL_PX = 4, 12, 448
MAX_LEGEND_COLUMNS, LEGEND_PX = 3, 430


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of an atlas, its caption above it."""

    picture: Float[Tensor, "3 _h _w"]
    caption: str
    is_faint: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the legend; without a colour, in grey."""

    colour: Colour | None
    text: str


def colour(number: int) -> Colour:
    """The colour of what belongs together, any number of them.

    >>> colour(0) != colour(1)
    True
    """
    hue = (FIRST_HUE + number * GOLDEN) % 1
    # Hues come near again after a dozen; then they are darker.
    red, green, blue = colorsys.hsv_to_rgb(hue, SATURATION, VALUE * (0.72 ** (number // 13 % 3)))
    return round(255 * red), round(255 * green), round(255 * blue)


def tinted(
    picture: Float[Tensor, "3 h w"],
    labels: Int[Tensor, "hl wl"],
    colours: Sequence[Colour | None],
) -> Float[Tensor, "3 h w"]:
    """A picture with its regions tinted, white borders between them, and their numbers inside.

    Args:
        picture: In [0, 1].
        labels: Of its regions, from 1; of the same picture, at any size.
        colours: Of region 1 first; None is grey, and so is the picture beneath.
    """
    smooth = _smooth(labels, (picture.shape[1], picture.shape[2]))
    drawn = picture.detach().cpu().float().clamp(0, 1)
    paints = torch.tensor([one or GREY for one in colours]).float() / 255
    greys = torch.tensor([one is None for one in colours])
    is_grey = greys[smooth - 1]
    drawn = torch.where(is_grey, drawn.mean(dim=0, keepdim=True), drawn)
    share = torch.where(is_grey, TINT_OF_GREY, TINT)
    drawn = torch.lerp(drawn, paints[smooth - 1].permute(2, 0, 1), share)
    drawn = torch.where(_borders(smooth), torch.ones_like(drawn), drawn)
    image = Image.fromarray(to_pixels(drawn).numpy())
    for number, own in enumerate(colours, start=1):
        _put_number(image, (smooth == number).numpy(), number, own or GREY)
    return to_tensor(torch.from_numpy(np.array(image)))[0]


def atlas(panels: Sequence[Panel], legend: Sequence[Entry]) -> UInt8[Tensor, "h w 3"]:
    """Panels in rows of equal height, the legend beneath; equal arguments make equal bytes."""
    rows = [
        [_panel(one) for one in panels[first : first + PER_ROW]]
        for first in range(0, len(panels), PER_ROW)
    ]
    blocks = [_beside(row) for row in rows]
    width = max(block.width for block in blocks)
    blocks.append(_legend(legend, max(width, LEGEND_PX)))
    blocks = [block for block in blocks if block.height]
    sheet = Image.new(
        "RGB",
        (
            max(block.width for block in blocks) + 2 * GAP_PX,
            sum(block.height + GAP_PX for block in blocks) + GAP_PX,
        ),
        WHITE,
    )
    top = GAP_PX
    for block in blocks:
        sheet.paste(block, (GAP_PX, top))
        top += block.height + GAP_PX
    return torch.from_numpy(np.array(sheet))


def pole(region: npt.NDArray[np.bool_]) -> tuple[int, int, float]:
    """The place ``(x, y)`` deepest inside a region, and how far its edge is; 0 where it is empty.

    The picture's edge counts as one of the region's.
    """
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), depth.shape[1])
    return column, row, float(depth[row, column])


def _smooth(labels: Int[Tensor, "hl wl"], size: tuple[int, int]) -> Int[Tensor, "h w"]:
    """Labels at another size, without the steps of cells."""
    best = torch.full(size, -1.0)
    found = torch.ones(size, dtype=torch.long)
    # About a cell wide, and odd.
    reach = max(size[0] // labels.shape[0], 1) // 2
    for number in labels.unique().tolist():
        own = (labels == number)[None, None].float()
        large = F.interpolate(own, size, mode="bilinear")
        share = F.avg_pool2d(large, 2 * reach + 1, 1, reach, count_include_pad=False)[0, 0]
        found[share > best] = number
        best = torch.maximum(best, share)
    return found


def _borders(labels: Int[Tensor, "h w"]) -> Tensor:
    reach = max(1, round(min(labels.shape) * BORDER))
    values = labels[None, None].float()
    size = 2 * (reach // 2) + 1 if reach > 1 else 3
    most = F.max_pool2d(values, size, 1, size // 2)
    least = -F.max_pool2d(-values, size, 1, size // 2)
    return (most != least)[0, 0]


def _put_number(
    image: Image.Image, region: npt.NDArray[np.bool_], number: int, own: Colour
) -> None:
    x, y, depth = pole(region)
    if not depth:
        return
    wanted = min(max(round(min(image.size) * NUMBER), MIN_NUMBER_PX), MAX_NUMBER_PX)
    letters = ImageFont.load_default(wanted * FINE)
    text = str(number)
    left, top, right, bottom = letters.getbbox(text)
    radius = max(right - left, bottom - top) / 2 + wanted * FINE * 0.32
    side = round(2 * radius / FINE) * FINE + 2 * FINE
    plate = Image.new("L", (side, side), 0)
    inner = Image.new("RGB", (side, side), WHITE)
    middle = side / 2
    outline = 1.6 * FINE
    ImageDraw.Draw(plate).ellipse(
        (middle - radius, middle - radius, middle + radius, middle + radius), 255
    )
    pen = ImageDraw.Draw(inner)
    reach = radius - outline
    pen.ellipse((middle - reach, middle - reach, middle + reach, middle + reach), own)
    pen.text(
        (middle - (left + right) / 2, middle - (top + bottom) / 2), text, _readable(own), letters
    )
    small = (side // FINE, side // FINE)
    inside = [
        round(min(max(at - side / FINE / 2, 0), max(0, most - side // FINE)))
        for at, most in zip((x, y), image.size, strict=True)
    ]
    image.paste(
        inner.resize(small, Image.Resampling.BOX),
        (inside[0], inside[1]),
        plate.resize(small, Image.Resampling.BOX),
    )


def _readable(on: Colour) -> Colour:
    """Dark letters on light colours."""
    red, green, blue = on
    return DARK if 0.3 * red + 0.59 * green + 0.11 * blue > 150 else WHITE


def _panel(panel: Panel) -> Image.Image:
    picture = Image.fromarray(to_pixels(panel.picture).numpy())
    scale = PANEL_PX / picture.height
    if picture.width * scale > 2 * PANEL_PX:
        scale = 2 * PANEL_PX / picture.width
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    resampling = Image.Resampling.LANCZOS
    picture = picture if size == picture.size else picture.resize(size, resampling)
    font = font_for(PANEL_PX)
    lines = wrapped(panel.caption, font, max(size[0], 80), 1)
    above = line_px(font) + 4
    whole = Image.new("RGB", (max(size[0], 80), above + size[1]), WHITE)
    pen = ImageDraw.Draw(whole)
    pen.text((0, 0), "".join(lines), GREY if panel.is_faint else DARK, font)
    whole.paste(picture, (0, above))
    return whole


def _beside(row: Sequence[Image.Image]) -> Image.Image:
    width = sum(one.width for one in row) + GAP_PX * (len(row) - 1)
    block = Image.new("RGB", (width, max(one.height for one in row)), WHITE)
    left = 0
    for one in row:
        block.paste(one, (left, 0))
        left += one.width + GAP_PX
    return block


def _legend(entries: Sequence[Entry], width: int) -> Image.Image:
    font = font_for(PANEL_PX)
    line = line_px(font) + 6
    columns = min(MAX_LEGEND_COLUMNS, max(1, width // LEGEND_PX), max(1, len(entries)))
    rows = -(-len(entries) // columns)
    block = Image.new("RGB", (width, rows * line), WHITE)
    pen = ImageDraw.Draw(block)
    room = width // columns
    for at, entry in enumerate(entries):
        left, top = at // rows * room, at % rows * line
        side = line - 8
        pen.rectangle((left, top + 3, left + side, top + 3 + side), entry.colour or GREY)
        text = "".join(wrapped(entry.text, font, room - side - 20, 1))
        pen.text((left + side + 8, top + 2), text, DARK, font)
    return block
