"""Pictures as Qwen's vision towers take them: nearly at their own size, cut into patches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from stylecli.errors import ImageError
from stylecli.evaluation.pixels import CLIP_MEAN, CLIP_STD, resize_u8, unit

# A side of a patch; so many patches a side become one token; a still picture is shown twice.
PATCH, MERGE, FRAMES = 14, 2, 2
TOKEN = PATCH * MERGE
LONGEST = 200


@dataclass(frozen=True, slots=True)
class Sight:
    """A picture in patches.

    Attributes:
        patches: In the order of their tokens, each as (channel, frame, row, column), flat.
        rows: Of patches; even, like `columns`.
    """

    patches: Float[Tensor, "n d"]
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """What it is to the language model."""
        return self.rows * self.columns // MERGE**2

    @property
    def grid(self) -> Int[Tensor, "1 3"]:
        """Frames, rows and columns of patches."""
        return torch.tensor([[1, self.rows, self.columns]])


def look(pixels: UInt8[Tensor, "h w 3"], fewest: int, most: int) -> Sight:
    """Scale, normalise and cut.

    Args:
        fewest: Pixels that the scaled picture has at least.
        most: Pixels that it has at most.

    Raises:
        ImageError: One side is more than 200 times the other.
    """
    height, width = fitting(tuple(pixels.shape[:2]), fewest, most)
    planes = unit(resize_u8(pixels, (height, width), "bicubic"))
    mean, deviation = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    planes = (planes - mean[:, None, None]) / deviation[:, None, None]
    rows, columns = height // PATCH, width // PATCH
    # The patches of one token follow one another.
    cut = planes.reshape(3, rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH)
    cut = cut.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    cut = cut.expand(*cut.shape[:5], FRAMES, PATCH, PATCH)
    return Sight(cut.reshape(rows * columns, 3 * FRAMES * PATCH**2), rows, columns)


def fitting(size: tuple[int, ...], fewest: int, most: int) -> tuple[int, int]:
    """The (height, width) in whole tokens nearest to a picture's, within the bounds.

    >>> fitting((100, 200), 56 * 56, 1280 * 28 * 28), fitting((512, 512), 200704, 200704)
    ((112, 196), (448, 448))
    """
    height, width = size
    if max(size) > LONGEST * min(size):
        raise ImageError(
            f"a picture of {width}x{height} is too narrow to be judged",
            fix=f"one side may be {LONGEST} times the other",
        )
    # Python's rounding, halves to even, is the one that the models were trained with.
    rows, columns = round(height / TOKEN) * TOKEN, round(width / TOKEN) * TOKEN
    if rows * columns > most:
        shrink = math.sqrt(height * width / most)
        rows, columns = (
            max(TOKEN, math.floor(side / shrink / TOKEN) * TOKEN) for side in (height, width)
        )
    elif rows * columns < fewest:
        grow = math.sqrt(fewest / (height * width))
        rows, columns = (math.ceil(side * grow / TOKEN) * TOKEN for side in (height, width))
    return rows, columns


def positions(before: int, sight: Sight, after: int) -> Int[Tensor, "3 1 n"]:
    """Where tokens stand (multimodal rotary positions): in time, down and across.

    Words stand at one place in all three; a picture's tokens lie in a plane, and what follows it
    begins behind its longer side.

    Args:
        before: Words that come first.
        after: Words that follow the picture.

    >>> sight = Sight(torch.zeros(8, 1), rows=2, columns=4)
    >>> positions(1, sight, 2)[:, 0].tolist()
    [[0, 1, 1, 3, 4], [0, 1, 1, 3, 4], [0, 1, 2, 3, 4]]
    """
    rows, columns = sight.rows // MERGE, sight.columns // MERGE
    down = torch.arange(rows).repeat_interleave(columns)
    across = torch.arange(columns).repeat(rows)
    seen = before + torch.stack([torch.zeros_like(down), down, across])
    first = torch.arange(before).expand(3, -1)
    last = before + max(rows, columns) + torch.arange(after).expand(3, -1)
    return torch.cat([first, seen, last], dim=1)[:, None]
