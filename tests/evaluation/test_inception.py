"""Both Inception networks against the code they were published with, on weights made here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from stylecli.errors import WeightsError
from stylecli.evaluation.inception import ART_HEADS, art_inception, fid_inception
from stylecli.evaluation.pixels import PREPROCESS

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def fidelity() -> Iterator[nn.Module]:
    """torch_fidelity's network. Its statistics are those of a picture, so that signals stay alive
    to the last layer, and differences do too."""
    # Behind stylecli.evaluation, which makes torchvision importable.
    from torch_fidelity import feature_extractor_inceptionv3 as published
    from torchvision.models import Inception3

    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch, torch.no_grad():
        torch.manual_seed(0)
        tensors = Inception3(1008, aux_logits=False, init_weights=False).state_dict()
        patch.setattr(published, "load_state_dict_from_url", lambda *_, **__: tensors)
        network = published.FeatureExtractorInceptionV3("x", ["2048"], verbose=False)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        network.train()(pixels(1, 299, 299))
        yield network.eval()


@pytest.fixture(scope="module")
def published(fidelity: nn.Module) -> Tensors:
    return fidelity.state_dict()


@pytest.fixture(scope="module")
def trunk(published: Tensors) -> Tensors:
    """As in the published art-Inception, but for its heads."""
    return {key: t for key, t in published.items() if not key.startswith("fc.")}


@pytest.fixture(scope="module")
def art(trunk: Tensors) -> nn.Module:
    return art_inception(trunk, file="art_inception.pth")


def pixels(seed: int, height: int, width: int, count: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 20, 20, generator=random)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    grain = 0.1 * torch.randn(smooth.shape, generator=random)
    return (smooth + grain).clamp(0, 1).mul(255).round().to(torch.uint8)


@pytest.mark.slow
@torch.no_grad()
def test_fid_features_are_torch_fidelitys(fidelity: nn.Module, published: Tensors) -> None:
    picture = pixels(2, 299, 299)
    (expected,) = fidelity(picture)
    ours = fid_inception(published, file="inception.pth")
    found = ours(torch.stack([PREPROCESS["fid299"].apply(p.permute(1, 2, 0)) for p in picture]))
    assert found.shape == (1, 2048)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_head_is_needed_though_it_is_not_used(published: Tensors) -> None:
    without = {key: t for key, t in published.items() if key != "fc.weight"}
    with pytest.raises(WeightsError, match=r"inception\.pth lacks fc\.weight"):
        fid_inception(without, file="inception.pth")
    # torchvision's own Inception has 1000 classes, and is not FID's.
    other = {**published, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    with pytest.raises(WeightsError, match=r"fc\.weight of shape \(1000, 2048\), not \(1008"):
        fid_inception(other, file="inception.pth")


def test_fid_weights_that_were_never_trained_are_refused(published: Tensors) -> None:
    fresh = {
        key: torch.zeros_like(t) if key.endswith("running_mean") else t
        for key, t in published.items()
    }
    with pytest.raises(WeightsError, match="never trained"):
        fid_inception(fresh, file="inception.pth")


@pytest.mark.mostly_slow
@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(299, 299), (300, 410), (75, 75)])
def test_art_features_are_torchvisions_last_pool_at_any_size(
    art: nn.Module, trunk: Tensors, height: int, width: int
) -> None:
    from torchvision.models import Inception3

    reference = Inception3(aux_logits=False, init_weights=False)
    reference.load_state_dict(trunk, strict=False)
    seen: list[Tensor] = []
    reference.avgpool.register_forward_hook(lambda _module, _given, out: seen.append(out))
    picture = pixels(3, height, width) / 255
    reference.eval()(picture)
    found = art(picture)
    assert found.shape == (1, 2048)
    torch.testing.assert_close(found, seen[0].flatten(1), atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_two_networks_pool_differently(
    art: nn.Module, published: Tensors, fidelity: nn.Module
) -> None:
    """The same weights in the other network are off by more than any tolerance would hide."""
    picture = pixels(4, 299, 299)
    (expected,) = fidelity(picture)
    assert (art((picture - 128.0) / 128) - expected).abs().max() > 0.05


@torch.no_grad()
def test_art_inceptions_heads_may_be_there_and_are_not_used(art: nn.Module, trunk: Tensors) -> None:
    assert ART_HEADS == ("AuxLogits1.", "AuxLogits2.", "fc1.", "fc2.")
    heads = {f"{head}weight": torch.zeros(3, 5) for head in ART_HEADS}
    picture = pixels(5, 75, 75) / 255
    found = art_inception({**trunk, **heads}, file="art_inception.pth")(picture)
    assert torch.equal(found, art(picture))


def test_art_inception_lacking_a_block_is_refused(trunk: Tensors) -> None:
    without = {key: t for key, t in trunk.items() if not key.startswith("Mixed_7c")}
    with pytest.raises(WeightsError, match=r"art_inception\.pth lacks Mixed_7c\.") as caught:
        art_inception(without, file="art_inception.pth")
    assert caught.value.fix


@pytest.mark.mostly_slow
@pytest.mark.parametrize("key", ["fc.weight", "AuxLogits.fc.weight", "fc3.weight", "Mixed_8a.bias"])
def test_art_inception_with_a_part_of_another_network_is_refused(trunk: Tensors, key: str) -> None:
    """`fc` and `AuxLogits` are ImageNet's, whose features are on another scale."""
    with pytest.raises(WeightsError, match=f"has the unknown {key}"):
        art_inception({**trunk, key: torch.zeros(2)}, file="art_inception.pth")


def test_nothing_is_left_to_train_or_to_chance(art: nn.Module, published: Tensors) -> None:
    for network in (art, fid_inception(published, file="inception.pth")):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
