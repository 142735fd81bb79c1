"""What a recipe may say: one frozen section per concern, in the words of the papers.

A recipe is data. Nothing here loads a model or opens a file, so a wrong recipe fails in the
terminal before any weight is read. Thresholds are counted in sampling steps: ``0`` is off,
``sampling.steps`` is "to the end".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Pixels = Annotated[int, Field(ge=1, le=16384)]
# No model here was trained on more levels of noise.
Levels = Annotated[int, Field(ge=1, le=1000)]
Count = Annotated[int, Field(ge=0)]
Unit = Annotated[float, Field(ge=0.0, le=1.0)]
# Autoencoders have nothing to say about smaller squares.
MIN_CROP_PX = 32
Layers = Literal["none", "anchor", "from_anchor", "all"] | tuple[Count, ...]


class Strict(BaseModel):
    """A section: unknown keys are refused, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


class Backbone(Strict):
    """Which frozen diffusion model everything runs on."""

    id: str = Field("pocket", description="A name from `style models list`, or a local folder.")
    revision: str | None = Field(None, description="Commit of the hub repository; default: pinned.")
    variant: str | None = Field(None, description="Weight file variant, such as fp16.")


class Device(Strict):
    """Where it runs and how much it may take."""

    name: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        description="Where it computes; auto takes a GPU if there is one.",
        examples=["auto", "cpu", "cuda", "cuda:1", "mps"],
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Type of the frozen weights; latents are always float32."
    )


class Lora(Strict):
    """How a style becomes a LoRA (DiffStyler eq. 3)."""

    rank: int = Field(16, ge=1, le=1024, description="Rank of every LoRA pair.")
    alpha: float | None = Field(None, gt=0, description="Scale times rank; default: the rank.")
    steps: Positive = Field(200, description="Optimiser steps; 200 suit one image.")
    lr: float = Field(2e-4, gt=0, description="AdamW learning rate, constant.")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW weight decay.")
    batch: Positive = Field(1, description="Rows per optimiser step.")
    targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v"), min_length=1, description="Projections that get a LoRA."
    )
    prompt: str = Field(
        "a picture in <sss> style", description="Caption of the style, and its trigger later."
    )
    resolution: Pixels = Field(512, description="Short side of a training image, in pixels.")
    crop: Literal["center", "random"] = Field(
        "center",
        description="center: the whole picture, cut to multiples of 64 px; "
        "random: a new square of `crop_px` for every row.",
    )
    crop_px: int = Field(128, ge=MIN_CROP_PX, description="Side of a random square, in pixels.")
    caption_dropout: Unit = Field(0.0, description="Share of rows trained on the empty caption.")
    gradient_checkpointing: bool = Field(False, description="Less memory, a third more work.")
    save_every: Positive = Field(50, description="Steps between checkpoints.")
    dtype: Literal["float16", "float32"] = Field("float16", description="Type in the LoRA file.")
    format: Literal["diffusers", "kohya", "peft", "comfy"] = Field(
        "diffusers", description="Key names in the LoRA file."
    )


class Inversion(Strict):
    """How a content image is carried to noise (DDIM, guidance 1, empty prompt)."""

    steps: Levels = Field(50, description="Levels of noise; must contain the sampling grid.")
    pairing: Literal["target", "matched"] = Field(
        "target", description="Timestep given to the UNet: of the level entered, or left."
    )
    refine_iters: Count = Field(0, description="Fixed-point passes per level; 1 or 3 pay most.")


class Sampling(Strict):
    """How the stylised image is sampled."""

    size: Pixels = Field(512, description="Short side of the picture in pixels.")
    steps: Levels = Field(50, description="DDIM steps.")
    guidance: float = Field(
        10.5, ge=1.0, le=1000.0, description="Classifier-free guidance; 1 is off."
    )
    prompt: str | None = Field(None, description="Default: the caption the LoRA was trained with.")
    negative: str = Field("", description="Negative prompt.")
    weight: float = Field(1.0, ge=-1000.0, le=1000.0, description="Strength of the LoRA.")
    start: Literal["inversion", "palette", "adain"] = Field(
        "inversion",
        description="First latent: the content's noise (both papers); the noise of the content in "
        "the style's colours; or the content's noise with the channel statistics of the style's "
        "(StyleID, eq. 7; needs --style).",
    )
    seed: Count = Field(0, description="Seed of the run; every item derives its own.")


class Injection(Strict):
    """What the content image's own pass hands to the stylised one, where and for how long."""

    feature_layers: Layers = Field(
        "anchor", description="Decoder layers whose feature is replaced."
    )
    feature_tap: Literal["residual", "output"] = Field(
        "residual", description="Replace the residual branch, or the whole block's output."
    )
    feature_steps: Count = Field(30, description="Steps with feature injection (S_f).")
    attn_layers: Layers = Field("from_anchor", description="Decoder layers with self-attention.")
    attn_cross: Layers = Field("none", description="Decoder layers with cross-attention injection.")
    attn_steps: Count = Field(25, description="Steps of full attention injection (S_a).")
    attn_tail: Literal["adaptive", "time", "printed", "hard", "full"] = Field(
        "adaptive", description="How attention injection fades after `attn_steps` (eq. 5)."
    )
    attn_mix: Literal["probs", "qk"] = Field(
        "probs", description="Interpolate attention matrices (eq. 5), or queries and keys."
    )
    source: Literal["replay", "denoise"] = Field(
        "replay", description="Source branch: the stored trajectory, or its own DDIM path (eq. 4)."
    )


class Evaluate(Strict):
    """How results are scored; changes no result."""

    preset: Literal[
        "core", "pocket", "diffstyler", "stylegallery", "regionroute", "leakage", "paired", "all"
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
    rsm_fit: Literal["square", "clip", "letterbox"] = Field(
        "square", description="How the region's crop becomes a square."
    )
    rsm_template: str = Field(
        "{style} style", pattern=r"\{style\}", description="Words that the crop is compared with."
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


class Recipe(Strict):
    """One section per concern; a command reads its own."""

    description: str = Field("", description="One line for `style recipes list`.")
    backbone: Backbone = Backbone()
    device: Device = Device()
    lora: Lora = Lora()
    inversion: Inversion = Inversion()
    sampling: Sampling = Sampling()
    injection: Injection = Injection()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Recipe:
        problems = []
        for key in ("feature_steps", "attn_steps"):
            value = getattr(self.injection, key)
            if value > self.sampling.steps:
                problems.append(
                    f"injection.{key} is {value}, beyond sampling.steps; "
                    f"allowed 0 to {self.sampling.steps}"
                )
        if self.lora.crop == "random" and self.lora.crop_px > self.lora.resolution:
            problems.append(
                f"lora.crop_px is {self.lora.crop_px}, larger than lora.resolution; "
                f"allowed {MIN_CROP_PX} to {self.lora.resolution}"
            )
        if problems:
            # One a line, each opening with the key to change: `load` finds its place by that.
            raise ValueError("\n".join(problems))
        return self
