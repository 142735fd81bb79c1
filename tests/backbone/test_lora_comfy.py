"""LoRAs for ComfyUI: what it makes of their names, worked out here by its rules as they are told.

Its rules are in docs/decisions/0013; no line of it is here. A LoRA is added to the tensors that a
released file has, and the sum compared with that of the same LoRA in diffusers' layers.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stylecli.backbone import lora_comfy, lora_layouts
from stylecli.backbone.row_loras import Pairs
from tests import released
from tests.backbone.test_lora_layouts import model

RANK = 3
NAMES = {"flux2": "flux2-klein", "z-image": "z-image"}
# Of FLUX, behind `transformer.`: diffusers' layer, the model's own, and which third of it.
_FLUX = [
    (r"transformer_blocks\.(\d+)\.attn\.to_([qkv])", r"double_blocks.\1.img_attn.qkv"),
    (r"transformer_blocks\.(\d+)\.attn\.add_([qkv])_proj", r"double_blocks.\1.txt_attn.qkv"),
    (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn.proj"),
    (r"transformer_blocks\.(\d+)\.attn\.to_add_out", r"double_blocks.\1.txt_attn.proj"),
    (r"transformer_blocks\.(\d+)\.ff\.linear_in", r"double_blocks.\1.img_mlp.0"),
    (r"transformer_blocks\.(\d+)\.ff\.linear_out", r"double_blocks.\1.img_mlp.2"),
    (r"transformer_blocks\.(\d+)\.ff_context\.linear_in", r"double_blocks.\1.txt_mlp.0"),
    (r"transformer_blocks\.(\d+)\.ff_context\.linear_out", r"double_blocks.\1.txt_mlp.2"),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj", r"single_blocks.\1.linear1"),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_out", r"single_blocks.\1.linear2"),
    (r"x_embedder", "img_in"),
    (r"norm_out\.linear", "final_layer.adaLN_modulation.1"),
]
_Z_IMAGE = [
    (r"(.*\.attention)\.to_([qkv])", r"\1.qkv"),
    (r"(.*\.attention)\.to_out\.0", r"\1.out"),
]


def of(kind: str, patterns: str, *, shared: bool = False) -> Pairs:
    """A LoRA of the layers that fit; `shared`: its fused ones see through one matrix."""
    random = torch.Generator().manual_seed(3)
    found = {}
    downs: dict[str, Tensor] = {}
    for path, module in model(kind).named_modules():
        if not isinstance(module, torch.nn.Linear) or not re.fullmatch(patterns, path):
            continue
        stem = re.sub(r"(to|add)_[qkv].*", r"\1", path) if shared else path
        rank = RANK if shared else RANK + len(found) % 2
        down = downs.setdefault(stem, torch.randn(rank, module.in_features, generator=random))
        found[path] = (down, torch.randn(module.out_features, len(down), generator=random))
    assert found
    return found


def weights(kind: str) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model(kind).state_dict().items()}


def wanted(kind: str, pairs: Pairs) -> dict[str, Tensor]:
    """The released file of the model with the LoRA in it."""
    state = weights(kind)
    for path, (down, up) in pairs.items():
        state[f"{path}.weight"] += up @ down
    return released.original(NAMES[kind], state)


def patched(kind: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The released file, with what ComfyUI would add to it."""
    state = released.original(NAMES[kind], weights(kind))
    for key in [key for key in tensors if key.endswith(".lora_B.weight")]:
        stem = key.removesuffix(".lora_B.weight")
        delta = tensors[key] @ tensors[f"{stem}.lora_A.weight"]
        prefix, _, path = stem.partition(".")
        own, third = path, 0
        if f"{path}.weight" not in state or prefix == "transformer":
            assert prefix == ("transformer" if kind == "flux2" else "diffusion_model"), stem
            rules = _FLUX if kind == "flux2" else _Z_IMAGE
            match, own = next(
                (match, match.expand(to))
                for rule, to in rules
                if (match := re.fullmatch(rule, path))
            )
            third = "qkv".index(match[2]) if own.endswith("qkv") else 0
            if own.startswith("final_layer.adaLN"):
                delta = torch.cat(delta.chunk(2)[::-1])
        target = state[f"{own}.weight"]
        target[third * len(delta) : (third + 1) * len(delta)] += delta
    return state


ALL = (
    r"transformer_blocks\.\d+\.(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
    r"|ff(_context)?\.linear_(in|out))|single_transformer_blocks\.\d+\.attn\.to_(qkv_.*|out)"
)
Z_ALL = r"(layers|noise_refiner|context_refiner)\.\d+\.(attention\.to_.*|feed_forward\.w\d)"
MODULATION = r"|double_stream_modulation_img\.linear"
CASES = {
    "own matrices": ("flux2", ALL, False, "transformer"),
    "one matrix": ("flux2", ALL, True, "diffusion_model"),
    "nothing fused": (
        "flux2",
        r"single.*linear|.*to_(qkv_mlp_proj|out\.0)",
        False,
        "diffusion_model",
    ),
    "only attention": ("flux2", r"transformer_blocks\.0\.attn\.to_[qkv]", True, "transformer"),
    "queries alone": ("flux2", r"transf.*\.to_q|sing.*\.to_out", False, "transformer"),
    "swapped": ("flux2", r"norm_out\.linear|sing.*\.to_out", False, "transformer"),
    "modulation": ("flux2", ALL + MODULATION, False, "diffusion_model"),
    "modulation of all": (
        "flux2",
        r".*\.add_[qv]_proj|norm_out\.linear" + MODULATION,
        False,
        "diffusion_model",
    ),
    "wide out": ("flux2", r".*\.ff\.linear_out", False, "diffusion_model"),
    "z-image": ("z-image", Z_ALL, False, "diffusion_model"),
}


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", CASES)
def test_comfyui_adds_what_diffusers_does_and_the_file_is_read_back(
    name: str, tmp_path: Path
) -> None:
    kind, patterns, shared, prefix = CASES[name]
    pairs = of(kind, patterns, shared=shared)
    tensors, header = lora_layouts.write(
        pairs, prefix="transformer", layout="comfy", dtype=torch.float32
    )
    assert {key.partition(".")[0] for key in tensors} == {prefix}
    ours, theirs = patched(kind, tensors), wanted(kind, pairs)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.allclose(ours[key], value, atol=1e-4), key
    file = tmp_path / "x.safetensors"
    save_file(tensors, file, metadata=header)
    found = lora_layouts.read(file).pairs
    for path, (down, up) in found.items():
        given = pairs.get(path)
        product = torch.zeros(len(up), down.shape[1]) if given is None else given[1] @ given[0]
        assert torch.allclose(up @ down, product, atol=1e-5), path
    assert found.keys() >= pairs.keys()


def test_a_layer_of_one_matrix_comes_back_as_it_was(tmp_path: Path) -> None:
    pairs = of("flux2", ALL, shared=True)
    tensors, header = lora_layouts.write(
        pairs, prefix="transformer", layout="comfy", dtype=torch.float32
    )
    save_file(tensors, tmp_path / "x.safetensors", metadata=header)
    found = lora_layouts.read(tmp_path / "x.safetensors").pairs
    assert found.keys() == pairs.keys()
    assert all(
        torch.equal(a, c) and torch.equal(b, d)
        for (a, b), (c, d) in ((found[path], pairs[path]) for path in pairs)
    )


def test_training_writes_the_same_names_with_its_scale_in_the_numbers() -> None:
    pairs = of("flux2", ALL, shared=True)
    state = {
        f"{path}.lora_{side}.weight": tensor
        for path, pair in pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    keyed = lora_comfy.keyed(state, 2.0)
    once = lora_comfy.keyed(state, 1.0)
    assert keyed.keys() == once.keys()
    for key, value in once.items():
        assert torch.equal(keyed[key], value * 2 if ".lora_B." in key else value)


def test_flux1_keeps_the_names_that_it_is_known_by() -> None:
    pair = torch.ones(1, 2), torch.ones(2, 1)
    paths = ["transformer_blocks.0.attn.to_q", "single_transformer_blocks.3.proj_mlp"]
    found = lora_comfy.named(dict.fromkeys(paths, pair))
    assert [*found] == [f"transformer.{path}" for path in paths]
