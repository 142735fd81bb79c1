"""How results are scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from stylecli.recipe.strict import Count, Positive, Strict


class Evaluate(Strict):
    """How results are scored; changes no result."""

    preset: Literal[
        "core",
        "pocket",
        "features",
        "diffstyler",
        "stylegallery",
        "regionroute",
        "i2l",
        "leakage",
        "paired",
        "all",
    ] = Field("core", description="Which metrics, when none is named.")
    metrics: tuple[str, ...] = Field(
        (), description="Names replace the preset, +NAME adds, -NAME leaves out."
    )
    anchors: tuple[
        Literal["content_copy", "style_copy", "palette_transfer", "color_transfer", "mid_blend"],
        ...,
    ] = Field(
        ("content_copy", "style_copy", "palette_transfer"),
        description="Trivial methods that every table shows beside the others.",
    )
    # YAML reads a bare 512 as a number.
    pair_size: Annotated[Literal["output", "512"], BeforeValidator(str)] = Field(
        "output", description="Size at which pairs are compared; 512: shorter side, both scaled."
    )
    aspect: Literal["refuse", "crop", "squash"] = Field(
        "refuse", description="What to do when output and content differ in shape by over 1 %."
    )
    mask_polarity: Literal["white", "black"] = Field(
        "white", description="Which part of a mask picture is the region."
    )
    fid_ref: Literal["unique", "paired"] = Field(
        "unique",
        description="References of Fréchet distances: each style once, or as often as outputs have "
        "it, as older scripts count them.",
    )
    rsm_fit: Literal["square", "clip", "letterbox"] = Field(
        "square", description="How the region's crop becomes a square."
    )
    rsm_template: str = Field(
        "{style} style", pattern=r"\{style\}", description="Words that the crop is compared with."
    )
    pref_prompt: Literal["content", "content+style"] = Field(
        "content",
        description="Words that preference models judge by: the prompt, or PROMPT, STYLE.",
    )
    vlm_questions: Literal["named", "plain"] = Field(
        "named", description="What judges are asked about: the object by name, or 'the object'."
    )
    overall_ref: str | None = Field(
        None,
        description="JSON file {METRIC: [LOW, HIGH]} of fixed ranges for overall; default: the "
        "worst and the best method of the run.",
    )
    pair: Literal["names", "lexicographic"] = Field(
        "names", description="Pairing of bare folders: by file names, or both sorted."
    )
    pattern: str | None = Field(
        None,
        description="Regular expression of output names with groups content and style; default: "
        "CONTENT__STYLE, CONTENT_stylized_STYLE.",
    )
    batch: Positive = Field(16, description="Pictures per forward pass of an embedding network.")
    resamples: int = Field(10_000, ge=100, le=1_000_000, description="Of every bootstrap.")
    allow_partial: bool = Field(
        False, description="Compare methods that share under 90 % of their items."
    )
    limit: Positive | None = Field(None, description="Only the first so many items of a method.")
    seed: Count = Field(0, description="Seed of bootstraps and permutation tests.")
