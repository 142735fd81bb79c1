"""Encoders on tiny networks of the real classes, against plain code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from transformers import (
    Siglip2ImageProcessorPil,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from stylecli.backbone.registry import ASSETS
from stylecli.evaluation.perceptual import load_pocket_clip
from stylecli.methods.i2l.encoders.base import Description, Encoder
from stylecli.methods.i2l.encoders.patches import RandomPatches, VaePatches, positions
from stylecli.methods.i2l.encoders.pocket import PocketTokens
from stylecli.methods.i2l.encoders.siglip import TOWERS, SiglipTokens
from stylecli.methods.i2l.pictures import prepared

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 4,
}


def fixed() -> SiglipVisionModel:
    torch.manual_seed(0)
    return SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=16)).eval()


def flexible() -> Siglip2VisionModel:
    torch.manual_seed(0)
    return Siglip2VisionModel(Siglip2VisionConfig(**SIZES, num_patches=16)).eval()


def noise(*size: int, seed: int = 1) -> Tensor:
    return torch.rand(*size, generator=Generator().manual_seed(seed)) * 2 - 1


def test_a_tower_of_one_resolution_gives_its_last_states() -> None:
    model, seen = fixed(), noise(2, 3, 16, 16)
    encoder = Encoder(SiglipTokens(model), name="x", digest="d")
    assert (encoder.width, encoder.tokens, encoder.px) == (16, 16, 16)
    with torch.no_grad():
        wanted = model(pixel_values=seen).last_hidden_state
    torch.testing.assert_close(encoder(seen), wanted)


def test_a_tower_whose_patches_do_not_fill_its_picture_sees_all_that_fit() -> None:
    model = SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=18)).eval()
    encoder = Encoder(SiglipTokens(model), name="x", digest="d")
    assert (encoder.tokens, encoder.px) == (16, 18)
    assert encoder(noise(1, 3, 18, 18)).shape == (1, 16, 16)


def test_a_flexible_tower_sees_what_its_own_processor_cuts() -> None:
    model = flexible()
    picture = (torch.rand(16, 16, 3, generator=Generator().manual_seed(3)) * 255).to(torch.uint8)
    processor = Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16)
    with torch.no_grad():
        inputs = processor(images=picture.numpy(), return_tensors="pt")
        wanted = model(**inputs).last_hidden_state
    encoder = Encoder(SiglipTokens(model), name="x", digest="d")
    assert (encoder.tokens, encoder.px) == (16, 16)
    found = encoder(prepared(picture, px=16, fit="crop", resample="bilinear")[None])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_picture_has_the_same_tokens_in_any_company() -> None:
    seen = noise(3, 3, 16, 16)
    for model in (fixed(), flexible()):
        encoder = Encoder(SiglipTokens(model), name="x", digest="d")
        torch.testing.assert_close(encoder(seen)[1:2], encoder(seen[1:2]), rtol=1e-5, atol=1e-6)


def test_pooling_averages_squares_of_the_grid() -> None:
    model, seen = fixed(), noise(2, 3, 16, 16)
    every = Encoder(SiglipTokens(model), name="x", digest="d")(seen)
    pooled = Encoder(SiglipTokens(model), name="x", digest="d", pool=2)
    assert pooled.tokens == 4
    found = pooled(seen)
    for row in range(2):
        for column in range(2):
            cells = [4 * (2 * row + i) + 2 * column + j for i in range(2) for j in range(2)]
            wanted = every[:, cells].mean(1)
            torch.testing.assert_close(found[:, 2 * row + column], wanted, rtol=1e-5, atol=1e-6)


def test_a_finer_grid_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match="grid of 4"):
        Encoder(SiglipTokens(fixed()), name="x", digest="d", pool=5)


def test_tokens_carry_no_gradient_and_are_float32_whatever_computed_them() -> None:
    model = fixed().to(torch.bfloat16)
    encoder = Encoder(SiglipTokens(model), name="x", digest="d", dtype=torch.bfloat16)
    found = encoder(noise(1, 3, 16, 16))
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.equal(found, found.bfloat16().float())


def test_identity_is_of_all_that_changes_tokens_and_of_no_name() -> None:
    net = SiglipTokens(fixed())
    usual = Encoder(net, name="x", digest="d")
    assert usual.identity == Encoder(net, name="y", digest="d").identity
    others = [
        Encoder(net, name="x", digest="e"),
        Encoder(net, name="x", digest="d", fit="pad"),
        Encoder(net, name="x", digest="d", resample="bicubic"),
        Encoder(net, name="x", digest="d", pool=4),
    ]
    assert len({usual.identity, *(other.identity for other in others)}) == 5
    said = usual.description.to_json()
    assert Description.from_json(said) == usual.description


def test_an_encoder_prepares_pictures_as_it_says() -> None:
    picture = (torch.rand(9, 20, 3, generator=Generator().manual_seed(3)) * 255).to(torch.uint8)
    encoder = Encoder(RandomPatches(), name="x", digest="d", fit="pad", resample="lanczos")
    wanted = prepared(picture, px=64, fit="pad", resample="lanczos")
    assert torch.equal(encoder.prepared(picture), wanted)


def test_pocket_clip_tells_colours_and_their_spread_cell_by_cell() -> None:
    net = PocketTokens(load_pocket_clip(ASSETS / "pocket" / "clip").model)
    seen = noise(2, 3, 64, 64)
    found = Encoder(net, name="pocket-clip", digest="d")(seen)
    assert found.shape == (2, 16, 510)
    for cell in range(16):
        row, column = 16 * (cell // 4), 16 * (cell % 4)
        part = seen[:, :, row : row + 16, column : column + 16].flatten(2)
        torch.testing.assert_close(found[:, cell, :3], part.mean(2), rtol=1e-4, atol=1e-5)
        spread = part.std(2, unbiased=False)
        torch.testing.assert_close(found[:, cell, 3:6], spread, rtol=1e-4, atol=1e-5)


def test_vae_patches_are_four_by_four_latents_with_their_place() -> None:
    latents = noise(2, 4, 32, 32)
    net = VaePatches(lambda _: latents, channels=4, latent_px=2)
    encoder = Encoder(net, name="vae-patch", digest="d")
    assert (encoder.width, encoder.tokens, encoder.px) == (64, 64, 64)
    found = encoder(torch.zeros(2, 3, 64, 64))
    places = positions(8, 64)
    for row, column in ((0, 0), (2, 5), (7, 7)):
        patch = latents[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
        place = 8 * row + column
        torch.testing.assert_close(found[:, place], patch + places[place])


def test_places_are_waves_of_row_and_column() -> None:
    found = positions(3, 8)
    for row in range(3):
        for column in range(3):
            wanted = []
            for place in (row, column):
                angles = [place * 10_000 ** (-i / 2) for i in range(2)]
                wanted += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            torch.testing.assert_close(found[3 * row + column], torch.tensor(wanted))


def test_random_patches_are_the_same_in_every_process_and_mean_pixels() -> None:
    seen = noise(1, 3, 64, 64)
    one, other = (Encoder(RandomPatches(), name="x", digest="d") for _ in range(2))
    found = one(seen)
    assert found.shape == (1, 64, 128)
    assert torch.equal(found, other(seen))
    changed = seen.clone()
    changed[..., :8, 8:16] *= -1
    differs = (one(changed) - found).abs().amax(2)[0]
    assert differs[1] > 0.1
    differs[1] = 0
    assert not differs.any()


@pytest.mark.parametrize("name", list(TOWERS))
def test_a_published_tower_has_as_many_numbers_as_we_count(name: str) -> None:
    tower = TOWERS[name]
    said = {
        "hidden_size": tower.width,
        "intermediate_size": tower.hidden,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.width // 96 if "giant" in name else tower.width // 64,
        "patch_size": tower.patch,
        "vision_use_head": False,
    }
    if "so400m" in name:
        said["num_attention_heads"] = 16
    with torch.device("meta"):
        if "naflex" in name:
            model: Any = Siglip2VisionModel(Siglip2VisionConfig(**said, num_patches=tower.tokens))
        else:
            model = SiglipVisionModel(SiglipVisionConfig(**said, image_size=tower.px))
    assert sum(p.numel() for p in model.parameters()) == tower.parameters
    wanted = {"base": 0.086, "so400m": 0.413, "giant": 1.135}
    size = next(size for key, size in wanted.items() if key in name)
    assert round(tower.parameters / 1e9, 3) == size
