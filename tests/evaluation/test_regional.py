"""Inside and outside a mask: nothing leaks where it must not, and boxes end at the picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.models import alexnet

from stylecli.errors import ItemError
from stylecli.evaluation import regional
from stylecli.evaluation.lpips import Lpips, lpips_network

UNIT = (0.0, 1.0)


def picture(seed: int, height: int = 96, width: int = 80) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def square(height: int = 96, width: int = 80) -> Tensor:
    mask = torch.zeros(height, width)
    mask[30:60, 20:50] = 1
    return mask


def edited(content: Tensor, mask: Tensor, seed: int = 7) -> Tensor:
    return torch.where(mask.bool(), picture(seed, *content.shape[-2:]), content)


@pytest.fixture(scope="module")
def network() -> Lpips:
    torch.manual_seed(0)
    return lpips_network("alex", alexnet(weights=None).state_dict(), file="x")


def lpips_bg(network: Lpips, output: Tensor, content: Tensor, mask: Tensor) -> float:
    return regional.background_mean(network.map(output, content, value_range=UNIT)[0], mask)


@pytest.mark.slow
def test_the_papers_form_looks_into_the_region_and_the_strict_one_does_not(
    network: Lpips,
) -> None:
    content, mask = picture(1), square()
    output = edited(content, mask)
    leak = lpips_bg(network, output, content, mask)
    assert leak > 0
    pasted = regional.paste_inside(output, content, mask)
    assert lpips_bg(network, pasted, content, mask) == 0
    outside = output.clone()
    outside[..., :10] = 0
    assert lpips_bg(network, outside, content, mask) > leak
    pasted = regional.paste_inside(outside, content, mask)
    assert lpips_bg(network, pasted, content, mask) > 0


def test_a_band_around_the_region_leaves_most_of_the_leak_out(network: Lpips) -> None:
    content, mask = picture(1), square()
    output = edited(content, mask)
    wider = regional.outside_band(mask, 8)
    assert lpips_bg(network, output, content, wider) < lpips_bg(network, output, content, mask)


def test_a_band_grows_by_its_width_in_every_direction() -> None:
    mask = torch.zeros(20, 20)
    mask[10, 10] = 1
    grown = regional.outside_band(mask, 3)
    assert grown.sum() == 49
    assert grown[7:14, 7:14].min() == 1


@pytest.mark.slow
@given(seed=st.integers(0, 1000))
def test_the_background_error_does_not_see_the_region(seed: int) -> None:
    content, mask = picture(seed, 20, 16), torch.zeros(20, 16)
    mask[5:12, 3:9] = 1
    output = content + 0.1 * (picture(seed + 1, 20, 16) - 0.5)
    before = regional.mse_bg(output, content, mask)
    assert regional.mse_bg(edited(output, mask), content, mask) == before
    by_hand = [
        float((output[0, c, y, x] - content[0, c, y, x]) ** 2)
        for c in range(3) for y in range(20) for x in range(16) if not mask[y, x]
    ]  # fmt: skip
    assert before == pytest.approx(math.fsum(by_hand) / len(by_hand), rel=1e-4)
    assert regional.psnr_bg(output, content, mask) == pytest.approx(-10 * math.log10(before))


def test_an_inverted_mask_swaps_inside_and_outside() -> None:
    content, mask = picture(1), square()
    output = edited(content, mask)
    assert regional.mse_bg(output, content, mask) == 0
    inside = (output - content).square().mean(dim=1)[0][mask.bool()].mean()
    assert regional.mse_bg(output, content, 1 - mask) == pytest.approx(inside.item(), rel=1e-5)
    assert regional.psnr_bg(output, content, mask) == math.inf


def test_scales_are_those_of_other_conventions() -> None:
    content, output, mask = picture(1), picture(2), square()
    unit = regional.mse_bg(output, content, mask)
    signed = (2 * output - 2 * content).square().mean(dim=1)[0]
    assert regional.background_mean(signed, mask) == pytest.approx(
        unit * regional.MSE_BG_SCALES["pm1"], rel=1e-5
    )
    summed = (output - content).square().sum(dim=1)[0]
    assert regional.background_mean(summed, mask) == pytest.approx(
        unit * regional.MSE_BG_SCALES["sum"], rel=1e-5
    )


def test_soft_masks_weigh_their_edge() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0]])
    assert regional.background_mean(values, torch.tensor([[0.0, 0.5, 1.0]])) == pytest.approx(4 / 3)


def test_channels_count_alike_in_the_mean_of_the_background() -> None:
    values, mask = picture(1)[0], square()
    apart = [regional.background_mean(plane, mask) for plane in values]
    assert regional.background_mean(values, mask) == pytest.approx(math.fsum(apart) / 3, rel=1e-5)


def test_a_mask_over_everything_leaves_nothing_to_judge() -> None:
    with pytest.raises(ItemError, match="covers the whole picture"):
        regional.mse_bg(picture(1), picture(2), torch.ones(96, 80))


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (3, 0), (0, -5), (-2, 4)])
def test_a_background_that_moved_is_found_where_it_went(rows: int, columns: int) -> None:
    content = picture(1)
    moved = content.roll((rows, columns), dims=(-2, -1))
    mask = torch.zeros(96, 80)
    mask[40:50, 40:50] = 1
    found = regional.bg_shift(moved, content, mask)
    assert found == pytest.approx(math.hypot(rows, columns))


def wall(seed: int, shade: float, grain: float) -> Tensor:
    drawn = torch.randn(1, 3, 96, 80, generator=torch.Generator().manual_seed(seed))
    return (shade + grain * drawn).clamp(0, 1)


@pytest.mark.slow
@given(one=st.floats(0, 1), other=st.floats(0, 1), size=st.integers(1, 60))
def test_a_flat_background_has_not_moved(one: float, other: float, size: int) -> None:
    mask = torch.zeros(96, 80)
    mask[10 : 10 + size, 8 : 8 + size] = 1
    assert regional.bg_shift(wall(1, one, 0), wall(2, other, 0), mask) == 0
    assert regional.bg_shift(wall(1, one, 0), picture(3), mask) == 0


@given(seed=st.integers(0, 1000), grain=st.sampled_from([0.002, 0.01, 0.05]))
def test_grain_is_no_movement(seed: int, grain: float) -> None:
    walls = wall(seed, 0.6, grain), wall(seed + 5000, 0.6, grain)
    assert regional.bg_shift(*walls, square()) == 0


@pytest.mark.parametrize("rows", [1, 3, 12])
def test_a_picture_framed_anew_is_found_through_grain(rows: int) -> None:
    """What comes in at one edge was not in the picture before, and nothing wraps around."""
    spread = torch.nn.functional.avg_pool2d(picture(1, 130, 100), 5, stride=1)
    before, after = spread[..., 15:111, 8:88], spread[..., 15 + rows : 111 + rows, 8:88]
    grainy = after + wall(2, 0.5, 0.005) - 0.5
    assert regional.bg_shift(grainy, before, square()) == rows


@pytest.mark.slow
def test_a_sharp_hole_does_not_hide_a_movement() -> None:
    """A soft photograph cut out at two places, the same large region blanked in both."""
    path = Path(__file__).parents[2] / "docs" / "images" / "chelsea.png"
    with Image.open(path) as photo:
        soft = photo.convert("RGB").filter(ImageFilter.GaussianBlur(4))
        pixels = torch.from_numpy(np.array(soft)).permute(2, 0, 1)[None] / 255
    mask = torch.zeros(200, 200)
    mask[50:150, 50:150] = 1
    for rows, columns in ((0, 0), (4, 0), (0, 6), (3, 5), (1, 1)):
        content = pixels[..., 40:240, 60:260]
        moved = pixels[..., 40 - rows : 240 - rows, 60 - columns : 260 - columns]
        found = regional.bg_shift(moved, content, mask)
        assert found == pytest.approx(math.hypot(rows, columns)), (rows, columns)


def test_a_region_that_changed_is_no_movement() -> None:
    content, mask = picture(1), square()
    assert regional.bg_shift(edited(content, mask), content, mask) == 0
    slid = torch.where(mask.bool(), content.roll(5, dims=-2), content)
    assert regional.bg_shift(slid, content, mask) == 0


@pytest.mark.parametrize(
    ("rows", "columns", "box"),
    [
        ((40, 41), (30, 31), (36, 26, 45, 35)),
        ((0, 1), (0, 1), (0, 0, 5, 5)),
        ((0, 96), (0, 80), (0, 0, 96, 80)),
        ((90, 96), (70, 80), (86, 66, 96, 80)),
        ((0, 100), (10, 20), (0, 5, 105, 25)),
        ((0, 101), (10, 20), (0, 4, 107, 26)),
    ],
)
def test_a_box_is_tight_with_a_margin_and_ends_at_the_picture(
    rows: tuple[int, int], columns: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    mask = torch.zeros(max(96, rows[1] + 20 if rows[1] > 96 else 96), 80)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = 1
    assert regional.rsm_box(mask) == box


def test_an_empty_mask_has_no_box() -> None:
    with pytest.raises(ItemError, match="empty"):
        regional.rsm_box(torch.zeros(4, 4))


def test_a_cosine_lies_between_zero_and_one() -> None:
    assert regional.rsm(0.2256) == pytest.approx(0.6128)
    assert (regional.rsm(-1), regional.rsm(1)) == (0, 1)


def pixels(height: int = 96, width: int = 80) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 256, (height, width, 3), generator=generator, dtype=torch.uint8)


def test_a_long_box_is_widened_within_the_picture_and_not_cut() -> None:
    image = pixels()
    crop, lost = regional.square_crop(image, (20, 30, 70, 40))
    assert lost == 0
    assert torch.equal(crop, image[20:70, 10:60])
    at_the_edge, _ = regional.square_crop(image, (20, 0, 70, 10))
    assert torch.equal(at_the_edge, image[20:70, 0:50])


def test_what_the_picture_cannot_give_is_black() -> None:
    image = pixels(96, 40)
    crop, _ = regional.square_crop(image, (10, 5, 90, 15))
    assert crop.shape == (80, 80, 3)
    assert torch.equal(crop[:, 20:60], image[10:90])
    assert crop[:, :20].max() == 0
    assert crop[:, 60:].max() == 0


def test_other_fits_cut_or_letterbox() -> None:
    image = pixels()
    crop, lost = regional.square_crop(image, (20, 30, 70, 40), fit="clip")
    assert torch.equal(crop, image[20:70, 30:40])
    assert lost == pytest.approx(0.8)
    boxed, lost = regional.square_crop(image, (20, 30, 70, 40), fit="letterbox")
    assert (tuple(boxed.shape), lost) == ((50, 50, 3), 0)
    assert torch.equal(boxed[:, 20:30], image[20:70, 30:40])


def test_a_crop_does_not_see_pixels_outside_it() -> None:
    image = pixels()
    box = (20, 30, 50, 60)
    crop, _ = regional.square_crop(image, box)
    changed = image.clone()
    changed[:20], changed[50:], changed[:, :30], changed[:, 60:] = 0, 0, 0, 0
    assert torch.equal(regional.square_crop(changed, box)[0], crop)
