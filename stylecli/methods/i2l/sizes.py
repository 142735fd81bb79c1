"""How large a predictor is, as plain numbers: its shape, and the layers whose LoRA it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from stylecli.backbone.linears import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A predictor's sizes, in the letters of the paper.

    Attributes:
        encoder_width: d_e, of the tokens of a reference.
        width: d of the trunk.
        depth: Its blocks.
        heads: Of attention.
        hidden: f, inside the feed-forward layers.
        bottleneck: c of the compressed heads.
        rank: k of the LoRA.
        query_std: Of the queries at the beginning; too small, and the rows of a layer stay equal.
    """

    encoder_width: int
    width: int
    depth: int
    heads: int
    hidden: int
    bottleneck: int
    rank: int
    query_std: float = 0.5

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.bottleneck < 4 * self.rank:
            # All rows of a layer lie in a space of so many dimensions.
            raise ValueError(f"bottleneck {self.bottleneck} is below 4 x rank {self.rank}")

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        return cls(**said)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def parameters(shape: Shape, layers: Sequence[Layer]) -> int:
    """How many numbers such a predictor has, by formula (i2l.md of the method's page)."""
    d, f = shape.width, shape.hidden
    trunk = shape.depth * (4 * d * d + 3 * d * f + 2 * d + 2 * (d // shape.heads))
    queries = 2 * shape.rank * len(layers) * d
    heads = shape.bottleneck * (2 * len(layers) * d + total_width(layers))
    return trunk + queries + heads + shape.encoder_width * (d + 1) + 2 * d


def total_width(layers: Sequence[Layer]) -> int:
    """S: inputs and outputs of all layers, so a LoRA of rank k has k S numbers."""
    return sum(layer.width_in + layer.width_out for layer in layers)
