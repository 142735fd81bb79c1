"""What a step of RegionRoute takes on FLUX.1-Kontext, from sizes alone: operations and bytes.

An addition and a multiplication count as two operations. Blocks of both kinds have 12 D^2 active
weights a token: double blocks have as many again, for the other stream. Bytes of activations are
counted on a block of the real class; the library's own work space is not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stylecli.recipe.strict import Quantize

# A fused kernel's way back computes five products where the way there has two.
BACK = 2.5
# Bytes a token and channel that a block keeps for the way back in bfloat16, its input included.
KEPT = 46.0
# bitsandbytes keeps a number of 4 bits a weight, and a scale of 4 bytes for each 64.
NF4_BYTES = 0.5 + 4 / 64


@dataclass(frozen=True, slots=True)
class Step:
    """A micro-batch: how many pairs, and of how many tokens.

    Attributes:
        pairs: That pass the model together.
        cells: Tokens of the target; the reference has as many.
        text: Tokens of the instruction, padding included.
    """

    pairs: int
    cells: int
    text: int

    @property
    def tokens(self) -> int:
        """Of the joint sequence."""
        return self.text + 2 * self.cells


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak of a step.

    Attributes:
        weights: Frozen.
        learning: LoRAs with their gradients and AdamW's two moments, float32.
        kept: From the way there for the way back.
        working: What one block has in hand while it runs again.
    """

    weights: int
    learning: int
    kept: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.learning + self.kept + self.working


def parameters(config: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers in the blocks' linear layers, and in all else.

    Args:
        config: Of a ``FluxTransformer2DModel``, of which one is in `configs.CONFIGS`.
    """
    d = _width(config)
    head, seen = config["attention_head_dim"], config["in_channels"]
    # Modulation 6 D, attention 4 D, feed-forward 8 D: for picture and for text.
    double = 2 * (18 * d * d + 15 * d)
    # Modulation 3 D, attention 3 D, feed-forward up 4 D, both back from 5 D.
    single = 15 * d * d + 11 * d
    blocks = config["num_layers"] * double + config["num_single_layers"] * single
    norms = (4 * config["num_layers"] + 2 * config["num_single_layers"]) * head
    embedders = (seen + config["joint_attention_dim"]) * d + 2 * d
    # Of sinusoids of 256 numbers: the time, and where there is one the guidance.
    times = (1 + bool(config["guidance_embeds"])) * (256 * d + d * d + 2 * d)
    pooled = config["pooled_projection_dim"] * d + d * d + 2 * d
    last = 2 * d * d + 2 * d + d * seen + seen
    return blocks, norms + embedders + times + pooled + last


def adapter(config: Mapping[str, Any], rank: int) -> int:
    """Numbers of an expert on the queries, keys, values and outputs of attention."""
    layers = 4 * config["num_layers"] + 3 * config["num_single_layers"]
    return int(layers * rank * 2 * _width(config))


def forward(config: Mapping[str, Any], tokens: int) -> float:
    """FLOPs of one pair on the way there: linear layers and attention."""
    linear, attention = _forward(config, tokens)
    return linear + attention


def training(config: Mapping[str, Any], step: Step, *, checkpointing: bool) -> float:
    """FLOPs of a micro-batch there and back, without those of a probe.

    Frozen weights have no gradients of their own, so the way back through them costs as much as the
    way there; with checkpointing everything is computed once more.
    """
    linear, attention = _forward(config, step.tokens)
    back = linear + BACK * attention
    again = linear + attention if checkpointing else 0.0
    return step.pairs * (linear + attention + back + again)


def probing(
    config: Mapping[str, Any],
    step: Step,
    *,
    layers: int,
    checkpointing: bool,
    padded: bool = False,
) -> float:
    """FLOPs of recording attention in so many layers, there and back.

    Args:
        padded: Whether this machine's kernel needs values as wide as heads are, which doubles it.
    """
    products = 2 if padded else 1
    there = products * 2.0 * step.cells * step.tokens * _width(config) * layers
    return step.pairs * there * (1 + BACK + checkpointing)


def weights(config: Mapping[str, Any], quantize: Quantize) -> int:
    """Bytes of the frozen transformer, in bfloat16 but for its blocks' linear layers."""
    blocks, rest = parameters(config)
    each = {"none": 2.0, "int8": 1.0, "nf4": NF4_BYTES}[quantize]
    return int(blocks * each + rest * 2)


def memory(
    config: Mapping[str, Any],
    step: Step,
    *,
    checkpointing: bool,
    quantize: Quantize = "none",
    rank: int = 4,
) -> Memory:
    """Bytes at the peak of a step of training, text encoders and autoencoder let go."""
    blocks = config["num_layers"] + config["num_single_layers"]
    one = step.pairs * step.tokens * _width(config)
    kept = 2 * one * blocks if checkpointing else int(KEPT * one * blocks)
    return Memory(
        weights=weights(config, quantize),
        learning=4 * 4 * adapter(config, rank),
        kept=kept,
        # With checkpointing a block's own, and the slopes that it passes on.
        working=int((KEPT if checkpointing else 0) * one) + 4 * one,
    )


def _forward(config: Mapping[str, Any], tokens: int) -> tuple[float, float]:
    d, blocks = _width(config), config["num_layers"] + config["num_single_layers"]
    return 2.0 * 12 * d * d * blocks * tokens, 4.0 * tokens**2 * d * blocks


def _width(config: Mapping[str, Any]) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])
