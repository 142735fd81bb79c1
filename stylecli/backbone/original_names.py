"""What the authors of transformers call their layers, and what diffusers makes of them.

Files are released under the authors' names, and ComfyUI reads LoRAs under those of FLUX.2. One of
their layers may be several of diffusers', one below the other. diffusers has converters of its own;
that of FLUX.1 knows models of one width alone and that of Z-Image drops what it does not know, so
the names are kept here, and tests compare them with what those converters make.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Literal, NamedTuple

Family = Literal["z-image", "flux1", "flux2"]
# The authors' section, diffusers', and what is in it: theirs -> what that is in diffusers.
_Section = tuple[str, str, Mapping[str, tuple[str, ...]]]


class Place(NamedTuple):
    """Where a layer of diffusers is among its authors' layers.

    Attributes:
        path: Of the authors' layer.
        part: Which of that layer's parts it is, from the top.
        parts: How many there are.
        is_swapped: The halves are the other way round: shift before scale.
    """

    path: str
    part: int = 0
    parts: int = 1
    is_swapped: bool = False


_OF_DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
}
_OF_SINGLE: Mapping[str, tuple[str, ...]] = {
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}
_AROUND: Mapping[str, tuple[str, ...]] = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
_SWAPPED = "norm_out.linear"


def _embedders(parent: str, **stems: str) -> dict[str, tuple[str, ...]]:
    """Two layers each, one after another."""
    return {
        f"{theirs}.{their}": (f"{parent}.{ours}.{our}",)
        for theirs, ours in stems.items()
        for their, our in (("in_layer", "linear_1"), ("out_layer", "linear_2"))
    }


_FLUX1: tuple[_Section, ...] = (
    (
        "double_blocks",
        "transformer_blocks",
        {
            **_OF_DOUBLE,
            "img_mod.lin": ("norm1.linear",),
            "txt_mod.lin": ("norm1_context.linear",),
            "img_mlp.0": ("ff.net.0.proj",),
            "img_mlp.2": ("ff.net.2",),
            "txt_mlp.0": ("ff_context.net.0.proj",),
            "txt_mlp.2": ("ff_context.net.2",),
        },
    ),
    (
        "single_blocks",
        "single_transformer_blocks",
        {
            **_OF_SINGLE,
            "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
            "linear2": ("proj_out",),
            "modulation.lin": ("norm.linear",),
        },
    ),
    (
        "",
        "",
        {
            **_AROUND,
            **_embedders(
                "time_text_embed",
                time_in="timestep_embedder",
                vector_in="text_embedder",
                guidance_in="guidance_embedder",
            ),
        },
    ),
)
_FLUX2: tuple[_Section, ...] = (
    (
        "double_blocks",
        "transformer_blocks",
        {
            **_OF_DOUBLE,
            "img_mlp.0": ("ff.linear_in",),
            "img_mlp.2": ("ff.linear_out",),
            "txt_mlp.0": ("ff_context.linear_in",),
            "txt_mlp.2": ("ff_context.linear_out",),
        },
    ),
    (
        "single_blocks",
        "single_transformer_blocks",
        {
            **_OF_SINGLE,
            "linear1": ("attn.to_qkv_mlp_proj",),
            "linear2": ("attn.to_out",),
        },
    ),
    (
        "",
        "",
        {
            **_AROUND,
            **_embedders(
                "time_guidance_embed", time_in="timestep_embedder", guidance_in="guidance_embedder"
            ),
            "double_stream_modulation_img.lin": ("double_stream_modulation_img.linear",),
            "double_stream_modulation_txt.lin": ("double_stream_modulation_txt.linear",),
            "single_stream_modulation.lin": ("single_stream_modulation.linear",),
        },
    ),
)
_Z_BLOCK: Mapping[str, tuple[str, ...]] = {
    "attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v"),
    "attention.out": ("attention.to_out.0",),
    "attention.q_norm": ("attention.norm_q",),
    "attention.k_norm": ("attention.norm_k",),
}
# What is not here has one name.
_Z_IMAGE: tuple[_Section, ...] = (
    *((part, part, _Z_BLOCK) for part in ("layers", "noise_refiner", "context_refiner")),
    (
        "",
        "",
        {
            "x_embedder": ("all_x_embedder.2-1",),
            "final_layer.linear": ("all_final_layer.2-1.linear",),
            "final_layer.adaLN_modulation.1": ("all_final_layer.2-1.adaLN_modulation.1",),
        },
    ),
)
_SECTIONS: Mapping[Family, tuple[_Section, ...]] = {
    "z-image": _Z_IMAGE,
    "flux1": _FLUX1,
    "flux2": _FLUX2,
}


def place(family: Family, layer: str) -> Place | None:
    """Where a layer of diffusers is among its authors'; None where they have none such.

    >>> place("flux2", "transformer_blocks.3.attn.to_k")
    Place(path='double_blocks.3.img_attn.qkv', part=1, parts=3, is_swapped=False)
    """
    section, number, inner = _split(layer)
    found = _places(family).get((section, inner))
    if found is None:
        return Place(layer) if family == "z-image" else None
    theirs, own = found
    return own._replace(path=f"{theirs}.{number}.{own.path}") if section else own


def tensor_place(family: Family, key: str) -> Place | None:
    """`place` of a tensor by its whole key; that of a layer's weight, its bias, or of none."""
    layer, _, parameter = key.rpartition(".")
    found = place(family, layer) if layer else Place("")
    if found is None:
        return None
    if family != "z-image" and found.path.endswith(("query_norm", "key_norm")):
        parameter = "scale"
    return found._replace(path=f"{found.path}.{parameter}".removeprefix("."))


def is_named(family: Family, layers: Iterable[str]) -> bool:
    """Whether all of these are layers of a model of the family, by diffusers' names."""
    return all(place(family, layer) is not None for layer in layers)


def _split(layer: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"(\w+)\.(\d+)\.(.+)", layer)
    return (match[1], match[2], match[3]) if match else ("", "", layer)


@cache
def _places(family: Family) -> Mapping[tuple[str, str], tuple[str, Place]]:
    """Of diffusers' section and layer: the authors' section, and the place in it."""
    return {
        (ours, own): (theirs, Place(path, part, len(parts), own == _SWAPPED))
        for theirs, ours, inner in _SECTIONS[family]
        for path, parts in inner.items()
        for part, own in enumerate(parts)
    }
