"""Settings of i2L (arXiv 2606.13809): the predictor of LoRAs, what it learns from, and how."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stylecli.recipe.strict import Count, Pixels, Positive, Strict, Unit, Weight

Text = Annotated[str, Field(min_length=1)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
MAX_REFERENCES = 16


class Encoder(Strict):
    """What turns a reference into tokens."""

    id: Text = Field(
        "auto",
        description="pocket-clip, siglip2-base-256, siglip2-so400m-384, siglip2-giant-384, "
        "siglip2-base-naflex, siglip2-so400m-naflex, vae-patch, random-patch, or a folder; auto is "
        "pocket-clip on pocket, base-256 on other UNets, giant-384 elsewhere.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Of the encoder; auto is device.dtype."
    )
    ref_fit: Literal["crop", "squash", "pad"] = Field(
        "crop", description="How a reference becomes square: its centre, all of it, or margins."
    )
    pool_tokens: Positive | None = Field(
        None, description="Average tokens to a grid of so many a side; default: all of them."
    )


class Predictor(Strict):
    """How large the predictor is; what is left out is the preset's."""

    preset: Literal["auto", "paper", "paper-trainable", "sd", "micro", "nano"] = Field(
        "auto", description="auto is nano on pocket, sd on other UNets, paper elsewhere."
    )
    d: Positive | None = Field(None, description="Width of the trunk.")
    depth: Positive | None = Field(None, description="Blocks of the trunk.")
    heads: Positive | None = Field(None, description="Of attention; d is a multiple.")
    ff: Positive | None = Field(None, description="Width inside the feed-forward layers.")
    bottleneck: Positive | None = Field(None, description="c of the compressed heads.")
    rank: Positive | None = Field(None, description="k of the LoRAs it predicts.")
    query_std: Annotated[float, Field(gt=0.0, le=10.0)] = Field(
        0.5, description="Of the queries at the beginning; at 0.02 the rows of a layer stay equal."
    )
    checkpointing: bool = Field(False, description="Compute the trunk's blocks twice, for memory.")


class References(Strict):
    """How many references a step of training sees."""

    max: Annotated[int, Field(ge=1, le=MAX_REFERENCES)] = Field(8, description="At most.")
    p_single: Unit = Field(0.25, description="Chance of one; else 2 to max, equally often.")


class Kept(Strict):
    """What is encoded once and kept."""

    latents: bool = Field(True, description="Of the targets.")
    text: bool = Field(True, description="Embeddings of the captions.")
    tokens: bool = Field(True, description="Of the references; 1.8 MB each with siglip2-giant.")


class Data(Strict):
    """What is read from a data set."""

    resolution: Pixels | None = Field(
        None, description="Side of the square targets; default: the model's own."
    )
    n_refs: References = References()
    allow_self: bool = Field(False, description="A target may be among its own references.")
    cache: Kept = Kept()
    holdout: Count = Field(
        1000, description="Images kept from training, by style and content, where none are marked."
    )


class Train(Strict):
    """How the predictor learns."""

    lr: Rate = Field(1e-5, description="Learning rate.")
    warmup: Count = Field(500, description="Steps in which the rate rises.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="Of the rate.")
    lr_end: Annotated[float, Field(ge=0.0, le=1.0)] = Field(0.0, description="Where cosine ends.")
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.01, description="Of the matrices of trunk and heads."
    )
    global_batch: Positive = Field(8, description="Styles a step, over all processes.")
    targets_per_style: Positive = Field(1, description="Pictures that one LoRA is tried on.")
    clip: Annotated[float, Field(gt=0.0, le=1000.0)] = Field(1.0, description="Norm of gradients.")
    steps: Positive = Field(300_000, description="Of the optimiser.")
    time_shift: Annotated[float, Field(gt=0.0, le=100.0)] | None = Field(
        None, description="Of flow-matching times; default: 3, and e^0.8 on flux2-klein."
    )
    loss_weight: Literal["none", "bell", "min-snr"] = Field(
        "none",
        description="Equal for all times; bell: more in the middle (flow matching); min-snr: less "
        "where there is little noise (UNets), so that colours are learned sooner.",
    )
    p_drop_text: Unit = Field(0.0, description="Chance of an empty caption.")
    p_grey: Unit = Field(
        0.0, description="Chance of grey references and a target of any style: teaches neutral."
    )
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] | None = Field(
        None, description="Decay of averaged weights, which are what is written; default: none."
    )
    save_every: Positive = Field(2000, description="Steps between checkpoints.")
    keep: Positive = Field(3, description="Checkpoints kept.")


class Validation(Strict):
    """How progress is seen: by differences on fixed noise, since the loss says little."""

    every: Positive = Field(1000, description="Steps.")
    tuples: Annotated[int, Field(ge=2)] = Field(
        256, description="Fixed targets with their references; with one there is no other style."
    )
    sigmas: Positive = Field(8, description="Fixed noise levels.")
    images_every: Positive = Field(5000, description="Steps between sheets of pictures.")


class I2L(Strict):
    """A style LoRA in one forward pass."""

    layer_set: Literal["auto", "attn", "attn2", "attn+ff", "full", "layers"] = Field(
        "auto",
        description="Whose LoRA is predicted: attn, attn2, attn+ff of UNets; full, layers of "
        "transformers. auto is full, attn on UNets, attn2 with nano.",
    )
    encoder: Encoder = Encoder()
    predictor: Predictor = Predictor()
    data: Data = Data()
    train: Train = Train()
    validation: Validation = Validation()
    scale: Weight = Field(1.0, description="What is predicted is multiplied by it.")
    format: Literal["diffusers", "kohya", "peft", "comfy"] = Field(
        "diffusers", description="Key names in the LoRA file."
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float16", description="Type in the LoRA file; float16 is the finer of the small ones."
    )
    exclude_refiners: bool = Field(
        False, description="Leave Z-Image's refiners as they are, which its ControlNets borrow."
    )
    compress_rank: Positive | None = Field(
        None, description="Write the best LoRA of this rank; default: as predicted."
    )

    @model_validator(mode="after")
    def _grow_sensibly(self) -> Self:
        if self.train.schedule == "cosine" and self.train.lr_end > self.train.lr:
            raise ValueError("i2l.train.lr_end is above i2l.train.lr; it is where cosine ends")
        return self
