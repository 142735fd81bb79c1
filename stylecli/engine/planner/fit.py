"""Device settings with which work fits a memory: of those, the fastest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stylecli.engine.planner.costs import Cost
from stylecli.errors import UsageError
from stylecli.recipe.schema import Device, Recipe

# Labels of memory are in these, which leaves of a card's GiB what the estimate may be wrong by.
GB = 1e9
# Times that differ by less are the same: then the fewest means count, and the least memory.
SAME = 1.02
CHECKPOINTING = "lora.gradient_checkpointing"
CHECKPOINTING_OF_GALLERY = "gallery.gradient_checkpointing"
KEYS = ("device.batch", "device.max_rows", "device.tiling", "device.offload", CHECKPOINTING)
MOST_BATCH = 256


class Costs(Protocol):
    """Whoever knows what settings cost."""

    def cost(self, settings: Device, *, checkpointing: bool) -> Cost:
        """Seconds and memory of one run."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings, and what the run takes with them.

    Attributes:
        values: By dotted key, those that were open.
    """

    values: Mapping[str, Any]
    cost: Cost


def choose(
    planner: Costs,
    recipe: Recipe,
    *,
    gigabytes: float,
    items: int,
    learns: bool,
    can_wait: bool,
    kept: Collection[str] = (),
    checkpointing: str = CHECKPOINTING,
) -> Choice:
    """The fastest settings whose estimated peak fits; with more memory never slower ones.

    Args:
        planner: Knows what settings cost.
        recipe: Says what the settings are that are kept.
        gigabytes: Of the GPU where it computes on one, else of the process.
        items: A batch of more would be filled up in vain.
        learns: Gradients are followed, and keeping less for them is a choice.
        can_wait: Weights may wait in main memory.
        kept: Keys that the user decided.
        checkpointing: The key of that choice.

    Raises:
        UsageError: Nothing fits.
    """
    least = math.inf
    best: tuple[tuple[int, int, int], Choice] | None = None
    for values in _candidates(recipe, items, kept, checkpointing, learns=learns, can_wait=can_wait):
        own = {key.removeprefix("device."): v for key, v in values.items() if key != checkpointing}
        cost = planner.cost(
            recipe.device.model_copy(update=own), checkpointing=bool(values[checkpointing])
        )
        least = min(least, cost.memory_bytes)
        if cost.memory_bytes > gigabytes * GB:
            continue
        strain = _strain(values, checkpointing)
        order = (math.floor(math.log(cost.seconds, SAME)), strain, cost.memory_bytes)
        if best is None or order < best[0]:
            best = order, Choice({k: v for k, v in values.items() if k not in kept}, cost)
    if best is None:
        needed = math.ceil(least / GB * 10) / 10
        because = f" with {', '.join(sorted(kept))} as given" if kept else ""
        raise UsageError(
            f"--fit {gigabytes:g}: nothing fits{because}; the least is about {needed:g} GB",
            fix=f"--fit {needed:g}, or a smaller sampling.size",
        )
    return best[1]


def _candidates(
    recipe: Recipe,
    items: int,
    kept: Collection[str],
    checkpointing: str,
    *,
    learns: bool,
    can_wait: bool,
) -> Iterator[dict[str, Any]]:
    """All combinations; what would change nothing here stands as it is, and rows at their most."""
    device = recipe.device
    batches = _powers(min(items, MOST_BATCH))
    is_gallery = checkpointing == CHECKPOINTING_OF_GALLERY
    guided = 1 if recipe.sampling.guidance == 1 or is_gallery else 2
    usual = (recipe.gallery if is_gallery else recipe.lora).gradient_checkpointing
    options: dict[str, Sequence[Any]] = {
        "device.batch": batches,
        "device.max_rows": [None, *_powers(guided * batches[-1])],
        "device.tiling": [False, True],
        "device.offload": ["none", "parts", "blocks"] if can_wait else [device.offload],
        checkpointing: [False, True] if learns else [usual],
    }
    own = {key: getattr(device, key.removeprefix("device.")) for key in KEYS[:-1]}
    own[checkpointing] = usual
    options |= {key: [value] for key, value in own.items() if key in kept}
    for values in itertools.product(*options.values()):
        found = dict(zip(options, values, strict=True))
        rows = found["device.max_rows"]
        # More rows than there are is all of them.
        if rows is None or "device.max_rows" in kept or rows < guided * found["device.batch"]:
            yield found


def _strain(values: Mapping[str, Any], checkpointing: str) -> int:
    """How many means are used that are no gain in themselves."""
    return sum(
        (
            values["device.max_rows"] is not None,
            values["device.tiling"],
            values["device.offload"] != "none",
            values[checkpointing],
        )
    )


def _powers(most: int) -> list[int]:
    """1, 2, 4 and so on, and the most there may be.

    >>> _powers(1), _powers(4), _powers(6)
    ([1], [1, 2, 4], [1, 2, 4, 6])
    """
    most = max(1, most)
    return sorted({2**n for n in range(most.bit_length())} | {most})
