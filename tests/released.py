"""Tiny transformers as one file, under the names that their authors gave tensors."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.backbone import architectures, transformer_kinds
from tests import flows, ldm, tiny_kontext

State = Mapping[str, Tensor]
KINDS = ("z-image", "flux2-klein", "flux1-kontext")
# The kinds of flows whose transformers these are.
FLOWS = {"z-image": "z-image", "flux2-klein": "flux2"}
CLASSES = {
    "z-image": "ZImageTransformer2DModel",
    "flux2-klein": "Flux2Transformer2DModel",
    "flux1-kontext": "FluxTransformer2DModel",
}
_FLUX = [
    (r"^transformer_blocks", "double_blocks"),
    (r"^single_transformer_blocks", "single_blocks"),
    (r"^x_embedder", "img_in"),
    (r"^context_embedder", "txt_in"),
    (r"^proj_out", "final_layer.linear"),
    (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"^time_(text|guidance)_embed\.timestep_embedder", "time_in"),
    (r"^time_(text|guidance)_embed\.guidance_embedder", "guidance_in"),
    (r"^time_text_embed\.text_embedder", "vector_in"),
    (r"linear_1\.", "in_layer."),
    (r"linear_2\.", "out_layer."),
    (r"(double.*)\.attn\.to_out\.0", r"\1.img_attn.proj"),
    (r"(double.*)\.attn\.to_add_out", r"\1.txt_attn.proj"),
    (r"(double.*)\.attn\.norm_(q|k)\.weight", r"\1.img_attn.norm.\2_norm.scale"),
    (r"(double.*)\.attn\.norm_added_(q|k)\.weight", r"\1.txt_attn.norm.\2_norm.scale"),
    (r"(single.*)\.attn\.norm_(q|k)\.weight", r"\1.norm.\2_norm.scale"),
    (r"\.q_norm", ".query_norm"),
    (r"\.k_norm", ".key_norm"),
    (r"\.ff\.(net\.0\.proj|linear_in)", ".img_mlp.0"),
    (r"\.ff\.(net\.2|linear_out)", ".img_mlp.2"),
    (r"\.ff_context\.(net\.0\.proj|linear_in)", ".txt_mlp.0"),
    (r"\.ff_context\.(net\.2|linear_out)", ".txt_mlp.2"),
    (r"(double.*)\.norm1\.linear", r"\1.img_mod.lin"),
    (r"(double.*)\.norm1_context\.linear", r"\1.txt_mod.lin"),
    (r"(single_blocks.*)\.norm\.linear", r"\1.modulation.lin"),
    (r"(single_blocks.*)\.(proj_out|attn\.to_out)", r"\1.linear2"),
    (r"(single_blocks.*)\.attn\.to_qkv_mlp_proj", r"\1.linear1"),
    (r"(_modulation\w*)\.linear", r"\1.lin"),
]
_Z_IMAGE = [
    (r"^all_(x_embedder|final_layer)\.2-1", r"\1"),
    (r"\.to_out\.0", ".out"),
    (r"\.norm_(q|k)", r".\1_norm"),
]
# Layers of diffusers that are one of the authors', in their order.
_FUSED = [
    (r"(double.*)\.attn\.to_%s", r"\1.img_attn.qkv", "qkv"),
    (r"(double.*)\.attn\.add_%s_proj", r"\1.txt_attn.qkv", "qkv"),
    (r"(single.*)\.(?:attn\.to|proj)_%s", r"\1.linear1", ("q", "k", "v", "mlp")),
    (r"(.*)\.attention\.to_%s", r"\1.attention.qkv", "qkv"),
]


def original(name: str, state: State) -> dict[str, Tensor]:
    """The tensors of a model of diffusers' as its authors have them."""
    rules = _Z_IMAGE if name == "z-image" else _FLUX
    found = {}
    for key, value in state.items():
        own = key
        for pattern, words in rules:
            own = re.sub(pattern, words, own)
        if "adaLN_modulation.1" in own and name != "z-image":
            scale, shift = value.chunk(2)
            value = torch.cat([shift, scale])
        found[own] = value
    return _fused(found)


def _fused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = dict(state)
    for pattern, whole, parts in _FUSED:
        first = re.compile(pattern % parts[0] + r"\.(weight|bias)")
        for key in state:
            if match := first.fullmatch(key):
                names = [key.replace(f"_{parts[0]}", f"_{one}") for one in parts]
                names = [
                    re.sub(r"attn\.to_mlp", "proj_mlp", one) if parts[-1] == "mlp" else one
                    for one in names
                ]
                target = match.expand(whole) + f".{match[2]}"
                found[target] = torch.cat([found.pop(one) for one in names])
    return found


def folder(name: str, path: Path) -> Path:
    """A whole diffusers folder."""
    if name in FLOWS:
        return flows.folder(FLOWS[name])
    return tiny_kontext.save_folder(path)


def state_of(folder: Path) -> dict[str, Tensor]:
    """Of its transformer."""
    from safetensors.torch import load_file

    (file,) = (folder / "transformer").glob("*.safetensors")
    return load_file(file)


def shrink(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the published model be as small as the one in a folder."""
    config = json.loads((folder / "transformer" / "config.json").read_bytes())
    own = architectures.ARCHITECTURES[name]
    said = {key: value for key, value in config.items() if not key.startswith("_")}
    parts = {**own.parts, "transformer": replace(own.parts["transformer"], config=said)}
    small = {**architectures.ARCHITECTURES, name: replace(own, parts=parts)}
    for module in (architectures, transformer_kinds):
        monkeypatch.setattr(module, "ARCHITECTURES", small)
    monkeypatch.setattr("stylecli.backbone.transformer_files.ARCHITECTURES", small)


class Released:
    """A model as people have it: its transformer in one file, the rest in a folder.

    Attributes:
        whole: The diffusers folder that it was made of.
        rest: The same without the transformer's weights, where `STYLE_WEIGHTS_DIR` has it.
        file: What was released.
    """

    def __init__(self, name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = name
        self.whole = folder(name, path)
        self.rest = path / "weights" / name
        shutil.copytree(self.whole, self.rest, ignore=_without_transformer)
        self.tensors = original(name, state_of(self.whole))
        self.file = ldm.saved(path / f"{name}.safetensors", self.tensors)
        shrink(name, self.whole, monkeypatch)
        monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(path / "weights"))

    def save(self, change: Callable[[dict[str, Tensor]], Any]) -> Path:
        """The file with its tensors changed."""
        tensors = dict(self.tensors)
        change(tensors)
        return ldm.saved(self.file, tensors)


def _without_transformer(folder: str, names: list[str]) -> list[str]:
    if Path(folder).name != "transformer":
        return []
    return [name for name in names if name.endswith(".safetensors")]
