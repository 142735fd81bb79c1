"""Z-Image and FLUX.2-klein against the pipelines they were published with, on tiny models."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from stylecli.backbone import denoisers
from stylecli.backbone.denoisers import Denoiser
from stylecli.backbone.denoisers.flux2_klein import Flux2Klein
from stylecli.backbone.denoisers.qwen import Qwen
from stylecli.backbone.registry import Source, find
from stylecli.errors import WeightsError
from tests import tiny_flow
from tests.small import noise, relative

CPU = torch.device("cpu")
KINDS = ("z-image", "flux2")
PROMPTS = ["a red cat", "a lighthouse on a cliff, far away"]
SIZE = (48, 32)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flow.save_folder(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(folder: Path) -> Denoiser:
    return denoisers.open(find(str(folder)), folder, device=CPU)


@pytest.fixture(scope="module")
def stock(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stock_embeds(stock: Any, prompts: list[str]) -> list[Tensor]:
    with torch.no_grad():
        return list(stock.encode_prompt(list(prompts))[0])


@pytest.mark.mostly_slow
def test_prompts_become_what_the_stock_pipeline_makes_of_them(model: Denoiser, stock: Any) -> None:
    ours, theirs = model.encode_prompt(PROMPTS), stock_embeds(stock, PROMPTS)
    for own, other in zip(ours, theirs, strict=True):
        assert own.shape == other.shape
        assert relative(own, other) < 1e-5


def test_klein_reads_512_places_and_z_image_only_the_words(model: Denoiser) -> None:
    short, long = model.encode_prompt(["a", "a" * 2000])
    assert len(long) == 512
    assert (len(short) == 512) == (model.kind == "flux2")


@pytest.mark.mostly_slow
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_picture_is_the_stock_pipelines_of_the_same_noise(
    model: Denoiser, stock: Any, guidance: float
) -> None:
    """The paper's s is diffusers' g for klein, and g + 1 for Z-Image."""
    ours = model.sample(
        model.encode_prompt(PROMPTS),
        model.encode_prompt(["", ""]),
        seeds=[3, 4],
        steps=3,
        guidance=guidance,
        applied=lambda _branch: nullcontext(),
        size=SIZE,
    )
    cells = [side // (2 if model.kind == "z-image" else 4) for side in SIZE]
    channels = 4 if model.kind == "z-image" else 16
    latents = torch.cat([noise(1, channels, *cells, seed=seed) for seed in (3, 4)])
    theirs = stock(
        prompt=list(PROMPTS),
        height=SIZE[0],
        width=SIZE[1],
        num_inference_steps=3,
        guidance_scale=guidance - (model.kind == "z-image"),
        latents=latents,
        output_type="pt",
    ).images
    assert ours.shape == (2, 3, *SIZE)
    assert relative(ours, theirs) < 1e-4


@pytest.mark.mostly_slow
def test_the_scale_of_the_other_pipeline_is_another_picture(model: Denoiser) -> None:
    def drawn(guidance: float) -> Tensor:
        return model.sample(
            model.encode_prompt(PROMPTS[:1]),
            model.encode_prompt([""]),
            seeds=[3],
            steps=3,
            guidance=guidance,
            applied=lambda _branch: nullcontext(),
            size=SIZE,
        )

    assert relative(drawn(3.0), drawn(4.0)) > 1e-3


@pytest.mark.mostly_slow
def test_what_is_encoded_decodes_to_what_the_autoencoder_makes_of_it(
    model: Denoiser, stock: Any
) -> None:
    pixels = torch.rand(2, 3, *SIZE, generator=Generator().manual_seed(0))
    with torch.no_grad():
        seen = stock.vae.encode(pixels * 2 - 1).latent_dist.mode()
        plain = (stock.vae.decode(seen).sample / 2 + 0.5).clamp(0, 1)
    latents = model.encode_target(pixels)
    assert relative(model.decode(latents), plain) < 1e-5
    if model.kind == "z-image":
        assert torch.allclose(latents, (seen - 0.12) * 0.36, atol=1e-6)
    else:
        with torch.no_grad():
            theirs = stock._encode_vae_image(pixels * 2 - 1, generator=None)
        assert relative(latents, theirs) < 1e-5


def test_klein_shifts_times_as_its_makers_fitted_it() -> None:
    """Also above 4300 tokens, where no tiny picture gets."""
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    pipeline = tiny_flow.klein()
    model = Flux2Klein(
        pipeline.transformer,
        pipeline.vae,
        Qwen(pipeline.text_encoder, pipeline.tokenizer, thinks=False, is_padded=True),
        pipeline.scheduler,
        device=CPU,
        dtype=torch.float32,
    )
    for height, width, steps in ((8, 8, 4), (64, 64, 50), (64, 68, 50), (80, 80, 28)):
        ours = model.sigmas(steps, torch.empty(1, 16, height, width))
        mu = compute_empirical_mu(image_seq_len=height * width, num_steps=steps)
        pipeline.scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist(), mu=mu)
        assert ours == pytest.approx(pipeline.scheduler.sigmas.tolist(), abs=1e-6)


def test_a_tensor_that_is_missing_or_too_many_is_named(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    file = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = sorted(key for key in tensors if "to_out" in key)[0]
    taken = tensors.pop(name)
    save_file(tensors, file)
    with pytest.raises(WeightsError, match=f"{name} is missing"):
        denoisers.open(find(str(broken)), broken, device=CPU)
    save_file({**tensors, name: taken, "extra.weight": torch.ones(1)}, file)
    with pytest.raises(WeightsError, match=r"extra.weight is unknown"):
        denoisers.open(find(str(broken)), broken, device=CPU)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("scheduler/scheduler_config.json", '{"_class_name": "DDIMScheduler"}', "DDIMScheduler"),
        ("scheduler/scheduler_config.json", "[]", "cannot be read"),
        ("tokenizer/chat_template.jinja", None, "no chat template"),
        ("tokenizer/tokenizer.json", "{", "tokenizer cannot be read"),
        ("transformer/config.json", None, "transformer"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(
    folder: Path, tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    if content is None:
        (broken / file).unlink()
    else:
        (broken / file).write_text(content)
    with pytest.raises(WeightsError, match=message) as caught:
        denoisers.open(find(str(broken)), broken, device=CPU)
    assert caught.value.fix


def test_the_pipeline_of_a_folder_says_its_kind(folder: Path, tmp_path: Path) -> None:
    source = find(str(folder))
    assert source == Source(name=str(folder), licence="unknown", folder=folder, kind=source.kind)
    index = json.loads((folder / "model_index.json").read_text())
    assert {"ZImagePipeline": "z-image", "Flux2KleinPipeline": "flux2"}[
        index["_class_name"]
    ] == source.kind


@pytest.mark.mostly_slow
def test_half_precision_stays_near_and_answers_in_float32(folder: Path, model: Denoiser) -> None:
    half = denoisers.open(find(str(folder)), folder, device=CPU, dtype=torch.bfloat16)
    like = model.encode_target(torch.rand(2, 3, *SIZE, generator=Generator().manual_seed(0)))
    times = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        exact = model.predict(like, times, model.encode_prompt(PROMPTS))
        near = half.predict(like, times, model.encode_prompt(PROMPTS))
    assert half.encode_prompt(["a"])[0].dtype == torch.bfloat16
    assert near.dtype == torch.float32
    assert relative(near, exact) < 0.05
