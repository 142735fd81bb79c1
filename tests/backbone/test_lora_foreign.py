"""Names of layers that other programs give, read without a model; what none can tell is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stylecli.backbone import lora_layouts
from stylecli.errors import UsageError, WeightsError

RANK, WIDTH = 2, 8
Tensors = dict[str, Tensor]


def pair(stem: str, out: int = WIDTH, matrices: tuple[str, str] = ("lora_A", "lora_B")) -> Tensors:
    random = torch.Generator().manual_seed(len(stem) + out)
    down, up = matrices
    return {
        f"{stem}.{down}.weight": torch.randn(RANK, WIDTH, generator=random),
        f"{stem}.{up}.weight": torch.randn(out, RANK, generator=random),
    }


def kohya(stem: str, out: int = WIDTH) -> Tensors:
    found = pair(stem, out, ("lora_down", "lora_up"))
    return {**found, f"{stem}.alpha": torch.tensor(1.0)}


def written(path: Path, tensors: Tensors) -> Path:
    file = path / "one.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    return file


def flux(times: int, stem: str = "diffusion_model.") -> Tensors:
    """A double and a single block as Black Forest Labs name them."""
    return {
        **pair(f"{stem}double_blocks.0.img_attn.qkv", 3 * WIDTH),
        **pair(f"{stem}single_blocks.0.linear1", times * WIDTH),
    }


CASES = {
    "klein": (
        flux(9),
        [
            "single_transformer_blocks.0.attn.to_qkv_mlp_proj",
            *(f"transformer_blocks.0.attn.to_{one}" for one in "kqv"),
        ],
    ),
    "kohya z-image": (kohya("lora_unet_layers_3_attention_to_q"), ["layers.3.attention.to_q"]),
    "fused z-image": (
        {
            **pair("diffusion_model.layers.0.attention.qkv", 3 * WIDTH),
            **pair("diffusion_model.layers.0.attention.out"),
        },
        [f"layers.0.attention.to_{one}" for one in ("k", "out.0", "q", "v")],
    ),
    "pipe.dit": (
        pair("pipe.dit.layers.0.attention.to_q", matrices=("lora_A.default", "lora_B.default")),
        ["layers.0.attention.to_q"],
    ),
    "sdxl": (
        {
            **kohya("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"),
            **kohya("lora_unet_middle_block_1_transformer_blocks_9_attn2_to_v"),
            **kohya("lora_unet_output_blocks_2_1_transformer_blocks_1_attn1_to_k"),
        },
        [
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
            "mid_block.attentions.0.transformer_blocks.9.attn2.to_v",
            "up_blocks.0.attentions.2.transformer_blocks.1.attn1.to_k",
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_layers_are_called_as_diffusers_calls_them(name: str, tmp_path: Path) -> None:
    tensors, paths = CASES[name]
    assert sorted(lora_layouts.read(written(tmp_path, tensors)).pairs) == paths


def test_fused_projections_keep_their_products(tmp_path: Path) -> None:
    tensors = CASES["fused z-image"][0]
    found = lora_layouts.read(written(tmp_path, tensors)).pairs
    stem = "diffusion_model.layers.0.attention.qkv"
    whole = tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
    three = [found[f"layers.0.attention.to_{one}"] for one in "qkv"]
    assert torch.allclose(torch.cat([up @ down for down, up in three]), whole)


def test_alphas_of_other_tools_are_in_the_numbers(tmp_path: Path) -> None:
    tensors = CASES["kohya z-image"][0]
    ((down, up),) = lora_layouts.read(written(tmp_path, tensors)).pairs.values()
    stem = "lora_unet_layers_3_attention_to_q"
    whole = tensors[f"{stem}.lora_up.weight"] @ tensors[f"{stem}.lora_down.weight"]
    assert torch.allclose(up @ down, whole / RANK)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (flux(5), "no size in it tells which FLUX"),
        ({**flux(9), **pair("diffusion_model.double_blocks.0.odd")}, "flux2 model has not"),
        (
            {
                **kohya("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"),
                **kohya("lora_unet_nonsense"),
            },
            "names nonsense, which no UNet",
        ),
        ({**flux(9), "diffusion_model.double_blocks.0.x.dora_scale": torch.ones(2)}, "DoRA"),
        ({"lora_unet_x.hada_w1_a": torch.zeros(2, 2)}, "is a LoHa"),
        ({"layers.0.lokr_w1": torch.zeros(2, 2)}, "is a LoKr"),
    ],
)
def test_what_cannot_be_told_is_refused(tensors: Tensors, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        lora_layouts.read(written(tmp_path, tensors))


def test_an_alpha_of_two_numbers_is_damage(tmp_path: Path) -> None:
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {**kohya(stem), f"{stem}.alpha": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"attn1_to_q\.alpha holds 2 numbers"):
        lora_layouts.read(written(tmp_path, tensors))
