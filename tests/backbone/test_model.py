"""The frozen model against diffusers' own pipeline, and folders that are not whole."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stylecli.backbone.loading import fingerprint
from stylecli.backbone.model import Backbone
from stylecli.backbone.sampling import Step, denoise, guided
from stylecli.errors import WeightsError
from tests import tiny
from tests.small import folder, noise, relative

PROMPT, NEGATIVE = "a red cat in sss style", "the blue dog"
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
TENSORS = {
    "unet": "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_q.weight",
    "vae": "decoder.conv_out.weight",
    "text_encoder": "layers.1.mlp.fc1.weight",
}


def pipeline(prediction: str) -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder(prediction), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ours(backbone: Backbone, start: Tensor, *, guidance: float, steps: int) -> Tensor:
    """The sampler as a method uses it: no LoRA, nothing injected."""
    embeds = backbone.encode_prompt([NEGATIVE, PROMPT])

    def predict(latents: Tensor, step: Step) -> Tensor:
        if guidance == 1:
            return backbone.predict(latents, step.timestep, embeds[1:])
        uncond, cond = backbone.predict(latents.repeat(2, 1, 1, 1), step.timestep, embeds).chunk(2)
        return guided(uncond, cond, guidance)

    *_, (_, latents) = denoise(start, predict, backbone.schedule, backbone.schedule.levels(steps))
    return latents


@pytest.mark.mostly_slow
@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("guidance", [3.0, 1.0, 10.5])
@pytest.mark.parametrize("steps", [7, 1])
def test_without_lora_and_injection_we_are_diffusers_pipeline(
    shared: Backbone, shared_velocity: Backbone, prediction: str, guidance: float, steps: int
) -> None:
    backbone = shared if prediction == "epsilon" else shared_velocity
    start = noise(1, 4, 16, 12)
    theirs = pipeline(prediction)(
        PROMPT,
        negative_prompt=NEGATIVE,
        guidance_scale=guidance,
        num_inference_steps=steps,
        latents=start,
        output_type="latent",
        height=32,
        width=24,
    ).images
    assert relative(ours(backbone, start, guidance=guidance, steps=steps), theirs) < 1e-5


@pytest.mark.slow
def test_a_prompt_is_embedded_as_the_pipeline_does_and_a_long_one_is_cut(shared: Backbone) -> None:
    """Point 26."""
    pipe = pipeline("epsilon")
    for prompt in ("", PROMPT, "a cat , " * 20):
        theirs, _ = pipe.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
        assert torch.equal(shared.encode_prompt([prompt]), theirs)
    assert shared.encode_prompt([PROMPT, ""]).shape == (2, 16, 32)


def test_latents_are_the_posteriors_mean_times_the_models_own_factor(shared: Backbone) -> None:
    images = noise(2, 3, 32, 24).sigmoid()
    with torch.no_grad():
        law = shared.vae.encode(images * 2 - 1).latent_dist
    mean, deviation = shared.posterior(images)
    assert shared.scaling_factor == 0.5
    torch.testing.assert_close(mean, law.mode() * 0.5)
    torch.testing.assert_close(deviation, law.std * 0.5)
    assert torch.equal(shared.encode_image(images), mean)


def test_decoding_divides_by_the_factor_and_stays_in_range(shared: Backbone) -> None:
    latents = noise(1, 4, 16, 12)
    with torch.no_grad():
        wanted = shared.vae.decode(latents / 0.5).sample / 2 + 0.5
    torch.testing.assert_close(shared.decode(latents), wanted.clamp(0, 1))
    extreme = shared.decode(latents * 1e3)
    assert (float(extreme.min()), float(extreme.max())) == (0.0, 1.0)


@pytest.mark.slow
def test_half_precision_weights_still_answer_in_float32() -> None:
    """Point 24: the latents' own type never changes."""
    half = tiny.backbone(folder(), dtype=torch.bfloat16)
    assert {p.dtype for p in half.unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.vae.parameters()} == {torch.float32}
    result = ours(half, noise(1, 4, 8, 8), guidance=3.0, steps=3)
    assert result.dtype == torch.float32
    assert half.encode_image(torch.rand(1, 3, 16, 16)).dtype == torch.float32


def test_everything_is_frozen_and_in_eval_mode(shared: Backbone) -> None:
    for part in (shared.unet, shared.vae, shared.text_encoder):
        assert not part.training
        assert not [name for name, p in part.named_parameters() if p.requires_grad]


@pytest.mark.slow
def test_loading_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the hub would be reachable."""
    import huggingface_hub.constants

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("the network was asked")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    tiny.backbone(folder())


# Folders that are not whole


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder(), tmp_path / "model"))


def refused(model: Path) -> WeightsError:
    with pytest.raises(WeightsError) as caught:
        tiny.backbone(model)
    assert caught.value.exit_status == 4
    assert caught.value.fix
    return caught.value


def own_name(model: Path, part: str) -> str:
    """The name in the file; transformers prefixes its own with the class's stem."""
    name: str
    (name,) = (key for key in load_file(model / WEIGHTS[part]) if key.endswith(TENSORS[part]))
    return name


@pytest.mark.mostly_slow
@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("fault", ["missing", "unknown", "of another shape"])
def test_a_tensor_that_is_not_as_it_should_be_is_named(copy: Path, part: str, fault: str) -> None:
    """The library would fill it with random numbers, or pass over it."""
    file, name = copy / WEIGHTS[part], own_name(copy, part)
    tensors = load_file(file)
    match fault:
        case "missing":
            del tensors[name]
        case "unknown":
            name = name.replace(".weight", ".wait")
            tensors[name] = torch.zeros(3)
        case _:
            tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    message = refused(copy).what
    assert f"model/{part}" in message
    assert name.removeprefix("text_model.") in message
    assert fault in message


@pytest.mark.mostly_slow
@pytest.mark.parametrize("part", WEIGHTS)
def test_the_other_missing_tensors_are_counted(copy: Path, part: str) -> None:
    file = copy / WEIGHTS[part]
    tensors = load_file(file)
    kept = dict(list(tensors.items())[:-3])
    save_file(kept, file, metadata={"format": "pt"})
    assert "is missing (and 2 more)" in refused(copy).what


@pytest.mark.mostly_slow
@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_refused(copy: Path, part: str, keep: float) -> None:
    file = copy / WEIGHTS[part]
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    message = refused(copy).what
    assert f"model/{part}" in message
    assert "is damaged" in message


@pytest.mark.mostly_slow
@pytest.mark.parametrize("part", WEIGHTS)
def test_a_pickle_is_not_opened(copy: Path, part: str) -> None:
    file = copy / WEIGHTS[part]
    pickled = file.with_name("pytorch_model.bin")
    torch.save(load_file(file), pickled)
    file.unlink()
    message = refused(copy).what
    assert f"model/{part}: no .safetensors file" in message
    assert "pytorch_model.bin is a pickle" in message


@pytest.mark.mostly_slow
@pytest.mark.parametrize("part", [*WEIGHTS, "tokenizer", "scheduler"])
def test_a_missing_part_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    assert part in refused(copy).what


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "file",
    [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    ],
)
def test_a_config_that_is_no_json_is_refused(copy: Path, file: str) -> None:
    (copy / file).write_text("{")
    assert file.partition("/")[0] in refused(copy).what


def test_a_variant_that_is_not_there_is_refused(copy: Path) -> None:
    from stylecli.backbone.loading import load

    with pytest.raises(WeightsError, match="model/unet: cannot be loaded"):
        load("model", copy, fingerprint="", device=torch.device("cpu"), variant="fp16")


def test_the_fingerprint_follows_every_weight_and_config_and_nothing_else(copy: Path) -> None:
    whole = fingerprint(copy)
    assert whole == fingerprint(folder())
    (copy / "README.md").write_text("words")
    assert fingerprint(copy) == whole
    for file in (WEIGHTS["vae"], "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"):
        content = (copy / file).read_bytes()
        (copy / file).write_bytes(content + b" ")
        assert fingerprint(copy) != whole, file
        (copy / file).write_bytes(content)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("unet/config.json", "[]", "unet/config.json is no JSON object"),
        ("unet/config.json", "{", "unet/config.json cannot be read"),
        ("scheduler/scheduler_config.json", "{]", "scheduler/scheduler_config.json cannot be read"),
        (
            "scheduler/scheduler_config.json",
            '{"beta_schedule": "foo"}',
            "scheduler/scheduler_config.json: foo is not implemented",
        ),
    ],
)
def test_a_config_that_says_nothing_is_named(copy: Path, file: str, text: str, words: str) -> None:
    (copy / file).write_text(text)
    with pytest.raises(WeightsError, match=re.escape(words)):
        tiny.backbone(copy)


def test_an_empty_tokenizer_is_refused(copy: Path) -> None:
    """The library makes one of two tokens, and every prompt is the same then."""
    for one in (copy / "tokenizer").iterdir():
        one.unlink()
    with pytest.raises(WeightsError, match=r"tokenizer/ has no tokenizer\.json"):
        tiny.backbone(copy)


def test_weights_of_one_variant_are_told_with_its_name(copy: Path) -> None:
    name = "diffusion_pytorch_model"
    (copy / "unet" / f"{name}.safetensors").rename(copy / "unet" / f"{name}.fp16.safetensors")
    with pytest.raises(WeightsError, match="of the variant fp16 alone") as caught:
        tiny.backbone(copy)
    assert caught.value.fix == "--set backbone.variant=fp16"


def test_words_of_another_width_are_refused_before_they_are_used(
    copy: Path, tmp_path: Path
) -> None:
    other = tiny.save_folder(tmp_path / "other", width=16)
    shutil.rmtree(copy / "text_encoder")
    shutil.copytree(other / "text_encoder", copy / "text_encoder")
    with pytest.raises(WeightsError, match="cross_attention_dim of 32, and the text is 16 wide"):
        tiny.backbone(copy)
