"""DINOv2 through its file, under the keys it was published with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stylecli.errors import WeightsError
from stylecli.evaluation import dino, published, weights
from stylecli.evaluation.dino import DinoV2, dinov2

# isort: split
# Behind the package, which makes the import of torchvision safe.
from transformers import Dinov2Config, Dinov2Model

# 64 positions at the size it was made for, 16 at ours: the grid has to be resampled.
TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "image_size": 448,
    "patch_size": 56,
}
BOTH = ("weight", "bias")
NORMS = ("norm1", "norm2")
ATTENTION = ("attention.query", "attention.key", "attention.value", "output.dense")
LAYER = (
    *(f"{norm}.{kind}" for norm in NORMS for kind in BOTH),
    *(f"attention.{part}.{kind}" for part in ATTENTION for kind in BOTH),
    *(f"mlp.{part}.{kind}" for part in ("fc1", "fc2") for kind in BOTH),
    "layer_scale1.lambda1",
    "layer_scale2.lambda1",
)
AROUND = (
    "embeddings.cls_token",
    "embeddings.mask_token",
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.projection.bias",
    "layernorm.weight",
    "layernorm.bias",
)


def keys_of(layers: int) -> set[str]:
    """The keys of ``facebook/dinov2-base`` as its file has them."""
    return {*AROUND, *(f"encoder.layer.{i}.{key}" for i in range(layers) for key in LAYER)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model as transformers saves it, every weight away from its first value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Dinov2Model(Dinov2Config(**TINY))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("dinov2-base")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return weights.read(published.WEIGHTS["dinov2-base"], folder / "model.safetensors")


@pytest.fixture(scope="module")
def network(tensors: dict[str, torch.Tensor]) -> DinoV2:
    return dinov2(tensors, file="f", config=TINY)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(4))


def test_the_vector_is_the_class_token_of_transformers(
    folder: Path, network: DinoV2, images: torch.Tensor
) -> None:
    theirs = Dinov2Model.from_pretrained(folder).eval()
    with torch.no_grad():
        states = theirs(pixel_values=images)
    found = network(images)
    assert found.shape == (8, 24)
    torch.testing.assert_close(found, states.pooler_output, atol=1e-5, rtol=0)
    torch.testing.assert_close(found, states.last_hidden_state[:, 0], atol=1e-5, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.01


def test_it_is_taken_behind_the_last_normalisation(
    tensors: dict[str, torch.Tensor], images: torch.Tensor
) -> None:
    """With neither gain nor bias, every vector has mean 0 and variance 1."""
    plain = tensors | {"layernorm.weight": torch.ones(24), "layernorm.bias": torch.zeros(24)}
    found = dinov2(plain, file="f", config=TINY)(images)
    torch.testing.assert_close(found.mean(dim=1), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(dim=1, correction=0), torch.ones(8), atol=1e-3, rtol=0)


def test_published_keys_and_those_of_the_library_load_alike(
    tensors: dict[str, torch.Tensor], network: DinoV2, images: torch.Tensor, tmp_path: Path
) -> None:
    assert tensors.keys() == keys_of(2)
    own = network.model.state_dict()
    save_file(own, tmp_path / "model.safetensors")
    row = published.WEIGHTS["dinov2-base"]
    again = dinov2(weights.read(row, tmp_path / "model.safetensors"), file="f", config=TINY)
    assert torch.equal(again(images), network(images))


def test_a_key_under_two_names_is_refused(
    tensors: dict[str, torch.Tensor], network: DinoV2
) -> None:
    own = dict(network.model.state_dict())
    both = tensors | own
    if both.keys() == tensors.keys():
        pytest.skip("this release of transformers uses the published names")
    with pytest.raises(WeightsError, match=r"unknown encoder\.layer\.0\.attention\.attention"):
        dinov2(both, file="f", config=TINY)


def test_another_network_is_refused(tensors: dict[str, torch.Tensor]) -> None:
    wrong = {key: tensor for key, tensor in tensors.items() if key != "layernorm.bias"}
    with pytest.raises(WeightsError, match=r"f lacks layernorm\.bias$"):
        dinov2(wrong, file="f", config=TINY)
    wrong = tensors | {"classifier.weight": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"f has the unknown classifier\.weight$"):
        dinov2(wrong, file="f", config=TINY)
    wrong = tensors | {"embeddings.cls_token": torch.ones(1, 1, 25)}
    with pytest.raises(WeightsError, match=r"cls_token of shape \(1, 1, 25\), not \(1, 1, 24\)$"):
        dinov2(wrong, file="f", config=TINY)


def test_without_a_config_it_is_vit_b14_of_518_px(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def note(model: nn.Module, _tensors: object, *, file: str) -> None:
        seen.update({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})
        seen["heads"] = (model.config.num_attention_heads,)  # type: ignore[union-attr]

    monkeypatch.setattr(dino, "load_strictly", note)
    dinov2({}, file="f")
    assert len(seen) - 1 == len(keys_of(12))
    assert seen["heads"] == (12,)
    assert seen["embeddings.position_embeddings"] == (1, 1 + (518 // 14) ** 2, 768)
    assert seen["embeddings.patch_embeddings.projection.weight"] == (768, 3, 14, 14)
    assert seen["encoder.layer.11.mlp.fc1.weight"] == (3072, 768)


def test_a_batch_of_eight_is_eight_batches_of_one(network: DinoV2, images: torch.Tensor) -> None:
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone, atol=1e-5, rtol=0)


def test_loading_draws_nothing_from_the_global_generator(
    tensors: dict[str, torch.Tensor],
) -> None:
    before = torch.random.get_rng_state()
    dinov2(tensors, file="f", config=TINY)
    assert torch.equal(torch.random.get_rng_state(), before)
