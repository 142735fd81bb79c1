"""Each look is the rule it is said to be, at every size."""

from __future__ import annotations

import colorsys

import pytest
import torch
from torch import Tensor

from stylecli.tensors import filters
from stylecli.tensors.filters import FILTERS
from tests.small import noise


def picture(height: int = 48, width: int = 64) -> Tensor:
    """Two flat halves, blue and orange."""
    made = torch.empty(3, height, width)
    made[:, :, : width // 2] = torch.tensor([0.1, 0.2, 0.8]).view(3, 1, 1)
    made[:, :, width // 2 :] = torch.tensor([0.9, 0.6, 0.2]).view(3, 1, 1)
    return made


def flat(*colour: float) -> Tensor:
    return torch.tensor(colour).view(3, 1, 1).expand(3, 32, 32).contiguous()


@pytest.mark.parametrize("name", FILTERS)
def test_pictures_stay_pictures_and_always_come_out_the_same(name: str) -> None:
    seen = noise(3, 40, 56).sigmoid()
    made = FILTERS[name](seen)
    assert made.shape == seen.shape
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert torch.equal(made, FILTERS[name](seen))
    assert float((made - seen).abs().mean()) > 0.03


def test_pixel_art_is_sixteen_squares_high_in_five_steps() -> None:
    made = filters.pixel_art(noise(3, 64, 96).sigmoid())
    blocks = made.unflatten(1, (16, 4)).unflatten(3, (24, 4))
    assert torch.equal(blocks, blocks[:, :, :1, :, :1].expand_as(blocks))
    assert set((made * 4).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}


def test_cyberpunk_goes_from_night_by_pink_to_cyan() -> None:
    night, pink, cyan = (
        filters.cyberpunk(flat(grey, grey, grey))[:, 0, 0] for grey in (0.0, 0.45, 1.0)
    )
    assert night.sum() < pink.sum()
    assert pink.argmax() == 0
    assert pink.argmin() == 1
    assert cyan.argmin() == 0


def test_expressionism_turns_hues_by_a_sixth_and_makes_them_louder() -> None:
    seen = (0.6, 0.4, 0.4)
    made = filters.expressionism(flat(*seen))[:, 16, 16].tolist()
    (before, pale, _), (after, loud, _) = (colorsys.rgb_to_hsv(*one) for one in (seen, made))
    assert after - before == pytest.approx(1 / 6, abs=0.01)
    assert loud > 1.4 * pale
    assert made == pytest.approx([round(3 * value) / 3 for value in made], abs=1e-5)
    grey = filters.expressionism(flat(0.5, 0.5, 0.5))
    assert float(grey.amax(0).sub(grey.amin(0)).max()) < 1e-5


def test_line_art_is_dark_where_colours_meet_and_white_elsewhere() -> None:
    made = filters.line_art(picture())
    assert torch.equal(made[0], made[1])
    assert float(made[0, :, 31:33].max()) < 0.3
    for flat_half in (made[:, :, :30], made[:, :, 34:]):
        torch.testing.assert_close(flat_half, torch.ones(3, 48, 30))
