"""What things are called: every cell of a thing is to ask for its name and not for another's.

Attention compares places with one instruction's words. Which of two things is meant it learns only
from pairs of them; here each is compared with the names of all the others of a batch, as CLIP does
(Radford et al. 2021), by the very products that attention is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stylecli.backbone.attention import split_heads
from stylecli.backbone.probe.unet import UnetProbe


class NamingProbe(UnetProbe):
    """A probe that also keeps what each cell asks for."""

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__(layers)
        self._queries: dict[int, Tensor] = {}

    def record(self, processor: Any, query: Tensor, key: Tensor, scale: float) -> None:
        """As `UnetProbe` does, and the queries, scaled."""
        super().record(processor, query, key, scale)
        self._queries[id(processor)] = query * scale

    def clear(self) -> None:
        """As `UnetProbe` does."""
        super().clear()
        self._queries = {}

    def scores(
        self,
        unet: Any,
        rows: Sequence[int],
        masks: Float[Tensor, "k h w"],
        spoken: Float[Tensor, "k n c"],
        words: Float[Tensor, "k n"],
    ) -> Float[Tensor, "k k"]:
        """How much each thing asks for each name: mean products over layers, heads, cells, words.

        Args:
            unet: Whose layers recorded, since `watch`.
            rows: Of the pass, in which each thing is seen.
            masks: Where it is.
            spoken: An instruction for each that names it.
            words: Shares of its tokens; 0 of those that are not the name.
        """
        found = []
        for name, processor in self._processors.items():
            layer = unet.get_submodule(name)
            keys = split_heads(layer, layer.to_k(spoken))
            said = torch.einsum("khnd,kn->khd", keys, words)
            where = F.adaptive_avg_pool2d(masks[None], processor.cells)[0].flatten(1)
            where = where / where.sum(dim=1, keepdim=True).clamp(min=1e-6)
            asking = torch.einsum("khnd,kn->khd", self._queries[id(processor)][rows], where)
            found.append(torch.einsum("xhd,yhd->xy", asking, said) / layer.heads)
        return torch.stack(found).mean(0)


# Of products that begin as small as these.
SHARPNESS = 4.0


def loss(scores: Float[Tensor, "k k"], names: Sequence[str]) -> Float[Tensor, ""]:
    """Cross entropy of each thing's name among all, and of each name's thing.

    Args:
        scores: Of things by names.
        names: Of each; what goes by the same name is not compared with it.
    """
    count = len(names)
    same = torch.tensor([[one == other for other in names] for one in names])
    others = same & ~torch.eye(count, dtype=torch.bool)
    apart = (SHARPNESS * scores).masked_fill(others, -torch.inf)
    wanted = torch.arange(count)
    return (F.cross_entropy(apart, wanted) + F.cross_entropy(apart.T, wanted)) / 2
