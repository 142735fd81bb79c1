"""References against SigLIP's own processor and the plainest arithmetic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from stylecli.methods.i2l.pictures import RESAMPLES, Fit, grey, prepared


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Noise on a slope."""
    generator = Generator().manual_seed(seed)
    slope = torch.linspace(0, 150, width)[None, :, None].expand(height, width, 3)
    return (slope + torch.rand(height, width, 3, generator=generator) * 100).to(torch.uint8)


@pytest.mark.parametrize("size", [(40, 40), (7, 7), (16, 16)])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos"])
def test_a_square_is_what_siglips_processor_makes_of_it(
    size: tuple[int, int], resample: str
) -> None:
    from transformers import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(
        size={"height": 16, "width": 16},
        resample=RESAMPLES.index(resample),  # type: ignore[arg-type]
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    seen = picture(*size)
    wanted = processor(images=seen.numpy(), return_tensors="pt")["pixel_values"][0]
    found = prepared(seen, px=16, fit="crop", resample=resample)  # type: ignore[arg-type]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["crop", "squash", "pad"]))
def test_every_shape_becomes_the_square_in_range(height: int, width: int, fit: Fit) -> None:
    found = prepared(picture(height, width), px=12, fit=fit, resample="bilinear")
    assert found.shape == (3, 12, 12)
    assert -1 <= found.min() <= found.max() <= 1


@given(st.integers(1, 12), st.integers(1, 12))
def test_crop_sees_the_centre_alone(height: int, width: int) -> None:
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    seen = picture(height, width)
    centre = seen[top : top + side, left : left + side].clone()
    found = prepared(seen, px=8, fit="crop", resample="bilinear")
    seen[:] = 0
    seen[top : top + side, left : left + side] = centre
    assert torch.equal(found, prepared(seen, px=8, fit="crop", resample="bilinear"))
    assert torch.equal(found, prepared(centre, px=8, fit="squash", resample="bilinear"))


def test_pad_keeps_the_shape_and_adds_white() -> None:
    seen = picture(8, 16)
    found = prepared(seen, px=16, fit="pad", resample="bilinear")
    assert (found[:, :4] == 1).all()
    assert (found[:, 12:] == 1).all()
    wanted = seen.permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(found[:, 4:12], wanted, rtol=0, atol=1e-6)


def test_pad_of_a_long_strip_takes_no_more_than_the_square() -> None:
    strip = torch.zeros(2, 30_000, 3, dtype=torch.uint8)
    found = prepared(strip, px=8, fit="pad", resample="bilinear")
    assert (found == -1).sum() == 3 * 8


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_grey_is_128_on_all_channels_at_every_size(fit: Fit) -> None:
    for size in ((5, 9), (64, 64), (1, 1)):
        assert grey(size).shape == (*size, 3)
        found = prepared(grey(size), px=8, fit=fit, resample="bilinear")
        torch.testing.assert_close(found, torch.full((3, 8, 8), 1 / 255), rtol=0, atol=1e-6)


def test_grey_in_margins_is_as_its_reference_was() -> None:
    found = prepared(grey((4, 8)), px=8, fit="pad", resample="bilinear")
    assert (found[:, :2] == 1).all()
    torch.testing.assert_close(found[:, 2:6], torch.full((3, 4, 8), 1 / 255), rtol=0, atol=1e-6)
