"""Regions that are kept: there a result has the pixels of the content's own file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from stylecli.artifacts import images
from stylecli.engine.contents import Canvas
from stylecli.engine.regions import Masks
from stylecli.masks.proposals import fit_edges
from stylecli.methods.stylegallery.match import Match
from stylecli.recipe.schema import Recipe

# Regions are known by cells; their edges are looked for in windows of so many.
EDGE_CELLS = 2


def may_keep(recipe: Recipe) -> bool:
    """Whether a content may have to be pasted into, which takes all of its pixels."""
    gallery = recipe.gallery
    return (
        recipe.sampling.composite == "pixel"
        and gallery.fit == "scale"
        and bool(gallery.only or gallery.match)
    )


def restyled(
    canvas: Canvas, labels: Int[Tensor, "h w"], matches: Sequence[Match], recipe: Recipe
) -> Masks:
    """Which of the content's pixels a result covers: all, unless regions are kept."""
    kept = [match.content for match in matches if match.style is None]
    if not kept or canvas.picture is None or not may_keep(recipe):
        return Masks()
    geometry = canvas.geometry
    cells = (~torch.isin(labels, torch.tensor(kept))).float()
    pixels = F.interpolate(cells[None, None], geometry.padded, mode="bilinear")
    shown = geometry.undo(canvas.image)[0].cpu()
    cell_px = max(1, geometry.padded[0] // len(cells))
    edges = fit_edges(geometry.undo(pixels)[0], shown, EDGE_CELLS * cell_px)
    return Masks(covered=edges.on(images.to_float(canvas.picture.pixels), 0))
