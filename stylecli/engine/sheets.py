"""Sheets for people beside a result: what it came from, its parts, and figures beneath."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.artifacts import images
from stylecli.artifacts.sheets import grid, overlay
from stylecli.engine.painting import Painting, Stretch
from stylecli.engine.plan import Job
from stylecli.engine.yardsticks import Yardsticks

if TYPE_CHECKING:
    from stylecli.engine.painted import Painted
    from stylecli.engine.painter import Painter

COARSE, TEXTURE = "coarse shapes", "texture"


@dataclass(frozen=True, slots=True)
class Sheet:
    """A picture for people.

    Attributes:
        figures: What is printed beneath, for the journal.
    """

    pixels: UInt8[Tensor, "h w 3"]
    figures: Mapping[str, Any] = field(default_factory=dict)


def compared(_painter: object, job: Job, painting: Painting, painted: Painted) -> Sheet:
    """Content, style (where there is a picture of it) and result side by side at one height."""
    panels = [painted.content, images.to_float(painted.pixels)]
    look = next(painting.parts).look
    if look.role == "style":
        style = images.to_float(images.read(look.path).pixels)
        height = painted.content.shape[-2]
        width = max(1, round(style.shape[-1] * height / style.shape[-2]))
        panels.insert(1, images.scaled(style, (height, width)))
    return Sheet(images.to_pixels(torch.cat(panels, dim=-1)))


def of_regions(painter: Painter, job: Job, painting: Painting, painted: Painted) -> Sheet:
    """Content, regions and result; every look on the whole picture; every region alone.

    The figure says how far each region of the result is from its own look and from the others'.
    """
    areas = painting.areas
    result = images.to_float(painted.pixels)
    names = _told_apart([area.place for area in areas])
    content = job.content
    whole = [Painting((replace(area, mask=None),)) for area in areas]
    alone = [Painting((area,)) for area in areas] if len(areas) > 1 else []
    parts = [images.to_float(p.pixels) for p in painter.paint_each(content, [*whole, *alone])]
    # Of the model's size, where the result was pasted into its content.
    size = (result.shape[-2], result.shape[-1])
    everywhere = [images.scaled(one, size) for one in parts[: len(areas)]]
    rows: list[list[Tensor | None]] = [
        [painted.content, overlay(painted.content, painted.masks, names), result],
        [*everywhere],
    ]
    row_labels = ["", "everywhere"]
    if alone:
        rows.append([*parts[len(areas) :]])
        row_labels.append("alone")
    distances = _inside(result, painted.masks, everywhere)
    notes = [
        f"{names[i]}: in the result {distances[i][i]:.3f} from its look everywhere"
        + "".join(
            f", {distances[i][j]:.3f} from {areas[j].name}'s" for j in range(len(areas)) if j != i
        )
        for i in range(len(areas))
    ]
    pixels = grid(
        rows,
        row_labels=row_labels,
        title="content | regions | result",
        notes=[*notes, "pocket-lpips inside the mask; lower is nearer"],
    )
    figures = {names[i]: [round(d, 5) for d in distances[i]] for i in range(len(areas))}
    return Sheet(pixels, {"distance_inside": figures})


def _inside(
    result: Float[Tensor, "3 h w"],
    masks: Sequence[Float[Tensor, "hm wm"]],
    looks: Sequence[Float[Tensor, "3 h w"]],
) -> list[list[float]]:
    """How far the result is from every look inside every mask; the rest is the result's own."""
    yardsticks = Yardsticks()
    size = result.shape[-2:]
    distances = []
    for mask in masks:
        inside = F.interpolate(mask[None, None], size, mode="bilinear", antialias=True)[0, 0]
        share = float(inside.mean().clamp_min(1e-6))
        row = []
        for look in looks:
            pasted = result + inside * (look - result)
            row.append(yardsticks.perceptual(result, pasted) / share)
        distances.append(row)
    return distances


def of_orders(painter: Painter, job: Job, painting: Painting, painted: Painted) -> Sheet:
    """Every look of a schedule alone, the schedule, and the same looks in the opposite order.

    The figures tell what early and late looks decide: coarse shapes, fine texture.
    """
    (area,) = painting.areas
    looks = list({str(s.asks()): s for s in area.stretches}.values())
    result = images.to_float(painted.pixels)
    names = _told_apart([look.name for look in looks]) if len(looks) > 1 else []
    steps = area.stretches[-1].stop
    changed: dict[str, tuple[Stretch, ...]] = {
        name: (replace(look, start=0, stop=steps),)
        for name, look in zip(names, looks, strict=False)
    }
    opposite = _opposite(area.stretches)
    if [s.asks() for s in opposite] != [s.asks() for s in area.stretches]:
        changed[_order(opposite)] = opposite
    wanted = [Painting((replace(area, stretches=stretches),)) for stretches in changed.values()]
    others = [
        (name, images.to_float(one.pixels))
        for name, one in zip(changed, painter.paint_each(job.content, wanted), strict=True)
    ]
    alone = others[: len(names)]
    cells = [*alone, (_order(area.stretches), result), *others[len(names) :]]
    figures, notes = _of_order(result, alone, cells)
    if len(alone) > 1:
        asked = [str(look.asks()) for look in looks]
        ends = [asked.index(str(area.stretches[at].asks())) for at in (0, -1)]
        notes += _verdicts(figures, *(alone[end][0] for end in ends))
    shown = [("content", painted.content), *cells]
    return Sheet(
        grid([[cell for _, cell in shown]], column_labels=[name for name, _ in shown], notes=notes),
        {name: round(value, 5) for name, value in figures.items()},
    )


def _verdicts(figures: Mapping[str, float], first: str, last: str) -> list[str]:
    """Whether they show what eq. 9's authors see: shapes of the first look, texture of the last."""
    if first == last:
        return []
    notes = []
    for what, wanted in ((COARSE, first), (TEXTURE, last)):
        nearer = min((first, last), key=lambda name: figures[f"{what}, from {name}"])
        verdict = "as the paper has it" if nearer == wanted else "not as the paper has it"
        notes.append(f"{what}: nearer to {nearer}, {verdict}")
    return notes


def _told_apart(names: Sequence[str]) -> list[str]:
    """Names that occur more than once get numbers.

    >>> _told_apart(["ink", "oil", "ink"])
    ['ink', 'oil', 'ink (2)']
    """
    return [
        name if name not in names[:i] else f"{name} ({names[: i + 1].count(name)})"
        for i, name in enumerate(names)
    ]


def _order(stretches: Sequence[Stretch]) -> str:
    return " | ".join(f"{s.name} {s.start}-{s.stop}" for s in stretches)


def _opposite(stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """The same steps, the looks from last to first."""
    return tuple(
        replace(look, start=at.start, stop=at.stop)
        for at, look in zip(stretches, reversed(stretches), strict=True)
    )


def _of_order(
    result: Tensor, alone: Sequence[tuple[str, Tensor]], cells: Sequence[tuple[str, Tensor]]
) -> tuple[dict[str, float], list[str]]:
    """How far the switched picture is from each look alone, in coarse shapes and in texture."""
    yardsticks = Yardsticks()
    figures = {}
    for name, cell in alone:
        figures[f"{COARSE}, from {name}"] = yardsticks.coarse(result, cell)
        figures[f"{TEXTURE}, from {name}"] = yardsticks.texture(result, cell)
    if len(cells) > 1:
        figures["least difference of two cells"] = min(
            yardsticks.perceptual(a, b) for (_, a), (_, b) in combinations(cells, 2)
        )
    return figures, [f"{name}: {value:.4f}" for name, value in figures.items()]
