"""Texts that a network does not read to their end: counted, so that somebody can be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stylecli.evaluation.metric import Metric
from stylecli.evaluation.networks import NETWORKS


@dataclass(frozen=True, slots=True)
class Cut:
    """Of how many different texts so many were longer than a network's context, in tokens."""

    truncated: int
    texts: int
    context: int


class Texts:
    """Looks at every text that a metric reads, once, whether or not the number is known already."""

    def __init__(self, truncated: Callable[[str, Sequence[str]], int]) -> None:
        """Take the counter: network and texts -> how many are too long."""
        self._truncated = truncated
        # Their hashes: a hundred thousand prompts are not kept.
        self._seen: dict[tuple[str, str], set[int]] = {}
        self._long: dict[tuple[str, str], int] = {}

    def look(self, metric: Metric, text: str) -> None:
        """Count a text that a metric reads."""
        for use in metric.uses:
            if NETWORKS[use].truncated is None:
                continue
            seen = self._seen.setdefault((metric.name, use), set())
            if hash(text) not in seen:
                seen.add(hash(text))
                long = self._long.setdefault((metric.name, use), 0)
                self._long[metric.name, use] = long + self._truncated(use, [text])

    def cuts(self) -> dict[str, Cut]:
        """Metric -> what was cut off, of those where something was."""
        return {
            metric: Cut(long, len(self._seen[metric, use]), NETWORKS[use].context)
            for (metric, use), long in self._long.items()
            if long
        }


def in_words(cuts: dict[str, Cut]) -> str:
    """What a user is told, once.

    >>> in_words({"a": Cut(1, 2, 77), "b": Cut(1, 2, 77), "c": Cut(2, 2, 35)})
    'texts are longer than a network reads: 1 of 2 for a, b (77 tokens), 2 of 2 for c (35 tokens)'
    """
    alike: dict[Cut, list[str]] = {}
    for metric, cut in cuts.items():
        alike.setdefault(cut, []).append(metric)
    said = ", ".join(
        f"{cut.truncated} of {cut.texts} for {', '.join(metrics)} ({cut.context} tokens)"
        for cut, metrics in alike.items()
    )
    return f"texts are longer than a network reads: {said}"
