"""Models from diffusers folders, strictly.

The library fills a tensor that a file lacks with random numbers; here that, an unknown tensor or a
wrong shape is an error that names it: weights are never silently random.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from stylecli.backbone import quantizing, single_file
from stylecli.backbone.model import Backbone
from stylecli.backbone.offload import MAIN_MEMORY
from stylecli.backbone.schedule import NoiseSchedule
from stylecli.backbone.sdxl import SdxlBackbone
from stylecli.errors import WeightsError
from stylecli.recipe.strict import Quantize

# What a UNet says that is told the size of the picture and the words as a whole.
OF_SDXL = "text_time"
COPY_AGAIN = "copy or pull the folder again"


def load(
    name: str,
    folder: Path,
    *,
    fingerprint: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    quantize: Quantize = "none",
    file: Path | None = None,
    is_resident: bool = True,
    is_editor: bool = False,
) -> Backbone:
    """Load a backbone from a local diffusers folder.

    Args:
        name: For messages and provenance.
        folder: From `stylecli.backbone.registry.snapshot`.
        fingerprint: Of that folder.
        device: Where it computes.
        dtype: Of the UNet and the text encoder.
        variant: Weight file variant, such as fp16.
        quantize: In how many bits the UNet's frozen weights are; not those of a file.
        file: A checkpoint that has all weights; of the folder the rest is taken.
        is_resident: All weights go to the device at once; else they stay in main memory until
            `stylecli.backbone.tuning.tune` has decided.
        is_editor: The UNet may see more than the latents that it denoises.

    Raises:
        UsageError: This machine cannot quantise so.
        WeightsError: Files missing or unreadable, a tensor missing, unknown or of another shape; or
            the UNet has to be told what nobody here can tell it.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.utils import logging as diffusers_logging
    from transformers import CLIPTextModel, CLIPTextModelWithProjection
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    if file is not None:
        parts = single_file.parts(file, folder, dtype)
    else:
        parts = {
            "unet": load_part(
                UNet2DConditionModel,
                folder,
                "unet",
                dtype,
                variant,
                quantize=quantize,
                device=device,
            ),
            "vae": load_part(AutoencoderKL, folder, "vae", torch.float32, variant),
            "text_encoder": load_part(CLIPTextModel, folder, "text_encoder", dtype, variant),
        }
    unet, vae, text_encoder = (parts[name] for name in ("unet", "vae", "text_encoder"))
    _refuse_unfit(name, unet.config, sees=None if is_editor else vae.config.latent_channels)
    tokenizer = _tokenizer(folder, "tokenizer", text_encoder)
    schedule = NoiseSchedule.from_config(scheduler_config(folder))
    if unet.config.addition_embed_type != OF_SDXL:
        _refuse_widths(folder, unet.config.cross_attention_dim, [text_encoder])
    made: dict[str, Any] = {
        "name": name,
        "fingerprint": fingerprint,
        "unet": unet,
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "schedule": schedule,
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
    }
    if unet.config.addition_embed_type == OF_SDXL:
        cls, part = CLIPTextModelWithProjection, "text_encoder_2"
        second = parts.get(part) or load_part(cls, folder, part, dtype, variant)
        _refuse_widths(folder, unet.config.cross_attention_dim, [text_encoder, second])
        backbone: Backbone = SdxlBackbone(
            **made,
            text_encoder_2=second,
            tokenizer_2=_tokenizer(folder, "tokenizer_2", second),
            is_silence_zero=_is_silence_zero(folder),
        )
    else:
        backbone = Backbone(**made)
    # The autoencoder whole, of which some layers are in neither half.
    for part in (vae, *chain.from_iterable(backbone.parts.values())):
        part.requires_grad_(False).eval()
        if is_resident:
            part.to(device)
    backbone.lay_out(channels_last=True)
    return backbone


def _tokenizer(folder: Path, part: str, text_encoder: Any) -> Any:
    from transformers import CLIPTokenizer

    # The library makes an empty tokenizer of an empty folder.
    if not any((folder / part / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise WeightsError(
            f"{folder.name}: {part}/ has no tokenizer.json and no vocab.json", fix=COPY_AGAIN
        )
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / part, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{folder.name}: {part} cannot be read: {_first_line(error)}", fix=COPY_AGAIN
        ) from error
    vocabulary = int(text_encoder.config.vocab_size)
    if len(tokenizer) > vocabulary:
        raise WeightsError(
            f"{folder.name}: {part} knows {len(tokenizer)} tokens, and its text encoder "
            f"{vocabulary}",
            fix="give the tokenizer and the text encoder of one model",
        )
    tokenizer.model_max_length = min(
        tokenizer.model_max_length, text_encoder.config.max_position_embeddings
    )
    return tokenizer


def scheduler_config(folder: Path) -> dict[str, Any]:
    """What a folder says of noise.

    Raises:
        WeightsError: Nothing that can be read.
    """
    return json_of(folder, "scheduler/scheduler_config.json")


def json_of(folder: Path, name: str) -> dict[str, Any]:
    """What one of a folder's configs says.

    Raises:
        WeightsError: Missing, damaged, or no JSON object.
    """
    try:
        found = json.loads((folder / name).read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{folder.name}: {name} cannot be read: {_first_line(error)}", fix=COPY_AGAIN
        ) from error
    if not isinstance(found, dict):
        raise WeightsError(f"{folder.name}: {name} is no JSON object", fix=COPY_AGAIN)
    return found


def _refuse_widths(folder: Path, wanted: int, encoders: Sequence[Any]) -> None:
    width = sum(int(encoder.config.hidden_size) for encoder in encoders)
    if width != wanted:
        raise WeightsError(
            f"{folder.name}: unet/config.json has a cross_attention_dim of {wanted}, and the text "
            f"is {width} wide",
            fix="give the UNet and the text encoder of one model",
        )


def _is_silence_zero(folder: Path) -> bool:
    """What the pipeline of a folder says of prompts that nobody gave."""
    try:
        return bool(json_of(folder, "model_index.json").get("force_zeros_for_empty_prompt", True))
    except WeightsError:
        return True


def _refuse_unfit(name: str, unet: Any, *, sees: int | None) -> None:
    """See that a UNet needs nothing but latents, a timestep and words.

    Args:
        sees: Channels of those latents; None where others may come with them.

    Raises:
        WeightsError: It was made to be told more.
    """
    more = {
        "another picture or more words beside its prompt": unet.addition_embed_type
        not in (None, OF_SDXL),
        "classes": unet.class_embed_type or unet.num_class_embeds,
        "a mask or another picture": sees is not None and unet.in_channels != sees,
    }
    for what, is_wanted in more.items():
        if is_wanted:
            raise WeightsError(
                f"{name}: its UNet has to be told {what}, which this release cannot do",
                fix="use a model like Stable Diffusion 1.5, 2.1-base or XL",
            )


def fingerprint(folder: Path, *, without: str = "") -> str:
    """One digest for all weight and config files of a snapshot.

    The hub's cache names a large file after its SHA-256, so those are not read again.

    Args:
        folder: The snapshot.
        without: A part of which the config counts alone: its weights come from elsewhere.
    """
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix not in (".json", ".jinja", ".safetensors", ".txt") or not file.is_file():
            continue
        if len(file.relative_to(folder).parts) != 2:
            continue
        if file.parent.name == without and file.name != "config.json":
            continue
        blob = file.resolve().name
        if not re.fullmatch(r"[0-9a-f]{64}", blob):
            with file.open("rb") as stream:
                blob = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()} {blob}\n".encode())
    return total.hexdigest()[:16]


def load_part(
    cls: Any,
    folder: Path,
    part: str,
    dtype: torch.dtype,
    variant: str | None = None,
    *,
    ignored: Collection[str] = (),
    quantize: Quantize = "none",
    device: torch.device = MAIN_MEMORY,
) -> Any:
    """One model of a diffusers folder, in main memory; quantised, on a device.

    Args:
        cls: Of diffusers or transformers.
        folder: What holds the part's own folder.
        part: Its name, such as unet.
        dtype: Of the weights.
        variant: Weight file variant, such as fp16.
        ignored: Tensors that files may hold and nobody wants.
        quantize: How frozen weights are kept.
        device: Where they are quantised.

    Raises:
        UsageError: This machine cannot quantise so.
        WeightsError: Files missing or unreadable, a tensor missing, unknown or of another shape.
    """
    where = folder / part
    if not where.is_dir():
        raise WeightsError(
            f"{folder.name}: no {part}/ folder", fix="give a complete diffusers folder"
        )
    json_of(folder, f"{part}/config.json")
    if variant is None and (other := _only_variant(where)):
        raise WeightsError(
            f"{folder.name}/{part}: its weights are of the variant {other} alone",
            fix=f"--set backbone.variant={other}",
        )
    if not any(where.glob("*.safetensors")):
        pickled = next(iter((*where.glob("*.bin"), *where.glob("*.ckpt"))), None)
        raise WeightsError(
            f"{folder.name}/{part}: no .safetensors file"
            + (f"; {pickled.name} is a pickle, which can run code" if pickled else ""),
            fix="get the safetensors files of this model, or convert the pickle where you trust it",
        )
    told = quantizing.told(cls, quantize, device, dtype)
    try:
        model, info = cls.from_pretrained(
            where,
            dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # but told of, and refused below by name
            **({} if part.startswith("text_encoder") else {"low_cpu_mem_usage": True}),
            **told,
        )
    except Exception as error:  # the libraries raise many kinds for a damaged folder
        reason = _damage(where) or f"cannot be loaded: {_first_line(error)}"
        raise WeightsError(f"{folder.name}/{part}: {reason}", fix=COPY_AGAIN) from error
    faults = {
        "missing": [k for k in info["missing_keys"] if not k.endswith("position_ids")],
        "unknown": [
            k for k in info["unexpected_keys"] if not k.endswith(("position_ids", *ignored))
        ],
        "of another shape": [k if isinstance(k, str) else k[0] for k in info["mismatched_keys"]],
    }
    for what, keys in faults.items():
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise WeightsError(
                f"{folder.name}/{part}: tensor {sorted(keys)[0]} is {what}{more}",
                fix="copy or pull the folder again; nothing was filled in at random",
            )
    return model if quantize == "none" else quantizing.settled(model, quantize)


def _only_variant(where: Path) -> str | None:
    """The variant that all weights are of, such as fp16; None where some are of none."""
    parts = [re.sub(r"-\d+-of-\d+", "", file.stem) for file in where.glob("*.safetensors")]
    found = {stem.rpartition(".")[2] if "." in stem else "" for stem in parts}
    return found.pop() if len(found) == 1 and found != {""} else None


def see_whole(folder: Path, parts: Iterable[str]) -> None:
    """See that no file of weights was cut off, by their headers alone.

    Raises:
        WeightsError: One was.
    """
    for part in parts:
        if (reason := _damage(folder / part)) is not None:
            raise WeightsError(f"{folder.name}/{part}: {reason}", fix=COPY_AGAIN)


def _damage(where: Path) -> str | None:
    """What is wrong with the first file of weights that is no whole file."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(where.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            size = file.stat().st_size
            return f"{file.name} ({size} bytes) is damaged: {_first_line(error)}"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
