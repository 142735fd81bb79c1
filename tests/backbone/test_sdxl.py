"""Stable Diffusion XL against its stock pipeline, on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.backbone import lora as lora_files
from stylecli.backbone import registry
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.inversion import invert, null_prediction
from stylecli.backbone.loading import load
from stylecli.backbone.objective import diffusion_loss
from stylecli.backbone.sampling import denoise, guided
from stylecli.backbone.sdxl import SdxlBackbone
from stylecli.errors import WeightsError
from stylecli.methods.diffstyler import Look, transfer
from stylecli.recipe.schema import Injection
from tests import tiny_sdxl
from tests.small import lora, noise, relative

PROMPTS = ["a red cat", "the dog in blue"]
SIZE = (48, 32)


@pytest.fixture(scope="module")
def model() -> SdxlBackbone:
    return tiny_sdxl.backbone()


@pytest.fixture(scope="module")
def stock() -> Any:
    from diffusers import DDIMScheduler, DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(tiny_sdxl.folder(), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    return pipeline


def test_prompts_become_what_the_stock_pipeline_makes_of_them(
    model: SdxlBackbone, stock: Any
) -> None:
    with torch.no_grad():
        states, silent, pooled, silent_pooled = stock.encode_prompt(list(PROMPTS), device="cpu")
    ours = model.encode_prompt([*PROMPTS, ""])
    width = tiny_sdxl.WIDTHS[1]
    assert relative(ours[:2, :-1], states) < 1e-6
    assert relative(ours[:2, -1, :width], pooled) < 1e-6
    assert not ours[:, -1, width:].any()
    # Nobody said anything: zeros, as the model learned it.
    assert torch.equal(ours[2, :-1], silent[0])
    assert torch.equal(ours[2, -1, :width], silent_pooled[0])


def test_a_folder_says_whether_silence_is_zero(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny_sdxl.folder(), folder)
    index = json.loads((folder / "model_index.json").read_bytes())
    (folder / "model_index.json").write_text(
        json.dumps({**index, "force_zeros_for_empty_prompt": False})
    )
    other = load("other", folder, fingerprint="", device=torch.device("cpu"))
    assert other.encode_prompt([""]).any()


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_picture_is_the_stock_pipelines_of_the_same_noise(
    model: SdxlBackbone, stock: Any, guidance: float
) -> None:
    latents = noise(2, 4, SIZE[0] // 2, SIZE[1] // 2)
    words, silence = model.encode_prompt(PROMPTS), model.encode_prompt(["", ""])

    def predict(current: Tensor, step: Any) -> Tensor:
        cond = model.predict(current, step.timestep, words)
        return guided(model.predict(current, step.timestep, silence), cond, guidance)

    for _, reached in denoise(latents, predict, model.schedule, model.schedule.levels(3)):
        found = reached
    theirs = stock(
        prompt=list(PROMPTS),
        height=SIZE[0],
        width=SIZE[1],
        num_inference_steps=3,
        guidance_scale=guidance,
        latents=latents,
        output_type="latent",
    ).images
    assert relative(found, theirs) < 1e-4


def test_the_model_is_told_the_pictures_size(model: SdxlBackbone) -> None:
    told: list[Tensor] = []

    def keep(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        told.append(kwargs["added_cond_kwargs"]["time_ids"])

    handle = model.unet.register_forward_pre_hook(keep, with_kwargs=True)
    model.predict(noise(2, 4, 24, 16), 500, model.encode_prompt(PROMPTS))
    handle.remove()
    assert told[0].tolist() == [[48, 32, 0, 0, 48, 32]] * 2


def test_training_asks_what_sampling_asks(model: SdxlBackbone) -> None:
    clean, eps = noise(2, 4, 8, 8, seed=1), noise(2, 4, 8, 8, seed=2)
    words, times = model.encode_prompt(PROMPTS).clone(), torch.tensor([10, 700])
    found = diffusion_loss(model, clean, eps, times, words)
    latents, target = model.schedule.noised(clean, eps, times)
    for row, time in enumerate(times.tolist()):
        one = slice(row, row + 1)
        answer = model.predict(latents[one], time, words[one])
        assert float(found[row]) == pytest.approx(float((answer - target[one]).square().mean()))


def test_transfer_runs_and_is_steered_by_the_content() -> None:
    own = tiny_sdxl.backbone()
    levels = own.schedule.levels(4)
    path = invert(noise(1, 4, 16, 12), null_prediction(own, 1), own.schedule, levels)
    adapters = Adapters(own.unet)
    adapters.add("one", file(lora(own.unet)))
    look = Look(weights={"one": 0.5}, prompt=PROMPTS[0], guidance=3.0)
    plain, steered = (
        transfer(own, adapters, path, look, injection)
        for injection in (
            Injection(feature_layers="none", attn_layers="none", feature_steps=0, attn_steps=0),
            Injection(feature_steps=3, attn_steps=2),
        )
    )
    assert torch.isfinite(steered).all()
    assert relative(steered, plain) > 1e-3


def file(tensors: dict[str, Tensor]) -> lora_files.LoraFile:
    return lora_files.LoraFile({f"unet.{k}": v for k, v in tensors.items()}, {}, {}, {})


@pytest.mark.parametrize("layout", ["diffusers", "kohya", "peft"])
def test_loras_of_every_layout_load_as_they_were(
    model: SdxlBackbone, layout: Any, tmp_path: Path
) -> None:
    from peft import LoraConfig
    from safetensors.torch import save_file

    tensors = lora(model.unet, rank=4)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v"])
    state, header = lora_files.laid_out(tensors, config, layout=layout, dtype=torch.float32)
    path = tmp_path / "one.safetensors"
    if layout == "peft":
        path = tmp_path / "one"
        path.mkdir()
        plain = json.dumps(lora_files.plain_config(config))
        (path / lora_files.PEFT_CONFIG).write_text(plain)
        save_file(state, path / lora_files.PEFT_WEIGHTS)
    else:
        save_file(state, path, metadata=header)
    own = tiny_sdxl.backbone()
    adapters = Adapters(own.unet)
    adapters.add("one", lora_files.read(path, own.unet))
    adapters.add("two", file(tensors))
    embeds, latents = own.encode_prompt(PROMPTS), noise(2, 4, 8, 8)
    found = []
    for name in ("one", "two"):
        with adapters.use({name: 1.0}):
            found.append(own.predict(latents, 500, embeds))
    assert relative(*found) < 1e-6


def test_the_registry_knows_it_by_its_pipeline_and_by_name() -> None:
    assert registry.find(str(tiny_sdxl.folder())).kind == "sdxl"
    known = registry.find("stabilityai/stable-diffusion-xl-base-1.0")
    assert known.name == "sdxl"
    assert {"tokenizer_2/*", "text_encoder_2/*"} <= set(known.patterns)


def test_a_folder_without_the_second_text_encoder(tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(tiny_sdxl.folder(), folder)
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(WeightsError, match="no text_encoder_2/ folder"):
        load("half", folder, fingerprint="", device=torch.device("cpu"))
