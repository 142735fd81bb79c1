"""Colour distances: CIELAB as others compute it, and palettes that do not care for places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from skimage import color
from torch import Tensor

from stylecli.errors import ItemError
from stylecli.evaluation import palette


def picture(seed: int, height: int = 20, width: int = 24) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def array(image: Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).double().numpy()


def test_cielab_is_scikit_images_and_goes_both_ways() -> None:
    image = picture(1)
    image[..., :4] = image[..., :4] / 30  # the linear foot of both curves
    wanted = color.rgb2lab(array(image))
    found = palette.to_lab(image)
    np.testing.assert_allclose(array(found), wanted, atol=1e-3)
    torch.testing.assert_close(palette.from_lab(found), image, atol=1e-4, rtol=0)


def test_delta_e_is_cie76() -> None:
    a, b = picture(1), picture(2)
    wanted = color.deltaE_cie76(color.rgb2lab(array(a)), color.rgb2lab(array(b))).mean()
    assert palette.delta_e(a, b).item() == pytest.approx(wanted, rel=1e-4)
    assert palette.delta_e(a, a).item() == 0


def test_sliced_wasserstein_against_scipy_on_every_direction() -> None:
    a, b = picture(1, 32, 32), picture(2, 32, 32) ** 2
    directions = palette._directions().numpy()
    assert directions.shape == (3, 64)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1)
    labs = [color.rgb2lab(array(p)).reshape(-1, 3) for p in (a, b)]
    wanted = np.mean([wasserstein_distance(labs[0] @ d, labs[1] @ d) for d in directions.T])
    assert palette.color_sw(a, b).item() == pytest.approx(wanted, rel=5e-3)


@pytest.mark.slow
def test_large_pictures_are_seen_by_an_even_part_of_their_pixels() -> None:
    ramp = torch.linspace(0, 1, 400)[None, None, None].expand(1, 3, 300, 400)
    columns, rows = ramp, ramp.transpose(-1, -2)
    small = ramp[..., :40:, ::4]
    assert palette.color_sw(columns, rows).item() < 0.15
    assert palette.color_sw(columns, small).item() < 0.3
    striped = columns.clone()
    striped[..., ::2] = 0
    halves = palette.color_sw(striped, torch.zeros(1, 3, 8, 8)).item()
    whole = palette.color_sw(columns, torch.zeros(1, 3, 8, 8)).item()
    assert halves == pytest.approx(whole / 2, rel=0.02)


def test_palettes_do_not_care_for_places_or_sizes() -> None:
    a, b = picture(1), picture(2, 11, 30)
    order = torch.randperm(480, generator=torch.Generator().manual_seed(3))
    scattered = a.flatten(2)[..., order].unflatten(2, (20, 24))
    for distance in (palette.color_sw, palette.color_hist):
        assert distance(a, a).item() == pytest.approx(0, abs=1e-6)
        assert distance(scattered, b).item() == pytest.approx(distance(a, b).item(), rel=1e-4)
        assert distance(a, b).item() == pytest.approx(distance(b, a).item(), rel=1e-5)
        doubled = a.repeat_interleave(2, -1)
        assert distance(doubled, a).item() == pytest.approx(0, abs=0.2)


def test_a_shift_of_lightness_is_the_mean_of_its_projections() -> None:
    grey = torch.full((1, 3, 4, 4), 0.2)
    lighter = torch.full((1, 3, 4, 4), 0.7)
    apart = palette.delta_e(grey, lighter).item()
    expected = apart * palette._directions()[0].abs().mean().item()
    assert palette.color_sw(grey, lighter).item() == pytest.approx(expected, rel=1e-3)


def test_masks_choose_the_pixels_that_count() -> None:
    a = torch.zeros(1, 3, 4, 6)
    a[..., 3:] = 1
    black = torch.zeros(1, 3, 5, 5)
    left = torch.zeros(4, 6)
    left[:, :3] = 1
    assert palette.color_sw(a, black, mask_a=left).item() == 0
    assert palette.color_sw(black, a, mask_b=left).item() == 0
    assert palette.color_sw(a, black).item() > 1


def test_a_mask_without_pixels_leaves_no_palette() -> None:
    nothing = torch.zeros(20, 24)
    with pytest.raises(ItemError, match="no pixels"):
        palette.color_sw(picture(1), picture(2), mask_a=nothing)
    with pytest.raises(ItemError, match="no pixels"):
        palette.color_sw(picture(1), picture(2), mask_b=nothing)


def test_black_is_a_grey_like_any_other() -> None:
    black, grey = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)
    assert palette.histogram(black).sum().item() == pytest.approx(1, rel=1e-4)
    assert palette.color_hist(black, grey).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
def test_histograms_are_distributions_and_their_distance_ends_at_one() -> None:
    red = torch.zeros(1, 3, 8, 8)
    red[:, 0] = 1
    blue = torch.zeros(1, 3, 8, 8)
    blue[:, 2] = 1
    for image in (red, blue, picture(1, 200, 160)):
        assert palette.histogram(image).sum().item() == pytest.approx(1, rel=1e-4)
    assert 0.9 < palette.color_hist(red, blue).item() <= 1


def test_histograms_against_loops() -> None:
    image = picture(4, 3, 3)
    pixels = image[0].flatten(1).T.double().numpy()
    bins = np.linspace(-3, 3, 64)
    counts = np.zeros((3, 64, 64))
    for pixel in pixels:
        log = np.log(pixel + 1e-6)
        for c, (i, j) in enumerate(((1, 2), (0, 2), (0, 1))):
            u = 1 / (1 + ((log[c] - log[i] - bins) / 0.02) ** 2)
            v = 1 / (1 + ((log[c] - log[j] - bins) / 0.02) ** 2)
            counts[c] += np.sqrt((pixel**2).sum() + 1e-6) * np.outer(u, v)
    np.testing.assert_allclose(
        palette.histogram(image), counts / counts.sum(), rtol=1e-3, atol=1e-8
    )


def test_reinhard_gives_mean_and_deviation_in_cielab() -> None:
    content, style = 0.3 + 0.3 * picture(1), 0.3 + 0.2 * picture(2)
    made = palette.reinhard(content, style)
    ours, theirs = (color.rgb2lab(array(p)).reshape(-1, 3) for p in (content, style))
    wanted = (ours - ours.mean(0)) / ours.std(0) * theirs.std(0) + theirs.mean(0)
    reference = np.clip(color.lab2rgb(wanted.reshape(20, 24, 3)), 0, 1)
    np.testing.assert_allclose(array(made), reference, atol=2e-3)


@pytest.mark.parametrize("shade", [0.1, 0.3, 0.5, 0.9, 1.0])
def test_a_flat_picture_takes_the_mean_colour_and_not_its_own_rounding(shade: float) -> None:
    flat = torch.full((1, 3, 100, 100), shade)
    flat[:, 1] *= 0.83
    style = picture(2)
    wanted = palette.from_lab(palette.to_lab(style).mean((2, 3), keepdim=True))
    made = palette.reinhard(flat, style)
    assert made.dtype == flat.dtype
    torch.testing.assert_close(made, wanted.expand_as(made), atol=1e-4, rtol=0)
