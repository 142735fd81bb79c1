"""Weights in fewer bits: near to the whole ones, really smaller, and a base for LoRAs."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stylecli.backbone import flow_model, loading, quantizing
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.lora import LoraFile
from stylecli.backbone.model import Backbone
from stylecli.backbone.quantizing import WHOLE, Int8Linear
from stylecli.backbone.registry import find
from stylecli.backbone.row_loras import Factors, applied, pairs
from stylecli.errors import UsageError, WeightsError
from tests import flows, tiny_sdxl
from tests.conftest import ROOT
from tests.small import lora, noise, relative

pytest.importorskip("torchao")
CPU = torch.device("cpu")
KINDS = ("sdxl", "z-image", "flux2")
# Of the tiny models the answers in int8 differ by 0.0027, 0.0043 and 0.00013; in nf4 by 0.066,
# 0.090 and 0.0035.
NEAR = {"sdxl": 0.006, "z-image": 0.01, "flux2": 0.0005}


def folder(kind: str) -> Path:
    return tiny_sdxl.folder() if kind == "sdxl" else flows.folder(kind)


def opened(kind: str, quantize: Any = "none", dtype: torch.dtype = torch.float32) -> Backbone:
    where = folder(kind)
    said: dict[str, Any] = {"device": CPU, "dtype": dtype, "quantize": quantize, "fingerprint": ""}
    if kind == "sdxl":
        return loading.load("tiny", where, **said)
    return flow_model.load(find(str(where)), where, size_px=flows.SIZE_PX, **said)


def answer(backbone: Backbone, words: Tensor | None = None) -> Tensor:
    if words is None:
        words = backbone.encode_prompt(["a cat", "a dog"])
    cells = noise(2, backbone.latent_channels, 16, 16)
    with torch.inference_mode():
        return backbone.predict(cells, 500, words)


def held(model: nn.Module) -> int:
    """Bytes of what lies behind each parameter."""
    total = 0
    for parameter in model.parameters():
        weight: Any = parameter
        state = getattr(weight, "quant_state", None)
        if hasattr(weight, "__tensor_flatten__"):
            names, _ = weight.__tensor_flatten__()
            total += sum(getattr(weight, name).nbytes for name in names)
        else:
            total += weight.nbytes + (0 if state is None else state.absmax.nbytes)
    return total


def linears(unet: nn.Module) -> list[nn.Module]:
    """Those that are quantised."""
    whole = WHOLE[type(unet).__name__]
    named = unet.named_modules()
    return [m for p, m in named if isinstance(m, nn.Linear) and quantizing.is_quantized(p, whole)]


@pytest.mark.mostly_slow
@pytest.mark.parametrize("kind", KINDS)
def test_int8_is_near_and_smaller_by_what_is_told(kind: str) -> None:
    whole, bits = opened(kind), opened(kind, "int8")
    words = whole.encode_prompt(["a cat", "a dog"])
    assert 1e-5 < relative(answer(bits, words), answer(whole, words)) < NEAR[kind]
    own = bits.encode_prompt(["a cat", "a dog"])
    if kind == "sdxl":
        assert torch.equal(own, words)  # CLIP is left as it is
    else:
        assert 1e-3 < relative(own, words) < 0.05
        assert held(bits.text_encoder) < 0.7 * held(whole.text_encoder)
        told = quantizing.weight_bytes(whole.text_encoder, "int8")
        assert held(bits.text_encoder) == sum(told.values())
    told = quantizing.weight_bytes(whole.unet, "int8")
    assert held(bits.unet) == sum(told.values())
    # A quarter of float32, and the scales of narrow layers.
    large, small = (sum(map(held, linears(one.unet))) for one in (whole, bits))
    assert 0.25 * large < small < 0.35 * large
    assert whole.precision == {"dtype": "torch.float32"}
    assert bits.precision == {"dtype": "torch.float32", "quantize": "int8"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_in_fewer_bits_and_what_stands_around_them_is_not(kind: str) -> None:
    unet = opened(kind, "int8").unet
    linears = {p: m for p, m in unet.named_modules() if isinstance(m, nn.Linear)}
    whole = WHOLE[type(unet).__name__]
    for path, module in linears.items():
        assert isinstance(module, Int8Linear) == quantizing.is_quantized(path, whole), path


@pytest.fixture
def four_bits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """bitsandbytes on the CPU, where diffusers refuses it and we do."""
    modules = pytest.importorskip("bitsandbytes").nn.modules
    from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer as Quantizer

    monkeypatch.setattr(Quantizer, "validate_environment", lambda *_, **__: None)
    monkeypatch.setattr(Quantizer, "update_device_map", lambda *_: {"": "cpu"})
    monkeypatch.setattr(quantizing, "refuse_unfit", lambda *_: None)
    # Its kernel for some processors is for layers wider than those of tiny models.
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)
    return


@pytest.mark.slow
@pytest.mark.usefixtures("four_bits")
@pytest.mark.parametrize("kind", KINDS)
def test_nf4_is_as_large_as_told_and_takes_loras(kind: str) -> None:
    whole, bits = opened(kind), opened(kind, "nf4")
    words = whole.encode_prompt(["a cat", "a dog"])
    assert 1e-3 < relative(answer(bits, words), answer(whole, words)) < 15 * NEAR[kind]
    assert held(bits.unet) == sum(quantizing.weight_bytes(whole.unet, "nf4").values())
    bits.lay_out(channels_last=False)
    changed_by_loras(bits, words)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("kind", KINDS)
def test_loras_change_int8_as_they_change_whole_weights(kind: str) -> None:
    whole, bits = opened(kind), opened(kind, "int8")
    words = whole.encode_prompt(["a cat", "a dog"])
    assert relative(changed_by_loras(bits, words), changed_by_loras(whole, words)) < 0.1


def changed_by_loras(backbone: Backbone, words: Tensor) -> Tensor:
    """What a LoRA adds to an answer: by PEFT, and by the row; afterwards all is as before."""
    before = answer(backbone, words)
    tensors = lora(backbone.unet, size=0.2)
    with applied(backbone.unet, Factors.stacked([pairs(tensors)]), [0, None]):
        by_row = answer(backbone, words)
    adapters = Adapters(backbone.unet)
    part = "unet" if hasattr(backbone.unet, "down_blocks") else "transformer"
    state = {f"{part}.{name}": tensor for name, tensor in tensors.items()}
    adapters.add("a", LoraFile(state, {}, {}, {}))
    with adapters.use({"a": 1.0}):
        styled = answer(backbone, words)
    assert relative(styled, before) > 1e-3
    assert relative(by_row[:1], styled[:1]) < 1e-5
    assert torch.equal(by_row[1:], before[1:])
    assert torch.equal(answer(backbone, words), before)
    return styled - before


def int8(width_in: int = 48, width_out: int = 32) -> tuple[nn.Linear, Int8Linear]:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    whole = nn.Linear(width_in, width_out).requires_grad_(False)
    model = nn.Sequential(nn.Linear(width_in, width_out)).requires_grad_(False)
    model.load_state_dict(nn.Sequential(whole).state_dict())
    quantize_(model, Int8WeightOnlyConfig())
    made = quantizing.settled(model, "int8")[0]
    assert isinstance(made, Int8Linear)
    return whole, made


def test_slopes_go_through_int8_and_leave_nothing_wide_behind() -> None:
    _, layer = int8()
    x = noise(3, 5, 48).requires_grad_(True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = layer(x)
    weight: Any = layer.weight
    wide = weight.dequantize()
    assert relative(output.detach(), x.detach() @ wide.T + layer.bias) < 1e-5
    assert sum(one.numel() for one in kept) < wide.numel()
    slopes = noise(3, 5, 32, seed=1)
    (slope,) = torch.autograd.grad(output, x, slopes)
    assert relative(slope, slopes @ wide) < 1e-5
    with torch.no_grad():
        assert relative(layer(x), output.detach()) < 1e-5


def test_under_autocast_int8_computes_in_its_type() -> None:
    _, layer = int8()
    x = noise(3, 48).requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    assert output.dtype == torch.bfloat16
    assert relative(output.detach().float(), layer(x).detach()) < 0.02
    output.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_a_whole_row_of_numbers_is_within_a_step_of_its_scale() -> None:
    whole, layer = int8()
    weight: Any = layer.weight
    step = whole.weight.abs().amax(dim=1, keepdim=True) / 127
    assert bool(((weight.dequantize() - whole.weight).abs() <= step).all())


@pytest.mark.slow
def test_compiled_it_is_the_same() -> None:
    """In a process of its own: what executes shapes in tests no compiler can follow."""
    code = """
from tests.backbone.test_quantizing import answer, opened
from tests.small import relative
from stylecli.backbone.tuning import tune
from stylecli.recipe.schema import Device

bits = opened("sdxl", "int8")
plain, said = answer(bits), []
tune(bits, Device(compile="default"), warn=said.append)
assert 0 < relative(answer(bits), plain) < 1e-5, relative(answer(bits), plain)
assert not said, said
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_four_bits_need_an_nvidia_gpu() -> None:
    with pytest.raises(UsageError, match="nf4 needs an NVIDIA GPU, and this runs on cpu") as caught:
        opened("sdxl", "nf4")
    assert caught.value.fix == "--device cuda, or --set backbone.quantize=int8"


@pytest.mark.parametrize(
    ("quantize", "device", "library"),
    [("int8", "cpu", "torchao"), ("nf4", "cuda", "bitsandbytes")],
)
def test_a_missing_library_is_told_with_what_installs_it(
    quantize: Any, device: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=f"{quantize} needs {library}, which is not") as caught:
        quantizing.refuse_unfit(quantize, torch.device(device))
    assert 'pip install "stylecli[quant]"' in (caught.value.fix or "")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["unet", "shape"])
def test_damage_is_found_in_fewer_bits_too(part: str, tmp_path: Path) -> None:
    broken = tmp_path / "sdxl"
    shutil.copytree(folder("sdxl"), broken)
    (file,) = (broken / "unet").glob("*.safetensors")
    tensors = load_file(file)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    if part == "unet":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"to_q.weight"):
        loading.load("b", broken, fingerprint="", device=CPU, dtype=torch.float32, quantize="int8")


def test_lists_of_what_stays_whole_name_real_layers() -> None:
    """Of the tensors that the published models have, one of each name at least."""
    golden = Path(__file__).parent / "golden"
    for model, cls in {
        "z-image": "ZImageTransformer2DModel",
        "flux2-klein": "Flux2Transformer2DModel",
        "flux1-kontext": "FluxTransformer2DModel",
        "sdxl": "UNet2DConditionModel",
    }.items():
        part = "unet" if model == "sdxl" else "transformer"
        names = (golden / f"{model}.{part}.txt").read_text()
        assert [one for one in WHOLE[cls] if f"{one}." not in names] == []
