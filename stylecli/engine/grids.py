"""A labelled grid of one content in one look, as data: cells, axes, and what is claimed of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stylecli.errors import RecipeError
from stylecli.recipe.faults import validate
from stylecli.recipe.layers import Entry, Merged
from stylecli.recipe.schema import Recipe

Measure = Literal["content_kept", "from_content", "from_style"]
# Dotted key -> value.
Changes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of a grid.

    Attributes:
        changes: What its recipe has that the run's has not.
    """

    label: str
    changes: Changes
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Axis:
    """What differs from row to row, or from column to column.

    Attributes:
        labels: Of the rows or columns.
        numbers: None where the values are words, which have no order.
    """

    name: str
    labels: tuple[str, ...]
    numbers: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A trend that a paper reads from its figure.

    Attributes:
        order: Groups of cells, by their places in reading order, along whose means it should go.
        rises: Else it should fall.
    """

    says: str
    measure: Measure
    order: tuple[tuple[int, ...], ...]
    rises: bool


@dataclass(frozen=True, slots=True)
class Figure:
    """A grid to be painted of every content in every look.

    Attributes:
        name: ``sweep``, or that of an ablation.
        axes: Columns; or rows, then columns.
        cells: In reading order.
    """

    name: str
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    claims: tuple[Claim, ...] = ()

    @property
    def columns(self) -> int:
        return len(self.axes[-1].labels)

    def settings(self) -> dict[str, Any]:
        """All that decides the grid besides the run's recipe; labels tell rows from columns."""
        cells = [[cell.label, dict(cell.changes)] for cell in self.cells]
        return {"name": self.name, "cells": cells}


def build(
    name: str,
    recipe: Recipe,
    axes: Sequence[Axis],
    changes: Sequence[Changes],
    *,
    place: str,
    claims: Sequence[Claim] = (),
) -> Figure:
    """A figure whose cells are the run's recipe with some settings changed.

    Args:
        changes: One a cell, in reading order.
        place: Where the user asked for it, for messages.

    Raises:
        RecipeError: Every fault of every cell, each once.
    """
    rows = axes[0].labels if len(axes) == 2 else ("",)
    labels = [" | ".join(filter(None, (row, column))) for row in rows for column in axes[-1].labels]
    cells: list[Cell] = []
    faults: dict[str, None] = {}
    for label, change in zip(labels, changes, strict=True):
        merged = Merged(recipe.model_dump(mode="json"))
        for key, value in change.items():
            merged.put(Entry(tuple(key.split(".")), value, place, place))
        found, wrong = validate(merged)
        faults |= dict.fromkeys(map(str, wrong))
        if found is not None:
            cells.append(Cell(label, change, found))
    if faults:
        raise RecipeError("\n".join(faults), fix="leave out the values that no recipe may have")
    return Figure(name, tuple(axes), tuple(cells), tuple(claims))
