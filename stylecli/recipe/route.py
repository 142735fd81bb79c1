"""Settings of RegionRoute: pairs to learn from, losses on attention, experts, and their use."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from stylecli.recipe.strict import Count, Levels, Pixels, Positive, Strict, Unit

Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Factor = Annotated[float, Field(ge=0.0, le=1000.0)]
Sharpness = Annotated[float, Field(gt=0.0, le=1000.0)]
Guidance = Annotated[float, Field(ge=1.0, le=1000.0)]
Text = Annotated[str, Field(min_length=1)]


def _several(given: object) -> object:
    """A text alone is a list of one; a tuple, because strict mode takes nothing else from here."""
    return (
        (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given
    )


Texts = Annotated[
    tuple[Text, ...],
    BeforeValidator(_several, json_schema_input_type=str | tuple[Text, ...]),
]
LAYERS = r"^(auto|all|double|single|every:[1-9]\d*|[\w.]+(,[\w.]+)*)$"


class Data(Strict):
    """How pairs are made by `route-data`, and read by `route-train`."""

    images: Positive = Field(150, description="Pictures to learn from, one object of each.")
    held_out: Count = Field(10, description="Further pictures, for validation alone.")
    min_area: Unit = Field(0.02, description="Share of a picture that its object covers at least.")
    max_area: Unit = Field(0.6, description="And at most.")
    min_side_px: Count = Field(48, description="Sides of the box around an object, at least.")
    objects: tuple[str, ...] = Field(
        (), description="Change these alone, by name ('dog' is 'brown dog' too); default: all."
    )
    templates: Literal["canonical", "mixed"] = Field(
        "mixed", description="Words of instructions: always the paper's, or those for half."
    )
    include_style_word: bool = Field(
        False, description="The supervised phrase is 'pixel-art style' instead of 'pixel-art'."
    )
    feather_px: Annotated[float, Field(ge=0.0, le=256.0)] = Field(
        0.0, description="Blur of the mask that a styled object is pasted by; 0 is a hard edge."
    )
    resolution: Pixels | None = Field(
        None,
        description="Pairs are seen with the area of a square of this side; default: the model's.",
    )
    cache: bool = Field(True, description="Keep latents and embeddings for later trainings.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_area > self.max_area:
            raise ValueError(f"route.data.min_area is {self.min_area}, above route.data.max_area")
        if not all(one.strip() for one in self.objects):
            raise ValueError("route.data.objects names nothing")
        return self

    def takes(self, name: str) -> bool:
        """Whether a thing of this name is among those that may change."""
        wanted = (" ".join(one.casefold().split()) for one in self.objects)
        said = f" {' '.join(name.casefold().split())}"
        return not self.objects or any(said.endswith(f" {one}") for one in wanted)


class Lora(Strict):
    """What an expert is; the paper's Table 3 varies rank and targets."""

    rank: Annotated[int, Field(ge=1, le=1024)] = Field(4, description="4; 8 and 16 in Table 3.")
    alpha: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="Scale times rank; default: the rank."
    )
    targets: Literal["auto", "attn", "attn+text", "full", "double", "single", "attn2"] = Field(
        "auto",
        description="Layers: attn, attn2 of UNets; of FLUX attn, attn+text, full, or one half: "
        "double is Table 3's 'w/o single', single its 'w/o double'. auto is attn.",
    )
    init: Literal["gaussian", "kaiming"] = Field(
        "gaussian", description="Of A; gaussian is 24 times larger on FLUX, so lr is as much less."
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="Type in the expert's file; it learns in float32."
    )


class Loss(Strict):
    """What is learned besides the pictures: where a style's words look (eq. 1 to 4)."""

    focus_weight: Factor = Field(0.1, description="0 is Table 3's 'w/o focus'.")
    cover_weight: Factor = Field(0.2, description="0 is Table 3's 'w/o cover'.")
    focus: Literal["log-power", "raw"] = Field(
        "log-power", description="Attention becomes a distribution as a power, or by softmax."
    )
    tau: Sharpness = Field(1.0, description="Temperature of focus.")
    cover: Literal["ratio", "scaled", "zscore"] = Field(
        "ratio", description="Logit of cover: ratio to the object's mean, attention, or its score."
    )
    gamma: Sharpness = Field(4.0, description="Contrast of cover.")
    kappa: Sharpness = Field(
        0.5, description="Share of the object's mean where ratio's logit is 0."
    )
    balance: Literal["half", "mean"] = Field(
        "half", description="Object and background count as much, or every cell does."
    )
    layers: str = Field(
        "auto",
        pattern=LAYERS,
        description="Attention layers that are supervised: auto, all, double, single, every:K, or "
        "names with commas between.",
    )
    per_layer: bool = Field(False, description="A loss for each layer, instead of for their mean.")
    background_weight: Factor = Field(
        0.0, description="How much more the pictures' error counts outside the object."
    )


class Train(Strict):
    """How experts learn."""

    styles: tuple[Text, ...] = Field((), description="Ids of styles; default: all of the set.")
    steps: Positive = Field(5000, description="Of the optimiser, for each expert.")
    micro_batch: Positive = Field(2, description="Pairs that pass the model together.")
    accumulation: Positive = Field(
        4, description="Micro-batches a step, shared by the processes that train together."
    )
    lr: Rate = Field(1e-5, description="Learning rate.")
    warmup: Count = Field(0, description="Steps in which the rate rises.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="Of the rate.")
    lr_end: Annotated[float, Field(ge=0.0, le=1.0)] = Field(0.0, description="Where cosine ends.")
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = Field(1e-4, description="AdamW's.")
    clip: Annotated[float, Field(gt=0.0, le=1000.0)] = Field(1.0, description="Norm of gradients.")
    times: Literal["model", "even"] = Field(
        "model", description="Noise is drawn as suits the model, or evenly (the authors')."
    )
    p_drop_text: Unit = Field(0.0, description="Chance of no instruction; no loss on attention.")
    p_drop_picture: Unit = Field(0.0, description="Chance of no picture to edit (UNets).")
    p_drop_both: Unit = Field(0.0, description="Chance of neither (UNets).")
    checkpointing: bool = Field(False, description="Compute blocks twice, for memory.")
    save_every: Positive = Field(250, description="Steps between checkpoints.")
    keep: Positive = Field(2, description="Checkpoints kept.")

    @model_validator(mode="after")
    def _grow_sensibly(self) -> Self:
        if self.schedule == "cosine" and self.lr_end > self.lr:
            raise ValueError("route.train.lr_end is above route.train.lr; it is where cosine ends")
        if (total := self.p_drop_text + self.p_drop_picture + self.p_drop_both) > 1:
            raise ValueError(f"chances of route.train.p_drop_* add up to {total:g}, above 1")
        return self


class Validation(Strict):
    """How progress is seen, on held-out pairs and fixed noise."""

    every: Positive = Field(250, description="Steps.")
    pairs: Positive = Field(16, description="Of each style, at most.")
    levels: Positive = Field(4, description="Fixed noise levels.")
    images_every: Positive = Field(1000, description="Steps between pictures of attention.")
    images: Positive = Field(4, description="Rows of these pictures.")


class Apply(Strict):
    """How `route-apply` uses experts; `route-data` edits with the same steps and guidance."""

    instruction: Texts = Field(
        (), description="What to do, in words that name a style; several are done in turn."
    )
    object: Texts = Field((), description="Instead: what is to change, in turn;")
    style_name: Texts = Field((), description="and the style of each.")
    steps: Levels = Field(28, description="Of sampling.")
    guidance: Guidance = Field(2.5, description="Of the instruction.")
    image_guidance: Guidance = Field(
        1.0, description="Of the picture, in models of three passes (InstructPix2Pix); 1 is off."
    )
    size: Pixels | None = Field(
        None,
        description="Pictures are edited with the area of a square of this side; default: the "
        "model's own.",
    )
    soft_route: bool = Field(
        False, description="An instruction without a known style is given a mix of the nearest."
    )
    top: Positive = Field(2, description="Experts in a mix.")
    mix_tau: Sharpness = Field(0.05, description="Temperature of a mix's weights.")
    protect_background: bool = Field(
        False, description="Lay the edit over the picture where the style's words looked."
    )


class Route(Strict):
    """Styles for one object, by experts that know where to look (RegionRoute)."""

    profile: Literal["sound", "paper", "reference"] | None = Field(
        None,
        description="Settings beneath those given beside it: ours, the paper's, or what the "
        "authors' code does where it does what it says.",
    )
    text_length: Annotated[int, Field(ge=8, le=512)] | None = Field(
        None,
        description="Tokens of an instruction; default: the model's own. Experts are used with "
        "the length they learned with.",
    )
    data: Data = Data()
    lora: Lora = Lora()
    loss: Loss = Loss()
    train: Train = Train()
    validation: Validation = Validation()
    apply: Apply = Apply()

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        loss = self.loss
        if not loss.focus_weight and not loss.cover_weight and loss.per_layer:
            raise ValueError("route.loss.per_layer is for losses on attention, whose weights are 0")
        return self
