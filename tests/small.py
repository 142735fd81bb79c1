"""Small parts for tests of models: folders made once, LoRAs with known tensors, ways to compare."""

from __future__ import annotations

import importlib.util
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.lora import LoraFile
from stylecli.backbone.model import Backbone
from tests import tiny

TARGETS = ("to_q", "to_k", "to_v")
SCRIPTS = Path(__file__).parent.parent / "docs" / "images"


def script(name: str) -> ModuleType:
    """One of those that make the pictures and tables of the pages."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _folder(prediction: str) -> tuple[tempfile.TemporaryDirectory[str], Path]:
    kept = tempfile.TemporaryDirectory()
    name = Path(kept.name) / prediction
    return kept, tiny.save_folder(name, prediction_type=prediction)


def folder(prediction: str = "epsilon") -> Path:
    """A diffusers folder of a tiny Stable Diffusion, made once per process."""
    return _folder(prediction)[1]


def base_unet(prediction: str = "epsilon") -> Any:
    """The folder's UNet as diffusers alone loads it."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder(prediction) / "unet")
    return unet.requires_grad_(False).eval()


def lora(
    unet: Any, *, rank: int = 4, seed: int = 1, size: float = 0.5, only: str = ""
) -> dict[str, Tensor]:
    """``<module>.lora_A.weight`` and ``.lora_B.weight``, both random, for Q, K and V everywhere.

    Args:
        unet: Whose layers.
        rank: Of each pair.
        seed: Of the numbers.
        size: Of B's entries.
        only: A regular expression; modules that do not match it are left out.
    """
    import re

    random = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for path, module in unet.named_modules():
        name = path.removesuffix(".base_layer")  # where a LoRA is loaded already
        if not isinstance(module, torch.nn.Linear) or name.rpartition(".")[2] not in TARGETS:
            continue
        a = torch.randn(rank, module.in_features, generator=random) / rank
        b = torch.randn(module.out_features, rank, generator=random) * size
        if re.search(only, name):
            found |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    assert found
    return found


def as_file(tensors: dict[str, Tensor]) -> LoraFile:
    return LoraFile({f"unet.{key}": value for key, value in tensors.items()}, {}, {}, {})


def with_loras(backbone: Backbone, **loras: dict[str, Tensor]) -> Adapters:
    adapters = Adapters(backbone.unet)
    for name, tensors in loras.items():
        adapters.add(name, as_file(tensors))
    return adapters


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference over that of `b`."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def outputs(backbone: Backbone, seed: int = 0) -> Tensor:
    """What the UNet says about two fixed rows: a fingerprint of all it computes."""
    prompts = backbone.encode_prompt(["a cat in sss style", ""])
    with torch.inference_mode():
        return backbone.predict(noise(2, 4, 8, 8, seed=seed), 500, prompts)


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    """The base model's own tensors: LoRAs left out, and the wrappers they leave in the names."""
    return {
        name.replace(".base_layer", ""): value.clone()
        for name, value in module.state_dict().items()
        if ".lora_" not in name
    }


def assert_same_state(module: torch.nn.Module, before: dict[str, Tensor]) -> None:
    now = state(module)
    assert now.keys() == before.keys()
    changed = [name for name, value in before.items() if not torch.equal(now[name], value)]
    assert not changed


@pytest.fixture(scope="session")
def shared() -> Backbone:
    """An epsilon model for tests that put back whatever they change."""
    return tiny.backbone(folder())


@pytest.fixture(scope="session")
def shared_velocity() -> Backbone:
    """A v-model of the same kind."""
    return tiny.backbone(folder("v_prediction"))


@pytest.fixture
def fresh() -> Backbone:
    """An epsilon model to load things into."""
    return tiny.backbone(folder())
