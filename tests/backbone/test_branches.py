"""LoRAs by the side of guidance: what eq. 9 says, computed by hand, for each way of asking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylecli.backbone.branches import applied, guidance_scale
from stylecli.backbone.row_loras import Factors, Pairs
from stylecli.errors import UsageError
from tests.small import noise

WIDTH, PICTURES = 4, 2
S = 4.0
Slots = list[int | None]


class Model(nn.Module):
    """One layer; called with rows and a condition, as pipelines call theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH, bias=False)
        self.contexts: list[str] = []

    def forward(self, rows: Tensor | list[Tensor], condition: Tensor) -> Tensor:
        stacked = torch.stack(rows) if isinstance(rows, list) else rows
        output: Tensor = self.layer(stacked + condition)
        return output

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        self.contexts.append(name)
        yield


def negative_first(model: Any, x: Tensor, pos: Tensor, neg: Tensor, g: float) -> Tensor:
    """One step of Stable Diffusion."""
    if g <= 1:
        return model(x, pos)
    uncond, cond = model(torch.cat([x, x]), torch.cat([neg, pos])).chunk(2)
    return uncond + g * (cond - uncond)


def positive_first(model: Any, x: Tensor, pos: Tensor, neg: Tensor, g: float) -> Tensor:
    """One step of Z-Image, which counts guidance from the other end, and lists its samples."""
    if g <= 0:
        return model(list(x), pos)
    cond, uncond = model([*x, *x], torch.cat([pos, neg])).chunk(2)
    return cond + g * (cond - uncond)


def one_by_one(model: Any, x: Tensor, pos: Tensor, neg: Tensor, g: float) -> Tensor:
    """One step of FLUX.2-klein."""
    with model.cache_context("cond"):
        cond = model(rows=x, condition=pos)
    if g <= 1:
        return cond
    with model.cache_context("uncond"):
        uncond = model(rows=x, condition=neg)
    return uncond + g * (cond - uncond)


STEPS = {"neg_pos": negative_first, "pos_neg": positive_first, "two_calls": one_by_one}
LAYOUTS = pytest.mark.parametrize("layout", list(STEPS))


@pytest.fixture
def model() -> Model:
    built = Model().requires_grad_(False)
    built.layer.weight.copy_(noise(WIDTH, WIDTH, seed=9))
    return built


def loras() -> list[Pairs]:
    return [
        {"layer": (noise(2, WIDTH, seed=seed), noise(WIDTH, 2, seed=seed + 50))}
        for seed in range(4)
    ]


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x, pos, neg = (noise(PICTURES, WIDTH, seed=seed) for seed in (1, 2, 3))
    return x, pos, neg


def by_hand(model: Model, positive: Slots, negative: Slots, s: float) -> Tensor:
    """``v_neg + s (v_pos - v_neg)``: a picture and a side at a time, ``W + B A`` written out."""
    rows = []
    for picture, (x, pos, neg) in enumerate(zip(*inputs(), strict=True)):
        answers = []
        for slot, condition in ((positive[picture], pos), (negative[picture], neg)):
            weight = model.layer.weight.clone()
            if slot is not None:
                a, b = loras()[slot]["layer"]
                weight += b @ a
            answers.append(weight @ (x + condition))
        rows.append(answers[1] + s * (answers[0] - answers[1]))
    return torch.stack(rows)


@pytest.mark.mostly_slow
@LAYOUTS
@pytest.mark.parametrize(
    ("positive", "negative"), [([0, 1], [2, 2]), ([0, 0], [None, None]), ([None, 3], [1, 0])]
)
def test_each_picture_and_side_has_its_lora_at_the_papers_scale(
    model: Model, layout: Any, positive: Slots, negative: Slots
) -> None:
    factors = Factors.stacked(loras())
    with applied(model, factors, layout=layout, positive=positive, negative=negative):
        found = STEPS[layout](model, *inputs(), guidance_scale(layout, S))
    assert torch.allclose(found, by_hand(model, positive, negative, S), atol=1e-4)


@LAYOUTS
def test_a_step_without_guidance_has_the_positive_loras(model: Model, layout: Any) -> None:
    factors = Factors.stacked(loras())
    with applied(model, factors, layout=layout, positive=[0, 1], negative=[2, 3]):
        found = STEPS[layout](model, *inputs(), guidance_scale(layout, 1.0))
    assert torch.allclose(found, by_hand(model, [0, 1], [2, 3], 1.0), atol=1e-5)


def test_sides_in_the_wrong_order_do_not_give_the_equation(model: Model) -> None:
    factors = Factors.stacked(loras())
    with applied(model, factors, layout="pos_neg", positive=[0, 1], negative=[2, 2]):
        found = negative_first(model, *inputs(), S)
    assert not torch.allclose(found, by_hand(model, [0, 1], [2, 2], S), atol=1e-1)


@LAYOUTS
def test_afterwards_nothing_is_left(model: Model, layout: Any) -> None:
    before = {**vars(model)}
    x, pos, _ = inputs()
    plain = model(x, pos)
    factors = Factors.stacked(loras())
    with (
        pytest.raises(TypeError),
        applied(model, factors, layout=layout, positive=[0, 1], negative=[2, 2]),
    ):
        STEPS[layout](model, x, pos, None, guidance_scale(layout, S))
    assert vars(model).keys() == before.keys()
    assert not model.layer._forward_hooks
    assert torch.equal(model(x, pos), plain)


def test_what_others_put_on_the_instance_is_put_back(model: Model) -> None:
    own = model.forward

    def offloading(rows: Tensor, condition: Tensor) -> Tensor:
        return own(rows, condition) + 1

    model.forward = offloading  # type: ignore[method-assign, assignment]
    factors = Factors.stacked(loras())
    with applied(model, factors, layout="neg_pos", positive=[0, 0], negative=[1, 1]):
        found = negative_first(model, *inputs(), S)
    assert torch.allclose(found, by_hand(model, [0, 0], [1, 1], S) + 1, atol=1e-4)
    assert model.forward is offloading


def test_the_models_own_contexts_are_entered(model: Model) -> None:
    factors = Factors.stacked(loras())
    with applied(model, factors, layout="two_calls", positive=[0, 1], negative=[2, 2]):
        one_by_one(model, *inputs(), S)
    assert model.contexts == ["cond", "uncond"]


def test_rows_nobody_gave_a_lora_for_are_refused(model: Model) -> None:
    factors = Factors.stacked(loras())
    x = noise(3, WIDTH)
    with (
        applied(model, factors, layout="neg_pos", positive=[0, 1], negative=[2, 2]),
        pytest.raises(UsageError, match="3 rows for 2 pictures"),
    ):
        model(x, x)
    with applied(model, factors, layout="two_calls", positive=[0, 1], negative=[2, 2]):
        with pytest.raises(UsageError, match="outside cache_context"):
            model(*inputs()[:2])
        with model.cache_context("pred"), pytest.raises(UsageError, match="outside cache_context"):
            model(*inputs()[:2])
    with (
        pytest.raises(ValueError, match="1 positive slots, 2 negative ones"),
        applied(model, factors, layout="neg_pos", positive=[0], negative=[2, 2]),
    ):
        pass


def test_a_model_that_borrows_layers_has_the_lora_only_where_it_is_named(model: Model) -> None:
    class Borrower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = model.layer

        def forward(self, rows: Tensor) -> Tensor:
            output: Tensor = self.layer(rows)
            return output

    borrower, x = Borrower(), noise(2 * PICTURES, WIDTH)
    base = borrower(x)
    factors = Factors.stacked(loras())
    sides: dict[str, Any] = {"layout": "neg_pos", "positive": [0, 1], "negative": [2, 2]}
    with applied(model, factors, **sides):
        assert torch.equal(borrower(x), base)
    with applied(model, factors, **sides, sharing=[borrower]):
        found = borrower(x)
    for row, slot in enumerate([2, 2, 0, 1]):
        a, b = loras()[slot]["layer"]
        assert torch.allclose(found[row], (model.layer.weight + b @ a) @ x[row], atol=1e-5)
