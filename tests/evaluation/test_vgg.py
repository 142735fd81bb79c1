"""VGG19's taps, and what Gram matrices can and cannot see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models import vgg19 as torchvision_vgg19

from stylecli.errors import WeightsError
from stylecli.evaluation import metrics
from stylecli.evaluation.vgg import TAPS, Vgg19, vgg19


@pytest.fixture(scope="module")
def networks() -> tuple[Vgg19, torch.nn.Sequential]:
    torch.manual_seed(0)
    theirs = torchvision_vgg19(weights=None)
    return vgg19(theirs.state_dict(), file="vgg19.pth"), theirs.features.eval()


@pytest.mark.slow
@torch.no_grad()
def test_taps_are_the_activations_that_open_each_block(
    networks: tuple[Vgg19, torch.nn.Sequential],
) -> None:
    ours, theirs = networks
    image = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    found = ours.taps(image, list(TAPS))
    opening = {"relu1_1": 1, "relu2_1": 6, "relu3_1": 11, "relu4_1": 20, "relu5_1": 29}
    assert found.keys() == opening.keys()
    for name, index in opening.items():
        torch.testing.assert_close(found[name], theirs[: index + 1](image))
        block = int(name[4])
        assert found[name].shape[-2:] == (32 >> block - 1, 48 >> block - 1)


@pytest.mark.slow
def test_nothing_behind_the_deepest_tap_is_computed(
    networks: tuple[Vgg19, torch.nn.Sequential],
) -> None:
    ours, _ = networks
    seen = []
    hooks = [
        layer.register_forward_hook(lambda *_, index=index: seen.append(index))
        for index, layer in enumerate(ours.features)
    ]
    try:
        ours.taps(torch.zeros(1, 3, 32, 32), ["relu2_1"])
    finally:
        for hook in hooks:
            hook.remove()
    assert max(seen) < TAPS["relu2_1"]


def test_another_network_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"vgg19\.pth lacks"):
        vgg19({}, file="vgg19.pth")


def features(seed: int, *shape: int) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed))


def slow_gram(one: Tensor) -> list[list[float]]:
    """Channel by channel, place by place."""
    channels = [plane.flatten().tolist() for plane in one[0]]
    return [
        [sum(a * b for a, b in zip(x, y, strict=True)) / len(x) for y in channels] for x in channels
    ]


def test_gram_matrices_against_loops() -> None:
    a, b = features(1, 3, 4, 5), features(2, 3, 6, 2)
    first, second = torch.tensor(slow_gram(a)), torch.tensor(slow_gram(b))
    torch.testing.assert_close(metrics.gram_matrix(a)[0], first)
    wanted = (first - second).square().sum() / 9
    torch.testing.assert_close(metrics.gram([a], [b])[0], wanted)
    relative = (first - second).square().sum() / (first.norm() * second.norm())
    torch.testing.assert_close(metrics.gram_rel([a], [b])[0], relative)


@pytest.mark.parametrize("distance", [metrics.gram, metrics.gram_rel])
def test_places_do_not_matter_and_channels_do(distance) -> None:  # type: ignore[no-untyped-def]
    a, b = features(1, 6, 4, 4), features(2, 6, 4, 4)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    scattered = a.flatten(2)[..., order].unflatten(2, (4, 4))
    torch.testing.assert_close(distance([scattered], [b]), distance([a], [b]))
    assert distance([a.flip(1)], [b]).item() != pytest.approx(distance([a], [b]).item(), rel=1e-3)
    assert distance([a], [a]).item() == 0


def test_the_relative_form_does_not_see_how_loud_a_layer_is() -> None:
    a, b = features(1, 6, 4, 4), features(2, 6, 4, 4)
    torch.testing.assert_close(metrics.gram_rel([9 * a], [9 * b]), metrics.gram_rel([a], [b]))
    torch.testing.assert_close(metrics.gram([3 * a], [3 * b]), 81 * metrics.gram([a], [b]))


def test_layers_are_averaged() -> None:
    a, b, c, d = (features(k, 3, 4, 4) for k in range(4))
    both = metrics.gram([a, c], [b, d])
    torch.testing.assert_close(both, (metrics.gram([a], [b]) + metrics.gram([c], [d])) / 2)
