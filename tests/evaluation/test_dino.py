"""DINOv2 and DINO through their files, under the keys they were published with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from stylecli.errors import WeightsError
from stylecli.evaluation import dino, published, weights
from stylecli.evaluation.dino import DinoV2, dinov2
from stylecli.evaluation.layout import self_similarity

# isort: split
# Behind the package, which makes the import of torchvision safe.
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

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

    def note(model: nn.Module, _tensors: object, *, file: str, ignore: object) -> None:
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


def test_maps_are_what_each_block_hands_on(network: DinoV2, images: torch.Tensor) -> None:
    """Block 1 is the first block's output, and the last map lies behind the last norm."""
    seen: list[torch.Tensor] = []
    blocks = [m for m in network.model.modules() if type(m).__name__ == "Dinov2Layer"]
    hooks = [
        block.register_forward_hook(
            lambda _m, _in, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in blocks
    ]
    found = network.taps(images[:2], ("block1", "patches"))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2
    assert found["block1"].shape == (2, 24, 4, 4)
    for row in range(4):
        for column in range(4):
            token = seen[0][:, 1 + 4 * row + column]
            torch.testing.assert_close(found["block1"][:, :, row, column], token)
    last = network.model.layernorm(seen[1])  # type: ignore[operator]
    torch.testing.assert_close(found["patches"].flatten(2), last[:, 1:].transpose(1, 2))


def test_the_large_one_has_the_shape_its_file_has(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def note(model: nn.Module, _tensors: object, *, file: str, ignore: object) -> None:
        seen.update({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})

    monkeypatch.setattr(dino, "load_strictly", note)
    dinov2({}, file="f", config=dino.LARGE)
    assert len(seen) == len(keys_of(24))
    assert seen["embeddings.position_embeddings"] == (1, 1 + 37**2, 1024)
    assert seen["encoder.layer.23.mlp.fc1.weight"] == (4096, 1024)


# ---- DINO, for its keys

TINY_VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 224,
    "patch_size": 56,
    "layer_norm_eps": 1e-6,
}
VIT_LAYER = (
    *(f"attention.{part}.{kind}" for part in ATTENTION[:3] for kind in BOTH),
    *(f"{part}.{kind}" for part in ("layernorm_before", "layernorm_after") for kind in BOTH),
    *(
        f"{part}.dense.{kind}"
        for part in ("attention.output", "intermediate", "output")
        for kind in BOTH
    ),
)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = ViTModel(ViTConfig(**TINY_VIT), add_pooling_layer=False)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("dino-vitb8")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def vit_tensors(vit: Path) -> dict[str, torch.Tensor]:
    return weights.read(published.WEIGHTS["dino-vitb8"], vit / "model.safetensors")


def test_keys_are_those_of_the_last_blocks_attention(
    vit_tensors: dict[str, torch.Tensor], images: torch.Tensor
) -> None:
    """The whole network by its equations, from the tensors as the hub names them."""
    of = vit_tensors

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ of[f"{name}.weight"].T + of[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (24,), of[f"{name}.weight"], of[f"{name}.bias"], 1e-6)

    image = images[0]
    patches = image.unfold(1, 56, 56).unfold(2, 56, 56).permute(1, 2, 0, 3, 4).reshape(16, -1)
    name = "embeddings.patch_embeddings.projection"
    x = patches @ of[f"{name}.weight"].flatten(1).T + of[f"{name}.bias"]
    x = torch.cat([of["embeddings.cls_token"][0], x]) + of["embeddings.position_embeddings"][0]
    for index in range(2):
        at = f"encoder.layer.{index}"
        y = norm(x, f"{at}.layernorm_before")
        q, k, v = (
            linear(y, f"{at}.attention.attention.{part}") for part in ("query", "key", "value")
        )
        heads = [slice(8 * h, 8 * h + 8) for h in range(3)]
        mixed = [(q[:, h] @ k[:, h].T / 8**0.5).softmax(dim=1) @ v[:, h] for h in heads]
        x = x + linear(torch.cat(mixed, dim=1), f"{at}.attention.output.dense")
        y = functional.gelu(linear(norm(x, f"{at}.layernorm_after"), f"{at}.intermediate.dense"))
        x = x + linear(y, f"{at}.output.dense")
    found = dino.dino(of, file="f", config=TINY_VIT).taps(image[None], ("keys",))["keys"]
    assert found.shape == (1, 24, 17, 1)
    torch.testing.assert_close(found[0, :, :, 0].T, k, atol=1e-4, rtol=0)


def test_self_similarity_agrees_with_the_keys_transformers_attends_with(
    vit: Path, vit_tensors: dict[str, torch.Tensor], images: torch.Tensor
) -> None:
    """Heads side by side are one vector: its products are the sums of those of the heads."""
    theirs = ViTModel.from_pretrained(vit, add_pooling_layer=False).eval()
    caught = []
    last = [m for m in theirs.modules() if type(m).__name__ == "ViTAttention"][-1]
    hook = last.register_forward_pre_hook(
        lambda _m, args, kwargs: caught.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    with torch.no_grad():
        theirs(pixel_values=images[:2])
    hook.remove()
    keys = last.k_proj(caught[0]).detach().unflatten(2, (3, 8))
    network = dino.dino(vit_tensors, file="f", config=TINY_VIT)
    for image, by_head in zip(images, keys, strict=False):
        products = torch.einsum("ihd,jhd->ij", by_head, by_head)
        lengths = products.diagonal().sqrt()
        found = self_similarity(network.taps(image[None], ("keys",))["keys"])
        torch.testing.assert_close(
            found, products / torch.outer(lengths, lengths), atol=1e-5, rtol=0
        )


def test_dinos_published_keys_load_strictly(
    vit: Path, vit_tensors: dict[str, torch.Tensor], images: torch.Tensor
) -> None:
    around = {key for key in AROUND if "mask" not in key}
    assert vit_tensors.keys() == {
        *around,
        *(f"encoder.layer.{i}.{key}" for i in range(2) for key in VIT_LAYER),
    }
    network = dino.dino(vit_tensors, file="f", config=TINY_VIT)
    saved_again = vit_tensors | {"pooler.dense.weight": torch.ones(24, 24)}
    again = dino.dino(saved_again, file="f", config=TINY_VIT)
    found = [n.taps(images[:1], ("keys",))["keys"] for n in (network, again)]
    assert torch.equal(*found)
    with pytest.raises(WeightsError, match=r"f has the unknown head\.weight$"):
        dino.dino(vit_tensors | {"head.weight": torch.ones(2)}, file="f", config=TINY_VIT)
    short = {k: t for k, t in vit_tensors.items() if k != "encoder.layer.1.output.dense.bias"}
    with pytest.raises(WeightsError, match=r"f lacks .*layers?\.1\..*bias$"):
        dino.dino(short, file="f", config=TINY_VIT)


def test_a_batch_of_keys_is_that_many_pictures(
    vit_tensors: dict[str, torch.Tensor], images: torch.Tensor
) -> None:
    network = dino.dino(vit_tensors, file="f", config=TINY_VIT)
    alone = torch.cat([network.taps(image[None], ("keys",))["keys"] for image in images])
    together = network.taps(images, ("keys",))["keys"]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_without_a_config_dino_is_vit_b8(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def note(model: nn.Module, _tensors: object, *, file: str, ignore: object) -> None:
        seen.update({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})
        seen["heads"] = (model.config.num_attention_heads,)  # type: ignore[union-attr]

    monkeypatch.setattr(dino, "load_strictly", note)
    dino.dino({}, file="f")
    assert seen["heads"] == (12,)
    assert seen["embeddings.position_embeddings"] == (1, 1 + 28**2, 768)
    assert seen["embeddings.patch_embeddings.projection.weight"] == (768, 3, 8, 8)
    assert (3072, 768) in seen.values()
    assert len(seen) - 1 == len(AROUND) - 1 + 12 * len(VIT_LAYER)
