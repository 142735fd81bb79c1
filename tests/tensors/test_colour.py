"""One picture takes the colours of others, and a file remembers them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from stylecli.tensors.colour import Colours, match, moments


def picture(seed: int, height: int = 24, width: int = 32) -> torch.Tensor:
    """Smooth-edged noise well inside [0, 1], so that nothing is cut."""
    random = torch.Generator().manual_seed(seed)
    mixing = 0.1 * torch.eye(3) + 0.05 * torch.rand(3, 3, generator=random, dtype=torch.float64)
    shades = torch.rand(3, 1, generator=random, dtype=torch.float64) * 0.2 + 0.4
    noise = torch.rand(3, height * width, generator=random, dtype=torch.float64) - 0.5
    return (mixing @ noise + shades).view(1, 3, height, width)


@given(st.integers(0, 99), st.integers(100, 199))
def test_a_picture_has_the_moments_it_was_given(one: int, other: int) -> None:
    mean, covariance = moments(picture(other))
    found = moments(match(picture(one), mean, covariance))
    torch.testing.assert_close(found[0], mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(found[1], covariance, atol=3e-6, rtol=0)


def test_the_map_is_monges_between_gaussians() -> None:
    """The covariances' matrix roots by scipy, and the map by its textbook formula."""
    content, style = picture(1), picture(2)
    ridge = 1e-6 * np.eye(3)
    own, wanted = (np.cov(p.flatten(2)[0].numpy(), bias=True) + ridge for p in (content, style))
    half = sqrtm(own)
    linear = np.linalg.inv(half) @ sqrtm(half @ wanted @ half) @ np.linalg.inv(half)
    flat, means = content.flatten(2)[0].numpy(), style.flatten(2)[0].numpy().mean(1, keepdims=True)
    expected = np.real(linear) @ (flat - flat.mean(1, keepdims=True)) + means
    found = match(content, *moments(style)).flatten(2)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_a_picture_in_its_own_colours_is_itself() -> None:
    content = picture(3)
    assert (Colours.of([content]).give(content) - content).abs().max() < 1e-5


def test_a_flat_picture_is_given_a_flat_colour() -> None:
    flat = torch.full((1, 3, 8, 8), 0.3)
    given_colours = Colours.of([picture(4)])
    result = given_colours.give(flat)
    assert torch.isfinite(result).all()
    assert result.std(dim=(2, 3)).max() < 1e-6
    assert result[0, :, 0, 0].tolist() == pytest.approx(given_colours.mean, abs=1e-5)


def test_several_pictures_count_alike_and_as_one() -> None:
    one, other = picture(5), picture(6)
    together = Colours.of([torch.cat([one, other], dim=2)])
    apart = Colours.of([one, other])
    torch.testing.assert_close(torch.tensor(apart.mean), torch.tensor(together.mean))
    torch.testing.assert_close(
        torch.tensor(apart.covariance), torch.tensor(together.covariance), atol=1e-6, rtol=0
    )


def test_colours_survive_a_header() -> None:
    colours = Colours.of([picture(7)])
    assert Colours.from_json(colours.to_json()) == colours


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"mean": [1, 2], "covariance": [[1]]}', '{"mean": 3}', "null"]
)
def test_what_is_no_header_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no colours|Expecting"):
        Colours.from_json(text)
