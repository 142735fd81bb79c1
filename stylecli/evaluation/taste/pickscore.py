"""PickScore (Kirstain et al. 2023): ViT-H/14, tuned on which picture users of a web page picked.

The published file has the keys of transformers' `CLIPModel`, where queries, keys and values of an
attention are three tensors; open_clip has one. Renamed, it runs in the class that runs every other
CLIP here, under the same tokenizer and the same check of its activation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stylecli.errors import WeightsError
from stylecli.evaluation.clip import Clip, clip_network

# Counters that older releases of transformers saved beside the weights.
COUNTERS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
TRUNKS = {"vision_model": "visual.", "text_model": ""}
IN_A_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
AROUND = {
    "logit_scale": "logit_scale",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    # Spelt so by its authors.
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
# transformers keeps them as layers, open_clip as matrices to multiply by from the right.
TURNED = {
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
}
THREE = ("q_proj", "k_proj", "v_proj")
_LAYER = re.compile(r"(vision_model|text_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def pickscore(
    tensors: Mapping[str, Tensor], *, file: str, config: Mapping[str, Any] | None = None
) -> Clip:
    """The network from the tensors of its file.

    Args:
        tensors: Under the keys of transformers.
        file: For messages.
        config: Another architecture in open_clip's words, for tests.

    Raises:
        WeightsError: The file is of another network, or would be run with another activation.
    """
    return clip_network("pickscore", as_open_clip(tensors, file), file=file, config=config)


def as_open_clip(tensors: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """The same tensors under open_clip's keys; a key that is not known keeps its name.

    Raises:
        WeightsError: Of an attention's three parts one is missing, or of another shape.
    """
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key in COUNTERS:
            continue
        if key in AROUND:
            found[AROUND[key]] = tensor
        elif key in TURNED:
            found[TURNED[key]] = tensor.T
        elif layer := _LAYER.fullmatch(key):
            trunk, index, name, kind = layer.groups()
            place = f"{TRUNKS[trunk]}transformer.resblocks.{index}."
            if name.removeprefix("self_attn.") in THREE:
                joined = parts.setdefault(f"{place}attn.in_proj_{kind}", {})
                joined[name.removeprefix("self_attn.")] = tensor
            else:
                found[f"{place}{IN_A_LAYER[name]}.{kind}" if name in IN_A_LAYER else key] = tensor
        else:
            found[key] = tensor
    for key, joined in parts.items():
        if set(joined) != set(THREE) or len({tensor.shape for tensor in joined.values()}) > 1:
            raise WeightsError(
                f"{file} lacks one of {', '.join(THREE)} of {key}, or they differ in shape",
                fix="give the published file",
            )
        found[key] = torch.cat([joined[part] for part in THREE])
    return found
