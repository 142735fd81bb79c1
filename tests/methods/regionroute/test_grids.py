from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from stylecli.methods.regionroute.grids import hard, on_grid
from tests.reference import regionroute

sizes = st.integers(1, 12)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@given(height=sizes, width=sizes, rows=sizes, columns=sizes)
def test_a_cell_is_the_area_of_its_rectangle(
    height: int, width: int, rows: int, columns: int
) -> None:
    mask = drawn(1, height, width)
    wanted = regionroute.on_grid(mask[0].tolist(), rows, columns)
    assert on_grid(mask, (rows, columns))[0].tolist() == pytest.approx(wanted, abs=1e-6)


@given(height=sizes, width=sizes, rows=sizes, columns=sizes)
def test_an_object_keeps_its_share_of_the_picture_at_any_size(
    height: int, width: int, rows: int, columns: int
) -> None:
    mask = (drawn(2, height, width) > 0.7).float()
    kept = on_grid(mask, (rows, columns)).mean(dim=1)
    assert kept.tolist() == pytest.approx(mask.mean(dim=(1, 2)).tolist(), abs=1e-6)


def test_whole_cells_are_averages_row_after_row() -> None:
    mask = drawn(3, 32, 48)
    wanted = F.adaptive_avg_pool2d(mask[:, None], (2, 3)).flatten(1)
    assert torch.allclose(on_grid(mask, (2, 3)), wanted, atol=1e-6)


def test_full_and_empty_masks_stay_full_and_empty() -> None:
    for grid in ((5, 7), (32, 32), (3, 11)):
        assert (on_grid(torch.ones(1, 61, 83), grid) == 1).all()
        assert (on_grid(torch.zeros(1, 61, 83), grid) == 0).all()


def test_an_object_too_thin_for_half_a_cell_keeps_its_strongest_cells() -> None:
    mask = torch.tensor([[0.5, 0.49, 1.0, 0.0], [0.1, 0.2, 0.39, 0.4], [0.0, 0.0, 0.0, 0.0]])
    assert hard(mask).tolist() == [
        [True, False, True, False],
        [False, True, True, True],
        [False, False, False, False],
    ]
