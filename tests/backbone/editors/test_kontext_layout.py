"""Tokens, places, noise levels and layer names of FLUX.1-Kontext."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Generator

from stylecli.backbone.configs import CONFIGS
from stylecli.backbone.denoisers.flow import shifted
from stylecli.backbone.editors import kontext_layout as layout
from stylecli.errors import RecipeError
from tests.small import noise

SCHEDULER = {
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def test_a_token_is_its_two_by_two_cells_of_each_channel() -> None:
    rows, columns, channels = 2, 3, 4
    latents = torch.arange(2.0 * channels * 4 * rows * columns)
    latents = latents.view(2, channels, 2 * rows, 2 * columns)
    tokens = layout.packed(latents)
    assert tokens.shape == (2, rows * columns, 4 * channels)
    for y, x, c, dy, dx in product(*map(range, (rows, columns, channels, 2, 2))):
        found = tokens[:, y * columns + x, 4 * c + 2 * dy + dx]
        assert found.tolist() == latents[:, c, 2 * y + dy, 2 * x + dx].tolist()
    assert torch.equal(layout.unpacked(tokens, (rows, columns)), latents)


def test_tokens_are_packed_as_the_stock_pipeline_packs_them() -> None:
    from diffusers import FluxKontextPipeline

    latents = noise(2, 16, 6, 10)
    tokens = FluxKontextPipeline._pack_latents(latents, 2, 16, 6, 10)
    assert torch.equal(layout.packed(latents), tokens)
    back = FluxKontextPipeline._unpack_latents(tokens, 48, 80, 8)
    assert torch.equal(layout.unpacked(tokens, (3, 5)), back)


@pytest.mark.parametrize("picture", [0, 1])
def test_places_are_those_of_the_stock_pipeline(picture: int) -> None:
    from diffusers import FluxKontextPipeline

    stock = FluxKontextPipeline._prepare_latent_image_ids(
        1, 3, 5, torch.device("cpu"), torch.float32
    )
    stock[..., 0] = picture
    assert torch.equal(layout.places((3, 5), picture), stock)


def test_noise_levels_are_shifted_as_far_as_the_pipeline_does() -> None:
    assert layout.shift_of(1024, SCHEDULER) == pytest.approx(0.630, abs=1e-3)
    assert layout.shift_of(4096, SCHEDULER) == pytest.approx(1.15)


@pytest.mark.parametrize("tokens", [1024, 4096])
def test_drawn_levels_are_logit_normal_around_mu(tokens: int) -> None:
    mu, count = layout.shift_of(tokens, SCHEDULER), 20_000
    sigmas = layout.drawn_sigmas(count, mu, Generator().manual_seed(0))
    logits = torch.logit(sigmas.double())
    assert abs(float(logits.mean()) - mu) < 3 / math.sqrt(count)
    assert float(logits.std()) == pytest.approx(1, abs=3 / math.sqrt(2 * count))
    # The same as a standard draw that is shifted by e^mu.
    standard = layout.drawn_sigmas(count, 0.0, Generator().manual_seed(0))
    assert torch.allclose(shifted(standard, math.exp(mu)), sigmas, atol=1e-6)


@pytest.fixture(scope="module")
def full_size() -> Any:
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        return FluxTransformer2DModel(**CONFIGS["flux1-kontext"])


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        ("attn", 190),
        ("auto", 190),
        ("attn+text", 266),
        ("full", 380),
        ("double", 76),
        ("single", 114),
    ],
)
def test_target_sets_have_the_layers_of_the_full_size_model(
    full_size: Any, targets: str, layers: int
) -> None:
    found = layout.paths(full_size, targets)
    assert len(set(found)) == len(found) == layers
    assert "proj_out" not in found


def test_a_lora_of_rank_four_on_attention_has_4_669_440_numbers(full_size: Any) -> None:
    linears = dict(full_size.named_modules())
    chosen = [linears[path] for path in layout.paths(full_size, "attn")]
    assert sum(4 * (one.in_features + one.out_features) for one in chosen) == 4_669_440


def test_loras_change_no_name() -> None:
    from peft import LoraConfig

    from tests import tiny_kontext

    model = tiny_kontext.transformer()
    before = layout.paths(model, "full")
    model.add_adapter(LoraConfig(r=2, target_modules=list(layout.paths(model, "attn"))))
    assert layout.paths(model, "full") == before


def test_a_set_of_other_models_is_refused(full_size: Any) -> None:
    with pytest.raises(RecipeError, match=r"route.lora.targets attn2") as caught:
        layout.paths(full_size, "attn2")
    assert "attn" in caught.value.fix
