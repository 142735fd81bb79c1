"""What one step of training sees: styles, each with targets and with references of its own.

Everything follows from the seed and the number of the step, so a run that goes on later needs no
memory of what it had seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stylecli.engine.i2l.data.items import Dataset, Item
from stylecli.engine.i2l.data.words import plain
from stylecli.errors import InputError
from stylecli.recipe.i2l import Data
from stylecli.tensors.seeds import generator

# Positions in the set's items.
Targets = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pick:
    """One style of a step.

    Attributes:
        targets: As many as a style has in a step; one occurs twice where the style is too small.
        references: None of them shows what a target does, unless the settings allow it.
    """

    style_id: str
    targets: tuple[Item, ...]
    references: tuple[Item, ...]


class Tuples:
    """Draws steps from a set, every picture as a target about once an epoch."""

    def __init__(self, dataset: Dataset, settings: Data, seed: int, *, targets: int = 1) -> None:
        """Look which pictures can be learned from.

        Args:
            dataset: One split of a set.
            targets: Pictures that each style of a step is tried on.

        Raises:
            InputError: No style has a target and a reference that differ.
        """
        self.dataset = dataset
        self._settings = settings
        self._seed = seed
        self._size = targets
        self._clashes = _clashes(dataset)
        self._styles = {
            style: tuple(members)
            for style, members in dataset.styles.items()
            if any(self._left(members, (one,)) for one in members)
        }
        usable = sum(map(len, self._styles.values()))
        self.skipped = len(dataset) - usable
        """Pictures of styles that show but one thing."""
        if not self._styles:
            raise InputError(
                f"none of {len(dataset.styles)} styles has two pictures of different things",
                fix="add pictures; --set i2l.data.allow_self=true lets a target be its reference",
            )
        self._plan: tuple[tuple[int, int], list[list[Targets]]] = ((-1, 0), [])

    @property
    def groups(self) -> int:
        """How many groups of targets an epoch consists of."""
        return sum(-(-len(members) // self._size) for members in self._styles.values())

    def steps(self, batch: int) -> int:
        """How many steps an epoch has; a batch larger than the set sees it several times."""
        return max(1, self.groups // batch)

    def at(self, step: int, batch: int) -> list[Pick]:
        """What a step sees: so many styles, all with equally many references.

        Args:
            step: From 0; the same step is always the same.
        """
        epoch, place = divmod(step, self.steps(batch))
        if self._plan[0] != (epoch, batch):
            self._plan = ((epoch, batch), self._epoch(epoch, batch))
        groups = self._plan[1][place]
        count = self._count(min(map(self._room, groups)), step)
        return [self._pick(group, count, (step, row)) for row, group in enumerate(groups)]

    def fixed(self, count: int, references: int) -> list[Pick]:
        """Questions for an examination: the same every time, from as many styles as there are.

        Neighbours are of different styles while there are several. Where a style cannot give so
        many references it gives what it has.
        """
        chance = generator(self._seed, "fixed")
        orders = [self._shuffled(members, chance) for members in self._styles.values()]
        turns = torch.randperm(len(orders), generator=chance).tolist()
        found: list[Pick] = []
        for turn in range(count):
            order = orders[turns[turn % len(turns)]]
            start = turn // len(turns) * self._size
            group = self._group([order[(start + k) % len(order)] for k in range(self._size)])
            wanted = min(references, self._room(group))
            found.append(self._pick(group, wanted, ("fixed", turn)))
        return found

    def _epoch(self, epoch: int, batch: int) -> list[list[Targets]]:
        """Steps whose groups offer about equally many references, in any order."""
        chance = generator(self._seed, "epoch", epoch)
        steps = self.steps(batch)
        groups: list[Targets] = []
        while len(groups) < steps * batch:
            once = self._pass(chance)
            order = torch.randperm(len(once), generator=chance).tolist()
            groups += [once[place] for place in order]
        # What is too many goes before they are sorted, or it would always be the same kind.
        groups = sorted(groups[: steps * batch], key=self._room, reverse=True)
        turns = torch.randperm(steps, generator=chance).tolist()
        return [groups[turn * batch : (turn + 1) * batch] for turn in turns]

    def _pass(self, chance: torch.Generator) -> list[Targets]:
        groups = []
        for members in self._styles.values():
            order = self._shuffled(members, chance)
            for start in range(0, len(order), self._size):
                # The last group of a style begins again with its first pictures.
                window = [order[(start + k) % len(order)] for k in range(self._size)]
                groups.append(self._group(window))
        return groups

    def _group(self, window: Sequence[int]) -> Targets:
        """As many different targets as leave a reference, repeated to the size of a group."""
        members = self._styles[self.dataset.items[window[0]].style_id]
        # One that alone leaves no reference is no target; another of its style is.
        able = [one for one in dict.fromkeys(window) if self._left(members, (one,))]
        able = able or [next(one for one in members if self._left(members, (one,)))]
        while not self._left(members, able):
            able.pop()
        return tuple(able[place % len(able)] for place in range(self._size))

    def _room(self, group: Targets) -> int:
        """The most references it can have."""
        members = self._styles[self.dataset.items[group[0]].style_id]
        return min(self._settings.n_refs.max, self._left(members, group))

    def _count(self, room: int, step: int) -> int:
        chance = generator(self._seed, "count", step)
        if room == 1 or float(torch.rand((), generator=chance)) < self._settings.n_refs.p_single:
            return 1
        return int(torch.randint(2, room + 1, (), generator=chance))

    def _pick(self, group: Targets, count: int, turn: tuple[object, ...]) -> Pick:
        style = self.dataset.items[group[0]].style_id
        barred = self._barred(group)
        allowed = [one for one in self._styles[style] if one not in barred]
        order = torch.randperm(len(allowed), generator=generator(self._seed, *turn)).tolist()
        items = self.dataset.items
        references = tuple(items[allowed[place]] for place in order[:count])
        return Pick(style, tuple(items[one] for one in group), references)

    def _left(self, members: Sequence[int], group: Sequence[int]) -> int:
        return len(members) - len(self._barred(group))

    def _barred(self, group: Sequence[int]) -> set[int]:
        """The targets, and what shows the same or is said in the same words."""
        if self._settings.allow_self:
            return set()
        return set(group).union(*(self._clashes.get(one, ()) for one in group))

    @staticmethod
    def _shuffled(members: Sequence[int], chance: torch.Generator) -> list[int]:
        return [members[place] for place in torch.randperm(len(members), generator=chance)]


def _clashes(dataset: Dataset) -> dict[int, frozenset[int]]:
    """Who in the same style shows the same as each; only of those that are not alone."""
    found: dict[int, frozenset[int]] = {}
    for members in dataset.styles.values():
        alike: dict[tuple[str, str], list[int]] = {}
        for one in members:
            for label in _labels(dataset.items[one]):
                alike.setdefault(label, []).append(one)
        for group in alike.values():
            if len(group) > 1:
                together = frozenset(group)
                for one in group:
                    known = found.get(one, frozenset())
                    # One set for many pictures, as far as it goes: unions would be theirs alone.
                    found[one] = together if known <= together else known | together
    return found


def _labels(item: Item) -> list[tuple[str, str]]:
    labels = [("caption", plain(item.caption)), ("file", item.sha256)]
    return labels + ([("content", item.content_id)] if item.content_id else [])
