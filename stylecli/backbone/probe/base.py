"""What a recording of attention is asked, whatever model it is taken from (RegionRoute eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# For each row of a batch, for each supervised phrase: the places of its tokens in the text.
Phrases = Sequence[Sequence[Sequence[int]]]


class Probe(Protocol):
    """Recording attention of one model; recording never changes what the model answers.

    Opened by `Editor.probing`, in whose block the model's attention layers record. Under gradient
    checkpointing layers run again on the way back: `watch` stays as it is until that has ended.

    Attributes:
        enabled: Whether passes are recorded; off, a pass costs and leaves nothing.
        layers: Names of the layers that record, in the order of `per_layer`.
    """

    enabled: bool
    layers: tuple[str, ...]

    def watch(self, phrases: Phrases, grid: tuple[int, int]) -> None:
        """Say which tokens the next passes are asked about.

        Args:
            phrases: As many rows as the batch; rows with fewer phrases than others leave zeros.
            grid: Rows and columns of the maps, `Editor.grid` of the latents.
        """
        ...

    def maps(self) -> Float[Tensor, "b n e"]:
        """Of the last pass: the mean over layers, heads and a phrase's tokens, float32.

        ``n`` is the grid's cells, row after row; ``e`` the phrases. Carries gradients where the
        pass did.

        Raises:
            RuntimeError: No pass was recorded since `watch`.
        """
        ...

    def per_layer(self) -> list[Float[Tensor, "b n e"]]:
        """The same of each layer, on the same grid."""
        ...

    def clear(self) -> None:
        """Let go of what was recorded."""
        ...

    def kept(self) -> Kept:
        """What was recorded before the block is what is recorded after it."""
        ...


class Kept(AbstractContextManager[None]):
    """A block after which recorders hold what they held before it, as often as it is entered."""

    def __init__(self, recorders: Sequence[object], name: str) -> None:
        """Name what they hold.

        Args:
            name: Of an attribute that recorders replace and never change in place.
        """
        self._recorders, self._name = recorders, name
        self._before: list[object] = []

    def __enter__(self) -> None:
        self._before = [getattr(recorder, self._name) for recorder in self._recorders]

    def __exit__(self, *_: object) -> None:
        for recorder, before in zip(self._recorders, self._before, strict=True):
            setattr(recorder, self._name, before)
        self._before = []


def twice(probe: Probe | None, block: nn.Module, *inputs: object) -> Any:
    """A block that keeps its inputs alone, and runs again on the way back.

    What that run records would hold on to all that it computed until the next step, and
    checkpointing would spare little; so it leaves what the first run recorded.
    """
    kept = nullcontext() if probe is None else probe.kept()
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), kept))
