"""LoRA files of other tools read here, ours read there, and files that are not what they seem."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from stylecli.backbone import lora as lora_files
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.lora import Format, LoraFile, export, plain_config, read
from stylecli.backbone.model import Backbone
from stylecli.errors import StyleError, UsageError, WeightsError
from tests import tiny
from tests.reference import diffstyler as reference
from tests.small import base_unet, folder, lora, noise, outputs, relative

RANK, ALPHA = 4, 6.0
SCALE = ALPHA / RANK
HEADER = {"format": "pt", "modelspec.trigger_phrase": "a cat in sss style"}
Writer = Callable[[Path, dict[str, Tensor]], Path]


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return lora(base_unet(), rank=RANK)


def peft_config(alpha: float = ALPHA) -> dict[str, Any]:
    from peft import LoraConfig

    targets = ["to_q", "to_k", "to_v"]
    return plain_config(LoraConfig(r=RANK, lora_alpha=alpha, target_modules=targets))


# As other tools write them, by hand


def as_diffusers(path: Path, tensors: dict[str, Tensor]) -> Path:
    metadata = {f"unet.{key}": value for key, value in peft_config().items()}
    header = HEADER | {"lora_adapter_metadata": json.dumps(metadata)}
    save_file({f"unet.{key}": value for key, value in tensors.items()}, path, metadata=header)
    return path


def as_kohya(path: Path, tensors: dict[str, Tensor]) -> Path:
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        module, _, matrix = key.removesuffix(".weight").rpartition(".")
        stem = "lora_unet_" + module.replace(".", "_")
        found[f"{stem}.{'lora_down' if matrix == 'lora_A' else 'lora_up'}.weight"] = value
        found[f"{stem}.alpha"] = torch.tensor(ALPHA)
    save_file(found, path, metadata=HEADER)
    return path


def as_peft(path: Path, tensors: dict[str, Tensor]) -> Path:
    at = path.with_suffix("")
    at.mkdir()
    named = {f"base_model.model.{key}": value for key, value in tensors.items()}
    save_file(named, at / "adapter_model.safetensors", metadata=HEADER)
    (at / "adapter_config.json").write_text(json.dumps(peft_config()))
    return at


def as_old_processors(path: Path, tensors: dict[str, Tensor]) -> Path:
    """Diffusers before PEFT; there is no alpha, so the up matrix carries the scale."""
    found = {}
    for key, value in tensors.items():
        module, _, matrix = key.removesuffix(".weight").rpartition(".")
        owner, _, projection = module.rpartition(".")
        end = "down" if matrix == "lora_A" else "up"
        scale = 1.0 if matrix == "lora_A" else SCALE
        found[f"unet.{owner}.processor.{projection}_lora.{end}.weight"] = value * scale
    save_file(found, path, metadata=HEADER)
    return path


WRITERS = [as_kohya, as_diffusers, as_peft, as_old_processors]


def with_file(file: LoraFile) -> Tensor:
    backbone = tiny.backbone(folder())
    adapters = Adapters(backbone.unet)
    adapters.add("a", file)
    with adapters.use({"a": 1.0}):
        return outputs(backbone)


def merged(backbone: Backbone, tensors: dict[str, Tensor]) -> Tensor:
    """The same fingerprint from ``W + (alpha / rank) B A``."""
    twin = reference.merged(base_unet(), tensors, SCALE)
    embeds = backbone.encode_prompt(["a cat in sss style", ""]).clone()
    with torch.no_grad():
        found: Tensor = twin(noise(2, 4, 8, 8), 500, encoder_hidden_states=embeds).sample
    return found


@pytest.mark.mostly_slow
@pytest.mark.parametrize("write", WRITERS)
def test_every_layout_means_the_same_weights(
    shared: Backbone, tensors: dict[str, Tensor], tmp_path: Path, write: Writer
) -> None:
    """Point 20: alpha is not the rank here, so forgetting it would show."""
    file = read(write(tmp_path / "x.safetensors", tensors), shared.unet)
    assert file.trigger == "a cat in sss style"
    wanted = merged(shared, tensors)
    assert relative(wanted, outputs(shared)) > 0.01
    assert relative(with_file(file), wanted) < 1e-5


def adapter(tensors: dict[str, Tensor], backbone: Backbone) -> None:
    """An adapter named ``style`` in the UNet, as training leaves one."""
    from peft import LoraConfig, set_peft_model_state_dict

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["to_q", "to_k", "to_v"])
    backbone.unet.add_adapter(config, adapter_name="style")
    set_peft_model_state_dict(backbone.unet, tensors, adapter_name="style")


def write_ours(
    path: Path, tensors: dict[str, Tensor], layout: Format, dtype: torch.dtype = torch.float32
) -> Path:
    """What `export` gives, written as the engine writes it."""
    backbone = tiny.backbone(folder())
    adapter(tensors, backbone)
    found, header = export(backbone.unet, "style", layout=layout, dtype=dtype)
    if layout == "peft":
        path = path.with_suffix("")
        path.mkdir()
        config = plain_config(backbone.unet.peft_config["style"])
        (path / lora_files.PEFT_CONFIG).write_text(json.dumps(config))
    file = path / lora_files.PEFT_WEIGHTS if layout == "peft" else path
    save_file(found, file, metadata=header | HEADER)
    return path


@pytest.mark.mostly_slow
@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_plain_diffusers_loads_what_we_write_to_the_same_outputs(
    shared: Backbone, tensors: dict[str, Tensor], tmp_path: Path, layout: Format
) -> None:
    """Point 20."""
    from diffusers import StableDiffusionPipeline

    path = write_ours(tmp_path / "ours.safetensors", tensors, layout)
    pipe = StableDiffusionPipeline.from_pretrained(folder(), safety_checker=None)
    pipe.load_lora_weights(path)
    embeds = shared.encode_prompt(["a cat in sss style", ""]).clone()
    with torch.no_grad():
        theirs = pipe.unet(noise(2, 4, 8, 8), 500, encoder_hidden_states=embeds).sample
    assert relative(theirs, merged(shared, tensors)) < 1e-5
    assert relative(with_file(read(path, shared.unet)), theirs) < 1e-6


@pytest.mark.slow
def test_peft_loads_the_folder_we_write(
    shared: Backbone, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    from peft import PeftModel

    path = write_ours(tmp_path / "ours", tensors, "peft")
    theirs = PeftModel.from_pretrained(base_unet(), path)
    embeds = shared.encode_prompt(["a cat in sss style", ""]).clone()
    with torch.no_grad():
        output = theirs(noise(2, 4, 8, 8), 500, encoder_hidden_states=embeds).sample
    assert relative(output, merged(shared, tensors)) < 1e-5
    assert relative(with_file(read(path, shared.unet)), output) < 1e-6


@pytest.mark.slow
def test_diffusers_to_kohya_and_back_keeps_every_bit(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    start = as_diffusers(tmp_path / "start.safetensors", tensors)
    path = start
    layouts: list[Format] = ["kohya", "diffusers"]
    for layout in layouts:
        backbone = tiny.backbone(folder())
        Adapters(backbone.unet).add("a", read(path, backbone.unet))
        found, header = export(backbone.unet, "a", layout=layout, dtype=torch.float32)
        path = tmp_path / f"{layout}.safetensors"
        save_file(found, path, metadata=header)
    before, after = load_file(start), load_file(path)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert relative(
        with_file(read(path, base_unet())), with_file(read(start, base_unet()))
    ) == pytest.approx(0, abs=1e-7)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("layout", ["kohya", "comfy"])
def test_a_kohya_file_has_its_alphas_and_no_diffusers_metadata(
    tensors: dict[str, Tensor], tmp_path: Path, layout: Format
) -> None:
    """Point 20: diffusers refuses a file with both."""
    path = write_ours(tmp_path / "x.safetensors", tensors, layout)
    found = load_file(path)
    alphas = {key: value for key, value in found.items() if key.endswith(".alpha")}
    assert len(alphas) * 2 == len(tensors)
    assert {(value.dtype, float(value)) for value in alphas.values()} == {(torch.float32, ALPHA)}
    assert all(key.startswith("lora_unet_") for key in found)
    assert {key.partition(".")[2] for key in found} == {
        "alpha",
        "lora_down.weight",
        "lora_up.weight",
    }
    with safe_open(path, "pt") as stream:
        assert "lora_adapter_metadata" not in stream.metadata()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["diffusers", "kohya", "peft"])
def test_half_precision_files_hold_half_the_bytes_and_still_load(
    shared: Backbone, tensors: dict[str, Tensor], tmp_path: Path, layout: Format
) -> None:
    path = write_ours(tmp_path / "x.safetensors", tensors, layout, torch.float16)
    file = path / lora_files.PEFT_WEIGHTS if path.is_dir() else path
    types = {v.dtype for k, v in load_file(file).items() if not k.endswith(".alpha")}
    assert types == {torch.float16}
    assert relative(with_file(read(path, shared.unet)), merged(shared, tensors)) < 2e-3


# Refusals


@pytest.fixture
def good(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    return as_diffusers(tmp_path / "good.safetensors", tensors)


def refused(path: Path, kind: type[StyleError], words: str, unet: Any) -> None:
    with pytest.raises(kind, match=words) as caught:
        read(path, unet)
    assert str(path) in caught.value.what
    assert caught.value.fix


def test_a_file_that_is_not_there(shared: Backbone, tmp_path: Path) -> None:
    refused(tmp_path / "no.safetensors", WeightsError, "does not exist", shared.unet)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", WeightsError, "does not exist", shared.unet)


def test_a_pickle_is_refused_unopened(shared: Backbone, good: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save(load_file(good), path)
    refused(path, WeightsError, "pickles can run code", shared.unet)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_short(shared: Backbone, good: Path, keep: float) -> None:
    content = good.read_bytes()
    good.write_bytes(content[: int(len(content) * keep)])
    refused(good, WeightsError, "cannot be read", shared.unet)


def test_a_file_with_torn_metadata(
    shared: Backbone, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    named = {f"unet.{key}": value for key, value in tensors.items()}
    for text in ("{", "[1]", '"words"'):
        save_file(named, path, metadata={"lora_adapter_metadata": text})
        refused(path, WeightsError, "cannot be read", shared.unet)


@pytest.mark.parametrize("text", [None, "{", "[1]"])
def test_a_peft_folder_without_its_config(
    shared: Backbone, tensors: dict[str, Tensor], tmp_path: Path, text: str | None
) -> None:
    path = as_peft(tmp_path / "x", tensors)
    config = path / lora_files.PEFT_CONFIG
    config.unlink() if text is None else config.write_text(text)
    refused(path, WeightsError, "cannot be read", shared.unet)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"weight": torch.zeros(3)}, id="some tensor"),
        pytest.param({"model.diffusion_model.out.2.bias": torch.zeros(4)}, id="a checkpoint"),
        pytest.param(
            {"text_encoder.text_model.encoder.layers.0.q_proj.lora_A.weight": torch.zeros(4, 32)},
            id="text encoder only",
        ),
        pytest.param({"transformer.blocks.0.attn.lora_A.weight": torch.zeros(4, 8)}, id="DiT"),
        pytest.param(
            {"lora_unet_up_blocks_1_attentions_0_x.lora_down.weight": torch.zeros(4, 8)},
            id="half a kohya pair",
        ),
        pytest.param({}, id="nothing"),
    ],
)
def test_safetensors_that_are_no_lora(
    shared: Backbone, tmp_path: Path, content: dict[str, Tensor]
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(content, path)
    with pytest.raises(StyleError) as caught:
        Adapters(tiny.backbone(folder()).unet).add("a", read(path, shared.unet))
    assert caught.value.exit_status in (2, 4)
    assert caught.value.fix


@pytest.mark.slow
def test_numbers_that_did_not_arrive_are_found(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    """Layers may be there with other numbers: names alone would not tell."""
    backbone = tiny.backbone(folder())
    file = read(as_diffusers(tmp_path / "x.safetensors", tensors), backbone.unet)
    Adapters(backbone.unet).add("a", file)
    lora_files.check_matches(backbone.unet, "a", file)
    state = {key: value.clone() for key, value in file.state.items()}
    next(iter(state.values())).view(-1)[3] += 1e-4
    meant = LoraFile(state, file.network_alphas, file.metadata, file.header)
    with pytest.raises(UsageError, match=f"fits {len(state) - 1} of the {len(state)} tensors"):
        lora_files.check_matches(backbone.unet, "a", meant)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("write", WRITERS)
def test_a_lora_of_another_backbone(tmp_path: Path, write: Writer) -> None:
    """Wider text, so half of the layers have other shapes; the model is left as it was."""
    from diffusers import UNet2DConditionModel

    other = tiny.save_folder(tmp_path / "other", width=64)
    foreign = lora(UNet2DConditionModel.from_pretrained(other / "unet"), rank=RANK)
    path = write(tmp_path / "foreign.safetensors", foreign)
    backbone = tiny.backbone(folder())
    before = outputs(backbone)
    with pytest.raises(UsageError, match="to this backbone") as caught:
        Adapters(backbone.unet).add("a", read(path, backbone.unet))
    assert caught.value.fix == "use a LoRA that was trained on this backbone"
    assert torch.equal(outputs(backbone), before)


def test_a_file_with_numbers_that_are_none_is_refused_by_its_layer(tmp_path: Path) -> None:
    file = tmp_path / "nan.safetensors"
    save_file({"unet.a.lora_A.weight": torch.full((1, 2), torch.nan)}, file)
    with pytest.raises(WeightsError, match=r"unet\.a\.lora_A\.weight holds values"):
        lora_files.opened(file)
