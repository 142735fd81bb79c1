"""LoRAs for few steps in the model: conv layers too, and beside a style's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stylecli.backbone import lora as lora_files
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.model import Backbone
from stylecli.errors import UsageError
from tests import accelerators
from tests.small import as_file, base_unet, lora, noise, outputs, relative


def merged_outputs(backbone: Backbone, *scaled: tuple[dict[str, Tensor], float]) -> Tensor:
    prompts = backbone.encode_prompt(["a cat in sss style", ""]).clone()
    with torch.no_grad():
        unet = accelerators.merged(base_unet(), *scaled)
        return unet(noise(2, 4, 8, 8), 500, encoder_hidden_states=prompts).sample


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_accelerator_and_style_are_the_sum_of_their_products_convolutions_too(
    fresh: Backbone, tmp_path: Path, layout: str, fused: bool
) -> None:
    fast, style = accelerators.pairs(fresh.unet), lora(fresh.unet)
    path = accelerators.save(tmp_path / "fast.safetensors", fast, layout)
    scale = accelerators.ALPHA / 2 if layout == "kohya" else 1.0
    adapters = Adapters(fresh.unet, fused=fused)
    adapters.add("style", as_file(style))
    adapters.add("fast", lora_files.read(path, fresh.unet))
    base = outputs(fresh)
    with adapters.use({"fast": 0.8, "style": 0.5}):
        both = outputs(fresh)
    with adapters.use({"style": 0.5}):
        alone = outputs(fresh)
    wanted = merged_outputs(fresh, (fast, 0.8 * scale), (style, 0.5))
    assert relative(both, wanted) < 1e-5
    assert relative(both, alone) > 0.01
    assert relative(both, merged_outputs(fresh, (fast, scale), (style, 0.5))) > 0.001
    assert torch.equal(outputs(fresh), base)


@pytest.mark.slow
def test_every_kind_of_layer_it_holds_has_a_part_in_it(fresh: Backbone, tmp_path: Path) -> None:
    fast = accelerators.pairs(fresh.unet)
    path = accelerators.save(tmp_path / "fast.safetensors", fast)
    adapters = Adapters(fresh.unet)
    adapters.add("fast", lora_files.read(path, fresh.unet))
    with adapters.use({"fast": 1.0}):
        whole = outputs(fresh)
    scale = accelerators.ALPHA / 2
    for target in accelerators.TARGETS:
        rest = {name: tensor for name, tensor in fast.items() if f".{target}.lora" not in name}
        assert len(rest) < len(fast)
        assert relative(whole, merged_outputs(fresh, (rest, scale))) > 1e-4, target


@pytest.mark.slow
def test_one_of_another_model_is_refused_in_one_line(fresh: Backbone, tmp_path: Path) -> None:
    fast = accelerators.pairs(fresh.unet)
    wide = {
        name: torch.cat([tensor, tensor], dim=1) if ".lora_A." in name else tensor
        for name, tensor in fast.items()
    }
    path = accelerators.save(tmp_path / "xl.safetensors", wide)
    adapters, before = Adapters(fresh.unet), outputs(fresh)
    with pytest.raises(UsageError, match="the LoRA fits 0 of the") as caught:
        adapters.add("fast", lora_files.read(path, fresh.unet))
    assert "\n" not in caught.value.what
    assert torch.equal(outputs(fresh), before)
