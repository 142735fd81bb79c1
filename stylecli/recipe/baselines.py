"""Settings of the methods that ours are compared with."""

from __future__ import annotations

from pydantic import Field

from stylecli.recipe.strict import AttentionLayers, Levels, Strict, Unit


class StyleId(Strict):
    """How a style's keys and values take the place of the content's (StyleID, CVPR 2024)."""

    layers: AttentionLayers = Field(
        "last_six", description="Decoder layers whose self-attention looks at the style."
    )
    gamma: Unit = Field(0.75, description="Share of the content's own queries.")
    temperature: float = Field(
        1.5, gt=0, le=100, description="Factor of the attention's logits; above 1 it is sharper."
    )
    adain: bool = Field(
        True, description="Start from the content's noise with the style's channel statistics."
    )


class Distill(Strict):
    """How latents are led to the style's attention (Attention Distillation, CVPR 2025)."""

    layers: AttentionLayers = Field(
        "last_six", description="Decoder layers whose self-attention is compared."
    )
    iterations: Levels = Field(
        200, description="Updates, each at a timestep of its own, noisiest first."
    )
    lr: float = Field(0.05, gt=0, le=10, description="Adam's learning rate, constant.")
    content_weight: float = Field(
        0.25, ge=0, le=1000, description="How much the content's queries count (lambda)."
    )
    scale: float = Field(
        1.0, gt=0, le=100, description="Factor of the target's logits; above 1 it is sharper."
    )
    gradient_checkpointing: bool = Field(False, description="Less memory, more work.")
