"""The models of the registry as their authors published them, but for the weights.

Configurations are facts, and small: with them a model can be planned and timed that is not on the
machine, and a checkpoint can be read that is a single file. They are laid out as a diffusers
folder.
"""

from __future__ import annotations

import atexit
import gzip
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stylecli.backbone.configs import (
    CLIP_G,
    CLIP_H,
    CLIP_L,
    CONFIGS,
    FLOW,
    FLOW_OF_FLUX,
    NOISE,
    QWEN3_4B,
    T5_XXL,
    VAE,
    VAE_OF_FLUX,
    VAE_OF_XL,
)
from stylecli.errors import UsageError

# Of CLIP's tokenizers, by what fills a prompt up.
START, END = "<|startoftext|>", "<|endoftext|>"
TOKENIZERS = {"first": END, "second": "!"}
# In open_clip's package.
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One model of a pipeline.

    Attributes:
        library: diffusers or transformers.
        cls: Its class there.
    """

    library: str
    cls: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A pipeline.

    Attributes:
        parts: By the names of their folders.
        tokenizers: Folders of CLIP's tokenizers, and which of `TOKENIZERS` they are; of others the
            vocabulary is not at hand.
    """

    pipeline: str
    parts: Mapping[str, Part]
    scheduler: Mapping[str, Any]
    tokenizers: Mapping[str, str] = field(default_factory=dict)


def _unet(config: Mapping[str, Any]) -> Part:
    return Part(library="diffusers", cls="UNet2DConditionModel", config=config)


def _transformer(cls: str, name: str) -> Part:
    return Part(library="diffusers", cls=cls, config=CONFIGS[name])


def _vae(config: Mapping[str, Any], cls: str = "AutoencoderKL") -> Part:
    return Part(library="diffusers", cls=cls, config=config)


def _text(config: Mapping[str, Any], cls: str = "CLIPTextModel") -> Part:
    return Part(library="transformers", cls=cls, config=config)


ARCHITECTURES: Mapping[str, Architecture] = {
    "sd15": Architecture(
        pipeline="StableDiffusionPipeline",
        parts={
            "unet": _unet(CONFIGS["sd15"]),
            "vae": _vae(VAE),
            "text_encoder": _text(CLIP_L),
        },
        scheduler=NOISE,
        tokenizers={"tokenizer": "first"},
    ),
    "sd21-base": Architecture(
        pipeline="StableDiffusionPipeline",
        parts={
            "unet": _unet(CONFIGS["sd21-base"]),
            "vae": _vae(VAE),
            "text_encoder": _text(CLIP_H),
        },
        scheduler=NOISE,
        tokenizers={"tokenizer": "second"},
    ),
    "sdxl": Architecture(
        pipeline="StableDiffusionXLPipeline",
        parts={
            "unet": _unet(CONFIGS["sdxl"]),
            "vae": _vae(VAE_OF_XL),
            "text_encoder": _text(CLIP_L),
            "text_encoder_2": _text(CLIP_G, "CLIPTextModelWithProjection"),
        },
        scheduler=NOISE,
        tokenizers={"tokenizer": "first", "tokenizer_2": "second"},
    ),
    "z-image": Architecture(
        pipeline="ZImagePipeline",
        parts={
            "transformer": _transformer("ZImageTransformer2DModel", "z-image"),
            "vae": _vae(VAE_OF_FLUX),
            "text_encoder": _text(QWEN3_4B, "Qwen3Model"),
        },
        scheduler=FLOW,
    ),
    "flux2-klein": Architecture(
        pipeline="Flux2KleinPipeline",
        parts={
            "transformer": _transformer("Flux2Transformer2DModel", "flux2-klein"),
            "vae": _vae(
                {"sample_size": 1024, "block_out_channels": VAE["block_out_channels"]},
                "AutoencoderKLFlux2",
            ),
            "text_encoder": _text(QWEN3_4B, "Qwen3Model"),
        },
        scheduler={**FLOW_OF_FLUX, "time_shift_type": "exponential"},
    ),
    "flux1-kontext": Architecture(
        pipeline="FluxKontextPipeline",
        parts={
            "transformer": _transformer("FluxTransformer2DModel", "flux1-kontext"),
            "vae": _vae(VAE_OF_FLUX),
            "text_encoder": _text(CLIP_L),
            "text_encoder_2": _text(T5_XXL, "T5EncoderModel"),
        },
        scheduler=FLOW_OF_FLUX,
        # T5's is not at hand.
        tokenizers={"tokenizer": "first"},
    ),
}


def lay_out(
    name: str,
    folder: Path,
    *,
    tokenizers: bool = True,
    scheduler: Mapping[str, Any] | None = None,
) -> Path:
    """Write what a diffusers folder of a model holds beside its weights.

    Args:
        name: In `ARCHITECTURES`.
        folder: Made where it is not there.
        tokenizers: CLIP's too.
        scheduler: Another config than the published one.

    Returns:
        The folder.

    Raises:
        UsageError: Of this model nothing is known but its name.
    """
    if name not in ARCHITECTURES:
        raise UsageError(
            f"of {name} no configuration ships with style",
            fix=f"use one of {', '.join(ARCHITECTURES)}, or a folder with its configs",
        )
    found = ARCHITECTURES[name]
    index: dict[str, Any] = {"_class_name": found.pipeline}
    for part, said in found.parts.items():
        index[part] = [said.library, said.cls]
        own = {"_class_name": said.cls} if said.library == "diffusers" else _of_transformers(said)
        _write(folder / part / "config.json", {**own, **said.config})
    said_of_noise = scheduler or found.scheduler
    index["scheduler"] = ["diffusers", said_of_noise["_class_name"]]
    _write(folder / "scheduler" / "scheduler_config.json", said_of_noise)
    if tokenizers:
        for part, which in found.tokenizers.items():
            index[part] = ["transformers", "CLIPTokenizer"]
            _save_tokenizer(folder / part, TOKENIZERS[which])
    _write(folder / "model_index.json", index)
    return folder


@cache
def on_paper(name: str) -> Path:
    """`lay_out` without tokenizers, in a folder that lasts as long as the process.

    Raises:
        UsageError: As `lay_out`.
    """
    return lay_out(name, _passing() / name, tokenizers=False)


@cache
def in_passing(name: str, scheduler: str) -> Path:
    """`lay_out` in a folder that lasts as long as the process.

    Args:
        name: In `ARCHITECTURES`.
        scheduler: Another config than the published one, as JSON.
    """
    return lay_out(name, _passing() / name, scheduler=json.loads(scheduler))


def _passing() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="style-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _of_transformers(part: Part) -> dict[str, Any]:
    kinds = {"Qwen3Model": "qwen3", "T5EncoderModel": "t5"}
    return {"architectures": [part.cls], "model_type": kinds.get(part.cls, "clip_text_model")}


def _write(file: Path, said: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(said, indent=1), encoding="utf-8")


def _save_tokenizer(folder: Path, filler: str) -> None:
    """CLIP's, of the vocabulary that open_clip carries: all of OpenAI's and OpenCLIP's have it."""
    from transformers import CLIPTokenizer

    merges = _merges()
    letters = _letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
    CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=filler,
        model_max_length=CLIP_L["max_position_embeddings"],
    ).save_pretrained(folder)


def _letters() -> list[str]:
    """A letter for each byte: its own where it can be seen, and the next ones there are."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    seen += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) for byte in seen] + [chr(256 + place) for place in range(len(others))]


def _merges() -> list[tuple[str, str]]:
    """Pairs of pieces in the order they are joined; the package need not be imported for them."""
    found = find_spec("open_clip")
    assert found is not None, "open_clip is installed with style"  # noqa: S101
    (package,) = list(found.submodule_search_locations or ())
    text = gzip.decompress((Path(package) / VOCABULARY).read_bytes()).decode()
    count = CLIP_L["vocab_size"] - 2 * 256 - 2
    pairs = (line.split() for line in text.split("\n")[1 : 1 + count])
    return [(left, right) for left, right in pairs]
