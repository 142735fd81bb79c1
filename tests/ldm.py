"""Tiny models as one file, under the names that its authors gave tensors."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

State = Mapping[str, Tensor]
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet(state: State, *, has_attention: list[bool]) -> dict[str, Tensor]:
    """Two resnets a block on the way down, three on the way up.

    Args:
        has_attention: Of each block on the way up.
    """
    return {
        f"model.diffusion_model.{_unet_key(key, has_attention)}": value
        for key, value in state.items()
    }


def _unet_key(key: str, has_attention: list[bool]) -> str:
    for ours, theirs in _TOP.items():
        if key.startswith(f"{ours}."):
            return theirs + key.removeprefix(ours)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        place = 2 * int(match[2]) if match[1] == "resnets" else 1
        return f"middle_block.{place}.{_inner(match[1], match[3])}"
    match = re.fullmatch(
        r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", key
    )
    assert match, key
    way, block, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if kind == "downsamplers":
        return f"input_blocks.{3 * (block + 1)}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        return f"output_blocks.{3 * block + 2}.{1 + has_attention[block]}.{rest}"
    place = 3 * block + index + (1 if way == "down" else 0)
    side = "input" if way == "down" else "output"
    return f"{side}_blocks.{place}.{int(kind == 'attentions')}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    if kind != "resnets":
        return rest
    name, _, end = rest.rpartition(".")
    return f"{_RESNET[name]}.{end}"


def vae(state: State) -> dict[str, Tensor]:
    found = {}
    blocks = 1 + max(int(m[1]) for key in state if (m := re.search(r"up_blocks\.(\d)", key)))
    for key, value in state.items():
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(
            r"up_blocks\.(\d)\.resnets\.(\d)",
            lambda m: f"up.{blocks - 1 - int(m[1])}.block.{m[2]}",
            name,
        )
        name = re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0",
            lambda m: f"up.{blocks - 1 - int(m[1])}.upsample",
            name,
        )
        if "mid_block.attentions" in name:
            parts = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
            for ours, theirs in {**parts, "group_norm": "norm"}.items():
                name = name.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
        found[f"first_stage_model.{name}"] = value
    return found


def clip(state: State, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}text_model.{key.removeprefix('text_model.')}": v for key, v in state.items()}


def open_clip(state: State, prefix: str) -> dict[str, Tensor]:
    """Queries, keys and values in one, as OpenCLIP keeps them."""
    names = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    found: dict[str, Tensor] = {}
    fused: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        own = key.removeprefix("text_model.")
        if own == "text_projection.weight":
            found[f"{prefix}text_projection"] = value.T.contiguous()
        elif own in names:
            found[prefix + names[own]] = value
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", own):
            stem = f"{prefix}transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}"
            fused.setdefault(stem, {})[match[2]] = value
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", own):
            rest = match[2].replace("self_attn.out_proj", "attn.out_proj")
            rest = rest.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2")
            rest = rest.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
            found[f"{prefix}transformer.resblocks.{match[1]}.{rest}"] = value
    for stem, three in fused.items():
        found[stem] = torch.cat([three[one] for one in "qkv"])
    return found


def saved(path: Path, tensors: State, metadata: Mapping[str, str] | None = None) -> Path:
    plain = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    save_file(plain, path, metadata=dict(metadata or {"format": "pt"}))
    return path


def whole(kind: str, parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """A checkpoint of SD1.5, SD2.1-base or SDXL with these models in it."""
    states = {name: part.state_dict() for name, part in parts.items()}
    blocks = parts["unet"].up_blocks
    attention = [bool(getattr(block, "attentions", None)) for block in blocks]
    found = {**unet(states["unet"], has_attention=attention), **vae(states["vae"])}
    if kind == "sd15":
        return found | clip(states["text_encoder"], "cond_stage_model.transformer.")
    if kind == "sd21-base":
        return found | open_clip(states["text_encoder"], "cond_stage_model.model.")
    first = clip(states["text_encoder"], "conditioner.embedders.0.transformer.")
    second = open_clip(states["text_encoder_2"], "conditioner.embedders.1.model.")
    return found | first | second


def hollow(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A file with a whole header, and a hole where its numbers are."""
    header: dict[str, Any] = {}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    said = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(said)) + said)
        stream.truncate(8 + len(said) + end)
    return path
