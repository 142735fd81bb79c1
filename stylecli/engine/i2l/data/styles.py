"""Thousands of styles from a dozen icon families, some of them for examinations only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from stylecli.artifacts import glyphs
from stylecli.tensors import treatments
from stylecli.tensors.treatments import Style

# Of the seed 0, with which the predictor that ships was made; other seeds lie this far apart.
SEEDS: Mapping[str, int] = {"train": 20260, "easy": 1, "medium": 2, "hard": 3}
APART = 100_003


@dataclass(frozen=True, slots=True)
class Counts:
    """How many styles are drawn.

    Attributes:
        train: With every family of training as it is among them.
        easy: New draws of what training draws from.
        medium: Of treatments that training never draws.
        hard: Of families that training never sees, besides each of these as it is.
    """

    train: int = 2000
    easy: int = 200
    medium: int = 100
    hard: int = 36


@dataclass(frozen=True, slots=True)
class Named:
    """One style of a set, and who is to see it."""

    id: str
    split: str
    style: Style

    @property
    def caption(self) -> str:
        """Words for it: of the family, and what was done to that."""
        done = (name for name, _ in self.style.treatments)
        return ", ".join([glyphs.FAMILIES[self.style.family].style, *done])

    def row(self) -> dict[str, Any]:
        """A line of `styles.jsonl`."""
        return {"id": self.id, "split": self.split, "style": self.style.to_json()}


def drawn(counts: Counts, seed: int) -> list[Named]:
    """The styles of a set, those of training first; more of a kind never change the first ones."""
    known = [name for name in treatments.TREATMENTS if name not in treatments.HELD_OUT]
    families = {held: [f.prefix for f in glyphs.FAMILIES.values() if f.is_held_out == held]
                for held in (False, True)}  # fmt: skip
    every, unseen = families[False], families[True]

    def draws(split: str, of: list[str], among: list[list[str]], count: int) -> Iterator[Style]:
        chance = torch.Generator().manual_seed(SEEDS[split] + APART * seed)
        for turn in range(count):
            family = of[turn % len(of)]
            yield Style.drawn(family, chance, among=among[turn % len(among)])

    plain = [Style(family) for family in every[: counts.train]]
    found = {
        "train": [*plain, *draws("train", every, [known], counts.train - len(plain))],
        "easy": [*draws("easy", every, [known], counts.easy)],
        "medium": [
            *draws("medium", every, [[name] for name in treatments.HELD_OUT], counts.medium)
        ],
        "hard": [*map(Style, unseen), *draws("hard", unseen, [known], counts.hard)],
    }
    return [
        Named(f"{split}-{place:04}", split, style)
        for split, styles in found.items()
        for place, style in enumerate(styles)
    ]
