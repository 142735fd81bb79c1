"""Segments of a picture that take the place of StyleGallery's clusters.

Those of a SAM 2 as the paper has them (section "SAM"): points on a coarse grid of the whole picture
and a coarser one of each of its overlapping quarters; only what SAM is very sure of; no specks. Or
those that the diffusion model's own features show to be things, for which nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from stylecli.masks import proposals
from stylecli.masks.base import Box, box_of
from stylecli.masks.sam2 import MAX_OVERLAP, Sam2, Shape, distinct

POINTS, POINTS_IN_CROPS = 16, 8
MIN_QUALITY = 0.98
# Of 512 x 512 pixels; other sizes in proportion.
SMALLEST_PIECE_PX, REFERENCE_PX = 1000, 512
# Of Segment Anything's own generator: crops overlap by so much of the shorter side, and masks that
# end where their crop ends are halves of something.
CROP_OVERLAP = 512 / 1500
NEAR_EDGE_PX = 20
# A region that is a thing with less chance is left to the clusters; from scenes of trained icons.
MIN_OBJECTNESS = 0.03


def segments(sam: Sam2, image: Image.Image) -> Bool[Tensor, "n h w"]:
    """Masks at the picture's size, the largest first; they may overlap, and need not cover it.

    Raises:
        WeightsError: The network is not on this machine, or its file is of another one.
    """
    found = [(0, one) for one in sam.everything(image, min_quality=MIN_QUALITY, points=POINTS)]
    for window in crops(image.width, image.height):
        cut = sam.everything(image.crop(window), min_quality=MIN_QUALITY, points=POINTS_IN_CROPS)
        found += [
            (1, _placed(one, window, image)) for one in cut if not _is_cut(one, window, image)
        ]
    least = SMALLEST_PIECE_PX * image.width * image.height / REFERENCE_PX**2
    solid: list[tuple[Box, float, Tensor]] = []
    for level, one in found:
        mask = without_specks(one.mask, least)
        box = box_of(mask)
        if box is not None:
            # Masks of crops come first where two agree: they were seen from closer.
            solid.append((box, level + one.quality, mask))
    kept = distinct([box for box, _, _ in solid], [score for _, score, _ in solid], MAX_OVERLAP)
    masks = sorted((solid[i][2] for i in kept), key=lambda mask: -int(mask.sum()))
    if not masks:
        return torch.zeros(0, image.height, image.width, dtype=torch.bool)
    return torch.stack(masks)


def objects(
    features: Float[Tensor, "c h w"], latents: Float[Tensor, "d h w"], *, seed: int
) -> Bool[Tensor, "n h w"]:
    """What may be whole things, at latent size; they hardly overlap, and the ground is in none.

    Args:
        features: Of the decoder, one vector per cell.
        latents: Of the same cells.
        seed: Of k-means.
    """
    regions = proposals.propose(proposals.describe(features, latents), seed=seed)
    found = [
        one.cells for one in proposals.few(regions.proposals) if one.objectness >= MIN_OBJECTNESS
    ]
    return torch.stack(found) if found else torch.zeros(0, *latents.shape[1:], dtype=torch.bool)


def crops(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Four boxes ``(left, top, right, bottom)``, one from each corner, that overlap in the middle.

    >>> list(crops(300, 150))[3]
    (124, 49, 300, 150)
    """
    shared = int(CROP_OVERLAP * min(width, height))
    # Rounded up, so that both together reach across.
    wide, high = (width + shared + 1) // 2, (height + shared + 1) // 2
    for top in (0, height - high):
        for left in (0, width - wide):
            yield left, top, left + wide, top + high


def without_specks(mask: Bool[Tensor, "h w"], least: float) -> Bool[Tensor, "h w"]:
    """The mask without its 4-connected pieces of less than `least` pixels."""
    from scipy import ndimage

    numbered, _ = ndimage.label(mask.numpy())
    sizes = np.bincount(numbered.ravel())
    kept = sizes >= least
    kept[0] = False
    return torch.from_numpy(kept[numbered])


def _placed(one: Shape, box: tuple[int, int, int, int], image: Image.Image) -> Shape:
    left, top, right, bottom = box
    whole = torch.zeros(image.height, image.width, dtype=torch.bool)
    whole[top:bottom, left:right] = one.mask
    return Shape(mask=whole, quality=one.quality)


def _is_cut(one: Shape, box: tuple[int, int, int, int], image: Image.Image) -> bool:
    """Whether a mask comes near an edge of its crop that is none of the picture's."""
    own = box_of(one.mask)
    if own is None:
        return True
    left, top, right, bottom = box
    inner = (left, top, image.width - right, image.height - bottom)
    gaps = (own[0], own[1], right - left - own[2], bottom - top - own[3])
    return any(gap <= NEAR_EDGE_PX < beyond for gap, beyond in zip(gaps, inner, strict=True))
