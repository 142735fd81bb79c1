"""Sums and measures of LoRAs against whole matrices, formed here and nowhere else."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.backbone import lora_algebra as algebra
from stylecli.backbone.row_loras import Pairs
from stylecli.errors import UsageError
from tests.small import as_file, base_unet, lora, noise, relative, with_loras

WIDTHS = {"a": (7, 5), "b": (4, 9)}


def made(seed: int, rank: int = 3, **more: tuple[int, int]) -> Pairs:
    random = torch.Generator().manual_seed(seed)
    return {
        path: (
            torch.randn(rank, width_in, generator=random),
            torch.randn(width_out, rank, generator=random),
        )
        for path, (width_in, width_out) in (WIDTHS | more).items()
    }


def whole(pairs: Pairs) -> dict[str, Tensor]:
    return {path: b.double() @ a.double() for path, (a, b) in pairs.items()}


WEIGHT = st.floats(-1, 2, allow_subnormal=False)


@pytest.mark.slow
@given(WEIGHT, WEIGHT, st.integers(1, 4), st.integers(1, 4))
def test_delta_is_the_sum_of_the_products(w: float, v: float, k: int, m: int) -> None:
    one, other = made(1, k), made(2, m, c=(3, 3))
    found = whole(algebra.delta([(one, w), (other, v)]))
    for path, other_change in whole(other).items():
        wanted = v * other_change + (w * whole(one)[path] if path in one else 0)
        if path in found:
            assert torch.allclose(found[path], wanted, atol=1e-5)
        else:
            assert torch.allclose(wanted, torch.zeros_like(wanted))


def test_weights_of_one_and_none_give_the_first_to_the_bit() -> None:
    one, other = made(1), made(2)
    for mixed in (algebra.delta([(one, 1), (other, 0)]), algebra.factors([(one, 1), (other, 0)])):
        assert mixed.keys() == one.keys()
        assert all(torch.equal(mixed[path][0], one[path][0]) for path in one)
        assert all(torch.equal(mixed[path][1], one[path][1]) for path in one)


def test_no_weight_at_all_still_leaves_layers_that_change_nothing() -> None:
    mixed = algebra.delta([(made(1), 0), (made(2), 0)])
    assert mixed.keys() == WIDTHS.keys()
    assert not any(change.any() for change in whole(mixed).values())


def test_factors_are_summed_apart_with_what_comes_of_it() -> None:
    """The rank stays and there are cross terms: with halves, a quarter of each."""
    one, other = made(1), made(2)
    found = algebra.factors([(one, 0.5), (other, 0.5)])
    for path, (down, up) in found.items():
        assert len(down) == 3
        crossed = one[path][1] @ other[path][0] + other[path][1] @ one[path][0]
        wanted = (one[path][1] @ one[path][0] + other[path][1] @ other[path][0] + crossed) / 4
        assert torch.allclose(up @ down, wanted, atol=1e-5)
    for stranger in (made(2, 4), made(2, c=(3, 3))):
        with pytest.raises(UsageError, match="do not correspond"):
            algebra.factors([(one, 0.5), (stranger, 0.5)])


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 99))
def test_compressed_is_the_best_there_is_at_a_rank(k: int, rank: int, seed: int) -> None:
    """Spec 9: exact at full rank, else what the SVD of the whole matrix leaves."""
    own = made(seed, k)
    found = algebra.compressed(own, rank)
    for path, wanted in whole(own).items():
        down, up = found[path]
        assert len(down) == up.shape[1]
        assert len(down) <= rank if k > rank else len(down) == k
        values = torch.linalg.svdvals(wanted)
        best = math.sqrt(float(values[rank:].square().sum()))
        assert math.isclose(
            float((whole(found)[path] - wanted).norm()), best, abs_tol=1e-4 * float(values[0])
        )


def test_a_compressed_layer_shares_its_size_between_both_factors() -> None:
    down, up = algebra.compressed(made(3, 4), 2)["a"]
    assert torch.allclose(down.norm(dim=1), up.norm(dim=0), rtol=1e-4)


@given(st.integers(1, 5), st.integers(0, 99))
def test_norms_are_those_of_the_products(k: int, seed: int) -> None:
    own = made(seed, k)
    for path, change in whole(own).items():
        assert math.isclose(algebra.norms(own)[path], float(change.norm()), rel_tol=1e-6)
        values = torch.linalg.svdvals(change)
        short = torch.linalg.svdvals(algebra.core(own[path]))
        wide = torch.cat([values, values.new_zeros(9)])[: len(short)]
        assert torch.allclose(short, wide, atol=1e-6)


def test_convolutions_are_wide_matrices() -> None:
    one = {"conv": (noise(2, 3, 3, 3), noise(5, 2, 1, 1, seed=1))}
    other = {"conv": (noise(2, 3, 3, 3, seed=2), noise(5, 2, 1, 1, seed=3))}
    down, up = algebra.delta([(one, 0.5), (other, 2)])["conv"]
    assert (down.shape, up.shape) == ((4, 3, 3, 3), (5, 4, 1, 1))
    small = algebra.compressed({"conv": (down, up)}, 4 - 1)["conv"]
    assert (small[0].shape, small[1].shape) == ((3, 3, 3, 3), (5, 3, 1, 1))


def test_effective_rank_counts_directions() -> None:
    assert algebra.effective_rank(torch.eye(4)) == pytest.approx(4)
    assert algebra.effective_rank(torch.ones(4, 9)) == pytest.approx(1, abs=1e-4)
    assert algebra.effective_rank(torch.zeros(4, 9)) == 0
    many = torch.stack([torch.eye(3), torch.ones(3, 3)])
    assert algebra.effective_rank(many).tolist() == pytest.approx([3, 1], abs=1e-4)
    a, b = made(1, 4)["a"]
    # The last two rows lie in the space of the first: only two are left to count.
    flat = torch.cat([a[:2], a[:2]])
    assert algebra.effective_rank(flat) <= 2 + 1e-4
    assert algebra.effective_rank(algebra.core((flat, b))) <= 2 + 1e-4


def test_distances_of_layers_are_relative_to_the_second() -> None:
    one = made(1)
    assert max(algebra.distances(one, one).values()) < 1e-7
    other = dict(one) | {"b": (one["b"][0], one["b"][1] * 1.25)}
    assert algebra.distances(other, one) == pytest.approx({"a": 0, "b": 0.25}, rel=1e-5, abs=1e-7)
    nothing = {path: (a, torch.zeros_like(b)) for path, (a, b) in one.items()}
    assert algebra.distances(nothing, one) == pytest.approx({"a": 1, "b": 1})
    assert set(algebra.distances(one, nothing).values()) == {math.inf}
    assert set(algebra.distances(nothing, nothing).values()) == {0}
    # A layer that one of them has alone is as far as it can be.
    more = dict(one) | made(2, c=(3, 2))
    assert algebra.distances(more, {k: one[k] for k in "a"})["b"] == math.inf
    assert algebra.distances({}, one) == pytest.approx({"a": 1, "b": 1})


def test_sizes_that_differ_are_named() -> None:
    with pytest.raises(UsageError, match=r"b has sizes 4 -> 9 and 6 -> 9"):
        algebra.delta([(made(1), 1), (made(2, b=(6, 9)), 1)])


def test_weights_far_out_are_told_apart() -> None:
    assert algebra.outside([0, 1, -1, 2, 0.5]) == []
    assert algebra.outside([-1.01, 1, 2.5]) == [-1.01, 2.5]


@pytest.mark.slow
def test_delta_computes_what_two_weighted_adapters_do() -> None:
    """Spec 9, combination: PEFT's own sum in a UNet."""
    from stylecli.backbone import row_loras
    from tests import tiny
    from tests.small import folder, outputs

    tensors = {"one": lora(base_unet(), seed=1), "other": lora(base_unet(), seed=2, rank=2)}
    backbone = tiny.backbone(folder())
    adapters = with_loras(backbone, **tensors)
    weights = {"one": 0.7, "other": -0.4}
    base = outputs(backbone)
    with adapters.use(weights):
        wanted = outputs(backbone)
    mixed = algebra.delta([(row_loras.pairs(own), weights[name]) for name, own in tensors.items()])
    named = {
        f"{path}.lora_{side}.weight": t
        for path, pair in mixed.items()
        for side, t in zip("AB", pair, strict=True)
    }
    adapters.add("mixed", as_file(named))
    with adapters.use({"mixed": 1.0}):
        found = outputs(backbone)
    assert relative(wanted, base) > 0.01
    assert relative(found, wanted) < 1e-5
