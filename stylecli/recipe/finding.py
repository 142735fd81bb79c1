"""How words are found for a style, and regions of a picture for words."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stylecli.recipe.strict import Count, Positive, Strict, Unit


class Words(Strict):
    """How a prompt is looked for that says what a style picture shows (PEZ)."""

    length: int = Field(8, ge=1, le=64, description="Words; one token each.")
    steps: Positive = Field(300, description="Optimiser steps.")
    lr: float = Field(0.1, gt=0, description="AdamW learning rate.")
    starts: Positive = Field(8, description="Random prompts to begin with, side by side.")
    template: str = Field("{}", description="What stands around the words, which replace {}.")


class Masks(Strict):
    """How regions are found in a picture, and how a mask becomes one of latents."""

    backend: str = Field(
        "auto",
        min_length=1,
        description="Who finds what words name: clusters, grounded-sam2, clipseg, sam3, sam-clip, "
        "fastsam or a plug-in's name; auto is clusters on pocket, grounded-sam2 elsewhere.",
    )
    model: str | None = Field(
        None, description="Hub id or folder of the backend's finder; default: its own."
    )
    segmenter: str | None = Field(
        None, description="Hub id or folder of its second model (SAM, CLIP); default: its own."
    )
    threshold: Unit | None = Field(
        None, description="Score below which a find is dropped; default: the backend's own."
    )
    text_threshold: Unit = Field(0.25, description="Grounding DINO's threshold for words.")
    min_score: float = Field(
        0.0, ge=-1.0, le=1.0, description="A best find that scores less matches nothing."
    )
    min_margin: Unit = Field(
        0.0, description="A best find that leads the next by less matches nothing."
    )
    select: Literal["best", "union"] | Count = Field(
        "best", description="Of several finds: the best, all of them as one, or one by number."
    )
    on_empty: Literal["error", "skip", "full"] = Field(
        "error", description="Nothing found: the item fails, goes on without, or is all region."
    )
    clusters: Annotated[int, Field(ge=2, le=32)] | None = Field(
        None,
        description="Number of clusters; default: for all regions the number of best silhouette, "
        "for words and places every number from 2 to 12.",
    )
    invert: bool = Field(False, description="The region is what a mask leaves out.")
    dilate_px: int = Field(
        0,
        ge=-1024,
        le=1024,
        description="Pixels of the model's size a mask grows by; negative shrinks it.",
    )
    feather_px: float = Field(
        0.0,
        ge=0.0,
        le=1024.0,
        description="Deviation of the blur at a mask's edge, in pixels of the model's size.",
    )
    resize: Literal["area", "threshold", "any", "nearest"] = Field(
        "area", description="What a latent cell takes of its pixels: mean, majority, any, middle."
    )
