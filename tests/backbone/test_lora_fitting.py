"""LoRAs as other tools name them, worn by transformers: the same picture from every layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stylecli.backbone import lora, lora_fitting, lora_layouts
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.linears import matching
from stylecli.backbone.row_loras import Pairs
from stylecli.errors import UsageError
from tests import flows
from tests.small import relative

RANK, STRENGTH = 3, 0.5
PATTERNS = {
    "z-image": [r"layers\.\d+\.attention\.to_[qkv]", r"layers\.\d+\.feed_forward\.w2"],
    "flux2": [
        r"transformer_blocks\.\d+\.attn\.to_[qkv]",
        r"single_transformer_blocks\.\d+\.attn\.to_(qkv_mlp_proj|out)",
    ],
}
Tensors = dict[str, Tensor]


def pairs(kind: str) -> Pairs:
    """Queries, keys and values of a double block share their first matrix, as fused ones do."""
    random = torch.Generator().manual_seed(5)
    made: dict[str, tuple[Tensor, Tensor]] = {}
    for layer in matching(flows.backbone(kind).unet, PATTERNS[kind]):
        down = torch.randn(RANK, layer.width_in, generator=random) / RANK
        block = layer.path.rpartition(".")[0]
        shared = [made[path][0] for path in made if path.rpartition(".")[0] == block]
        if layer.path.startswith("transformer_blocks") and shared:
            down = shared[0]
        made[layer.path] = (down, torch.randn(layer.width_out, RANK, generator=random) / 8)
    return made


def named(found: Pairs, stem: str, matrices: tuple[str, str] = ("lora_A", "lora_B")) -> Tensors:
    return {
        f"{stem}{path}.{name}.weight": tensor
        for path, pair in found.items()
        for name, tensor in zip(matrices, pair, strict=True)
    }


def kohya(found: Pairs) -> Tensors:
    """sd-scripts: dots become underscores, and an alpha beside each pair."""
    tensors: Tensors = {}
    for path, (down, up) in found.items():
        stem = "lora_unet_" + path.replace(".", "_")
        tensors[f"{stem}.lora_down.weight"] = down
        tensors[f"{stem}.lora_up.weight"] = up * RANK / 2
        tensors[f"{stem}.alpha"] = torch.tensor(2.0)
    return tensors


def black_forest(found: Pairs) -> Tensors:
    """ai-toolkit on FLUX.2: Black Forest Labs' own names, queries, keys and values in one."""
    tensors: Tensors = {}
    for path, (down, up) in found.items():
        block, number, _, layer = path.split(".")
        if block == "single_transformer_blocks":
            linear = {"to_qkv_mlp_proj": "linear1", "to_out": "linear2"}[layer]
            stem = f"diffusion_model.single_blocks.{number}.{linear}"
            tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"] = down, up
    stem = "diffusion_model.double_blocks.0.img_attn.qkv"
    three = [found[f"transformer_blocks.0.attn.to_{one}"] for one in "qkv"]
    tensors[f"{stem}.lora_A.weight"] = three[0][0]
    tensors[f"{stem}.lora_B.weight"] = torch.cat([up for _, up in three])
    return tensors


LAYOUTS: Mapping[str, Callable[[Pairs], Tensors]] = {
    "diffusers": lambda found: named(found, "transformer."),
    "comfy": lambda found: named(found, "diffusion_model."),
    "peft": lambda found: named(found, "base_model.model."),
    "ai-toolkit": lambda found: named(found, "diffusion_model.", ("lora_down", "lora_up")),
    "DiffSynth": lambda found: named(found, "", ("lora_A.default", "lora_B.default")),
    "bare": lambda found: named(found, ""),
    "kohya": kohya,
    "ai-toolkit, of the authors' names": black_forest,
}
CASES = [
    (kind, layout)
    for kind in flows.KINDS
    for layout in LAYOUTS
    if (kind == "flux2" or layout != "ai-toolkit, of the authors' names")
    and (kind == "z-image" or layout != "kohya")
]


def written(path: Path, layout: str, found: Pairs) -> Path:
    if layout == "peft":
        folder = path / "folder"
        folder.mkdir()
        config = json.dumps(lora_layouts.peft_config(found))
        (folder / lora.PEFT_CONFIG).write_text(config)
        save_file(
            {key: value.clone() for key, value in LAYOUTS[layout](found).items()},
            folder / lora.PEFT_WEIGHTS,
        )
        return folder
    file = path / "one.safetensors"
    tensors = {key: value.clone() for key, value in LAYOUTS[layout](found).items()}
    save_file(tensors, file, metadata={"format": "pt", "modelspec.trigger_phrase": "in red"})
    return file


def answer(model: flows.FlowBackbone) -> Tensor:
    with torch.inference_mode():
        return model.predict(flows.latents(model), 600, model.encode_prompt(["a"]))


def merged(kind: str, found: Pairs) -> Tensor:
    """The model with the products added to its weights."""
    model = flows.backbone(kind)
    for path, (down, up) in found.items():
        model.unet.get_submodule(path).weight.data += STRENGTH * up @ down
    return answer(model)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_every_layout_is_the_same_lora(kind: str, layout: str, tmp_path: Path) -> None:
    found = pairs(kind)
    model = flows.backbone(kind)
    base = answer(model)
    adapters = Adapters(model.unet)
    file = lora_fitting.read(written(tmp_path, layout, found), model.unet)
    adapters.add("one", file)
    assert torch.equal(answer(model), base)
    with adapters.use({"one": STRENGTH}):
        worn = answer(model)
    assert relative(worn, merged(kind, found)) < 1e-5
    assert relative(worn, base) > 1e-3
    assert file.trigger == (None if layout == "peft" else "in red")


def test_a_rank_of_its_own_for_each_layer_changes_no_scale(tmp_path: Path) -> None:
    found = dict(pairs("z-image"))
    first = next(iter(found))
    found[first] = (found[first][0][:1], found[first][1][:, :1])
    model = flows.backbone("z-image")
    adapters = Adapters(model.unet)
    adapters.add("one", lora_fitting.read(written(tmp_path, "comfy", found), model.unet))
    with adapters.use({"one": STRENGTH}):
        assert relative(answer(model), merged("z-image", found)) < 1e-5


def test_a_lora_of_another_model_is_refused(tmp_path: Path) -> None:
    model = flows.backbone("z-image")
    foreign = written(tmp_path, "diffusers", pairs("flux2"))
    adapters = Adapters(model.unet)
    with pytest.raises(UsageError, match=r"fits 0 of the \d+ tensors"):
        adapters.add("one", lora_fitting.read(foreign, model.unet))
    assert not adapters.names
    assert torch.isfinite(answer(model)).all()


def test_tensors_that_no_tool_names_so_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "odd.safetensors"
    odd = "lora_unet_nothing.lora_"
    save_file({f"{odd}down.weight": torch.ones(2, 2), f"{odd}up.weight": torch.ones(2, 2)}, file)
    model = flows.backbone("flux2")
    with pytest.raises(UsageError, match="fits 0 of the 2 tensors"):
        Adapters(model.unet).add("odd", lora_fitting.read(file, model.unet))
