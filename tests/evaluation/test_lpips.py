"""LPIPS: the package's own numbers, whatever the trunk, and its map, range and size rules."""

from __future__ import annotations

import math
import warnings
from typing import Any

import lpips as package
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import alexnet, vgg16

from stylecli.errors import ItemError, WeightsError
from stylecli.evaluation.lpips import Lpips, lpips_network, luminance

UNIT = (0.0, 1.0)


@pytest.fixture(scope="module", params=["alex", "vgg"])
def pair(request: pytest.FixtureRequest) -> tuple[Lpips, Any]:
    """Ours and the package's network on one random trunk."""
    torch.manual_seed(0)
    trunk = (alexnet if request.param == "alex" else vgg16)(weights=None)
    ours = lpips_network(request.param, trunk.state_dict(), file="trunk.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = package.LPIPS(net=request.param, pnet_rand=True, verbose=False).eval()
    for index in range(1, 6):
        for name, layer in getattr(theirs.net, f"slice{index}").named_children():
            if isinstance(layer, nn.Conv2d):
                layer.load_state_dict(trunk.features[int(name)].state_dict())
    return ours, theirs


def pictures(count: int, height: int = 64, width: int = 72, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.mostly_slow
@torch.no_grad()
def test_the_number_is_the_packages(pair: tuple[Lpips, Any]) -> None:
    ours, theirs = pair
    a, b = pictures(3), pictures(3, seed=2)
    wanted = theirs(a.float() / 127.5 - 1, b.float() / 127.5 - 1).flatten()
    assert wanted.min() > 1e-4
    torch.testing.assert_close(ours.distance(a, b), wanted, atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_map_is_the_packages_and_its_mean_is_the_number(pair: tuple[Lpips, Any]) -> None:
    ours, theirs = pair
    a, b = pictures(2), pictures(2, seed=2)
    theirs.spatial = True
    try:
        wanted = theirs(a.float() / 127.5 - 1, b.float() / 127.5 - 1)[:, 0]
    finally:
        theirs.spatial = False
    found = ours.map(a, b)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    scalar = ours.distance(a, b)
    torch.testing.assert_close(found.mean(dim=(1, 2)), scalar, atol=0, rtol=1e-3)


@torch.no_grad()
def test_equal_pictures_are_no_distance_apart_and_order_does_not_matter(
    pair: tuple[Lpips, Any],
) -> None:
    ours, _ = pair
    a, b = pictures(1), pictures(1, seed=2)
    assert ours.distance(a, a).item() == 0
    torch.testing.assert_close(ours.distance(a, b), ours.distance(b, a))


@torch.no_grad()
def test_bytes_and_floats_of_any_declared_range_agree(pair: tuple[Lpips, Any]) -> None:
    ours, _ = pair
    a, b = pictures(1), pictures(1, seed=2)
    wanted = ours.distance(a, b)
    unit = ours.distance(a / 255, b / 255, value_range=UNIT)
    signed = ours.distance(a / 127.5 - 1, b / 127.5 - 1, value_range=(-1.0, 1.0))
    torch.testing.assert_close(unit, wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(signed, wanted, atol=1e-6, rtol=1e-5)
    # Taken for [-1, 1], pictures of [0, 1] give a number that looks right and is not.
    assert ours.distance(a / 255, b / 255, value_range=(-1.0, 1.0)).item() != pytest.approx(
        wanted.item(), rel=0.1
    )


def test_floats_without_a_range_are_refused(pair: tuple[Lpips, Any]) -> None:
    with pytest.raises(TypeError, match="value_range"):
        pair[0].distance(pictures(1) / 255, pictures(1) / 255)


def test_pictures_below_the_smallest_size_are_refused_and_at_it_are_not(
    pair: tuple[Lpips, Any],
) -> None:
    ours, _ = pair
    least = {"alex": 31, "vgg": 16}[ours.net]
    found = ours.distance(pictures(1, least, least), pictures(1, least, least, seed=2))
    assert 0 < found.item() < math.inf
    with pytest.raises(ItemError, match="too small for LPIPS"):
        ours.distance(pictures(1, least - 1, 64), pictures(1, least - 1, 64))


def test_a_trunk_of_another_network_is_refused() -> None:
    tensors = alexnet(weights=None).state_dict()
    with pytest.raises(WeightsError, match=r"trunk\.pth lacks"):
        lpips_network("vgg", tensors, file="trunk.pth")
    del tensors["features.0.bias"]
    with pytest.raises(WeightsError, match=r"lacks features\.0\.bias"):
        lpips_network("alex", tensors, file="trunk.pth")


def test_luminance_is_grey_and_keeps_grey_as_it_is() -> None:
    picture = pictures(1) / 255
    grey = luminance(picture)
    assert torch.equal(grey[:, 0], grey[:, 2])
    wanted = 0.299 * picture[:, 0] + 0.587 * picture[:, 1] + 0.114 * picture[:, 2]
    torch.testing.assert_close(grey[:, 1], wanted)
    torch.testing.assert_close(luminance(grey), grey)
