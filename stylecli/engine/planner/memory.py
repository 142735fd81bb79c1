"""From tensors that live at the same time to the memory of a process, or of a GPU.

Allocators take more than is asked of them. glibc maps large blocks one by one and gives them back;
small ones share a heap that holds holes, and that does not shrink. Measured on the models that ship
(`docs/decisions/0006-estimates.md`); CUDA's figures are the allocator's own rules, not measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from stylecli.engine.planner.passes import Pass

# From here on glibc never takes a block from the heap.
LARGE = 32 * 2**20
# Heap that small blocks take, for each byte of them that is alive: in passes, which make blocks of
# many sizes and drop them at once, and in training, which keeps most of them for a while.
HOLES, HOLES_OF_TRAINING = 2.15, 1.3
# Code, compiled kernels and the tables of tokenizers, once a model has run.
RUNNING = 45_000_000
# Python and all libraries, where the process cannot be asked.
LIBRARIES = 470_000_000
# A picture file while it is read, a pixel: as it is stored, as numbers, and once more scaled.
READING = 27
# A GPU: the driver's own, the libraries' work spaces, and blocks that are rounded up and split.
CONTEXT = 450_000_000
WORKSPACES = 80_000_000
ROUNDING = 1.1


@dataclass(frozen=True, slots=True)
class Alive:
    """Bytes alive at the worst moment, by the size of the blocks.

    Attributes:
        small: The most there ever is of blocks that share a heap.
        large: The most of the others.
        both: The most of both at one moment.
    """

    small: float = 0.0
    large: float = 0.0
    both: float = 0.0

    def __add__(self, other: Alive) -> Alive:
        return Alive(self.small + other.small, self.large + other.large, self.both + other.both)


NOTHING = Alive()


@cache
def alive(one: Pass, rows: int) -> Alive:
    """What a pass of so many rows keeps alive at its worst moment."""
    factor = rows / one.rows
    sizes: dict[int, float] = {}
    now = {True: 0.0, False: 0.0}
    most = {True: 0.0, False: 0.0}
    both = 0.0
    for number, made in one.walk.events:
        if made:
            size = sizes[number] = made * factor
        else:
            size = -sizes.pop(number)
        is_large = abs(size) >= LARGE
        now[is_large] += size
        most[is_large] = max(most[is_large], now[is_large])
        both = max(both, now[True] + now[False])
    return Alive(most[False], most[True], both)


def kept(blocks: Iterable[float]) -> Alive:
    """Blocks that stay."""
    small = large = 0.0
    for size in blocks:
        if size >= LARGE:
            large += size
        else:
            small += size
    return Alive(small, large, small + large)


def of_process(
    libraries: int, resident: float, before: Iterable[Alive], after: Iterable[Alive] = ()
) -> int:
    """Peak of a process that computes on the CPU.

    Args:
        libraries: Bytes of a process without a model.
        resident: Weights, and what else stays.
        before: Phases, holes counted; one heap serves all of them.
        after: Phases that find the heap full of holes too small for their blocks.
    """
    before, after = list(before), list(after)
    heap = max((one.small for one in before), default=0.0)
    heap += max((one.small for one in after), default=0.0)
    large = max((one.large for one in (*before, *after)), default=0.0)
    return round(libraries + RUNNING + resident + heap + large)


def with_holes(one: Alive, holes: float) -> Alive:
    """What small blocks take of a heap."""
    return Alive(one.small * holes, one.large, one.both)


def of_gpu(resident: float, transient: float) -> int:
    """Peak of a GPU's memory in one phase, with what the driver takes."""
    return round(CONTEXT + WORKSPACES + (resident + transient) * ROUNDING)


def libraries() -> int:
    """What this process holds, in which all libraries are loaded and no weights."""
    try:
        with open("/proc/self/statm", "rb") as stream:  # noqa: PTH123 - no file of anybody's
            pages = int(stream.read().split()[1])
    except (OSError, ValueError, IndexError):
        return LIBRARIES
    import resource

    return pages * resource.getpagesize()
