"""What the cells of a grid show, as figures and sentences: trends, claims, cells that are alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from stylecli.engine.grids import Axis, Claim, Figure, Measure

# How each is called beneath a grid.
NAMES: Mapping[Measure, str] = {
    "content_kept": "content kept (correlation of edges)",
    "from_content": "distance from content (pocket-lpips)",
    "from_style": "distance from style (texture)",
}
# One a cell, in reading order.
Figures = Mapping[Measure, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Trend:
    """How a measure goes along one axis, as a mean over the other.

    Attributes:
        means: One a label, in the grid's order.
        course: In words, along growing numbers; None where the axis has none.
        correlation: Spearman's, with those numbers; None for words and where nothing changes.
    """

    axis: Axis
    measure: Measure
    means: tuple[float, ...]
    course: str | None
    correlation: float | None

    def as_row(self) -> dict[str, Any]:
        """For the journal."""
        return {
            "axis": self.axis.name,
            "figure": self.measure,
            "values": list(self.axis.numbers or self.axis.labels),
            "means": [round(mean, 5) for mean in self.means],
            "course": self.course,
            "rank_correlation": None if self.correlation is None else round(self.correlation, 4),
        }

    def sentence(self) -> str:
        """For people."""
        values = _listed(self.means)
        if self.axis.numbers is None:
            return f"{NAMES[self.measure]} by {self.axis.name}: {values}"
        also = "" if self.correlation is None else f"; rank correlation {self.correlation:+.2f}"
        return f"{NAMES[self.measure]} with {self.axis.name}: {values} - {self.course}{also}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the cells bear out a claim.

    Attributes:
        means: Of each group of the claim; none where the measure was not taken.
    """

    claim: Claim
    means: tuple[float, ...]

    @property
    def holds(self) -> bool | None:
        """From the first group to the last; None if it was not measured."""
        if not self.means:
            return None
        first, *_, last = self.means
        return last > first if self.claim.rises else last < first

    @property
    def is_steady(self) -> bool:
        """At every step between as well."""
        steps = [b - a if self.claim.rises else a - b for a, b in pairwise(self.means)]
        return bool(steps) and min(steps) > 0

    def as_row(self) -> dict[str, Any]:
        """For the journal."""
        return {
            "claim": self.claim.says,
            "figure": self.claim.measure,
            "means": [round(mean, 5) for mean in self.means],
            "holds": self.holds,
            "at_every_step": self.is_steady if self.means else None,
        }

    def sentence(self) -> str:
        """For people; one that fails opens with NOT."""
        if not self.means:
            return f"not measured, for want of a style picture: {self.claim.says}"
        opening = "as claimed" if self.holds else "NOT as claimed"
        if self.holds and not self.is_steady:
            opening = "as claimed from first to last, but not at every step"
        return f"{opening}: {self.claim.says}: {_listed(self.means)}"


@dataclass(frozen=True, slots=True)
class Difference:
    """What two cells differ by.

    Attributes:
        cells: Their places in reading order.
        largest: Of all pixels and channels, of 255.
        perceptual: pocket-lpips.
    """

    cells: tuple[int, int]
    largest: int
    perceptual: float

    def as_row(self, labels: Sequence[str]) -> dict[str, Any]:
        """For the journal."""
        return {
            "cells": [labels[cell] for cell in self.cells],
            "largest_pixel_difference": self.largest,
            "perceptual": round(self.perceptual, 5),
        }

    def phrase(self, labels: Sequence[str]) -> str:
        """For people."""
        first, second = (labels[cell] for cell in self.cells)
        return (
            f"[{first}] and [{second}], by up to {self.largest} of 255 in a pixel and "
            f"{self.perceptual:.4f} in pocket-lpips"
        )


@dataclass(frozen=True, slots=True)
class Differences:
    """The two cells that differ least, the two that differ most, and those that do not differ.

    Attributes:
        equal: Groups of two and more cells with the same bytes.
    """

    least: Difference
    most: Difference
    equal: tuple[tuple[int, ...], ...]

    def as_row(self, labels: Sequence[str]) -> dict[str, Any]:
        """For the journal."""
        return {
            "least_difference": self.least.as_row(labels),
            "greatest_difference": self.most.as_row(labels),
            "equal_cells": [[labels[cell] for cell in group] for group in self.equal],
        }

    def sentences(self, labels: Sequence[str]) -> list[str]:
        """For people."""
        groups = [" = ".join(f"[{labels[cell]}]" for cell in group) for group in self.equal]
        least = f"all cells differ; least {self.least.phrase(labels)}"
        return [
            f"the same bytes: {'; '.join(groups)}" if groups else least,
            f"the greatest difference is of {self.most.phrase(labels)}",
        ]


def trends(figure: Figure, figures: Figures) -> list[Trend]:
    """Every measure along every axis."""
    return [
        _trend(axis, measure, tuple(_means(figure, number, cells)))
        for number, axis in enumerate(figure.axes)
        for measure, cells in figures.items()
    ]


def _means(figure: Figure, axis: int, cells: Sequence[float]) -> list[float]:
    width = figure.columns
    if axis == len(figure.axes) - 1:
        return [fmean(cells[column::width]) for column in range(width)]
    return [fmean(cells[at : at + width]) for at in range(0, len(cells), width)]


def _trend(axis: Axis, measure: Measure, means: tuple[float, ...]) -> Trend:
    if axis.numbers is None:
        # Words have no order, so nothing rises along them.
        return Trend(axis, measure, means, None, None)
    # A sweep may be written from high to low; what matters is what growing numbers do.
    ordered = [mean for _, mean in sorted(zip(axis.numbers, means, strict=True))]
    return Trend(axis, measure, means, course(ordered), rank_correlation(axis.numbers, means))


def course(values: Sequence[float]) -> str:
    """What a series does, in words.

    >>> course([1, 2, 3]), course([1, 1, 2]), course([1, 1]), course([1, 3, 2])
    ('rises at every step', 'never falls', 'does not change', 'rises and falls')
    """
    steps = [b - a for a, b in pairwise(values)]
    if not any(steps):
        return "does not change"
    if min(steps) >= 0:
        return "rises at every step" if min(steps) > 0 else "never falls"
    if max(steps) <= 0:
        return "falls at every step" if max(steps) < 0 else "never rises"
    return "rises and falls"


def rank_correlation(numbers: Sequence[float], values: Sequence[float]) -> float | None:
    """Spearman's; None where either does not change."""
    from scipy.stats import spearmanr

    if len(set(numbers)) < 2 or len(set(values)) < 2:
        return None
    return float(spearmanr(numbers, values).statistic)


def judge(claims: Sequence[Claim], figures: Figures) -> list[Verdict]:
    """Every claim against the cells."""
    return [
        Verdict(
            claim,
            tuple(fmean(figures[claim.measure][cell] for cell in group) for group in claim.order)
            if claim.measure in figures
            else (),
        )
        for claim in claims
    ]


def differences(
    cells: Sequence[UInt8[Tensor, "h w 3"]], perceptual: Callable[[int, int], float]
) -> Differences:
    """Compare all pairs.

    Args:
        cells: Two or more.
        perceptual: The distance of two cells, given their places.
    """
    groups: dict[bytes, list[int]] = {}
    for place, cell in enumerate(cells):
        groups.setdefault(cell.numpy().tobytes(), []).append(place)

    def difference(first: int, second: int) -> Difference:
        largest = int((cells[first].int() - cells[second].int()).abs().max())
        return Difference((first, second), largest, perceptual(first, second) if largest else 0.0)

    def size(of: Difference) -> tuple[float, int]:
        return of.perceptual, of.largest

    found = [difference(*pair) for pair in combinations(range(len(cells)), 2)]
    equal = tuple(tuple(group) for group in groups.values() if len(group) > 1)
    return Differences(min(found, key=size), max(found, key=size), equal)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
