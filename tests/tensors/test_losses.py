"""Laws of the losses between attention layers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.tensors.losses import mean_l1, over_layers

# None of them so small that squares or differences of two vanish.
NUMBERS = st.integers(-1000, 1000).map(lambda n: n / 8)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Two tensors ``[rows, heads, tokens, width]`` of any small shape."""
    shape = tuple(draw(st.integers(1, 3)) for _ in range(4))
    size = torch.Size(shape).numel()
    found = [draw(st.lists(NUMBERS, min_size=size, max_size=size)) for _ in range(2)]
    first, second = (torch.tensor(numbers).view(shape) for numbers in found)
    return first, second


@given(pairs())
def test_a_loss_is_zero_where_rows_are_equal_and_nowhere_else(pair: tuple[Tensor, Tensor]) -> None:
    ours, theirs = pair
    assert not mean_l1(ours, ours.clone()).any()
    equal = [bool(torch.equal(a, b)) for a, b in zip(ours, theirs, strict=True)]
    assert (mean_l1(ours, theirs) == 0).tolist() == equal


@given(pairs())
def test_a_row_has_the_loss_and_the_gradient_it_has_alone(pair: tuple[Tensor, Tensor]) -> None:
    ours, theirs = pair
    ours.requires_grad_()
    together = mean_l1(ours, theirs)
    (gradient,) = torch.autograd.grad(together.sum(), ours)
    for row in range(len(ours)):
        alone = ours[row : row + 1].detach().requires_grad_()
        loss = mean_l1(alone, theirs[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], loss)
        torch.testing.assert_close(
            gradient[row : row + 1], torch.autograd.grad(loss.sum(), alone)[0]
        )


@given(NUMBERS.filter(bool), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_one_number_has_a_gradient_whatever_the_distance(apart: float, dtype: torch.dtype) -> None:
    ours = torch.full((1, 1, 1, 1), apart, dtype=dtype, requires_grad=True)
    loss = mean_l1(ours, torch.zeros(1, 1, 1, 1, dtype=dtype))
    assert loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss.sum(), ours)
    assert float(gradient) == (1 if apart > 0 else -1)


@given(pairs(), pairs())
def test_layers_add_up_and_are_told_apart_by_name(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
) -> None:
    rows = min(len(first[0]), len(second[0]))
    ours = {"a": first[0][:rows], "b": second[0][:rows]}
    theirs = {"b": second[1][:rows], "a": first[1][:rows]}
    wanted = mean_l1(ours["a"], theirs["a"]) + mean_l1(ours["b"], theirs["b"])
    torch.testing.assert_close(over_layers(ours, theirs), wanted)


def test_one_row_of_theirs_serves_all_of_ours() -> None:
    ours, theirs = torch.arange(12.0).view(3, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    assert mean_l1(ours, theirs).tolist() == [1.5, 5.5, 9.5]


def test_a_layer_that_is_missing_is_no_smaller_loss() -> None:
    one = torch.ones(1, 1, 1, 1)
    with pytest.raises(KeyError):
        over_layers({"a": one, "b": one}, {"a": one})


def test_what_was_float64_stays_so() -> None:
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    assert mean_l1(one, one).dtype == torch.float64
