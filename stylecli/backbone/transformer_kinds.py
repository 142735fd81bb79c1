"""Files of a transformer alone, as its authors release it: which model's it is.

What it is has to be read off the names and sizes of its tensors, and names are the same for models
of several sizes. What tensors cannot tell is not told: FLUX.1-dev has those of FLUX.1-Kontext, and
models that were distilled have those of what they were distilled from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stylecli.backbone.architectures import ARCHITECTURES
from stylecli.backbone.headers import Header
from stylecli.backbone.original_names import Family
from stylecli.errors import UsageError, WeightsError
from stylecli.recipe.native import PREFIXES, SIGNS

PART = "transformer"
FAMILIES: Mapping[str, Family] = {
    "z-image": "z-image",
    "flux2-klein": "flux2",
    "flux1-kontext": "flux1",
}
_OF_DIFFUSERS = ("transformer_blocks.0.attn.to_q.weight", "noise_refiner.0.attention.to_q.weight")
# Of weights in so few bits that a number has to be multiplied back in, under several names.
_SCALES = (".scale_weight", ".weight_scale", ".weight_scale_2", ".input_scale", ".comfy_quant")
_SCALED = "scaled_fp8"
# Numbers that are what they say; those of 8 bits are exact in any of the others.
_PLAIN = ("F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64")


def bare(header: Header) -> dict[str, str]:
    """The file's own keys, by what they are without a prefix."""
    keys = header.shapes
    prefix = next(one for one in PREFIXES if not one or any(key.startswith(one) for key in keys))
    # RMS norms call their numbers either, depending on who saved them.
    return {_with_scale(key.removeprefix(prefix)): key for key in keys}


def _with_scale(key: str) -> str:
    stem = key.removesuffix(".weight")
    return f"{stem}.scale" if stem.endswith((".query_norm", ".key_norm")) else key


def told(file: Path, header: Header) -> str | None:
    """The model whose transformer a file is, by the registry's name; None for other files.

    Raises:
        UsageError: Its transformer is of another size, or its weights are quantized.
        WeightsError: Its tensors are named as in a folder.
    """
    own = bare(header)
    name = next((name for sign, name in SIGNS.items() if sign in own), None)
    if name is None:
        if any(key in own for key in _OF_DIFFUSERS):
            raise WeightsError(
                f"{file} is a transformer under diffusers' names, without the rest of its folder",
                fix="give the folder that holds model_index.json",
            )
        return None
    _refuse_quantized(file, header, own)
    sizes = {key: header.shapes[own[key]] for key in own}
    for key, wanted in _sizes(name).items():
        found = sizes.get(key)
        if found is not None and found != wanted:
            raise UsageError(
                f"{file} is a transformer like that of {name}, and of another size: {key} is "
                f"{shape(found)}, not {shape(wanted)}",
                fix=f"give a file of {name}, or a diffusers folder",
            )
    return name


def doubt(file: Path, header: Header, name: str) -> str | None:
    """What nobody can tell of a file; None where it says so itself, or its name does."""
    said = " ".join((file.name, *header.metadata.values())).lower()
    if name == "flux1-kontext" and "kontext" not in said:
        return (
            "is taken for FLUX.1-Kontext, and FLUX.1-dev, which edits nothing, has the same tensors"
        )
    return None


def shape(sizes: tuple[int, ...]) -> str:
    """As messages say it.

    >>> shape((3072, 64)), shape(())
    ('3072x64', 'one number')
    """
    return "x".join(map(str, sizes)) or "one number"


def _refuse_quantized(file: Path, header: Header, own: Mapping[str, str]) -> None:
    scale = next((key for key in own if key == _SCALED or key.endswith(_SCALES)), None)
    if scale is not None:
        raise UsageError(
            f"{file} is quantized: its weights are not whole without {scale}, which is not read",
            fix="give the file in bfloat16",
        )
    for key, type_ in header.types.items():
        if type_ not in _PLAIN:
            raise UsageError(
                f"{file} is quantized: {key} is {type_}", fix="give the file in bfloat16"
            )


def _sizes(name: str) -> dict[str, tuple[int, ...]]:
    """Of the first layers, which tell one size of a family from another."""
    said: Mapping[str, Any] = ARCHITECTURES[name].parts[PART].config
    if name == "z-image":
        return {
            "x_embedder.weight": (said["dim"], 4 * said["in_channels"]),
            "cap_embedder.1.weight": (said["dim"], said["cap_feat_dim"]),
        }
    width = said["num_attention_heads"] * said["attention_head_dim"]
    return {
        "img_in.weight": (width, said["in_channels"]),
        "txt_in.weight": (width, said["joint_attention_dim"]),
    }
