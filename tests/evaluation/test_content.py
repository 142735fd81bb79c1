"""SSIM and MSE against loops and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from torch import Tensor

from stylecli.errors import ItemError
from stylecli.evaluation import content, metrics


def picture(seed: int, height: int = 24, width: int = 30) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def grey(image: Tensor) -> np.ndarray:
    red, green, blue = image[0].double().numpy()
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_ssim_is_scikit_images_where_the_window_fits_whole() -> None:
    a = picture(1)
    b = (a + 0.2 * picture(2)).clamp(0, 1)
    _, full = structural_similarity(
        grey(a), grey(b), gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=1.0, full=True,
    )  # fmt: skip
    assert content.ssim(a, b).item() == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-7)


def test_ssim_against_one_explicit_window() -> None:
    a, b = picture(1, 11, 11), picture(2, 11, 11)
    x, y = grey(a), grey(b)
    weights = np.array(
        [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)]
         for i in range(11)]
    )  # fmt: skip
    weights /= weights.sum()
    mx, my = (weights * x).sum(), (weights * y).sum()
    vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
    cov = (weights * (x - mx) * (y - my)).sum()
    wanted = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert content.ssim(a, b).item() == pytest.approx(wanted, abs=1e-9)


@given(seed=st.integers(0, 1000))
def test_ssim_is_one_for_equals_symmetric_and_never_above(seed: int) -> None:
    a, b = picture(seed), picture(seed + 5000)
    assert content.ssim(a, a).item() == pytest.approx(1, abs=1e-12)
    assert content.ssim(a, b).item() == pytest.approx(content.ssim(b, a).item(), abs=1e-12)
    assert -1 <= content.ssim(a, b).item() < 1


def test_ssim_needs_a_window() -> None:
    with pytest.raises(ItemError, match="too small for SSIM"):
        content.ssim(picture(1, 10, 40), picture(2, 10, 40))


def test_mse_is_the_mean_over_pixels_and_channels() -> None:
    a, b = picture(1, 3, 2), picture(2, 3, 2)
    total = sum(
        (float(a[0, c, y, x]) - float(b[0, c, y, x])) ** 2
        for c in range(3) for y in range(3) for x in range(2)
    )  # fmt: skip
    assert content.mse(a, b).item() == pytest.approx(total / 18, rel=1e-5)
    assert metrics.psnr(a, b) == pytest.approx(-10 * math.log10(total / 18), rel=1e-5)


def test_edges_are_correlated_with_themselves_and_not_with_noise() -> None:
    a = picture(1)
    assert metrics.edge_correlation(a, a).item() == pytest.approx(1)
    assert metrics.edge_correlation(a, 0.5 * a + 0.1).item() == pytest.approx(1, abs=1e-4)
    assert abs(metrics.edge_correlation(a, picture(9)).item()) < 0.3


def test_edges_are_sobels() -> None:
    from scipy.ndimage import sobel

    a, b = picture(1), picture(2)
    magnitudes = [
        np.hypot(*(sobel(grey(p), axis=axis, mode="nearest") for axis in (0, 1))).ravel()
        for p in (a, b)
    ]
    wanted = np.corrcoef(*magnitudes)[0, 1]
    assert metrics.edge_correlation(a, b).item() == pytest.approx(wanted, abs=1e-5)
