"""`backbone.quantize` among other settings: refused in words, told apart in keys, planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stylecli.backbone import registry
from stylecli.backbone.architectures import on_paper
from stylecli.engine import quantized
from stylecli.engine.context import RunContext
from stylecli.engine.planner.passes import Passes
from stylecli.engine.session import Session
from stylecli.errors import StyleError
from stylecli.recipe.schema import Backbone, Device, Injection, Lora, Recipe
from tests.engine.jobs import Listener
from tests.small import folder

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SD, FLUX = registry.find("sd15"), registry.find("flux2-klein")


def refuse(
    quantize: Any,
    device: torch.device = CPU,
    source: registry.Source = SD,
    kinds: Any = registry.PAINTING,
    is_blank: bool = False,
    **own: Any,
) -> None:
    recipe = Recipe(backbone=Backbone(quantize=quantize), device=Device(**own))
    quantized.refuse_unfit(recipe, source, kinds, device, is_blank=is_blank)


@pytest.mark.parametrize(
    ("said", "what", "fix"),
    [
        ({"adapters": "fused"}, "device.adapters fused merges LoRAs", "device.adapters=passes"),
        ({"offload": "blocks"}, "device.offload blocks moves whole", "device.offload=none"),
        ({"is_blank": True}, "random weights are made whole", "--weights random"),
        ({"kinds": registry.DRAWING}, "this command uses whole weights", "quantize=none"),
        ({"source": registry.find("pocket-edit")}, "pocket-edit edits with a UNet", "=none"),
        (
            {"quantize": "nf4", "compile": "default", "device": CUDA},
            "device.compile default was never tried",
            "quantize=int8",
        ),
        ({"quantize": "nf4"}, "nf4 needs an NVIDIA GPU, and this runs on cpu", "--device cuda"),
    ],
    ids=str,
)
def test_what_fewer_bits_cannot_do_is_refused(said: dict[str, Any], what: str, fix: str) -> None:
    with pytest.raises(StyleError) as caught:
        refuse(**{"quantize": "int8"} | said)
    assert "backbone.quantize" in caught.value.what
    assert what in caught.value.what
    assert fix in (caught.value.fix or "")
    refuse(**said | {"quantize": "none"})


def test_a_single_file_is_refused(tmp_path: Path) -> None:
    source = registry.Source(
        name="mine", kind="unet", licence="MIT", file=tmp_path / "mine.safetensors"
    )
    with pytest.raises(StyleError, match=r"a single file is read whole, and mine.safetensors is"):
        refuse("int8", source=source)


def session(quantize: Any, device: torch.device = CPU) -> Session:
    recipe = Recipe(backbone=Backbone(id=str(folder()), quantize=quantize))
    context = RunContext(device, torch.float32, Listener())
    return Session(recipe, context, registry.find(str(folder())), folder())


def test_keys_tell_fewer_bits_apart() -> None:
    assert session("none").precision == {"dtype": "torch.float32"}
    assert session("int8").precision == {"dtype": "torch.float32", "quantize": "int8"}
    assert session("int8").fingerprint == session("none").fingerprint


def test_weights_in_fewer_bits_are_not_moved_where_memory_ends() -> None:
    steps = {quantize: [name for name, *_ in session(quantize, CUDA)._ladder()]
             for quantize in ("none", "nf4")}  # fmt: skip
    assert steps == {"none": ["rows", "tiles", "parts", "blocks"], "nf4": ["rows", "tiles"]}


def weights(name: str, quantize: Any) -> dict[str, float]:
    """GB of each part in bfloat16, of the published configuration."""
    kind = registry.find(name).kind
    passes = Passes(
        on_paper(name), torch.bfloat16, Injection(), Lora(), model=kind, quantize=quantize
    )
    return {part: round(size / 1e9, 1) for part, size in passes.weights.items()}


@pytest.mark.slow
def test_plans_know_what_fewer_bits_take() -> None:
    """The figures of docs/memory.md."""
    assert weights("sdxl", "none") == {"unet": 5.1, "vae": 0.3, "text": 1.6}
    assert weights("sdxl", "int8") == {"unet": 2.9, "vae": 0.3, "text": 1.6}
    assert weights("z-image", "none") == {"unet": 12.3, "vae": 0.3, "text": 8.0}
    assert weights("z-image", "int8") == {"unet": 6.3, "vae": 0.3, "text": 4.4}
    assert weights("z-image", "nf4") == {"unet": 3.7, "vae": 0.3, "text": 2.8}


@pytest.mark.slow
def test_reading_takes_as_long_and_products_widen_one_matrix() -> None:
    whole, bits = (
        Passes(folder(), torch.float32, Injection(), Lora(), quantize=quantize)
        for quantize in ("none", "int8")
    )
    assert bits.stored == whole.stored == sum(whole.weights.values())
    linears = (m for m in whole._backbone.unet.modules() if isinstance(m, torch.nn.Linear))
    assert whole.widened == 0
    assert bits.widened == 4 * max(m.in_features * m.out_features for m in linears)
