"""LoRA tensors in and out of a UNet, in the layouts other tools read and write.

Reading goes through diffusers' own conversion, so whatever it understands (diffusers, kohya, PEFT,
old ``processor`` names) loads here. What it would pass over in silence does not pass here: a file
that matches no layer, or only some of its tensors, is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylecli.backbone import lora_comfy, lora_names
from stylecli.backbone.lora_names import Format, Prefix
from stylecli.errors import UsageError, WeightsError
from stylecli.tensors.colour import Colours

COLOURS = "style.colours"
METADATA = "lora_adapter_metadata"
PEFT_WEIGHTS = "adapter_model.safetensors"
# What is in the keys of files that look like LoRAs.
OTHER_KINDS = {".hada_": "LoHa", ".lokr_": "LoKr", ".oft_": "OFT", ".boft_": "BOFT"}
PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA as diffusers loads it.

    Attributes:
        state: Keys with the prefix ``unet.`` or ``transformer.``.
        network_alphas: For files that carry one alpha per layer (kohya).
        metadata: PEFT's config where the file carries it.
        header: The file's own metadata, such as ``style`` and ``modelspec.trigger_phrase``.
    """

    state: Mapping[str, Tensor]
    network_alphas: Mapping[str, float]
    metadata: Mapping[str, Any]
    header: Mapping[str, str]

    @property
    def part(self) -> Prefix:
        """Of a pipeline, whose layers it changes."""
        return "unet" if any(key.startswith("unet.") for key in self.state) else "transformer"

    @property
    def trigger(self) -> str | None:
        """The caption the LoRA was trained with, where its header says so."""
        return self.header.get("modelspec.trigger_phrase") or None

    @property
    def colours(self) -> Colours | None:
        """Those of the pictures it was trained on, where its header says so."""
        try:
            return Colours.from_json(self.header[COLOURS])
        except (KeyError, ValueError):
            return None


def read(path: Path, unet: Any) -> LoraFile:
    """Read a LoRA file, or a PEFT folder.

    Raises:
        WeightsError: Missing, not safetensors, or damaged.
        UsageError: No UNet tensors in it, or under names that would load nothing.
    """
    tensors, header, config = opened(path)
    _refuse_flaws(path, tensors)
    if config is not None:
        stem = "base_model.model."
        state = {"unet." + key.removeprefix(stem): value for key, value in tensors.items()}
        return LoraFile(state, {}, {f"unet.{k}": v for k, v in config.items()}, header)
    metadata = metadata_of(path, header)
    state, alphas = converted(path, tensors, unet.config)
    if not any(key.startswith("unet.") for key in state):
        raise UsageError(
            f"LoRA {path} has no tensor for a Stable Diffusion UNet",
            fix="use a LoRA that was trained on this backbone",
        )
    return LoraFile(state, alphas, metadata, header)


def opened(path: Path) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any] | None]:
    """Tensors and header of a file, or of a PEFT folder, whose config is the third.

    Raises:
        WeightsError: Missing, not safetensors, damaged, or with numbers that are none.
    """
    from safetensors import safe_open

    file = path / PEFT_WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f"LoRA {path} does not exist", fix="give a .safetensors file")
    if file.suffix != ".safetensors":
        raise WeightsError(
            f"LoRA {path} is not a .safetensors file; pickles can run code and are refused",
            fix="convert it where you trust it",
        )
    with _reading(path):
        with safe_open(file, framework="pt") as stream:
            header = dict(stream.metadata() or {})
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
        is_folder = path.is_dir()
        config = _mapping((path / PEFT_CONFIG).read_text("utf-8")) if is_folder else None
    _refuse_other_kinds(path, tensors)
    for key, tensor in tensors.items():
        if key.endswith(".alpha") and tensor.numel() != 1:
            raise WeightsError(
                f"LoRA {path} is broken: {key} holds {tensor.numel()} numbers instead of one",
                fix="make it again, or copy it again",
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(
                f"LoRA {path} is broken: {key} holds values that are not finite",
                fix="make it again, or copy it again",
            )
    return tensors, header, config


def _refuse_other_kinds(path: Path, keys: Iterable[str]) -> None:
    for mark, name in OTHER_KINDS.items():
        if any(mark in key for key in keys):
            raise UsageError(
                f"{path} is a {name}, which is more than the product of two matrices",
                fix="use a plain LoRA",
            )


def converted(
    path: Path, tensors: Mapping[str, Tensor], unet_config: Any = None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Tensors and alphas named as diffusers does, from the names other tools give those of a UNet.

    Raises:
        WeightsError: They are not whole.
        UsageError: Magnitudes among them, which diffusers would leave out without an error.
    """
    from diffusers import StableDiffusionPipeline

    if any("dora_scale" in key for key in tensors):
        raise UsageError(
            f"LoRA {path} has magnitudes (DoRA), which cannot be read in this layout",
            fix="use a LoRA that was trained without them",
        )
    with _reading(path):
        state, alphas = StableDiffusionPipeline.lora_state_dict(
            dict(tensors), unet_config=unet_config, local_files_only=True
        )
    return dict(state), dict(alphas or {})


def metadata_of(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """The config that diffusers put into a header; empty where there is none.

    Raises:
        WeightsError: It is no JSON object.
    """
    with _reading(path):
        return _mapping(header.get(METADATA, "{}"))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        missing = isinstance(error, KeyError)  # what it says is the key alone
        reason = str(error).partition("\n")[0] + (" is missing" if missing else "")
        raise WeightsError(
            f"LoRA {path} cannot be read: {reason}", fix="copy the file again, or train it again"
        ) from error


def _refuse_flaws(path: Path, tensors: Mapping[str, Tensor]) -> None:
    layout = lora_names.layout_of(tensors)
    paths = {name.path for key in tensors if (name := lora_names.named(key))}
    if layout is None or lora_names.prefix_of(paths) != "unet":
        return
    if reason := lora_names.flaw(layout, paths):
        raise UsageError(
            f"LoRA {path} cannot be loaded: {reason}",
            fix=f"style lora convert {path} --format diffusers -o OTHER.safetensors",
        )


def check_matches(unet: Any, adapter_name: str, file: LoraFile, *, refusal: str = "") -> None:
    """Compare what the UNet holds with what the file says, tensor by tensor.

    Args:
        unet: After loading.
        adapter_name: Of the adapter just loaded.
        file: What was to be loaded.
        refusal: What the library said, when it refused.

    Raises:
        UsageError: Nothing matched, or tensors of the file found no layer.
    """
    from diffusers.utils import convert_unet_state_dict_to_peft
    from peft import get_peft_model_state_dict

    front = f"{file.part}."
    ours = {k.removeprefix(front): v for k, v in file.state.items() if k.startswith(front)}
    wanted = convert_unet_state_dict_to_peft(ours)
    try:
        loaded = get_peft_model_state_dict(unet, adapter_name=adapter_name)
    except (KeyError, AttributeError, ValueError):
        loaded = {}
    # Numbers too: the library fills the layers that a misnamed tensor was meant for with its own.
    fitting = [key for key in loaded.keys() & wanted if is_same(loaded[key], wanted[key])]
    if loaded.keys() != wanted.keys() or len(fitting) < len(wanted) or not wanted:
        raise UsageError(
            f"the LoRA fits {len(fitting)} of the {len(wanted)} tensors it holds"
            " to this backbone" + (f": {refusal}" if refusal else ""),
            fix="use a LoRA that was trained on this backbone",
        )


def is_same(loaded: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor arrived in a model: equal in the type it has there; NaN is like NaN."""
    if loaded.shape != wanted.shape:
        return False
    return torch.allclose(loaded, wanted.to(loaded), rtol=0, atol=0, equal_nan=True)


def _mapping(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("its settings are not a JSON object")
    return found


def plain_config(config: Any) -> dict[str, Any]:
    """PEFT's config as JSON can hold it; its sets have no order, a file should have one."""
    plain: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=sorted))
    plain["target_modules"] = sorted(plain["target_modules"])
    return plain


def export(
    unet: Any,
    adapter_name: str,
    *,
    layout: Format,
    dtype: torch.dtype,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """One adapter as tensors and header entries, ready to be written; see `laid_out`."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(unet, adapter_name=adapter_name)
    return laid_out(state, unet.peft_config[adapter_name], layout=layout, dtype=dtype)


def laid_out(
    state: Mapping[str, Tensor],
    config: Any,
    *,
    layout: Format,
    dtype: torch.dtype,
    part: Prefix = "unet",
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors named as PEFT does, and its config, in the layout of a file.

    Args:
        state: The tensors.
        config: PEFT's.
        layout: ``kohya`` is for UNets alone.
        dtype: Of the file's tensors.
        part: Of a pipeline, whose layers they are.

    Returns:
        Contiguous CPU tensors in `dtype`, and the metadata that belongs to the layout.
    """
    from diffusers.utils import convert_state_dict_to_kohya

    state = {
        key: value.detach().to("cpu", dtype, copy=True).contiguous() for key, value in state.items()
    }
    if layout == "diffusers":
        metadata = {f"{part}.{key}": value for key, value in plain_config(config).items()}
        return (
            {f"{part}.{key}": value for key, value in state.items()},
            {METADATA: json.dumps(metadata, sort_keys=True)},
        )
    if layout == "peft":
        return {f"base_model.model.{key}": value for key, value in state.items()}, {}
    if part == "transformer":
        if layout != "comfy":
            raise ValueError(f"{layout} has no names for a transformer")
        # With scales in the numbers, since this layout is read without them.
        return lora_comfy.keyed(state, config.lora_alpha / config.r), {}
    # Without the prefix the converter forgets `lora_unet_`; and it writes the rank as alpha. No
    # lora_adapter_metadata here: diffusers refuses a file that has both it and alphas.
    kohya = convert_state_dict_to_kohya({f"unet.{key}": value for key, value in state.items()})
    alpha = torch.tensor(float(config.lora_alpha), dtype=torch.float32)
    return (
        {k: alpha.clone() if k.endswith(".alpha") else v.contiguous() for k, v in kohya.items()},
        {},
    )
