"""A picture becomes a model's input and back: its shape is kept, and nothing is invented."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylecli.artifacts import images

SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))


@given(size=SIZES, short_side=st.sampled_from([64, 96, 256]), multiple=st.sampled_from([8, 32, 64]))
def test_geometry_keeps_the_aspect_ratio_and_meets_the_multiple(
    size: tuple[int, int], short_side: int, multiple: int
) -> None:
    geometry = images.Geometry.plan(*size, short_side=short_side, multiple=multiple)
    height, width = geometry.resized
    assert all(side % multiple == 0 for side in geometry.padded)
    assert 0 <= geometry.padded[0] - height < multiple
    assert 0 <= geometry.padded[1] - width < multiple
    assert max(height, width) <= images.MAX_ASPECT * short_side
    if min(height, width) > 20:
        assert height / width == pytest.approx(size[0] / size[1], rel=0.05)


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    short_side=st.sampled_from([32, 48]),
    multiple=st.sampled_from([8, 32]),
    rows=st.integers(1, 2),
)
def test_apply_gives_the_planned_size_and_undo_the_resized_one(
    size: tuple[int, int], short_side: int, multiple: int, rows: int
) -> None:
    geometry = images.Geometry.plan(*size, short_side=short_side, multiple=multiple)
    image = torch.rand(rows, 3, *size, generator=torch.Generator().manual_seed(0))
    applied = geometry.apply(image)
    assert tuple(applied.shape) == (rows, 3, *geometry.padded)
    assert torch.equal(geometry.undo(applied), geometry.resize(image))
    assert applied.min() >= 0
    assert applied.max() <= 1


@given(
    size=st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)),
    short_side=st.integers(8, 1024),
)
def test_both_sides_are_scaled_alike(size: tuple[int, int], short_side: int) -> None:
    geometry = images.Geometry.plan(*size, short_side=short_side, multiple=8)
    scale = min(short_side / min(size), images.MAX_ASPECT * short_side / max(size))
    for original, resized in zip(size, geometry.resized, strict=True):
        assert resized >= 1
        assert abs(resized - original * scale) <= 0.5 or resized == 1


@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_padding_repeats_the_picture_and_undo_removes_it(size: tuple[int, int]) -> None:
    geometry = images.Geometry.plan(*size, short_side=64, multiple=32)
    image = torch.rand(1, 3, *geometry.resized, generator=torch.Generator().manual_seed(0))
    same = images.Geometry(geometry.resized, geometry.resized, geometry.padded)
    padded = same.apply(image)
    assert tuple(padded.shape[-2:]) == geometry.padded
    assert torch.equal(same.undo(padded), image)
    assert float(padded.min()) >= float(image.min())
    assert float(padded.max()) <= float(image.max())


@given(st.integers(0, 255))
def test_pixels_survive_the_round_trip(value: int) -> None:
    pixels = torch.full((2, 3, 3), value, dtype=torch.uint8)
    assert torch.equal(images.to_pixels(images.to_tensor(pixels)[0]), pixels)


@given(size=st.tuples(st.integers(1, 200), st.integers(1, 200)))
def test_crops_are_central_multiples(size: tuple[int, int]) -> None:
    image = torch.arange(size[0] * size[1], dtype=torch.float32).view(1, 1, *size)
    cropped = images.crop_center(image, 32)
    assert all(side % 32 == 0 and side > 0 for side in cropped.shape[-2:])
    if min(size) >= 32:
        assert abs(float(cropped.mean() - image.mean())) <= (size[1] + 1)
