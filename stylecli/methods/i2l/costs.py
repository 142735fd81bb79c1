"""What a prediction costs, in floating-point operations, from sizes alone.

An addition and a multiplication count as two operations. Encoders and trunks are transformers:
twice their parameters for every token, and attention.
"""

from __future__ import annotations

from collections.abc import Sequence

from stylecli.backbone.linears import Layer
from stylecli.methods.i2l.encoders.siglip import Tower
from stylecli.methods.i2l.sizes import Shape, total_width

# What pages compare: a prediction from so many, and a LoRA that is trained for so long.
REFERENCES = 4
LORA_STEPS = 200


def encoding(tower: Tower, references: int) -> float:
    """FLOPs of a SigLIP tower on some references."""
    linear = 2 * tower.parameters * tower.tokens
    attention = 4 * tower.tokens**2 * tower.width * tower.depth
    return float(references * (linear + attention))


def predicting(shape: Shape, layers: Sequence[Layer], tokens: int) -> float:
    """FLOPs from tokens to a LoRA.

    Args:
        tokens: Of all references together.
    """
    d, f, depth = shape.width, shape.hidden, shape.depth
    rows = 2 * shape.rank * len(layers) + tokens
    trunk = 2 * (4 * d * d + 3 * d * f) * depth * rows + 4 * rows**2 * d * depth
    heads = 2 * shape.rank * shape.bottleneck * (2 * len(layers) * d + total_width(layers))
    return float(trunk + heads)


def passing(layers: Sequence[Layer], tokens: int) -> float:
    """FLOPs of some linear layers of a backbone on as many tokens each: a pass is at least that."""
    return 2.0 * tokens * sum(layer.width_in * layer.width_out for layer in layers)


def training_a_lora(forward: float, steps: int = LORA_STEPS) -> float:
    """FLOPs of what a prediction stands in for: a LoRA trained on one picture a step.

    Args:
        forward: Of one pass of the backbone. The way back takes as much again, since frozen
            weights need no gradients of their own.
        steps: Of the optimiser.
    """
    return 2 * forward * steps
