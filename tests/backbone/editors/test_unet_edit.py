"""An InstructPix2Pix of the real classes: what it is shown, how it is guided, who may load it."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from stylecli.backbone import hashes, objective, registry
from stylecli.backbone.editors import delta as deltas
from stylecli.backbone.editors import opening, unet_edit
from stylecli.backbone.editors.base import Text
from stylecli.backbone.editors.delta import Delta
from stylecli.backbone.editors.unet_edit import UnetEdit
from stylecli.backbone.loading import fingerprint, load
from stylecli.backbone.registry import DELTA, Source
from stylecli.backbone.schedule import move
from stylecli.errors import RecipeError, UsageError, WeightsError
from tests import tiny
from tests.small import noise

CPU = torch.device("cpu")
PROMPTS = ["a cat in red", "the dog in sss"]
WORDS = "encoder.layers.0.mlp.fc1"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UNet that draws from words."""
    return tiny.save_folder(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def changes(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes an editor of `base`: its entry sees the reference, one matrix reads words anew."""
    loaded = load("base", base, fingerprint="", device=CPU)
    unet, words = loaded.unet, loaded.text_encoder.get_submodule(WORDS).weight
    weight = unet.conv_in.weight
    tensors = {
        "conv_in.weight": torch.cat([weight, noise(*weight.shape, seed=3) * 0.2], dim=1),
        "conv_in.bias": unet.conv_in.bias,
        f"text_encoder.{WORDS}.lora_A": noise(1, words.shape[1], seed=5),
        f"text_encoder.{WORDS}.lora_B": noise(len(words), 1, seed=6),
    }
    made = Delta(tensors, "base", fingerprint(base), rank=1, native_px=24)
    folder = tmp_path_factory.mktemp("delta")
    (folder / DELTA).write_bytes(made.packed())
    return folder


@pytest.fixture(scope="module")
def editor(base: Path, changes: Path) -> UnetEdit:
    return unet_edit.load("mine", base, delta=changes, fingerprint="f", device=CPU)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_folder(tmp_path_factory.mktemp("models") / "foreign", edits=True)


@pytest.fixture(scope="module")
def pair(editor: UnetEdit) -> tuple[Tensor, Text]:
    """References and instructions."""
    return noise(2, 4, 8, 8, seed=4), editor.encode_prompt(PROMPTS)


def raw(editor: UnetEdit, z: Tensor, shown: Tensor, time: int, embeds: Tensor) -> Tensor:
    """The UNet by itself."""
    with torch.inference_mode():
        seen = torch.cat([z, shown], dim=1)
        out: Tensor = editor.backbone.unet(seen, time, embeds, return_dict=False)[0]
    return out


def test_changes_of_the_text_encoder_are_what_instructions_are_read_with(
    base: Path, changes: Path, editor: UnetEdit
) -> None:
    before = load("base", base, fingerprint="", device=CPU)
    tensors = deltas.read(changes / DELTA).tensors
    weight = before.text_encoder.get_submodule(WORDS).weight
    plain = before.encode_prompt(PROMPTS)
    with torch.no_grad():
        weight += (
            tensors[f"text_encoder.{WORDS}.lora_B"].float()
            @ tensors[f"text_encoder.{WORDS}.lora_A"].float()
        )
    said = editor.encode_prompt(PROMPTS).embeds
    torch.testing.assert_close(said, before.encode_prompt(PROMPTS))
    assert not torch.allclose(said, plain, atol=1e-2)


@pytest.mark.slow
def test_an_answer_is_that_of_the_unet_which_sees_both(
    editor: UnetEdit, pair: tuple[Tensor, Text]
) -> None:
    reference, text = pair
    z = noise(2, 4, 8, 8)
    said = editor.predict(z, torch.tensor([300.0, 300.0]), text, reference)
    torch.testing.assert_close(said, raw(editor, z, reference, 300, text.embeds))
    moved = editor.predict(z, torch.tensor([300.0, 300.0]), text, reference + 1)
    assert not torch.allclose(said, moved)


def test_others_are_shown_the_reference_as_the_vae_leaves_it(foreign: Path) -> None:
    editor = unet_edit.load("foreign", foreign, fingerprint="f", device=CPU)
    reference, z = noise(2, 4, 8, 8, seed=4), noise(2, 4, 8, 8)
    text = editor.encode_prompt(PROMPTS)
    said = editor.predict(z, torch.tensor([300.0, 300.0]), text, reference)
    torch.testing.assert_close(said, raw(editor, z, reference / 0.5, 300, text.embeds))
    assert (editor.reference, editor.native_px, editor.multiple_px) == ("unscaled", 32, 16)


def by_hand(editor: UnetEdit, pair: tuple[Tensor, Text], s_t: float, s_i: float) -> Tensor:
    """InstructPix2Pix eq. 3 with three passes a step, whatever they count."""
    reference, text = pair
    empty = editor.encode_prompt(["", ""]).embeds
    levels = editor.backbone.schedule.levels(3)
    z = torch.cat([noise(1, 4, 8, 8, seed=seed) for seed in (11, 12)])
    for level in range(3, 0, -1):
        time = levels.timesteps[level - 1]
        neither = raw(editor, z, torch.zeros_like(reference), time, empty)
        picture = raw(editor, z, reference, time, empty)
        both = raw(editor, z, reference, time, text.embeds)
        answer = neither + s_i * (picture - neither) + s_t * (both - picture)
        z = move(z, answer, levels.alphas[level], levels.alphas[level - 1])
    return z


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("guidance", "image_guidance", "branches"),
    [(1, 1, 1), (4, 1, 2), (4, 1.5, 3), (2.5, 2.5, 2), (1, 1.5, 3)],
)
def test_guidance_is_as_published_and_nothing_is_computed_that_does_not_count(
    editor: UnetEdit,
    pair: tuple[Tensor, Text],
    guidance: float,
    image_guidance: float,
    branches: int,
) -> None:
    passed: list[int] = []
    handle = editor.backbone.unet.register_forward_pre_hook(
        lambda _m, inputs: passed.append(len(inputs[0]))
    )
    try:
        made = editor.edit(
            *pair,
            seeds=[11, 12],
            steps=3,
            guidance=float(guidance),
            image_guidance=float(image_guidance),
        )
    finally:
        handle.remove()
    assert passed == [2 * branches] * 3
    expected = by_hand(editor, pair, guidance, image_guidance)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_row_is_what_it_would_be_alone(editor: UnetEdit, pair: tuple[Tensor, Text]) -> None:
    reference, text = pair
    both = editor.edit(*pair, seeds=[11, 12], steps=2, guidance=3.0)
    alone = editor.edit(reference[1:], text.rows([1]), seeds=[12], steps=2, guidance=3.0)
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_probe_holds_the_pass_with_the_instruction(
    editor: UnetEdit, pair: tuple[Tensor, Text]
) -> None:
    reference, text = pair
    phrases = [[[2, 3]], [[4]]]
    told: list[tuple[int, float]] = []
    with editor.probing() as probe:
        probe.watch(phrases, editor.grid(reference))
        maps: list[Tensor] = []

        def after(done: int, time: float) -> None:
            told.append((done, time))
            maps.append(probe.maps().clone())

        editor.edit(*pair, seeds=[11, 12], steps=2, guidance=5.0, image_guidance=1.5, after=after)
        z = torch.cat([noise(1, 4, 8, 8, seed=seed) for seed in (11, 12)])
        editor.predict(z, torch.full((2,), told[0][1]), text, reference)
        torch.testing.assert_close(maps[0], probe.maps())
        editor.predict(z, torch.full((2,), told[0][1]), editor.encode_prompt(["", ""]), reference)
        assert not torch.allclose(maps[0], probe.maps())
    assert told == [(1, 501.0), (2, 1.0)]


@pytest.mark.slow
def test_rows_that_pass_one_by_one_make_the_same_picture_and_the_same_maps(
    editor: UnetEdit, pair: tuple[Tensor, Text]
) -> None:
    def made() -> tuple[Tensor, Tensor]:
        with editor.probing() as probe:
            probe.watch([[[2, 3]], [[4]]], editor.grid(pair[0]))
            found = editor.edit(*pair, seeds=[11, 12], steps=2, guidance=5.0, image_guidance=1.5)
            return found, probe.maps()

    whole, maps = made()
    editor.backbone.max_rows = 1
    try:
        again, same = made()
    finally:
        editor.backbone.max_rows = None
    torch.testing.assert_close(again, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(same, maps)


def test_one_probe_at_a_time_and_none_is_left(editor: UnetEdit) -> None:
    with editor.probing() as probe:
        assert all(name.startswith(("mid_block", "up_blocks")) for name in probe.layers)
        with pytest.raises(RuntimeError, match="open already"), editor.probing():
            pass
    with editor.probing("all") as probe:
        assert any(name.startswith("down_blocks") for name in probe.layers)
    kinds = {type(one).__name__ for one in editor.backbone.unet.attn_processors.values()}
    assert kinds == {"AttnProcessor2_0"}


def test_noise_is_added_and_asked_for_as_in_training(editor: UnetEdit) -> None:
    clean, more = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1)
    times = torch.tensor([10.0, 900.0])
    kept = torch.tensor([editor.backbone.schedule.alphas_cumprod[t] for t in (10, 900)]).float()
    kept = kept.view(2, 1, 1, 1)
    expected = kept.sqrt() * clean + (1 - kept).sqrt() * more
    torch.testing.assert_close(editor.noised(clean, more, times), expected)
    assert torch.equal(editor.target(clean, more, times), more)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_draws_and_weights_together_are_min_snr(prediction: Any) -> None:
    kept = torch.linspace(0.999, 0.001, 50)
    ratio = kept / (1 - kept)
    wanted = ratio.clamp(max=5) / (ratio if prediction == "epsilon" else ratio + 1)
    chances, counts = objective.drawn(kept, prediction)
    torch.testing.assert_close(chances.sum(), torch.tensor(1.0))
    assert chances.min() >= 0.3 / 50
    product = chances * counts
    torch.testing.assert_close(product / product.sum(), wanted / wanted.sum())
    torch.testing.assert_close(product.sum(), torch.tensor(1.0))


def test_pure_noise_has_a_weight() -> None:
    chances, counts = objective.drawn(torch.tensor([0.5, 0.0]))
    assert bool((chances > 0).all())
    assert bool(counts.isfinite().all())


def test_times_are_drawn_by_their_chances(editor: UnetEdit) -> None:
    like = noise(1, 4, 8, 8)
    times = editor.sample_times(20_000, like, Generator().manual_seed(0))
    assert torch.equal(times, times.round())
    kept = torch.tensor(editor.backbone.schedule.alphas_cumprod).float()
    chances, counts = objective.drawn(kept)
    late = float((times >= 500).float().mean())
    assert late == pytest.approx(float(chances[500:].sum()), abs=0.02)
    assert torch.equal(editor.weight(times[:9]), counts[times[:9].long()])
    assert float(editor.weight(times).mean()) == pytest.approx(1, abs=0.05)


def test_pictures_go_in_and_come_out(editor: UnetEdit) -> None:
    pixels = torch.rand(2, 3, 16, 32, generator=Generator().manual_seed(0))
    latents = editor.encode_image(pixels)
    assert latents.shape == (2, 4, 8, 16)
    assert torch.equal(latents, editor.encode_image(pixels))
    again = editor.decode(latents)
    assert again.shape == pixels.shape
    assert 0 <= float(again.min()) <= float(again.max()) <= 1
    # Of use where gradients are wanted.
    (latents * torch.ones(1, requires_grad=True)).sum().backward()


def test_an_instruction_that_would_lose_words_is_refused(editor: UnetEdit) -> None:
    assert editor.encode_prompt(["a cat", ""]).embeds.shape == (2, 16, 32)
    with pytest.raises(UsageError, match="tokens, and this model reads 16") as caught:
        editor.encode_prompt(["a cat", "a picture of the blue dog in red style"])
    assert "a picture of the blue dog" in caught.value.what


def test_target_sets(editor: UnetEdit) -> None:
    attn, cross, full = (set(editor.layers(name)) for name in ("attn", "attn2", "full"))
    assert cross < attn < full
    assert all(".attn2." in path for path in cross)
    linear = {name for name, m in editor.model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert full <= linear
    assert len(attn) == 2 * len(cross)
    with pytest.raises(RecipeError, match=r"route\.lora\.targets double: a UNet has attn, attn2"):
        editor.layers("double")


@pytest.mark.slow
def test_checkpointing_changes_no_gradient(editor: UnetEdit, pair: tuple[Tensor, Text]) -> None:
    def gradient() -> Tensor:
        reference = pair[0].clone().requires_grad_(True)
        z, times = noise(2, 4, 8, 8), torch.tensor([10.0, 900.0])
        editor.predict(z, times, pair[1], reference).square().mean().backward()
        assert reference.grad is not None
        return reference.grad

    plain = gradient()
    editor.checkpointing(on=True)
    try:
        twice = gradient()
    finally:
        editor.checkpointing(on=False)
    torch.testing.assert_close(twice, plain)


def test_in_bfloat16_answers_and_maps_are_float32(base: Path, changes: Path) -> None:
    editor = unet_edit.load(
        "mine", base, delta=changes, fingerprint="f", device=CPU, dtype=torch.bfloat16
    )
    reference = noise(1, 4, 8, 8)
    with editor.probing() as probe:
        probe.watch([[[2]]], editor.grid(reference))
        text = editor.encode_prompt(["a cat"])
        answer = editor.predict(noise(1, 4, 8, 8, seed=1), torch.ones(1), text, reference)
        assert (answer.dtype, probe.maps().dtype) == (torch.float32, torch.float32)
    assert next(editor.model.parameters()).dtype == torch.bfloat16


@pytest.mark.slow
def test_changes_are_put_on_the_very_model_they_were_made_of(
    base: Path, changes: Path, tmp_path: Path
) -> None:
    other = tiny.save_folder(tmp_path / "other", seed=1)
    with pytest.raises(WeightsError, match="changes base"):
        unet_edit.load("mine", other, delta=changes, fingerprint="f", device=CPU)
    with pytest.raises(WeightsError, match=r"delta\.safetensors is missing"):
        unet_edit.load("mine", base, delta=tmp_path, fingerprint="f", device=CPU)


@pytest.mark.slow
def test_a_unet_that_sees_no_second_picture_is_no_editor(base: Path) -> None:
    with pytest.raises(WeightsError, match="sees 4 channels, and an editor sees 8"):
        unet_edit.load("mine", base, fingerprint="f", device=CPU)


def test_identity_is_of_the_model_and_of_what_changed_it(base: Path, changes: Path) -> None:
    source = Source(name="mine", kind="edit-unet", licence="MIT", folder=base, delta=changes)
    both = opening.fingerprint(source, base)
    assert both not in (fingerprint(base), opening.fingerprint(replace(source, delta=None), base))
    other = changes.parent / "other"
    other.mkdir()
    read = deltas.read(changes / DELTA)
    (other / DELTA).write_bytes(replace(read, native_px=read.native_px + 1).packed())
    assert opening.fingerprint(replace(source, delta=other), base) != both
    with pytest.raises(WeightsError, match="is missing"):
        opening.fingerprint(replace(source, delta=base), base)


def opened(source: Source, **said: Any) -> UnetEdit:
    assert source.folder is not None
    found = opening.open(source, source.folder, fingerprint="f", device=CPU, **said)
    assert isinstance(found, UnetEdit)
    return found


@pytest.mark.slow
def test_settings_of_transformers_are_refused(base: Path, changes: Path) -> None:
    source = Source(name="mine", kind="edit-unet", licence="MIT", folder=base, delta=changes)
    assert opened(source, text_length=16).text_length == 16
    with pytest.raises(RecipeError, match="text_length 8: mine always reads 16"):
        opened(source, text_length=8)
    with pytest.raises(RecipeError, match=r"backbone\.quantize nf4: mine edits with a UNet"):
        opened(source, quantize="nf4")


@pytest.mark.slow
def test_a_folder_says_that_it_is_an_editor(foreign: Path, tmp_path: Path) -> None:
    found = registry.find(str(foreign))
    assert (found.kind, found.delta) == ("edit-unet", None)
    assert opened(found).kind == "edit-unet"
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxKontextPipeline"}')
    assert registry.find(str(tmp_path)).kind == "flux1-kontext"


def test_where_a_drawing_model_is_named_its_editor_is_taken(foreign: Path, base: Path) -> None:
    assert registry.editing(registry.SOURCES["pocket"]).name == "pocket-edit"
    for name in ("pocket-edit", "flux1-kontext"):
        assert registry.editing(registry.SOURCES[name]).name == name
    assert registry.editing(registry.find(str(foreign))).name == str(foreign)
    for source in (registry.SOURCES["sd15"], registry.SOURCES["z-image"], registry.find(str(base))):
        with pytest.raises(UsageError, match="draws from words alone") as caught:
            registry.editing(source)
        assert "pocket-edit or flux1-kontext" in caught.value.fix


def test_an_editor_is_refused_by_commands_that_draw_from_words() -> None:
    for name in ("pocket-edit", "flux1-kontext"):
        with pytest.raises(UsageError, match=f"{name} edits pictures by instruction") as caught:
            registry.require(registry.SOURCES[name], ("unet",))
        assert "--backbone pocket or sd15 or sd21-base;" in caught.value.fix
        assert "route-apply" in caught.value.fix


def test_a_missing_delta_is_missing_weights(base: Path, changes: Path, tmp_path: Path) -> None:
    source = Source(name="mine", kind="edit-unet", licence="MIT", folder=base, delta=tmp_path)
    with pytest.raises(WeightsError, match=r"weights of mine are missing from .*delta\.safet"):
        registry.snapshot(source)
    assert registry.snapshot(replace(source, delta=changes)) == base


def test_both_lists_of_hashes_are_compared(base: Path, changes: Path, tmp_path: Path) -> None:
    def sums(folder: Path, name: str) -> None:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / hashes.SUMS).write_text(f"{digest}  {name}\n")

    own, changed = tmp_path / "own", tmp_path / "changed"
    shutil.copytree(base, own)
    shutil.copytree(changes, changed)
    source = Source(name="mine", kind="edit-unet", licence="MIT", folder=own, delta=changed)
    weights = "unet/diffusion_pytorch_model.safetensors"
    sums(own, weights)
    with pytest.raises(WeightsError, match=r"no hash is recorded for delta\.safetensors"):
        hashes.verify(source, own)
    sums(changed, DELTA)
    assert hashes.verify(source, own).keys() == {weights, DELTA}
    (changed / DELTA).write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"delta\.safetensors has SHA-256"):
        hashes.verify(source, own)
