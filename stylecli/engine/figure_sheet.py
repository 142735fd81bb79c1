"""Paints the cells of a figure and draws them as one labelled grid, with what they show beneath."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.artifacts import images, store
from stylecli.artifacts.sheets import grid
from stylecli.engine import painting, trends
from stylecli.engine.grids import Figure, Measure
from stylecli.engine.painted import Painted
from stylecli.engine.painter import AnyPainter
from stylecli.engine.plan import Input, Job
from stylecli.engine.provenance import provenance, recorded
from stylecli.engine.trends import Figures
from stylecli.engine.yardsticks import Yardsticks
from stylecli.recipe.schema import Recipe


def make(painter: AnyPainter, job: Job, figure: Figure) -> Mapping[str, Any]:
    """Paint every cell of one job and write the grid.

    Raises:
        ItemError: The content cannot be read, or the model gave nothing that can be seen.
    """
    look = [item for item in job.inputs if item.role not in ("content", "accelerator", "negative")]
    cells = _painted(painter, job.content, look, figure)
    pixels = [cell.pixels for cell in cells]
    content, style = cells[0].content, _picture(look)
    yardsticks = Yardsticks()
    figures = measured(yardsticks, pixels, content, style)
    found = trends.trends(figure, figures)
    verdicts = trends.judge(figure.claims, figures)
    floats = [images.to_float(cell) for cell in pixels]
    differences = trends.differences(
        pixels, lambda a, b: yardsticks.perceptual(floats[a], floats[b])
    )
    labels = [cell.label for cell in figure.cells]
    notes = [
        *(verdict.sentence() for verdict in verdicts),
        *(trend.sentence() for trend in found),
        *differences.sentences(labels),
    ]
    title = f"{job.content.path.stem} in {look[0].path.stem}: {figure.name}"
    sheet = drawn(figure, floats, content, style, title=title, notes=notes)
    recipe = recorded(painter.recipe, 1, painter.session.device)
    made_by = provenance(job, recipe, painter.backbone, figure=figure.settings())
    store.save_image(job.output, sheet, made_by)
    height, width = sheet.shape[:2]
    return {
        "height": height,
        "width": width,
        "figure": figure.name,
        "cells": [
            {"cell": label, **{name: round(values[i], 5) for name, values in figures.items()}}
            for i, label in enumerate(labels)
        ],
        "trends": [trend.as_row() for trend in found],
        "claims": [verdict.as_row() for verdict in verdicts],
        **differences.as_row(labels),
    }


def _painted(
    painter: AnyPainter, content: Input, look: Sequence[Input], figure: Figure
) -> list[Painted]:
    cells: dict[int, Painted] = {}
    with painter.context.reporter.task("cells", len(figure.cells)) as task:
        for some in _side_by_side([cell.recipe for cell in figure.cells]):
            recipes = [figure.cells[place].recipe for place in some]
            wanted = [painting.in_one_look(look, recipe.sampling) for recipe in recipes]
            cells |= zip(some, painter.paint_each(content, wanted, recipe=recipes[0]), strict=True)
            task.advance(len(some))
    return [cells[place] for place in range(len(figure.cells))]


def _side_by_side(recipes: Sequence[Recipe]) -> Iterator[list[int]]:
    """Places of recipes that differ in nothing but what is asked of the model."""
    alike: dict[str, list[int]] = {}
    for place, recipe in enumerate(recipes):
        asked = {"sampling": {"weight", "guidance", "prompt", "negative"}}
        shared = store.digest(recipe.model_dump(mode="json", exclude=asked))
        alike.setdefault(shared, []).append(place)
    at_once = recipes[0].device.looks
    for places in alike.values():
        for first in range(0, len(places), at_once):
            yield places[first : first + at_once]


def _picture(look: Sequence[Input]) -> Float[Tensor, "3 _h _w"] | None:
    """The style's, if it is a picture."""
    first = look[0]
    return images.to_float(images.read(first.path).pixels) if first.role == "style" else None


def measured(
    yardsticks: Yardsticks,
    cells: Sequence[UInt8[Tensor, "h w 3"]],
    content: Float[Tensor, "3 h w"],
    style: Float[Tensor, "3 _h _w"] | None,
) -> Figures:
    """Every measure of every cell; nearness to the style only where there is a picture of it."""
    floats = [images.to_float(cell) for cell in cells]
    figures: dict[Measure, list[float]] = {
        "content_kept": [yardsticks.edges(cell, content) for cell in floats],
        "from_content": [yardsticks.perceptual(cell, content) for cell in floats],
    }
    if style is not None:
        figures["from_style"] = [yardsticks.texture(cell, style) for cell in floats]
    return figures


def drawn(
    figure: Figure,
    cells: Sequence[Float[Tensor, "3 h w"]],
    content: Float[Tensor, "3 h w"],
    style: Float[Tensor, "3 _h _w"] | None,
    *,
    title: str,
    notes: Sequence[str],
) -> UInt8[Tensor, "_h _w 3"]:
    """The grid: cells at their own size, beside them what they were made of."""
    width = figure.columns
    rows: list[list[Tensor | None]] = [
        list(cells[at : at + width]) for at in range(0, len(cells), width)
    ]
    given = {"content": content} | ({} if style is None else {"style": _squared(style, content)})
    if len(rows) == 1:
        # As the papers have it: what goes in, then what comes out.
        labels = [*given, *figure.axes[-1].labels]
        return grid([[*given.values(), *rows[0]]], column_labels=labels, title=title, notes=notes)
    # At the end, so that row labels stand beside the cells they name.
    for row, picture in zip(rows, given.values(), strict=False):
        row.append(picture)
    return grid(
        rows,
        row_labels=figure.axes[0].labels,
        column_labels=[*figure.axes[-1].labels, ", ".join(given)],
        title=title,
        notes=notes,
    )


def _squared(style: Float[Tensor, "3 hs ws"], content: Float[Tensor, "3 h w"]) -> Tensor:
    """Cut to the content's shape around its middle and scaled to its size."""
    height, width = content.shape[-2:]
    rows, columns = style.shape[-2:]
    scale = max(height / rows, width / columns)
    size = max(height, round(rows * scale)), max(width, round(columns * scale))
    scaled = images.scaled(style, size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[:, top : top + height, left : left + width]
