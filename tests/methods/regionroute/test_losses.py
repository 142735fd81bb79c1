from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.methods.regionroute.losses import (
    REFERENCE,
    Forms,
    attention,
    cover,
    focus,
    threshold,
)
from stylecli.methods.regionroute.measures import inside_mass
from tests.reference import regionroute

SIDE = 32
PLAIN = Forms()
MEAN = Forms(balance="mean")
ALL_FORMS = [
    PLAIN,
    MEAN,
    REFERENCE,
    Forms(cover="zscore"),
    Forms(tau=0.5, gamma=2.0, kappa=0.8),
    Forms(cover="scaled", focus="raw", tau=0.1),
]


def square(top: int, bottom: int, left: int, right: int) -> Tensor:
    mask = torch.zeros(SIDE, SIDE)
    mask[top:bottom, left:right] = 1
    return mask.reshape(1, -1)


MASK = square(8, 24, 8, 24)
LEVEL = 0.02
# Attention of the size that a softmax over thousands of tokens has.
PATTERNS = {
    "perfect": MASK,
    "uniform": torch.ones_like(MASK),
    "half covered": square(8, 24, 8, 16),
    "single": square(16, 17, 16, 17),
    "spilled": square(5, 27, 5, 28),
    "leaking": MASK + 0.25 * (1 - MASK),
    "inverse": 1 - MASK,
}
# Focus, Cover balanced, Cover as a plain mean.
TABLE = {
    "perfect": (0.0001, 0.0303, 0.0152),
    "uniform": (1.3863, 1.4468, 2.1399),
    "half covered": (4.2590, 8.5184, 4.2592),
    "single": (4.3696, 7.3521, 3.6760),
    "spilled": (0.6814, 0.4914, 0.7068),
    "leaking": (0.5597, 0.0606, 0.0606),
    "inverse": (11.0022, 20.1536, 29.8839),
}


def losses_of(pattern: Tensor) -> tuple[float, float, float]:
    maps = LEVEL * pattern
    return (
        focus(maps, MASK, PLAIN).item(),
        cover(maps, MASK, PLAIN).item(),
        cover(maps, MASK, MEAN).item(),
    )


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_patterns(name: str) -> None:
    assert losses_of(PATTERNS[name]) == pytest.approx(TABLE[name], abs=1e-3)


def test_focus_of_a_perfect_map_is_nothing_and_of_a_uniform_one_the_share_of_the_mask() -> None:
    assert losses_of(PATTERNS["perfect"])[0] < 1e-3
    assert losses_of(PATTERNS["uniform"])[0] == pytest.approx(math.log(4), abs=1e-5)


def test_both_losses_rank_maps_as_the_paper_says() -> None:
    by_focus = ("perfect", "spilled", "uniform", "half covered")
    values = [losses_of(PATTERNS[name])[0] for name in by_focus]
    assert values == sorted(values)
    by_cover = ("perfect", "spilled", "uniform", "half covered")
    values = [losses_of(PATTERNS[name])[1] for name in by_cover]
    assert values == sorted(values)
    assert values[0] < 0.05


@given(seed=st.integers(0, 10**6), forms=st.sampled_from(ALL_FORMS), is_soft=st.booleans())
def test_both_losses_are_their_equations(seed: int, forms: Forms, is_soft: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    maps = 0.1 * torch.rand(2, 12, generator=random) ** 2
    mask = torch.rand(2, 12, generator=random) * (torch.rand(2, 12, generator=random) > 0.5)
    mask[:, 3] = 0.3
    if not is_soft:
        mask = (mask > 0).float()
    lists = list(zip(maps.tolist(), mask.tolist(), strict=True))
    plain = regionroute.focus if forms.focus == "log-power" else regionroute.focus_raw
    wanted = [plain(a, m, forms.tau) for a, m in lists]
    assert focus(maps, mask, forms).tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    wanted = [
        regionroute.cover(
            a, m, gamma=forms.gamma, kappa=forms.kappa, mode=forms.cover, balance=forms.balance
        )
        for a, m in lists
    ]
    assert cover(maps, mask, forms).tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-5)


@given(seed=st.integers(0, 10**6))
def test_how_large_attention_is_makes_no_difference(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    maps = 1e-3 + 0.02 * torch.rand(1, 64, generator=random)
    mask = (torch.rand(1, 64, generator=random) > 0.6).float()
    mask[0, 0] = 1
    for loss in (focus, cover):
        once, more = loss(maps, mask, PLAIN).item(), loss(10 * maps, mask, PLAIN).item()
        assert more == pytest.approx(once, rel=0.01)


@given(seed=st.integers(0, 10**6))
def test_nothing_is_gained_by_more_attention_everywhere(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logs = (1e-3 + 0.02 * torch.rand(1, 64, generator=random)).double().log().requires_grad_()
    mask = (torch.rand(1, 64, generator=random) > 0.6).float()
    mask[0, 0] = 1
    (push,) = torch.autograd.grad(cover(logs.exp(), mask, PLAIN).sum(), logs)
    assert abs(push.sum()) < 0.01 * push.abs().sum()


def test_the_threshold_carries_gradients() -> None:
    maps = torch.rand(1, 6, requires_grad=True)
    inside = torch.tensor([[True, True, False, False, False, True]])
    (push,) = torch.autograd.grad(threshold(maps, inside, 0.5).sum(), maps)
    assert push[0].tolist() == pytest.approx([1 / 6, 1 / 6, 0, 0, 0, 1 / 6])


@pytest.mark.mostly_slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("forms", ALL_FORMS, ids=str)
def test_gradients_are_finite_at_every_edge(forms: Forms, dtype: torch.dtype) -> None:
    one_cell = torch.zeros(1, 16)
    one_cell[0, 5] = 1
    for mask in (one_cell, torch.ones(1, 16), 0.2 * one_cell):
        for values in (torch.zeros(1, 16), torch.full((1, 16), 1e-3), one_cell, torch.rand(1, 16)):
            for loss in (focus, cover):
                maps = values.to(dtype, copy=True).requires_grad_()
                result = loss(maps, mask, forms)
                (push,) = torch.autograd.grad(result.sum(), maps)
                assert result.dtype == torch.float32
                assert torch.isfinite(result).all()
                assert torch.isfinite(push).all()


def test_losses_are_float32_under_autocast() -> None:
    maps, mask = LEVEL * torch.rand(1, 64), (torch.rand(1, 64) > 0.5).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = focus(maps, mask, PLAIN), cover(maps, mask, PLAIN)
    assert all(map(torch.equal, inside, (focus(maps, mask, PLAIN), cover(maps, mask, PLAIN))))


def test_of_a_mask_that_covers_everything_only_the_inside_counts() -> None:
    maps = 0.1 + torch.rand(1, 16)
    full = torch.ones(1, 16)
    assert cover(maps, full, MEAN).item() == pytest.approx(2 * cover(maps, full, PLAIN).item())
    assert cover(full, full, PLAIN).item() == pytest.approx(math.log1p(0.5**4) / 2, abs=1e-5)


@pytest.mark.slow
def test_free_maps_come_to_lie_on_the_object() -> None:
    random = torch.Generator().manual_seed(0)
    logits = 0.1 * torch.randn(1, SIDE**2, generator=random)
    mean, square_mean = torch.zeros_like(logits), torch.zeros_like(logits)
    for step in range(1, 301):
        logits.requires_grad_()
        # Each cell's attention to the style's words against that to fifty others.
        maps = torch.sigmoid(logits - math.log(50))
        loss = 0.1 * focus(maps, MASK, PLAIN) + 0.2 * cover(maps, MASK, PLAIN)
        (push,) = torch.autograd.grad(loss.sum(), logits)
        # Adam, whose own class takes longer to import than all of this.
        mean = 0.9 * mean + 0.1 * push
        square_mean = 0.999 * square_mean + 0.001 * push**2
        scale = (square_mean / (1 - 0.999**step)).sqrt() + 1e-8
        logits = logits.detach() - 0.1 * mean / (1 - 0.9**step) / scale
    maps = torch.sigmoid(logits - math.log(50))
    assert inside_mass(maps, MASK).item() > 0.95
    assert (maps * (1 - MASK)).max() < 0.5 * (maps[MASK > 0]).min()


def batch(seed: int = 0, b: int = 3, n: int = 16, e: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    maps = 0.01 * torch.rand(b, n, e, generator=random)
    masks = (torch.rand(b, n, e, generator=random) > 0.5).float()
    masks[:, :2] = 1
    return maps, masks, torch.ones(b, e, dtype=torch.bool)


@given(seed=st.integers(0, 10**6))
def test_a_batch_is_the_mean_over_edits_then_over_samples(seed: int) -> None:
    maps, masks, valid = batch(seed)
    random = torch.Generator().manual_seed(seed)
    valid = torch.rand(3, 2, generator=random) > 0.4
    masks[1, :, 0] = 0
    masks[1, 0, 0] = 0.9
    counts = [
        [bool(valid[k, j]) and masks[k, :, j].sum().item() >= 1 for j in range(2)] for k in range(3)
    ]
    found = attention(maps, masks, valid, PLAIN)
    for value, loss in ((found.focus, focus), (found.cover, cover)):
        each = [
            [
                loss(maps[k, :, j][None], masks[k, :, j][None], PLAIN).item() if used else None
                for j, used in enumerate(row)
            ]
            for k, row in enumerate(counts)
        ]
        assert value.item() == pytest.approx(regionroute.of_batch(each), rel=1e-5, abs=1e-6)
    assert found.skipped == int(valid[1, 0])


def test_no_sample_sees_anothers_map_or_mask() -> None:
    maps, masks, valid = batch()
    maps.requires_grad_()

    def push_on_the_first(masks: Tensor) -> tuple[float, Tensor]:
        found = attention(maps, masks, valid, PLAIN)
        (push,) = torch.autograd.grad(found.focus + found.cover, maps)
        return (found.focus + found.cover).item(), push[0]

    loss, push = push_on_the_first(masks)
    other = masks.clone()
    other[1] = 1 - masks[1]
    other[1, :2] = 1
    moved, pushed = push_on_the_first(other)
    assert moved != loss
    assert torch.equal(push, pushed)
    # And of an edit's map only its own mask.
    other = masks.clone()
    other[0, 5:, 1] = 1 - other[0, 5:, 1]
    assert torch.equal(push_on_the_first(other)[1][:, 0], push[:, 0])


def test_a_place_that_is_no_edit_is_not_even_looked_at() -> None:
    maps, masks, valid = batch()
    valid[0, 1] = valid[2] = False
    wanted = attention(maps, masks, valid, PLAIN)
    maps[0, :, 1] = maps[2] = math.nan
    masks[0, :, 1] = masks[2] = math.nan
    found = attention(maps, masks, valid, PLAIN)
    assert dataclasses.astuple(found) == dataclasses.astuple(wanted)


def test_without_an_edit_there_is_no_loss_and_no_graph() -> None:
    maps, masks, valid = batch()
    maps.requires_grad_()
    none = attention(maps, masks, torch.zeros_like(valid), PLAIN)
    assert (none.focus.item(), none.cover.item(), none.skipped) == (0.0, 0.0, 0)
    small = attention(maps, 0.01 * masks, valid, PLAIN)
    assert (small.focus.item(), small.cover.item(), small.skipped) == (0.0, 0.0, 6)
    assert not any(value.requires_grad for value in (none.focus, none.cover, small.focus))
