"""What a recipe may say: one frozen section per concern, in the words of the papers.

A recipe is data. Nothing here loads a model or opens a file, so a wrong recipe fails in the
terminal before any weight is read. Thresholds are counted in sampling steps: ``0`` is off,
``sampling.steps`` is "to the end". Shares of them are numbers before a recipe is made (`shares`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from stylecli.recipe import timeline
from stylecli.recipe.backbones import canonical
from stylecli.recipe.baselines import Distill, StyleId
from stylecli.recipe.finding import Masks, Words
from stylecli.recipe.gallery import Dfcc, Gallery, Matching
from stylecli.recipe.i2l import I2L
from stylecli.recipe.route import Route
from stylecli.recipe.scoring import Evaluate
from stylecli.recipe.strict import (
    Count,
    Levels,
    Pixels,
    Positive,
    Quantize,
    Strict,
    Timestep,
    Unit,
    Weight,
)

# Autoencoders have nothing to say about smaller squares.
MIN_CROP_PX = 32
Layers = Literal["none", "anchor", "from_anchor", "all"] | tuple[Count, ...]


class Backbone(Strict):
    """Which frozen diffusion model everything runs on."""

    id: Annotated[str, AfterValidator(canonical)] = Field(
        "pocket",
        description="A name from `style models list`, a local folder, or a hub id (OWNER/NAME).",
    )
    revision: str | None = Field(None, description="Commit of the hub repository; default: pinned.")
    variant: str | None = Field(None, description="Weight file variant, such as fp16.")
    quantize: Quantize = Field(
        "none",
        description="Frozen weights of the denoiser, and of a language model that reads prompts, "
        "in fewer bits: int8, or nf4 on an NVIDIA GPU (extra `quant`).",
    )


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
    batch: int = Field(
        1,
        ge=1,
        le=256,
        description="Pictures that the model sees together; a GPU is faster with more.",
    )
    looks: int = Field(
        8, ge=1, le=64, description="Looks of one content that are painted side by side."
    )
    max_rows: Positive | None = Field(
        None, description="Rows that pass the denoiser together; 1 takes the least memory."
    )
    adapters: Literal["passes", "fused", "rows"] = Field(
        "passes",
        description="Several looks: a pass of each with its LoRA beside the weights, or merged "
        "into copies of them, or all in one pass with a LoRA for each row.",
    )
    source_cache: Literal["none", "device", "cpu", "disk"] = Field(
        "none", description="Where a content's features wait for its next look."
    )
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = Field(
        "none",
        description="Mode of torch.compile; reduce-overhead records CUDA graphs.",
    )
    channels_last: bool = Field(True, description="Memory layout; faster on most hardware.")
    tiling: bool = Field(False, description="Encode and decode large pictures in tiles.")
    offload: Literal["none", "parts", "blocks"] = Field(
        "none",
        description="What waits in main memory: nothing, the parts that are not at work, or all "
        "but the UNet's block at work.",
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


def _or_share(schema: dict[str, Any]) -> None:
    """For editors and pages: `stylecli.recipe.shares` turns a share of all steps into a number."""
    options = schema.pop("anyOf", None) or [{key: schema.pop(key) for key in _KIND & schema.keys()}]
    share = {"type": "string", "pattern": SHARE, "examples": ["60%"]}
    schema["anyOf"] = [options[0], share, *options[1:]]


def _or_share_by_default(default: str) -> Any:
    def described(schema: dict[str, Any]) -> None:
        _or_share(schema)
        schema["default"] = default

    return described


def _or_null(schema: dict[str, Any]) -> None:
    """For editors and pages: the same module turns null into the number of sampling steps."""
    own = {key: schema.pop(key) for key in _KIND & schema.keys()}
    schema.update(anyOf=[own, {"type": "null"}], default=None)


# Keywords that say what a value is, apart from what it means.
_KIND = {"type", "items", "minItems", "minimum", "maximum"}
SHARE = r"^\d+(\.\d+)?%$"


class Inversion(Strict):
    """How a content image is carried to noise (DDIM, guidance 1, empty prompt)."""

    steps: Levels = Field(
        50,
        description="Levels of noise, which must contain the sampling grid; null is that grid.",
        json_schema_extra=_or_null,
    )
    pairing: Literal["target", "matched"] = Field(
        "target", description="Timestep given to the model: of the level entered, or left."
    )
    refine_iters: Count = Field(0, description="Fixed-point passes per level; 1 or 3 pay most.")


class Part(Strict):
    """One LoRA of a sum."""

    lora: str = Field(min_length=1, description="A LoRA, or a picture to learn one from.")
    weight: Weight | None = Field(None, description="Its strength; default: sampling.weight.")


Edge = Count | Annotated[str, Field(pattern=SHARE)]


class Entry(Strict):
    """One entry of a schedule: LoRAs that act together for some steps (DiffStyler eq. 9)."""

    loras: tuple[Part, ...] = Field((), description="All at once; none is the base model.")
    start: Edge = Field(0, description="First step, or a share such as 60%.")
    end: Edge | None = Field(None, description="Step after the last; default: all that are left.")
    prompt: str | None = Field(None, description="Default: that of the region, or the LoRAs' own.")


def _or_text(schema: dict[str, Any]) -> None:
    """For editors: what `stylecli.recipe.shorthand` turns into this may be written instead."""
    options = schema.pop("anyOf", None) or [{key: schema.pop(key) for key in _KIND & schema.keys()}]
    schema["anyOf"] = [*options, {"type": "string"}]


def _or_texts(schema: dict[str, Any]) -> None:
    schema["items"] = {"anyOf": [schema["items"], {"type": "string"}]}


Entries = Annotated[tuple[Entry, ...], Field(min_length=1)]


class Region(Strict):
    """One part of the picture and what it is painted with (DiffStyler eq. 8)."""

    mask: str = Field(
        min_length=1,
        description="A picture, white inside; {content} in its name is that of the photograph; "
        "or text:WORDS, found by `masks.backend`.",
    )
    schedule: Entries = Field(
        description="Its LoRAs: a schedule, or one LoRA for all steps.", json_schema_extra=_or_text
    )
    prompt: str | None = Field(None, description="Default: sampling.prompt, or the LoRAs' own.")
    negative: str | None = Field(None, description="Default: sampling.negative.")
    guidance: Annotated[float, Field(ge=1.0, le=1000.0)] | None = Field(
        None, description="Default: sampling.guidance."
    )


class Sampling(Strict):
    """How the stylised image is sampled."""

    method: Literal["diffstyler", "styleid", "attn-distill"] = Field(
        "diffstyler",
        description="Of `transfer`: diffstyler learns a LoRA; styleid (section styleid) and "
        "attn-distill (section distill) learn nothing and need style pictures.",
    )
    size: Pixels = Field(512, description="Short side of the picture in pixels.")
    steps: Levels = Field(50, description="Steps from noise to picture.")
    timesteps: (
        Literal["leading", "trailing", "linspace", "lcm"]
        | Annotated[tuple[Timestep, ...], Field(min_length=1)]
        | None
    ) = Field(
        None,
        description="Where the model is asked: spread as DDIM's scheduler does or the LCM one, or "
        "one by one; default: as the model's own scheduler says.",
    )
    guidance: float = Field(
        10.5, ge=1.0, le=1000.0, description="Classifier-free guidance; 1 is off."
    )
    prompt: str | None = Field(
        None,
        description="{trigger} in it is the caption the LoRA was trained with, which is the "
        "default.",
    )
    prompt_from_style: bool = Field(
        False, description="Words found from the style picture follow the prompt (section words)."
    )
    negative: str = Field("", description="Negative prompt.")
    weight: Weight = Field(1.0, description="Strength of the LoRA.")
    negative_lora: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="What the negative prompt is seen under (i2L eq. 9): same, the look's LoRA; "
        "neutral, what its predictor makes of grey pictures; none, the base model; or a LoRA. "
        "Default: neutral where a predictor that is here made the LoRA, else same.",
    )
    accelerator: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="A LoRA for few steps (LCM, Hyper-SD), at work beside every look; contents are "
        "still inverted and read by the base model.",
    )
    accelerator_weight: Weight = Field(1.0, description="Its strength; 0 is off.")
    start: Literal["inversion", "palette", "adain"] = Field(
        "inversion",
        description="First latent: the content's noise (both papers); the noise of the content in "
        "the style's colours; or the content's noise with the channel statistics of the style's "
        "(StyleID, eq. 7; needs --style).",
    )
    schedule: Entries | None = Field(
        None,
        description="LoRAs over the steps, for `switch` and `generate`.",
        json_schema_extra=_or_text,
    )
    regions: tuple[Region, ...] = Field(
        (),
        description="For `mask-transfer` and `generate`; later ones lie on top.",
        json_schema_extra=_or_texts,
    )
    background: Literal["source", "denoise"] = Field(
        "source",
        description="Outside all regions: the content's stored latents (eq. 7), or the base model "
        "under `background_prompt` (eq. 8).",
    )
    background_prompt: str = Field("", description="For background denoise.")
    pin_until: Count | None = Field(
        None,
        description="Steps that pin a background source to the content; default: all.",
        json_schema_extra=_or_share,
    )
    overlap: Literal["over", "normalise", "error"] = Field(
        "over", description="Where regions overlap: the later one, their mean, or a refusal."
    )
    composite: Literal["pixel", "none"] = Field(
        "pixel",
        description="With masks: pixel pastes the regions into the content file's own pixels, at "
        "its own size; none is the decoded picture.",
    )
    width: Pixels | None = Field(None, description="For `generate`; default: size.")
    height: Pixels | None = Field(None, description="For `generate`; default: size.")
    seed: Count = Field(0, description="Seed of the run; every item derives its own.")


class Injection(Strict):
    """What the content image's own pass hands to the stylised one, where and for how long."""

    preset: Literal["aaai26", "paper", "v1", "plain_lora"] | None = Field(
        None,
        description="The settings of a paper, beneath those given beside it; v1 also inverts in "
        "999 steps.",
    )
    feature_layers: Layers = Field(
        "anchor",
        description="Decoder layers, or blocks of a transformer, whose feature is replaced.",
    )
    feature_tap: Literal["residual", "output"] = Field(
        "residual", description="Replace the residual branch, or the whole block's output."
    )
    feature_steps: Count = Field(
        30,
        description="Steps with feature injection (S_f), or a share of all.",
        json_schema_extra=_or_share_by_default("60%"),
    )
    attn_layers: Layers = Field("from_anchor", description="Those with self-attention injection.")
    attn_cross: Layers = Field("none", description="Those with cross-attention injection (UNets).")
    attn_steps: Count = Field(
        25,
        description="Steps of full attention injection (S_a), or a share of all.",
        json_schema_extra=_or_share_by_default("50%"),
    )
    attn_tail: Literal["adaptive", "time", "printed", "hard", "full"] = Field(
        "adaptive", description="How attention injection fades after `attn_steps` (eq. 5)."
    )
    attn_mix: Literal["probs", "qk"] = Field(
        "probs", description="Interpolate attention matrices (eq. 5), or queries and keys."
    )
    source: Literal["replay", "denoise"] = Field(
        "replay", description="Source branch: the stored trajectory, or its own DDIM path (eq. 4)."
    )


class _Written(dict[str, str | None]):
    """How shares were written, which is nothing that two equal recipes have to agree in."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Written)


class Recipe(Strict):
    """One section per concern; a command reads its own."""

    description: str = Field("", description="One line for `style recipes list`.")
    backbone: Backbone = Backbone()
    device: Device = Device()
    lora: Lora = Lora()
    inversion: Inversion = Inversion()
    sampling: Sampling = Sampling()
    injection: Injection = Injection()
    styleid: StyleId = StyleId()
    distill: Distill = Distill()
    dfcc: Dfcc = Dfcc()
    matching: Matching = Matching()
    gallery: Gallery = Gallery()
    i2l: I2L = I2L()
    route: Route = Route()
    masks: Masks = Masks()
    words: Words = Words()
    evaluate: Evaluate = Evaluate()
    _shares: _Written = PrivateAttr(default_factory=_Written)

    @property
    def shares(self) -> Mapping[str, str | None]:
        """What numbers of steps were written as, by dotted key; null followed the sampler."""
        return self._shares

    def with_shares(self, shares: Mapping[str, str | None]) -> Self:
        """Remember these; the recipe is as good as new, and nobody else's yet."""
        self._shares = _Written(shares)
        return self

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Recipe:
        problems = []
        for key in ("feature_steps", "attn_steps"):
            value = getattr(self.injection, key)
            if value > self.sampling.steps:
                problems.append(
                    f"injection.{key} is {value}, beyond sampling.steps; "
                    f"allowed 0 to {self.sampling.steps}, or a share such as 60%"
                )
        if self.sampling.pin_until is not None and self.sampling.pin_until > self.sampling.steps:
            problems.append(
                f"sampling.pin_until is {self.sampling.pin_until}, beyond sampling.steps; "
                f"allowed 0 to {self.sampling.steps}, or a share such as 60%"
            )
        timesteps = self.sampling.timesteps
        if isinstance(timesteps, tuple) and len(timesteps) != self.sampling.steps:
            problems.append(
                f"sampling.timesteps lists {len(timesteps)} of them, and sampling.steps is "
                f"{self.sampling.steps}; leave one of the two out"
            )
        schedules = {"sampling.schedule": self.sampling.schedule} | {
            f"sampling.regions of {region.mask}": region.schedule
            for region in self.sampling.regions
        }
        for key, schedule in schedules.items():
            try:
                timeline.resolve(
                    [(entry.start, entry.end) for entry in schedule or (Entry(),)],
                    self.sampling.steps,
                )
            except ValueError as error:
                problems.append(f"{key}: {error}")
        if self.lora.crop == "random" and self.lora.crop_px > self.lora.resolution:
            problems.append(
                f"lora.crop_px is {self.lora.crop_px}, larger than lora.resolution; "
                f"allowed {MIN_CROP_PX} to {self.lora.resolution}"
            )
        if problems:
            # One a line, each opening with the key to change: `load` finds its place by that.
            raise ValueError("\n".join(problems))
        return self
