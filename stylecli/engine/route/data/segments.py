"""COCO's segmentations as masks: polygons, and run lengths plain or written as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stylecli.errors import InputError

# A character carries five bits of a count; the sixth says that more follow.
OFFSET, DATA, MORE, SIGN, BITS = 48, 0x1F, 0x20, 0x10, 5
# From this count on they are written as differences to the one two places before.
FIRST_DIFFERENCE = 3
LEAST_CORNERS = 3


def decoded(segmentation: Any, size: tuple[int, int], where: str) -> Bool[Tensor, "h w"]:
    """The mask of an annotation.

    Args:
        segmentation: Polygons as lists of x, y, x, y, …; or an object of ``size`` and ``counts``.
        size: Height and width of the picture.
        where: The annotation, for messages.

    Raises:
        InputError: It is neither, or of a picture of another size.
    """
    try:
        if isinstance(segmentation, Mapping):
            return _runs(segmentation, size)
        return _polygons(segmentation, size)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise InputError(
            f"{where}: `segmentation` is damaged: {error}", fix="mend or remove the annotation"
        ) from error


def counts_of(text: str) -> list[int]:
    """Run lengths out of COCO's text for them.

    >>> counts_of("52")
    [5, 2]

    Raises:
        ValueError: It ends within a number, or holds a character that is none of COCO's.
    """
    found: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - OFFSET
        if not 0 <= bits < 2 * MORE:
            raise ValueError(f"character {character!r} is no run length")
        value |= (bits & DATA) << shift
        shift += BITS
        if bits & MORE:
            continue
        if bits & SIGN:
            value -= 1 << shift
        if len(found) >= FIRST_DIFFERENCE:
            value += found[-2]
        found.append(value)
        value = shift = 0
    if shift:
        raise ValueError("the text ends within a number")
    return found


def unrolled(counts: Iterable[int], size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Runs of outside and inside, in turn, down the columns from the left.

    >>> unrolled([1, 2, 1], (2, 2)).tolist()
    [[False, True], [True, False]]

    Raises:
        ValueError: They are not of a picture of this size.
    """
    lengths = np.asarray(list(counts), dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        raise ValueError(f"the runs are not of {size[1]}x{size[0]} pixels")
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return torch.from_numpy(flat.reshape(size[1], size[0]).T.copy())


def _runs(said: Mapping[str, Any], size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    if tuple(said["size"]) != size:
        raise ValueError(f"it is of {said['size']}, the picture of {list(size)}")
    counts = said["counts"]
    return unrolled(counts_of(counts) if isinstance(counts, str) else counts, size)


def _polygons(parts: Sequence[Sequence[float]], size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """All parts together: the pixels whose middle lies within one."""
    inside = np.zeros(size, dtype=bool)
    for part in parts:
        corners = np.asarray(part, dtype=np.float64).reshape(-1, 2)
        if len(corners) < LEAST_CORNERS:
            raise ValueError(f"a polygon of {len(corners)} corners")
        inside |= _filled(corners, size)
    return torch.from_numpy(inside)


def _filled(
    corners: Float[npt.NDArray[np.float64], "n 2"], size: tuple[int, int]
) -> Bool[npt.NDArray[np.bool_], "h w"]:
    # Not Pillow's, which takes in every pixel that the outline touches: a disc of 20 px radius
    # would be 5 % too large.
    height, width = size
    x0, y0 = corners.T
    x1, y1 = np.roll(corners, -1, axis=0).T
    middles = np.arange(height)[:, None] + 0.5
    row, edge = np.nonzero((y0 <= middles) != (y1 <= middles))
    along = (row + 0.5 - y0[edge]) / (y1[edge] - y0[edge])
    x = x0[edge] + along * (x1[edge] - x0[edge])
    crossings = np.zeros((height, width + 1), dtype=np.int32)
    np.add.at(crossings, (row, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)), 1)
    inside: npt.NDArray[np.bool_] = np.cumsum(crossings, axis=1)[:, :width] % 2 == 1
    return inside
