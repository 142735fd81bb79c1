"""FLUX.1-Kontext against the pipeline it was published with, on a tiny model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from stylecli.backbone.editors.base import Editor, Text
from stylecli.backbone.editors.flux_kontext import FluxKontext, load
from stylecli.backbone.quantizing import Int8Linear
from stylecli.errors import RecipeError, UsageError, WeightsError
from tests import tiny_kontext
from tests.small import noise, relative

CPU = torch.device("cpu")
PROMPTS = ["make the cat in pixel-art style, keep other area unchanged", "turn the dog"]
SIZE = (32, 24)
GRID = (8, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_kontext.save_folder(tmp_path_factory.mktemp("kontext"))


@pytest.fixture(scope="module")
def editor(folder: Path) -> FluxKontext:
    return tiny_kontext.editor(folder, text_length=48)


@pytest.fixture(scope="module")
def stock(folder: Path) -> Any:
    from diffusers import FluxKontextPipeline

    pipeline = FluxKontextPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=Generator().manual_seed(0))


def test_it_is_an_editor(editor: FluxKontext) -> None:
    kept: Editor = editor
    assert (kept.kind, kept.multiple_px, kept.native_px) == ("flux1-kontext", 4, 1024)
    assert kept.tokenizer.is_fast
    assert kept.fingerprint == "tiny"


@pytest.mark.slow
def test_instructions_become_what_the_stock_pipeline_makes_of_them(
    editor: FluxKontext, stock: Any
) -> None:
    ours = editor.encode_prompt(PROMPTS)
    with torch.no_grad():
        embeds, pooled, _ = stock.encode_prompt(list(PROMPTS), max_sequence_length=48)
    assert ours.embeds.shape == (2, 48, 24)
    assert ours.pooled is not None
    assert relative(ours.embeds, embeds) < 1e-5
    assert relative(ours.pooled, pooled) < 1e-5
    alone = editor.encode_prompt(PROMPTS[:1])
    assert torch.equal(alone.embeds[0], ours.embeds[0])


def test_an_instruction_that_would_lose_words_is_refused(editor: FluxKontext) -> None:
    with pytest.raises(
        UsageError, match=r"the instruction has .* tokens, and 48 are read"
    ) as caught:
        editor.encode_prompt(["the cat " * 40])
    assert "route.text_length" in caught.value.fix


def test_pictures_become_the_latents_of_the_stock_pipeline(editor: FluxKontext, stock: Any) -> None:
    with torch.no_grad():
        wanted = stock._encode_vae_image(pictures() * 2 - 1, generator=None)
        plain = stock.vae.decode(wanted / 0.36 + 0.12).sample
    ours = editor.encode_image(pictures())
    assert relative(ours, wanted) < 1e-5
    assert editor.grid(ours) == GRID
    assert relative(editor.decode(ours), (plain / 2 + 0.5).clamp(0, 1)) < 1e-5


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_an_edit_is_the_stock_pipelines_of_the_same_noise(
    editor: FluxKontext, stock: Any, guidance: float
) -> None:
    reference = editor.encode_image(pictures())
    ours = editor.edit(
        reference, editor.encode_prompt(PROMPTS), seeds=[3, 4], steps=3, guidance=guidance
    )
    start = torch.cat([noise(1, *reference.shape[1:], seed=seed) for seed in (3, 4)])
    theirs = stock(
        image=pictures(),
        prompt=list(PROMPTS),
        latents=stock._pack_latents(start, 2, 4, *start.shape[2:]),
        height=SIZE[0],
        width=SIZE[1],
        max_area=SIZE[0] * SIZE[1],
        _auto_resize=False,
        num_inference_steps=3,
        guidance_scale=guidance,
        max_sequence_length=48,
        output_type="pt",
    ).images
    assert relative(editor.decode(ours), theirs) < 1e-4


def edited(editor: FluxKontext, text: Text, seeds: list[int], **more: Any) -> Tensor:
    reference = editor.encode_image(pictures()[: len(seeds)])
    return editor.edit(reference, text, seeds=seeds, steps=3, guidance=2.5, **more)


def test_guidance_and_reference_and_seed_each_change_the_edit(editor: FluxKontext) -> None:
    text = editor.encode_prompt(PROMPTS[:1])
    plain = edited(editor, text, [3])
    other = editor.encode_image(pictures()[1:])
    for changed in (
        edited(editor, text, [4]),
        editor.edit(other, text, guidance=2.5, seeds=[3], steps=3),
        editor.edit(editor.encode_image(pictures()[:1]), text, guidance=9.0, seeds=[3], steps=3),
    ):
        assert relative(changed, plain) > 1e-4


def test_a_row_of_a_batch_is_an_edit_of_its_own(editor: FluxKontext) -> None:
    text = editor.encode_prompt(PROMPTS)
    both = edited(editor, text, [3, 4])
    assert relative(both[:1], edited(editor, text.rows([0]), [3])) < 1e-5


def test_after_each_step_a_probe_holds_the_pass_that_was_made(editor: FluxKontext) -> None:
    text = editor.encode_prompt(PROMPTS[:1])
    seen: list[tuple[int, float, Tensor]] = []
    with editor.probing() as probe:
        probe.watch([[[4, 5]]], GRID)
        watched = edited(
            editor, text, [3], after=lambda done, left: seen.append((done, left, probe.maps()))
        )
    assert torch.equal(watched, edited(editor, text, [3]))
    assert [done for done, _, _ in seen] == [1, 2, 3]
    assert seen[0][1] == pytest.approx(1.0)
    assert [left for _, left, _ in seen] == sorted((left for _, left, _ in seen), reverse=True)
    assert seen[0][2].shape == (1, GRID[0] * GRID[1], 1)
    assert not torch.equal(seen[0][2], seen[1][2])


def test_guidance_of_the_picture_is_refused(editor: FluxKontext) -> None:
    with pytest.raises(RecipeError, match=r"image_guidance 1\.5"):
        edited(editor, editor.encode_prompt(PROMPTS[:1]), [3], image_guidance=1.5)


def rows(editor: FluxKontext) -> tuple[Tensor, Tensor, Text, Tensor]:
    clean = editor.encode_image(pictures())
    return clean, torch.tensor([0.25, 1.0]), editor.encode_prompt(PROMPTS), clean.flip(0)


def test_the_line_runs_from_the_picture_to_noise(editor: FluxKontext) -> None:
    clean, times, _, _ = rows(editor)
    eps = torch.randn(clean.shape, generator=Generator().manual_seed(1))
    place = editor.noised(clean, eps, times)
    assert torch.allclose(place[0], 0.75 * clean[0] + 0.25 * eps[0])
    assert torch.equal(place[1], eps[1])
    assert torch.equal(editor.target(clean, eps, times), eps - clean)
    assert torch.equal(editor.weight(times), torch.ones(2))


def test_what_is_said_of_the_reference_is_left_out(
    editor: FluxKontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only target tokens are answers: noise on the others changes nothing."""
    cells = GRID[0] * GRID[1]
    told: dict[str, Any] = {}
    real = editor.model

    class Noisy(torch.nn.Module):
        def forward(self, **given: Any) -> tuple[Tensor]:
            told.update(given)
            (answer,) = real(**given)
            assert answer.shape[1] == 2 * cells
            return (torch.cat([answer[:, :cells], torch.full_like(answer[:, cells:], 7)], dim=1),)

    with torch.no_grad():
        plain = editor.predict(*rows(editor))
        monkeypatch.setattr(editor, "model", Noisy())
        assert torch.equal(editor.predict(*rows(editor)), plain)
    assert told["timestep"].tolist() == [0.25, 1.0]
    assert told["guidance"].tolist() == [1.0, 1.0]
    assert told["img_ids"][:cells, 0].eq(0).all()
    assert told["img_ids"][cells:, 0].eq(1).all()
    assert told["txt_ids"].eq(0).all()


def test_levels_to_learn_at_are_drawn_around_the_pictures_own_mu(editor: FluxKontext) -> None:
    """As the pipeline shifts them for as many target tokens."""
    from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift

    latents = torch.empty(1, 4, 2 * 20, 2 * 30)
    times = editor.sample_times(20_000, latents, Generator().manual_seed(0))
    mean = float(torch.logit(times.double()).mean())
    assert mean == pytest.approx(calculate_shift(600), abs=3 / 20_000**0.5)
    assert 0 < float(times.min()) < float(times.max()) < 1


def test_parts_are_loaded_when_they_are_asked_and_let_go_again(folder: Path) -> None:
    own = tiny_kontext.editor(folder)
    assert own.multiple_px == 4
    assert not {"_vae", "_text"} & own.__dict__.keys()
    before = own.encode_prompt(PROMPTS[1:])
    own.encode_image(pictures())
    assert {"_vae", "_text"} <= own.__dict__.keys()
    own.release("text")
    own.release("vae")
    assert not {"_vae", "_text"} & own.__dict__.keys()
    assert torch.equal(own.encode_prompt(PROMPTS[1:]).embeds, before.embeds)


def test_more_tokens_than_the_model_knows_are_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"route\.text_length 513"):
        tiny_kontext.editor(folder, text_length=513)


def test_a_tensor_that_is_missing_or_too_many_is_named(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for part in ("transformer", "text_encoder_2"):
        (file,) = (broken / part).glob("*.safetensors")
        tensors = load_file(file)
        name = sorted(key for key in tensors if key.endswith("weight"))[0]
        save_file({**tensors, "extra.weight": torch.ones(1)}, file, {"format": "pt"})
        with pytest.raises(WeightsError, match=rf"{part}: tensor extra.weight is unknown"):
            tiny_kontext.editor(broken).encode_prompt(PROMPTS)
        save_file({k: v for k, v in tensors.items() if k != name}, file, {"format": "pt"})
        with pytest.raises(WeightsError, match=rf"{part}: tensor {name} is missing"):
            tiny_kontext.editor(broken).encode_prompt(PROMPTS)
        save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("scheduler/scheduler_config.json", '{"_class_name": "DDIMScheduler"}', "DDIMScheduler"),
        ("tokenizer_2/tokenizer.json", "{", "tokenizer_2 cannot be read"),
        ("vae/config.json", "[]", "vae/config.json cannot be read"),
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

    def used() -> tuple[int, Any]:
        own = tiny_kontext.editor(broken)
        return own.multiple_px, own.tokenizer

    with pytest.raises(WeightsError, match=message) as caught:
        used()
    assert caught.value.fix


def in_bits(folder: Path, quantize: Any, dtype: torch.dtype = torch.float32) -> FluxKontext:
    return load(
        "tiny",
        folder,
        fingerprint="tiny",
        device=CPU,
        dtype=dtype,
        text_length=48,
        quantize=quantize,
    )


def test_four_bits_need_an_nvidia_gpu(folder: Path) -> None:
    with pytest.raises(UsageError, match="needs an NVIDIA GPU, and this runs on cpu") as caught:
        in_bits(folder, "nf4")
    assert "int8" in caught.value.fix


def test_eight_bits_stay_near_and_lead_gradients_the_same_way(
    folder: Path, editor: FluxKontext
) -> None:
    bits = in_bits(folder, "int8")
    blocks = [
        module
        for name, module in bits.model.named_modules()
        if isinstance(module, torch.nn.Linear) and "blocks." in name
    ]
    assert blocks
    assert all(isinstance(module, Int8Linear) for module in blocks)
    clean, times, text, reference = rows(editor)
    found = []
    for one in (editor, bits):
        words = Text(text.embeds.clone().requires_grad_(True), text.pooled)
        answer = one.predict(clean, times, words, reference)
        (slope,) = torch.autograd.grad(answer.square().mean(), words.embeds)
        found.append((answer.detach(), slope))
    (answer, slope), (own, own_slope) = found
    assert 1e-5 < relative(own, answer) < 0.02
    assert relative(own_slope, slope) < 0.05


@pytest.mark.mostly_slow
@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_loras_learn_in_float32_on_frozen_bfloat16(folder: Path, quantize: str) -> None:
    """Also with checkpointing; a step of 1e-5 would vanish in bfloat16's rounding."""
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig
    from peft.helpers import disable_input_dtype_casting

    half = in_bits(folder, quantize, torch.bfloat16)
    model: Any = half.model
    model.add_adapter(LoraConfig(r=2, target_modules=list(half.layers("attn"))))
    cast_training_params(model, torch.float32)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(learning) == 2 * len(half.layers("attn"))
    assert {parameter.dtype for parameter in learning} == {torch.float32}
    slopes = []
    for checkpointing in (False, True):
        half.checkpointing(on=checkpointing)
        with half.probing() as probe, disable_input_dtype_casting(model):
            probe.watch([[[4]], [[5, 6]]], GRID)
            answer = half.predict(*rows(half))
            loss = answer.square().mean() - probe.maps().clamp(min=1e-9).log().mean()
            slopes.append(torch.autograd.grad(loss, learning, allow_unused=True))
    assert sum(slope is not None and bool(slope.abs().sum() > 0) for slope in slopes[0]) >= len(
        half.layers("attn")
    )
    for own, other in zip(*slopes, strict=True):
        assert (own is None) == (other is None)
        assert own is None or torch.allclose(own, other, rtol=1e-3, atol=1e-6)
