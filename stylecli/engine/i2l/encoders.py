"""Encoders of references with their weights: looked for on this machine, read strictly.

A SigLIP tower is looked for as a folder, below ``$STYLE_WEIGHTS_DIR`` and in the hub's cache; the
hub itself is asked only where downloads were allowed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stylecli.artifacts import store
from stylecli.backbone.registry import ASSETS
from stylecli.errors import RecipeError, WeightsError, did_you_mean
from stylecli.evaluation.perceptual import load_pocket_clip
from stylecli.evaluation.weights import load_strictly
from stylecli.methods.i2l.encoders.base import Description, Encoder, Net
from stylecli.methods.i2l.encoders.patches import RandomPatches, VaePatches
from stylecli.methods.i2l.encoders.pocket import PocketTokens
from stylecli.methods.i2l.encoders.siglip import TOWERS, SiglipTokens, Tower, own, tower
from stylecli.methods.i2l.pictures import RESAMPLES, Resample
from stylecli.recipe.i2l import Encoder as Settings

KNOWN = ("pocket-clip", *TOWERS, "vae-patch", "random-patch")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "*.safetensors"
# What SigLIP was trained with, and `pictures.prepared` does.
MEAN = DEVIATION = [0.5, 0.5, 0.5]
BILINEAR = 2


def opened(
    settings: Settings,
    *,
    default: str,
    device: torch.device,
    dtype: torch.dtype,
    allow_download: bool = False,
    backbone: Path | None = None,
) -> Encoder:
    """An encoder, frozen, on a device.

    Args:
        settings: Of the recipe.
        default: What `auto` is, from `presets.resolve`.
        device: Where it computes.
        dtype: What it computes in, unless the recipe says so.
        allow_download: Ask the hub for what is missing.
        backbone: Folder of the frozen model, whose autoencoder ``vae-patch`` is.

    Raises:
        RecipeError: No such encoder, or it has fewer tokens than `pool_tokens` asks for.
        WeightsError: It is not on this machine, or its files are not what they should be.
    """
    name = default if settings.id == "auto" else settings.id
    numbers = dtype if settings.dtype == "auto" else DTYPES[settings.dtype]
    resample: Resample = "bilinear"
    net: Net
    if name == "pocket-clip":
        net, digest, numbers = *_pocket(device), torch.float32
    elif name == "random-patch":
        net, digest, numbers = RandomPatches(), store.digest(name), torch.float32
    elif name == "vae-patch":
        net, digest, numbers = *_vae(backbone, device), torch.float32
    else:
        folder = _folder(name, allow_download)
        net, digest = _siglip(folder, device, numbers)
        resample = _resample(folder)
    try:
        return Encoder(
            net,
            name=name if name in KNOWN else Path(name).name,
            digest=digest,
            fit=settings.ref_fit,
            resample=resample,
            pool=settings.pool_tokens,
            device=device,
            dtype=numbers,
        )
    except ValueError as error:
        raise RecipeError(str(error), fix="lower i2l.encoder.pool_tokens") from error


def opened_for(
    wanted: Description,
    settings: Settings,
    *,
    device: torch.device,
    dtype: torch.dtype,
    allow_download: bool = False,
    backbone: Path | None = None,
) -> Encoder:
    """The encoder that a predictor was trained with.

    Args:
        wanted: From the predictor's file, which also decides fit and pooling.
        settings: Of the recipe: where it lies, if it is a folder, and its type.
        device: As for `opened`, like the rest.

    Raises:
        WeightsError: As for `opened`, what was found is another encoder, or the recipe does not
            say where the folder lies.
    """
    if settings.id == "auto" and wanted.id not in KNOWN:
        raise WeightsError(
            f"the predictor was trained with an encoder from a folder called {wanted.id}",
            fix="say where it lies: --set i2l.encoder.id=PATH",
        )
    own_settings = settings.model_copy(update={"ref_fit": wanted.fit, "pool_tokens": wanted.pool})
    found = opened(
        own_settings,
        default=wanted.id,
        device=device,
        dtype=dtype,
        allow_download=allow_download,
        backbone=backbone,
    )
    if found.identity != wanted.identity:
        raise WeightsError(
            f"the predictor was trained with another encoder than {found.description.id}: "
            f"{_difference(wanted, found.description)}",
            fix=f"set i2l.encoder.id to the {wanted.id} it was trained with",
        )
    return found


def _difference(wanted: Description, found: Description) -> str:
    theirs, ours = wanted.to_json(), found.to_json()
    key = next(key for key in theirs if key != "id" and theirs[key] != ours[key])
    return f"its {key} is {theirs[key]}, not {ours[key]}"


def _pocket(device: torch.device) -> tuple[Net, str]:
    folder = ASSETS / "pocket" / "clip"
    clip = load_pocket_clip(folder).model.requires_grad_(False).to(device)
    return PocketTokens(clip), _digest(folder, json.loads((folder / CONFIG).read_bytes()))


def _vae(backbone: Path | None, device: torch.device) -> tuple[Net, str]:
    from diffusers import AutoencoderKL

    from stylecli.backbone.loading import load_part

    if backbone is None:
        raise RecipeError(
            "i2l.encoder.id vae-patch needs a backbone with an autoencoder",
            fix=f"choose another: {', '.join(KNOWN)}",
        )
    vae: Any = load_part(AutoencoderKL, backbone, "vae", torch.float32)
    vae.requires_grad_(False).eval().to(device)
    config = vae.config

    def encode(pictures: Float[Tensor, "b 3 px px"]) -> Float[Tensor, "b c h w"]:
        mean: Tensor = vae.encode(pictures).latent_dist.mean
        scaled: Tensor = (mean - (config.shift_factor or 0)) * config.scaling_factor
        return scaled

    net = VaePatches(
        encode,
        channels=int(config.latent_channels),
        latent_px=2 ** (len(config.block_out_channels) - 1),
    )
    return net, _digest(backbone / "vae", dict(config))


def _siglip(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Net, str]:
    name = folder.name
    config = _json(folder / CONFIG, name)
    model = tower(config, name=name, dtype=dtype)
    files = sorted(folder.glob(WEIGHTS))
    if not files:
        raise WeightsError(
            f"{name}: no .safetensors file",
            fix="give a folder with config.json and model.safetensors",
        )
    try:
        tensors = {key: value for file in files for key, value in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{name} cannot be read: {_first_line(error)}", fix="get the folder again"
        ) from error
    load_strictly(model, own(tensors), file=name)
    return SiglipTokens(model.to(device)), _digest(folder, config.get("vision_config", config))


def _resample(folder: Path) -> Resample:
    """Also sees that the processor does nothing that `pictures.prepared` does not."""
    if not (folder / PROCESSOR).is_file():
        return RESAMPLES[BILINEAR]
    said = _json(folder / PROCESSOR, folder.name)
    number = said.get("resample", BILINEAR)
    is_ours = (said.get("image_mean", MEAN), said.get("image_std", DEVIATION)) == (MEAN, DEVIATION)
    if not is_ours or number not in range(len(RESAMPLES)):
        raise WeightsError(
            f"{folder.name}: {PROCESSOR} asks for other colours or filters than SigLIP's",
            fix="give a folder of SigLIP 2",
        )
    return RESAMPLES[int(number)]


def _folder(name: str, allow_download: bool) -> Path:
    if name not in TOWERS:
        folder = Path(name).expanduser()
        if folder.is_dir():
            return folder
        raise RecipeError(
            f"i2l.encoder.id {name!r} is neither a known encoder nor a folder",
            fix=f"{did_you_mean(name, KNOWN)}known: {', '.join(KNOWN)}",
        )
    published = TOWERS[name]
    root = os.environ.get("STYLE_WEIGHTS_DIR")
    if root and (Path(root) / published.repository / CONFIG).is_file():
        return Path(root) / published.repository
    return _from_hub(name, published, allow_download)


def _from_hub(name: str, published: Tower, allow_download: bool) -> Path:
    from huggingface_hub import snapshot_download

    repository, trouble = published.repository, ""
    try:
        folder = Path(
            snapshot_download(
                repository,
                revision=published.revision,
                allow_patterns=[CONFIG, PROCESSOR, WEIGHTS],
                local_files_only=not allow_download,
            )
        )
        if any(folder.glob(WEIGHTS)):
            return folder
    except Exception as error:  # the client raises what its HTTP library raises
        trouble = f": {_first_line(error)}" if allow_download else ""
    raise WeightsError(
        f"the weights of {name} are not on this machine: {repository} ({CONFIG}, {PROCESSOR}, "
        f"model.safetensors){trouble}",
        fix=f"the same command with --allow-download, or `hf download {repository}`, fetches them; "
        f"or put them at $STYLE_WEIGHTS_DIR/{repository}; or choose another i2l.encoder.id",
    )


def _digest(folder: Path, config: Mapping[str, Any]) -> str:
    """Of weights and what they mean; where the folder lies and what made it does not count."""
    said = {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and key not in ("transformers_version", "torch_dtype", "dtype")
    }
    files = [store.file_sha256(file) for file in sorted(folder.glob(WEIGHTS))]
    return store.digest([said, files])


def _json(file: Path, name: str) -> dict[str, Any]:
    try:
        said = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{name}: {file.name} cannot be read: {_first_line(error)}",
            fix="give a folder with config.json and model.safetensors",
        ) from error
    if not isinstance(said, dict):
        raise WeightsError(f"{name}: {file.name} holds no table", fix="get the folder again")
    return said


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
