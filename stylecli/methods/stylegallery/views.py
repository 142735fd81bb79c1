"""What contents and references show a layer at a timestep, each seen once for all who need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.capture import Capture, Part
from stylecli.backbone.model import Backbone


@dataclass(frozen=True, slots=True)
class Shown:
    """Parts of pictures by their numbers and layers; all without gradients, ``[1, h, n, d]``."""

    queries: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    taken: dict[tuple[int, str], tuple[Tensor, Tensor]] = field(default_factory=dict)


class Views:
    """Passes of pictures that nobody changes, as short as they can be."""

    def __init__(
        self,
        backbone: Backbone,
        capture: Capture,
        null: Float[Tensor, "1 tokens d"],
        queries: Iterable[int],
        keys: Iterable[int],
    ) -> None:
        """Decide who passes with whom.

        Contents pass as their latents will, so that equal ones have equal queries to the last bit.
        References pass alone: how many others there are, which the contents' companions decide,
        may change last bits of a pass, and updates follow signs.

        Args:
            backbone: With `capture` installed while it looks.
            capture: Of the layers that are compared.
            null: The prompt of no words, encoded.
            queries: Contents, of one size, where their queries are needed.
            keys: Pictures whose keys and values are; one of neither kind never passes.
        """
        self._backbone, self._capture, self._null = backbone, capture, null
        self._queries, self._keys = frozenset(queries), frozenset(keys)
        together = sorted(self._queries)
        at_once = backbone.max_rows or len(together) or 1
        self._passes = [
            together[first : first + at_once] for first in range(0, len(together), at_once)
        ] + [[number] for number in sorted(self._keys - self._queries)]

    @property
    def needed(self) -> list[int]:
        """The pictures that pass."""
        return [number for some in self._passes for number in some]

    @torch.no_grad()
    def look(self, latents: Mapping[int, Float[Tensor, "c _h _w"]], timestep: int) -> Shown:
        """Pass all pictures that are needed.

        Args:
            latents: Of those pictures, by their numbers.
            timestep: What the model is told.
        """
        shown = Shown()
        for numbers in self._passes:
            self._pass(numbers, torch.stack([latents[n] for n in numbers]), timestep, shown)
        return shown

    def _pass(self, numbers: Sequence[int], latents: Tensor, timestep: int, shown: Shown) -> None:
        asking = [number for number in numbers if number in self._queries]
        asked = [number for number in numbers if number in self._keys]
        whose: dict[Part, list[int]] = {}
        if asking:
            whose["queries"] = asking
        if asked:
            whose |= {"keys": asked, "values": asked}
        rows = {
            part: [numbers.index(number) for number in some]
            for part, some in whose.items()
            if len(some) < len(numbers)
        }
        prompts = self._null.expand(len(numbers), -1, -1)
        with self._capture.recording(*whose, stop=True, rows=rows) as captured:
            self._backbone.predict(latents, timestep, prompts)
        for layer, queries in captured.queries.items():
            for number, query in zip(asking, queries.split(1), strict=True):
                shown.queries[number, layer] = query
        for layer, keys in captured.keys.items():
            values = captured.values[layer].split(1)
            for number, key, value in zip(asked, keys.split(1), values, strict=True):
                shown.taken[number, layer] = key, value
