"""What a painting starts from besides the content's own noise: styles' colours or statistics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stylecli.backbone.lora import LoraFile
from stylecli.engine.contents import Canvas, Inverter
from stylecli.engine.context import Reporter
from stylecli.engine.painting import Area, Painting
from stylecli.engine.regions import Masks
from stylecli.engine.trajectories import View
from stylecli.engine.wardrobe import Wardrobe
from stylecli.recipe.schema import Recipe
from stylecli.tensors.channels import adain
from stylecli.tensors.regions import compose


def recoloured(
    canvas: Canvas,
    painting: Painting,
    files: Mapping[str, LoraFile],
    masks: Masks,
    reporter: Reporter,
) -> View:
    """The content with the colours of each area's first LoRAs, and what decides them."""
    recoloured, changes = [], []
    for area, mask in zip(painting.areas, masks.digests, strict=True):
        image, change = _in_colours(canvas.image, area, files, reporter)
        recoloured.append(image)
        changes.append([mask, change])
    return canvas.view(masks.blend(recoloured, canvas.image), changes)


def _in_colours(
    image: Tensor, area: Area, files: Mapping[str, LoraFile], reporter: Reporter
) -> tuple[Tensor, object]:
    parts = next((s.parts for s in area.stretches if s.parts), ())
    found = []
    for part in parts:
        colours = files[Wardrobe.name(part)].colours
        if colours is None:
            reporter.warn(
                f"{part.look.path.name} does not say which colours it learned; the content's "
                "are kept"
            )
        elif part.weight:
            found.append((colours, abs(part.weight)))
    change = [[colours.to_json(), weight if len(found) > 1 else 1] for colours, weight in found]
    if not found:
        return image, change
    if len(found) == 1:
        return found[0][0].give(image), change
    total = sum(weight for _, weight in found)
    return sum((c.give(image) * (w / total) for c, w in found), torch.zeros_like(image)), change


def in_statistics(
    noise: Tensor, painting: Painting, masks: Masks, recipe: Recipe, inverter: Inverter
) -> Tensor:
    """The content's noise with the statistics of each area's strongest first style."""
    started = []
    for area in painting.areas:
        parts = next((s.parts for s in area.stretches if s.parts), ())
        style = max(parts, key=lambda part: abs(part.weight), default=None)
        if style is None:
            started.append(noise)
            continue
        canvas = inverter.open(style.look, recipe, whole=False)
        theirs = inverter.invert([canvas.view()], recipe).latents[-1]
        started.append(adain(noise, theirs))
    if masks.background is None and len(started) == 1:
        return started[0]
    shares = [share for share in masks.shares if share is not None]
    if masks.background is not None:
        started, shares = [*started, noise], [*shares, masks.background]
    return compose(started, shares)
