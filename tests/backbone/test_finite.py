"""A picture of NaN: whose fault it is, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from stylecli.backbone.finite import see_finite
from stylecli.backbone.model import Backbone
from stylecli.errors import ItemError, WeightsError

NAN = torch.tensor([0.0, float("nan")])


@pytest.fixture
def torn(shared: Backbone) -> Iterator[Backbone]:
    weight = shared.unet.conv_out.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0, 0, 0] = float("inf")
    yield shared
    with torch.no_grad():
        weight.copy_(kept)


def test_numbers_are_numbers_and_cost_no_look_at_the_weights(torn: Backbone) -> None:
    see_finite(torch.zeros(2), torn)


def test_of_weights_that_are_well_the_type_is_to_blame(shared: Backbone) -> None:
    with pytest.raises(ItemError, match=r"^inversion gave NaN") as caught:
        see_finite(NAN, shared, what="inversion gave")
    assert "--dtype float32" in caught.value.fix


def test_weights_that_hold_none_are_named(torn: Backbone) -> None:
    with pytest.raises(WeightsError, match=r"conv_out\.weight of UNet2DConditionModel") as caught:
        see_finite(NAN, torn)
    assert "--dtype" not in caught.value.fix
