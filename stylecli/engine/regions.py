"""The masks of a painting: found or read, grown and feathered, at every size they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import images
from stylecli.artifacts.images import Geometry
from stylecli.artifacts.masks import read_mask
from stylecli.engine.context import Reporter
from stylecli.engine.painting import Painting
from stylecli.engine.plan import UNREADABLE, Input
from stylecli.errors import ItemError
from stylecli.recipe import finding
from stylecli.recipe.schema import Sampling
from stylecli.tensors.regions import compose, feather, grow, shares, to_latent

# What finds words in a picture: a mask at the file's size, and figures about it.
Find = Callable[[str], tuple[Float[Tensor, "h w"], dict[str, Any]]]
# Masks whose shape differs more than this from the content's are of another picture.
MAX_ASPECT_ERROR = 0.01
# Values of a scaled mask, so that rounding makes neither a hair of a region nor a hole in one.
SHADES = 4096
# A mask whose brightest pixel is darker holds labels, not shares.
DARKEST = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """Where the areas of one painting lie in one content.

    Attributes:
        full: Of the areas that have one, at the content file's size.
        digests: Of every area's share of the picture, or None.
        covered: What the areas cover together, at that size; None is everything.
        shares: Of every area, in latent cells after overlaps; None is everywhere.
        background: What is left in latent cells; None is nothing.
        pixel_shares: As `shares`, in pixels of the model's size.
        details: Of masks found from words: scores.
    """

    full: Sequence[Float[Tensor, "h w"]] = ()
    digests: Sequence[str | None] = (None,)
    covered: Float[Tensor, "h w"] | None = None
    shares: Sequence[Float[Tensor, "1 1 hl wl"] | None] = (None,)
    background: Float[Tensor, "1 1 hl wl"] | None = None
    pixel_shares: Sequence[Float[Tensor, "1 1 hp wp"]] = ()
    pixel_background: Float[Tensor, "1 1 hp wp"] | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def blend(
        self, pictures: Sequence[Float[Tensor, "1 3 hp wp"]], behind: Float[Tensor, "1 3 hp wp"]
    ) -> Float[Tensor, "1 3 hp wp"]:
        """One picture for each area, blended as the areas are."""
        if self.pixel_background is None:
            return pictures[0]
        return compose([*pictures, behind], [*self.pixel_shares, self.pixel_background])


def place(
    painting: Painting,
    geometry: Geometry,
    latent_px: int,
    sampling: Sampling,
    settings: finding.Masks,
    find: Find,
    reporter: Reporter,
) -> Masks:
    """Work out where every area lies.

    Args:
        painting: Either one area without a mask, or areas that all have one.
        geometry: From the content file's size to the model's.
        latent_px: Pixels per latent cell.
        sampling: Says what happens where areas overlap.
        settings: Of masks; distances count pixels of the model's size.
        find: Asked for the areas that are named by words.
        reporter: Told of areas nobody will see.

    Raises:
        ItemError: A mask cannot be read or is of another shape, or areas overlap and may not.
    """
    if not painting.has_masks:
        return Masks()
    full: list[Tensor] = []
    details: dict[str, Any] = {}
    for area in painting.areas:
        if isinstance(area.mask, Input):
            mask, is_found = _read(area.mask, geometry.original), True
            _warn_of_labels(mask, area.mask, reporter)
        else:
            mask, details[area.place] = find(str(area.mask))
            is_found = details[area.place]["score"] is not None
        # What was not found leaves nothing out either.
        mask = 1 - mask if settings.invert and is_found else mask
        full.append(_shaped(mask, geometry, settings))
    scaled = [_scaled(mask, geometry) for mask in full]
    cells = [to_latent(mask, latent_px, settings.resize) for mask in scaled]
    latent_shares, latent_rest = shares(cells, sampling.overlap)
    pixels = [mask[None, None] for mask in scaled]
    pixel_shares, pixel_rest = shares(pixels, sampling.overlap)
    for area, cell, share in zip(painting.areas, cells, latent_shares, strict=True):
        if not share.any():
            reason = "is covered by the ones after it" if cell.any() else "is empty"
            reporter.warn(f"region {area.place} {reason}: nothing is painted there")
    return Masks(
        full=full,
        digests=[_digest(share[0, 0]) for share in pixel_shares],
        covered=_covered(full, sampling.overlap),
        shares=latent_shares,
        background=latent_rest,
        pixel_shares=pixel_shares,
        pixel_background=pixel_rest,
        details={"masks": details} if details else {},
    )


def _covered(masks: Sequence[Float[Tensor, "h w"]], overlap: str) -> Float[Tensor, "h w"]:
    """What `shares` leaves the background, taken from one; without a share for every mask."""
    if overlap == "over":
        rest = torch.ones_like(masks[0])
        for mask in masks:
            rest = rest * (1 - mask)
        return 1 - rest
    total = torch.zeros_like(masks[0])
    for mask in masks:
        total = total + mask
    return total.clamp_max(1)


def _warn_of_labels(mask: Float[Tensor, "h w"], item: Input, reporter: Reporter) -> None:
    greatest = float(mask.max())
    if 0 < greatest < DARKEST:
        reporter.warn(
            f"mask {item.path.name} is nearly black: its brightest pixel is "
            f"{round(greatest * 255)} of 255, and white is inside"
        )


def _read(item: Input, size: tuple[int, int]) -> Float[Tensor, "h w"]:
    if item.sha256 == UNREADABLE:
        raise ItemError(f"mask {item.path} is missing", fix="check the name, or draw it")
    mask = read_mask(item.path)
    height, width = mask.shape
    if abs(height * size[1] / (width * size[0]) - 1) > MAX_ASPECT_ERROR:
        raise ItemError(
            f"mask {item.path} is {width}x{height}, of another shape than the content's "
            f"{size[1]}x{size[0]}",
            fix="draw it over the content",
        )
    return _resized(mask, size)


def _shaped(
    mask: Float[Tensor, "h w"], geometry: Geometry, settings: finding.Masks
) -> Float[Tensor, "h w"]:
    """Grown, then feathered, by distances that the content file's size scales."""
    scale = min(geometry.original) / min(geometry.resized)
    grown = grow(mask, round(settings.dilate_px * scale))
    return feather(grown, settings.feather_px * scale)


def _scaled(mask: Float[Tensor, "h w"], geometry: Geometry) -> Float[Tensor, "hp wp"]:
    """At the model's size, padded as the content is."""
    return images.pad(_resized(mask, geometry.resized), *geometry.padded)


def _resized(mask: Float[Tensor, "h w"], size: tuple[int, int]) -> Float[Tensor, "_h _w"]:
    if tuple(mask.shape) == size:
        return mask
    scaled = F.interpolate(mask[None, None], size, mode="bilinear", antialias=True)[0, 0]
    return (scaled * SHADES).round().clamp(0, SHADES) / SHADES


def _digest(mask: Float[Tensor, "h w"]) -> str:
    shape = torch.tensor(mask.shape).numpy().tobytes()
    return hashlib.sha256(shape + mask.contiguous().numpy().tobytes()).hexdigest()
