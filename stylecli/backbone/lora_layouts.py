"""LoRAs of any backbone as files: read in every layout, written in four.

Reading needs no model: `verify` compares with the layers of a backbone, and what other programs
would make of a file is tried in `stylecli.backbone.lora_trial`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from stylecli.backbone import lora, lora_comfy, lora_foreign, lora_names
from stylecli.backbone.linears import Layer
from stylecli.backbone.lora_names import Format, Layout, Prefix
from stylecli.backbone.row_loras import Pairs
from stylecli.errors import ItemError, UsageError

HALVES_END = torch.finfo(torch.float16).max
# Strengths a little above 1 are usual, and scale a LoRA where it was loaded.
MAX_HALF = 6e4


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """One LoRA as a file says it.

    Attributes:
        pairs: Down and up of every layer, by the path of its module; ``up`` holds alpha / rank. Of
            a convolution they have its kernel's axes behind.
        header: The file's own metadata.
        layout: How its tensors are named.
        dtype: Of its tensors.
        ignored: Tensors of text encoders, which are in no pair.
    """

    pairs: Pairs
    header: Mapping[str, str]
    layout: Layout
    dtype: torch.dtype
    ignored: int = 0

    @property
    def prefix(self) -> Prefix:
        """Which part of a pipeline it changes."""
        return lora_names.prefix_of(self.pairs)

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max(len(down) for down, _ in self.pairs.values())

    @property
    def flaw(self) -> str | None:
        """Why other programs would load it without a word and change nothing, if they would."""
        return lora_names.flaw(self.layout, self.pairs)


def read(path: Path) -> Lora:
    """Read a LoRA file of any layout, or a PEFT folder; no model is needed.

    Raises:
        WeightsError: Missing, not safetensors, or damaged.
        UsageError: No LoRA, or one that does more than add products.
    """
    tensors, header, config = lora.opened(path)
    return of(path, tensors, header, config)


def of(
    path: Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, str],
    config: Mapping[str, Any] | None = None,
) -> Lora:
    """A LoRA whose tensors are read already.

    Args:
        path: For messages.
        config: PEFT's, of a folder.

    Raises:
        WeightsError: Damaged.
        UsageError: As `read`.
    """
    layout = lora_names.layout_of(tensors)
    if layout is None:
        raise UsageError(
            f"{path} holds no LoRA: its {len(tensors)} tensors are named otherwise",
            fix="give a file of LoRA tensors, such as style train-lora or style i2l-predict make",
        )
    ours = {key: value for key, value in tensors.items() if not lora_names.is_of_text(key)}
    if (family := lora_foreign.family(ours)) is not None:
        ours = lora_foreign.renamed(path, ours, family)
    if all(lora_names.named(key) is None for key in ours):
        ours, alphas = _through_diffusers(path, ours)
    else:
        alphas = {
            layer: float(ours.pop(key))
            for key in list(ours)
            if (layer := lora_names.alpha_of(key)) is not None
        }
    pairs = _paired(path, ours, _Scales(alphas, config or lora.metadata_of(path, header)))
    lora_foreign.refuse_mixed(path, lora_names.strangers(pairs))
    dtype = next(iter(ours.values())).dtype
    return Lora(pairs, header, layout, dtype, ignored=sum(map(lora_names.is_of_text, tensors)))


def write(
    pairs: Pairs, *, prefix: str, layout: Format, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header entries of a file; alpha is the rank, so that nobody scales anything.

    Args:
        pairs: As `read` gives them; ranks are filled up with zeros to the largest, because readers
            that find two of them take the alpha of one for all.
        prefix: ``unet`` or ``transformer``; also in front where the layout has its own prefix.
        layout: ``comfy`` of a UNet is what ``kohya`` is. A ``peft`` folder needs `peft_config` too.
        dtype: Of the tensors.

    Raises:
        UsageError: The layout has no names for this kind of model.
        ItemError: A number is too large for `dtype`, or nearly so.
    """
    _refuse_too_large(pairs, dtype)
    is_for_comfy = layout == "comfy" and prefix != "unet"
    stems = lora_comfy.named(pairs) if is_for_comfy else pairs
    rank = max(len(down) for down, _ in stems.values())
    state: dict[str, Tensor] = {}
    for path, (down, up) in stems.items():
        missing = rank - len(down)
        state[f"{path}.lora_A.weight"] = torch.cat([down, down.new_zeros(missing, *down.shape[1:])])
        state[f"{path}.lora_B.weight"] = torch.cat(
            [up, up.new_zeros(len(up), missing, *up.shape[2:])], dim=1
        )
    header = {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
    }
    refuse_unnamed(prefix, layout)
    if layout == "peft" or (layout in ("kohya", "comfy") and prefix == "unet"):
        config = _peft_config(pairs)
        tensors, _ = lora.laid_out(state, config, layout=layout, dtype=dtype)
        return tensors, header
    front = "" if is_for_comfy else f"{prefix}."
    tensors = {
        f"{front}{key}": value.detach().to("cpu", dtype, copy=True).contiguous()
        for key, value in state.items()
    }
    return tensors, header


def refuse_unnamed(prefix: str, layout: Format) -> None:
    """See that a layout has names for a kind of model.

    Raises:
        UsageError: It has none.
    """
    if layout == "kohya" and prefix != "unet":
        raise UsageError(
            "the kohya layout has names for the UNet of Stable Diffusion alone",
            fix="use --format comfy or --format diffusers",
        )


def peft_config(pairs: Pairs) -> dict[str, Any]:
    """What stands beside the tensors of a ``peft`` folder, every layer by its whole path."""
    return lora.plain_config(_peft_config(pairs))


def verify(pairs: Pairs, layers: Sequence[Layer]) -> None:
    """Compare a LoRA's layers and sizes with those of a backbone; no weights are needed.

    Raises:
        UsageError: A layer is not there, or has another size.
    """
    sizes = {layer.path: (layer.width_in, layer.width_out) for layer in layers}
    own = {path: (down.shape[1], up.shape[0]) for path, (down, up) in pairs.items()}
    if wrong := [path for path, size in own.items() if sizes.get(path) != size]:
        first = wrong[0]
        there = "{} -> {}".format(*sizes[first]) if first in sizes else "no such layer"
        raise UsageError(
            f"the LoRA fits {len(own) - len(wrong)} of its {len(own)} layers to this backbone; "
            f"{first} is {own[first][0]} -> {own[first][1]} there, and here: {there}",
            fix="use a LoRA that was made for this backbone",
        )


def _refuse_too_large(pairs: Pairs, dtype: torch.dtype) -> None:
    if dtype != torch.float16:
        return
    for path, pair in pairs.items():
        largest = max(float(tensor.detach().abs().max()) for tensor in pair)
        if not largest < MAX_HALF:
            raise ItemError(
                f"{path}: the LoRA holds {largest:.3g}, and halves end at {HALVES_END:.0f}",
                fix="write it as bfloat16 or float32, such as by --dtype",
            )


class _Scales:
    """alpha / rank of every layer, from whatever a file says of it."""

    def __init__(self, alphas: Mapping[str, float], config: Mapping[str, Any]) -> None:
        self._alphas = alphas
        # Diffusers writes these with the prefix of the model in front.
        self._config = {key.rpartition(".")[2]: value for key, value in config.items()}

    def of(self, path: str, rank: int) -> float:
        if path in self._alphas:
            return self._alphas[path] / rank
        alpha = float(self._config.get("lora_alpha", rank))
        for pattern, value in (self._config.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", path):
                alpha = float(value)
                break
        return alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)


def _paired(path: Path, tensors: Mapping[str, Tensor], scales: _Scales) -> Pairs:
    sides: dict[str, dict[bool, Tensor]] = {}
    for key, value in tensors.items():
        name = lora_names.named(key)
        if name is None or value.ndim < 2 or name.is_down in sides.setdefault(name.path, {}):
            raise UsageError(
                f"LoRA {path} holds more than products: {key} is {list(value.shape)}",
                fix="use a LoRA without magnitudes, biases and middle matrices",
            )
        sides[name.path][name.is_down] = value
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, side in sides.items():
        if len(side) < 2 or len(side[True]) != side[False].shape[1]:
            raise UsageError(
                f"LoRA {path} has not two matrices that fit each other for {layer}",
                fix="copy the file again, or make it again",
            )
        scale = scales.of(layer, len(side[True]))
        pairs[layer] = (side[True], side[False] if scale == 1 else side[False].float() * scale)
    return pairs


def _peft_config(pairs: Pairs) -> Any:
    from peft import LoraConfig

    rank = max(len(down) for down, _ in pairs.values())
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=list(pairs))


def _through_diffusers(
    path: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The layouts whose keys do not tell the path of a module: diffusers knows those of a UNet."""
    from diffusers.utils import convert_unet_state_dict_to_peft

    # Stability's own names, which trainers of SDXL use; of a config diffusers reads one number.
    is_sgm = any(re.match(r"lora_unet_(input|middle|output)_block", key) for key in tensors)
    config = SimpleNamespace(layers_per_block=2) if is_sgm else None
    state, alphas = lora.converted(path, tensors, config)
    if not state.keys() or not all(key.startswith("unet.") for key in state):
        raise UsageError(
            f"LoRA {path} has no tensor for a Stable Diffusion UNet",
            fix="give a file in the diffusers layout",
        )
    found = convert_unet_state_dict_to_peft(
        {key.removeprefix("unet."): value for key, value in state.items()}
    )
    return found, {
        key.removeprefix("unet.").removesuffix(".alpha"): alpha for key, alpha in alphas.items()
    }
