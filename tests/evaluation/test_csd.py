"""CSD through its file, in the layouts it is published in, against the equations of a CLIP."""

from __future__ import annotations

import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from stylecli.errors import WeightsError
from stylecli.evaluation import csd, published, weights
from stylecli.evaluation.csd import Csd, csd_network

TINY = {
    "image_size": 224,
    "patch_size": 56,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "mlp_ratio": 2.0,
    "output_dim": 12,
}
HEAD = TINY["output_dim"]
LAYER = (
    *(f"{part}.{kind}" for part in ("ln_1", "ln_2") for kind in ("weight", "bias")),
    *("attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias"),
    *(f"mlp.{part}.{kind}" for part in ("c_fc", "c_proj") for kind in ("weight", "bias")),
)


def shapes(layers: int, width: int, patches: int, patch: int, head: int) -> dict[str, list[int]]:
    """Keys of the published file with their shapes."""
    square, wide = [width, width], 2 if head == HEAD else 4
    of_layer = [
        *([width],) * 4,
        *([3 * width, width], [3 * width], square, [width]),
        *([wide * width, width], [wide * width], [width, wide * width], [width]),
    ]
    return {
        "backbone.class_embedding": [width],
        "backbone.positional_embedding": [patches + 1, width],
        "backbone.conv1.weight": [width, 3, patch, patch],
        **{f"backbone.{n}.{k}": [width] for n in ("ln_pre", "ln_post") for k in ("weight", "bias")},
        **{
            f"backbone.transformer.resblocks.{i}.{key}": shape
            for i in range(layers)
            for key, shape in zip(LAYER, of_layer, strict=True)
        },
        "last_layer_style": [width, head],
        "last_layer_content": [width, head],
    }


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        key: 0.3 * torch.randn(shape, generator=generator)
        for key, shape in shapes(2, 32, 16, 56, HEAD).items()
    }


@pytest.fixture(scope="module")
def network(tensors: dict[str, Tensor]) -> Csd:
    return csd_network(tensors, file="f", config=TINY)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(4))


def by_hand(tensors: dict[str, Tensor], image: Tensor) -> Tensor:
    """The forward pass of CLIP's picture half (Radford et al. 2021) and the style head behind."""
    of = {key.removeprefix("backbone."): tensor for key, tensor in tensors.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (32,), of[f"{name}.weight"], of[f"{name}.bias"], 1e-5)

    patches = image.unfold(1, 56, 56).unfold(2, 56, 56)  # (3, 4, 4, 56, 56)
    patches = patches.permute(1, 2, 0, 3, 4).reshape(16, -1)
    x = torch.cat([of["class_embedding"][None], patches @ of["conv1.weight"].flatten(1).T])
    x = norm(x + of["positional_embedding"], "ln_pre")
    for index in range(2):
        at = f"transformer.resblocks.{index}"
        y = norm(x, f"{at}.ln_1")
        qkv = y @ of[f"{at}.attn.in_proj_weight"].T + of[f"{at}.attn.in_proj_bias"]
        heads = []
        for h in range(2):
            q, k, v = (part[:, 16 * h : 16 * (h + 1)] for part in qkv.split(32, dim=1))
            heads.append((q @ k.T / 4).softmax(dim=1) @ v)
        mixed = torch.cat(heads, dim=1)
        x = x + mixed @ of[f"{at}.attn.out_proj.weight"].T + of[f"{at}.attn.out_proj.bias"]
        y = norm(x, f"{at}.ln_2") @ of[f"{at}.mlp.c_fc.weight"].T + of[f"{at}.mlp.c_fc.bias"]
        y = y * torch.sigmoid(1.702 * y)
        x = x + y @ of[f"{at}.mlp.c_proj.weight"].T + of[f"{at}.mlp.c_proj.bias"]
    style = norm(x[0], "ln_post") @ tensors["last_layer_style"]
    return style / style.norm()


def test_the_vector_is_that_of_the_equations(
    tensors: dict[str, Tensor], network: Csd, images: Tensor
) -> None:
    found = network(images)
    assert found.shape == (8, HEAD)
    expected = torch.stack([by_hand(tensors, image) for image in images])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.01
    torch.testing.assert_close(found.norm(dim=1), torch.ones(8))


def test_a_batch_of_eight_is_eight_batches_of_one(network: Csd, images: Tensor) -> None:
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone, atol=1e-5, rtol=0)


def checkpoint(tensors: dict[str, Tensor]) -> dict[str, object]:
    """What the authors' training script saves."""
    return {
        "model_state_dict": {f"module.{key}": tensor for key, tensor in tensors.items()},
        "opt_bb": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "iter": 9,
        "args": Namespace(arch="vit_large", lr=np.float64(0.1), eval_k=[1, 5]),
    }


def renamed(path: Path, old: bytes, new: bytes) -> None:
    """A torch file whose pickle calls a module otherwise."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    assert any(old in data for entry, data in entries if entry.filename.endswith("data.pkl"))
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in entries:
            is_pickle = entry.filename.endswith("data.pkl")
            archive.writestr(entry, data.replace(old, new) if is_pickle else data)


@pytest.mark.parametrize("numpy_module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_the_authors_checkpoint_loads_without_running_what_lies_beside_the_weights(
    tensors: dict[str, Tensor], network: Csd, images: Tensor, tmp_path: Path, numpy_module: bytes
) -> None:
    path = tmp_path / "csd-vit-l.pth"
    torch.save(checkpoint(tensors), path)
    # The published file is older than the new name.
    renamed(path, b"numpy._core.multiarray", numpy_module)
    found = weights.read(published.WEIGHTS["csd"], path)
    assert sorted(found) == sorted(f"module.{key}" for key in tensors)
    again = csd_network(found, file="f", config=TINY)
    assert torch.equal(again(images), network(images))


class Evil:
    """Would make a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_would_run_code_is_refused(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "csd-vit-l.pth"
    torch.save({**checkpoint(tensors), "args": Namespace(x=Evil(tmp_path / "made"))}, path)
    with pytest.raises(WeightsError, match="holds more than tensors"):
        weights.read(published.WEIGHTS["csd"], path)
    assert not (tmp_path / "made").exists()


def test_the_hubs_layout_loads_alike(
    tensors: dict[str, Tensor], network: Csd, images: Tensor, tmp_path: Path
) -> None:
    file = tmp_path / "csd" / "csd-vit-l.safetensors"
    file.parent.mkdir()
    save_file(tensors, file)
    row = published.WEIGHTS["csd"]
    # Preferred to a pickle of the same name.
    assert weights.find(row, tmp_path) == file
    again = csd_network(weights.read(row, file), file="f", config=TINY)
    assert torch.equal(again(images), network(images))


def test_another_network_is_refused(tensors: dict[str, Tensor]) -> None:
    def load(table: dict[str, Tensor]) -> None:
        csd_network(table, file="f", config=TINY)

    without = {key: tensor for key, tensor in tensors.items() if key != "last_layer_content"}
    with pytest.raises(WeightsError, match=r"f lacks last_layer_content$"):
        load(without)
    # A whole CLIP still has its own projection.
    with pytest.raises(WeightsError, match=r"f has the unknown backbone\.proj$"):
        load(tensors | {"backbone.proj": torch.ones(32, HEAD)})
    turned = tensors | {"last_layer_style": torch.ones(HEAD, 32)}
    with pytest.raises(WeightsError, match=r"last_layer_style of shape \(12, 32\)"):
        load(turned)


def test_without_a_config_it_is_vit_l14_with_a_head_of_768(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, list[int]] = {}
    quick: list[str] = []

    def note(model: nn.Module, _tensors: object, *, file: str) -> None:
        seen.update({key: list(tensor.shape) for key, tensor in model.state_dict().items()})
        quick.extend(name for name, m in model.named_modules() if type(m).__name__ == "QuickGELU")

    monkeypatch.setattr(csd, "load_strictly", note)
    csd_network({}, file="f")
    assert seen == shapes(24, 1024, 256, 14, 768)
    assert len(quick) == 24
