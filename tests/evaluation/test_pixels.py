"""The pixel pipeline against Pillow's own, and the geometry each network is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from stylecli.evaluation import content, metrics, palette, pixels
from stylecli.evaluation.pixels import PREPROCESS


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)


def pillow_float(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Pillow's bicubic on one float plane after another: no rounding anywhere."""
    planes = [
        np.asarray(
            Image.fromarray(plane.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
        )
        for plane in picture.numpy().transpose(2, 0, 1)
    ]
    return torch.from_numpy(np.stack(planes)).clamp(0, 255)


@pytest.mark.parametrize("size", [(299, 299), (64, 80), (200, 130)])
def test_the_float_kernel_is_pillows_without_its_rounding(size: tuple[int, int]) -> None:
    picture = noise(180, 151)
    assert (pixels.resize_float(picture, size) - pillow_float(picture, size)).abs().max() <= 0.05


def test_without_antialiasing_the_same_picture_would_be_another_one() -> None:
    picture = noise(512, 512)
    planes = picture.permute(2, 0, 1)[None].float()
    plain = torch.nn.functional.interpolate(planes, (299, 299), mode="bicubic")[0].clamp(0, 255)
    assert (plain - pixels.resize_float(picture, (299, 299))).abs().mean() > 10


def test_the_byte_kernel_is_pillows_bit_for_bit() -> None:
    picture = noise(120, 90)
    image = Image.fromarray(picture.numpy()).resize((45, 61), Image.Resampling.BICUBIC)
    assert torch.equal(
        pixels.resize_u8(picture, (61, 45), "bicubic"), torch.from_numpy(np.array(image))
    )


def test_dino_sees_the_whole_picture_squashed() -> None:
    picture = noise(300, 150)
    squashed = Image.fromarray(picture.numpy()).resize((224, 224), Image.Resampling.BICUBIC)
    expected = np.array(squashed) / 255.0 - np.array(pixels.IMAGENET_MEAN)
    expected = (expected / np.array(pixels.IMAGENET_STD)).transpose(2, 0, 1)
    np.testing.assert_allclose(PREPROCESS["dino224"].apply(picture), expected, atol=1e-6)


def test_clip_sees_the_middle_square_and_nothing_else() -> None:
    picture = noise(224, 448)
    shown = PREPROCESS["clip224"].apply(picture)
    changed = picture.clone()
    changed[:, :112], changed[:, 336:] = 0, 255
    assert shown.shape == (3, 224, 224)
    assert torch.equal(PREPROCESS["clip224"].apply(changed), shown)
    mean = torch.tensor(pixels.CLIP_MEAN)[:, None, None]
    std = torch.tensor(pixels.CLIP_STD)[:, None, None]
    middle = picture[:, 112:336].permute(2, 0, 1).float() / 255
    torch.testing.assert_close(shown * std + mean, middle)


def test_the_letterbox_keeps_all_of_a_long_picture_between_black_bands() -> None:
    boxed = pixels.letterbox(torch.full((100, 200, 3), 255, dtype=torch.uint8), 224)
    assert boxed[:, :56].abs().max() == 0
    assert boxed[:, 168:].abs().max() == 0
    assert boxed[:, 56:168].min() > 0.999


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("fid299", (3, 299, 299)),
        ("artfid512", (3, 512, 640)),
        ("dinov2_224", (3, 224, 224)),
        ("vgg512", (3, 512, 512)),
        ("pocket64", (3, 64, 64)),
        ("letter224", (3, 224, 224)),
    ],
)
def test_every_network_gets_its_shape(name: str, shape: tuple[int, int, int]) -> None:
    assert PREPROCESS[name].apply(noise(80, 100)).shape == shape


def test_inception_sees_minus_one_to_one() -> None:
    black, white = (torch.full((50, 50, 3), v, dtype=torch.uint8) for v in (0, 255))
    assert torch.allclose(PREPROCESS["fid299"].apply(black), torch.tensor(-1.0))
    assert torch.allclose(PREPROCESS["fid299"].apply(white), torch.tensor(127 / 128))


def test_art_inception_sees_zero_to_one_without_mean_and_deviation() -> None:
    shown = PREPROCESS["artfid512"].apply(torch.full((50, 50, 3), 255, dtype=torch.uint8))
    assert shown.min() == shown.max() == 1


@pytest.mark.slow
@given(seed=st.integers(0, 100))
def test_mirroring_both_pictures_changes_no_pixelwise_score(seed: int) -> None:
    a, b = (pixels.unit(noise(24, 30, seed + k))[None] for k in (0, 1000))
    for score in (content.mse, content.ssim, palette.delta_e, palette.color_sw):
        ours, mirrored = score(a, b), score(a.flip(-1), b.flip(-1))
        assert float(ours) == pytest.approx(float(mirrored), rel=1e-4, abs=1e-6)
    correlation = metrics.edge_correlation(a, b)
    assert correlation.item() == pytest.approx(
        metrics.edge_correlation(a.flip(-1), b.flip(-1)).item(), abs=1e-5
    )
