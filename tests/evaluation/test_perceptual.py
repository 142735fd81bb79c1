"""Pocket's yardsticks: laws of the distance, strict loading, and what ships."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stylecli.errors import WeightsError
from stylecli.evaluation import perceptual

ASSETS = Path(perceptual.__file__).parents[1] / "assets" / "pocket"


@pytest.fixture(scope="module")
def lpips() -> perceptual.PocketLpips:
    return perceptual.load_pocket_lpips(ASSETS / "lpips")


@pytest.fixture(scope="module")
def clip() -> perceptual.PocketClip:
    return perceptual.load_pocket_clip(ASSETS / "clip")


def test_an_image_is_no_distance_from_itself_and_order_does_not_matter(
    lpips: perceptual.PocketLpips,
):
    first, second = _pictures(2).split(1)
    assert lpips.distance(first, first).item() == 0
    assert torch.allclose(lpips.distance(first, second), lpips.distance(second, first))


def test_more_noise_is_farther(lpips: perceptual.PocketLpips):
    image = _pictures(1)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    distances = [float(lpips.distance(image, image + s * noise)) for s in (0.02, 0.1, 0.4)]
    assert distances == sorted(distances)


def test_a_batch_is_its_rows(lpips: perceptual.PocketLpips):
    first, second = _pictures(3), _pictures(3).flip(-1)
    rows = [lpips.distance(a, b) for a, b in zip(first.split(1), second.split(1), strict=True)]
    assert torch.allclose(lpips.distance(first, second), torch.cat(rows), atol=1e-5)


def test_features_halve_from_block_to_block_at_any_size(lpips: perceptual.PocketLpips):
    found = lpips.features(torch.rand(1, 3, 48, 80))
    assert [tuple(f.shape[2:]) for f in found] == [(48, 80), (24, 40), (12, 20), (6, 10), (3, 5)]
    assert [f.shape[1] for f in found] == list(perceptual.LPIPS_WIDTHS)


@pytest.mark.slow
def test_texts_and_images_meet_on_the_unit_sphere(clip: perceptual.PocketClip):
    texts = clip.text_features(["red heart", "a much longer text " * 20, ""])
    images = clip.image_features(torch.rand(2, 3, 100, 90))
    assert texts.shape[1] == images.shape[1]
    assert torch.allclose(texts.norm(dim=1), torch.ones(3), atol=1e-4)
    assert torch.allclose(images.norm(dim=1), torch.ones(2), atol=1e-4)


@pytest.mark.parametrize(
    ("part", "load"),
    [("lpips", perceptual.load_pocket_lpips), ("clip", perceptual.load_pocket_clip)],
)
def test_a_missing_tensor_is_named_not_made_up(part: str, load, tmp_path: Path):
    shutil.copytree(ASSETS / part, tmp_path / part)
    tensors = load_file(tmp_path / part / "model.safetensors")
    lost = sorted(tensors)[-1]
    del tensors[lost]
    save_file(tensors, tmp_path / part / "model.safetensors")
    with pytest.raises(WeightsError, match=lost):
        load(tmp_path / part)
    (tmp_path / part / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json"):
        load(tmp_path / part)


def _pictures(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")
