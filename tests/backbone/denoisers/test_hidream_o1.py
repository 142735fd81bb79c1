"""HiDream-O1: who sees whom, where tokens are, what is refused, and which way is noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from stylecli.backbone import denoisers, lora_layouts, registry
from stylecli.backbone.denoisers import hidream_o1_model as parts
from stylecli.backbone.denoisers.hidream_o1 import HiDreamO1
from stylecli.backbone.row_loras import Factors, Pairs, applied
from stylecli.errors import UsageError, WeightsError
from tests.backbone.denoisers import hidream_folder as tiny
from tests.small import noise, relative

SIZE = (64, 96)
CPU = torch.device("cpu")
PROMPTS = ["a cat", "a red dog cat", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("weights") / "HiDream-O1-Image")


@pytest.fixture(scope="module")
def shared(folder: Path) -> HiDreamO1:
    return HiDreamO1.load(folder, device=CPU, dtype=torch.float32)


@pytest.fixture
def fresh(folder: Path) -> HiDreamO1:
    return HiDreamO1.load(folder, device=CPU, dtype=torch.float32)


def lora(denoiser: HiDreamO1, seed: int, rank: int = 2) -> Pairs:
    random = torch.Generator().manual_seed(seed)
    return {
        layer.path: (
            torch.randn(rank, layer.width_in, generator=random) / layer.width_in**0.5,
            torch.randn(layer.width_out, rank, generator=random) * 0.5,
        )
        for layer in denoiser.layers("full")
    }


def pictures(count: int, seed: int = 5) -> Tensor:
    return noise(count, 3, *SIZE, seed=seed)


@given(words=st.integers(1, 6), patches=st.integers(1, 6), blank=st.integers(0, 5))
def test_words_see_what_came_before_and_patches_see_all_but_filling(
    words: int, patches: int, blank: int
) -> None:
    blank = min(blank, words - 1)
    is_word = torch.arange(words)[None] >= blank
    found = parts.mask(words, patches, is_word)[0, 0]
    for i in range(words + patches):
        for j in range(words + patches):
            draws, is_filling = i >= words - 1, j < blank
            wanted = i == j or (not is_filling and (draws or j <= i))
            assert bool(found[i, j]) == wanted


def test_without_filling_all_rows_share_one_mask() -> None:
    plain = parts.mask(3, 4)
    full = parts.mask(3, 4, torch.ones(2, 3, dtype=torch.bool))
    assert plain.shape == (1, 1, 7, 7)
    assert torch.equal(plain.expand(2, -1, -1, -1), full)


def test_words_are_counted_and_patches_lie_on_a_grid_far_away() -> None:
    ids = torch.zeros(2, 4, dtype=torch.long)
    is_word = torch.tensor([[False, True, True, True], [True] * 4])
    found = parts.positions(ids, 2, 3, is_word)
    grid = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert found[:, 0, 1:4].tolist() == [[0, 1, 2]] * 3
    assert found[:, 1, :4].tolist() == [[0, 1, 2, 3]] * 3
    for row in range(2):
        assert found[0, row, 4:].tolist() == [4096] * 6
        assert found[1, row, 4:].tolist() == [4096 + h for h, _ in grid]
        assert found[2, row, 4:].tolist() == [4096 + w for _, w in grid]


def test_a_patch_is_a_square_of_the_picture_channel_by_channel() -> None:
    pixels = pictures(1)
    found = parts.patched(pixels)
    for number, (y, x) in enumerate((y, x) for y in (0, 32) for x in (0, 32, 64)):
        assert torch.equal(found[0, number], pixels[0, :, y : y + 32, x : x + 32].flatten())
    assert torch.equal(parts.unpatched(found, 2, 3), pixels)


@contextmanager
def states(denoiser: HiDreamO1) -> Iterator[list[Tensor]]:
    """What the language model makes of every token."""
    kept: list[Tensor] = []
    body: Any = denoiser.model
    handle = body.model.language_model.register_forward_hook(
        lambda _m, _i, output: kept.append(output.last_hidden_state)
    )
    yield kept
    handle.remove()


@pytest.mark.slow
def test_no_word_knows_the_picture_and_every_patch_knows_every_other(shared: HiDreamO1) -> None:
    prompt = shared.encode_prompt(["a red dog"])
    one, other = pictures(1), pictures(1)
    other[..., -1, -1] += 3.0
    time = torch.tensor([0.5])
    with states(shared) as kept:
        shared.predict(one, time, prompt)
        shared.predict(other, time, prompt)
        shared.predict(one, torch.tensor([0.7]), prompt)
    words = len(prompt[0]) - 1
    assert torch.equal(kept[0][:, :words], kept[1][:, :words])
    assert torch.equal(kept[0][:, :words], kept[2][:, :words])
    changed = (kept[0] - kept[1]).abs().amax(dim=-1)[0, words:]
    assert (changed > 1e-6).all()
    retimed = (kept[0] - kept[2]).abs().amax(dim=-1)[0, words:]
    assert (retimed > 1e-6).all()


def test_a_word_changes_what_follows_it_and_nothing_before(shared: HiDreamO1) -> None:
    one, other = shared.encode_prompt(["a red dog", "a red cat"])
    with states(shared) as kept:
        shared.predict(pictures(1), torch.tensor([0.5]), [one])
        shared.predict(pictures(1), torch.tensor([0.5]), [other])
    place = int((one != other).nonzero()[0])
    changed = (kept[0] - kept[1]).abs().amax(dim=-1)[0]
    assert (changed[:place] == 0).all()
    assert (changed[place:] > 1e-6).all()


def test_the_time_is_told_as_progress_in_cosines_and_sines(shared: HiDreamO1) -> None:
    body: Any = shared.model
    embedder = body.model.t_embedder1
    seen: list[Tensor] = []
    handle = embedder.mlp[0].register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    shared.predict(pictures(1), torch.tensor([0.3]), shared.encode_prompt(["cat"]))
    handle.remove()
    for k in range(128):
        angle = 1000 * 0.7 * 10_000 ** (-k / 128)
        # The library counts in float32, where so many turns are known to about 1e-4.
        assert float(seen[0][0, k]) == pytest.approx(math.cos(angle), abs=1e-3)
        assert float(seen[0][0, 128 + k]) == pytest.approx(math.sin(angle), abs=1e-3)


def test_a_prompt_is_a_question_that_ends_with_picture_and_time(shared: HiDreamO1) -> None:
    (ids,) = shared.encode_prompt(["a red dog"])
    said = ["user", ":", "a", "red", "dog", "assistant", ":", "<|boi_token|>", "<|tms_token|>"]
    assert [tiny.WORDS[i] for i in ids.tolist()] == said


def test_what_is_loaded_is_what_was_saved(shared: HiDreamO1) -> None:
    wanted = tiny.network()
    found = shared.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.state_dict().items())
    # Memory from a file lies elsewhere, which moves last bits.
    args = (pictures(1), torch.tensor([0.4]), torch.tensor([[6, 7, 2]]))
    assert relative(shared.model(*args), wanted(*args)) < 1e-6
    assert not any(p.requires_grad for p in shared.model.parameters())


def _without(state: dict[str, Tensor]) -> None:
    del state["model.x_embedder.proj2.bias"]


def _with(state: dict[str, Tensor]) -> None:
    state["model.x_embedder.proj3.weight"] = torch.ones(2)


def _renamed(state: dict[str, Tensor]) -> None:
    state["model.t_embedder.mlp.0.bias"] = state.pop("model.t_embedder1.mlp.0.bias")


def _smaller(state: dict[str, Tensor]) -> None:
    state["model.final_layer2.linear.bias"] = torch.ones(5)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without, "HiDream: tensor model.x_embedder.proj2.bias is missing"),
        (_with, "HiDream: tensor model.x_embedder.proj3.weight is unknown"),
        (_renamed, "HiDream: tensor model.t_embedder.mlp.0.bias is unknown"),
        (
            _smaller,
            "HiDream: tensor model.final_layer2.linear.bias has the shape (5,), not (3072,)",
        ),
    ],
)
def test_other_tensors_are_refused_by_name(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None], said: str
) -> None:
    tensors = tiny.state()
    spoil(tensors)
    where = tiny.save(tmp_path / "HiDream", tensors)
    with pytest.raises(WeightsError) as refused:
        HiDreamO1.load(where, device=CPU, dtype=torch.float32)
    assert refused.value.what == said
    assert refused.value.fix


@pytest.mark.slow
def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    where = tiny.save(tmp_path / "HiDream")
    first = where / "model-00001-of-00002.safetensors"
    (where / "model.safetensors").write_bytes(first.read_bytes())
    with pytest.raises(WeightsError, match="is there twice"):
        HiDreamO1.load(where, device=CPU, dtype=torch.float32)


@pytest.mark.slow
def test_unreadable_folders_say_what_is_wrong(tmp_path: Path) -> None:
    def refusal(where: Path) -> str:
        with pytest.raises(WeightsError) as refused:
            HiDreamO1.load(where, device=CPU, dtype=torch.float32)
        return refused.value.what

    where = tiny.save(tmp_path / "HiDream")
    (where / "config.json").write_text('{"model_type": "qwen3_vl"}')
    assert "qwen3_vl" in refusal(where)
    (where / "config.json").write_text("{")
    assert refusal(where) == "HiDream: config.json cannot be read"
    tiny.save(where)
    (where / "model-00002-of-00002.safetensors").write_bytes(b"nothing")
    assert refusal(where) == "HiDream: model-00002-of-00002.safetensors cannot be read"
    for file in where.glob("*.safetensors"):
        file.unlink()
    assert refusal(where) == "HiDream: no .safetensors file"
    tiny.save(where, chat="")
    assert refusal(where) == "HiDream: the tokenizer has no chat template"
    tiny.save_tokenizer(where, [word for word in tiny.WORDS if word != "<|tms_token|>"])
    assert refusal(where) == "HiDream: the tokenizer does not know <|tms_token|>"


class Answers(nn.Module):
    """A network that returns what it is told to."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer
        self.calls = 0

    def forward(self, noised: Tensor, *_: object) -> Tensor:
        self.calls += 1
        return self.answer.expand_as(noised)


def test_a_network_that_sees_through_the_noise_has_no_loss(fresh: HiDreamO1) -> None:
    clean = fresh.encode_target(torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(1)))
    eps = fresh.draw_noise(clean, torch.Generator().manual_seed(2))
    times = torch.tensor([1.0, 0.5, 0.01])
    noised, target = fresh.noised(clean, eps, times), fresh.target(clean, eps, times)
    prompts = fresh.encode_prompt(PROMPTS)

    def loss(answer: Tensor) -> float:
        fresh.model = Answers(answer)
        return float(F.mse_loss(fresh.predict(noised, times, prompts), target))

    assert loss(clean) < 1e-5
    assert loss(-clean) > 1
    assert loss(eps) > 1
    assert float(eps.std()) == pytest.approx(8.0, rel=0.02)


def test_times_are_those_of_a_shifted_grid_and_weigh_one_on_average(shared: HiDreamO1) -> None:
    def drawn(shift: float | None) -> Tensor:
        return shared.sample_times(2000, torch.Generator().manual_seed(0), shift=shift)

    plain = drawn(1.0)
    assert float(plain.min()) > 0
    assert float(plain.max()) <= 1
    assert torch.allclose(plain * 1000, (plain * 1000).round(), atol=1e-3)
    assert torch.allclose(drawn(None), 3 * plain / (1 + 2 * plain))
    grid = torch.arange(1, 1001) / 1000
    for shift in (1.0, 3.0):
        shifted = shift * grid / (1 + (shift - 1) * grid)
        weights = shared.weight(shifted, "bell", shift=shift)
        assert float(weights.mean()) == pytest.approx(1, abs=1e-4)
        assert float(weights.min()) == pytest.approx(0, abs=1e-4)
        assert float(shared.weight(torch.tensor([0.5]), "bell", shift=shift)) > 1
    assert torch.equal(shared.weight(grid, "none"), torch.ones(1000))


def test_rows_of_a_batch_are_what_each_is_alone(shared: HiDreamO1) -> None:
    factors = Factors.stacked([lora(shared, seed) for seed in (1, 2, 3)])
    prompts, noised = shared.encode_prompt(PROMPTS), pictures(3)
    times = torch.tensor([0.9, 0.5, 0.2])
    with torch.no_grad():
        plain = shared.predict(noised, times, prompts)
        with applied(shared.model, factors, [0, 1, 2]):
            together = shared.predict(noised, times, prompts)
        for row in range(3):
            alone = slice(row, row + 1)
            with applied(shared.model, factors, [row]):
                single = shared.predict(noised[alone], times[alone], prompts[alone])
            assert relative(together[alone], single) < 1e-5
            assert relative(plain[alone], single) > 1e-3


def test_half_precision_says_nearly_the_same(shared: HiDreamO1, folder: Path) -> None:
    half = HiDreamO1.load(folder, device=CPU, dtype=torch.bfloat16)
    prompts, times = shared.encode_prompt(PROMPTS), torch.tensor([0.9, 0.5, 0.2])
    found = half.predict(pictures(3), times, prompts)
    assert found.dtype == torch.float32
    assert relative(found, shared.predict(pictures(3), times, prompts)) < 0.05


def _gradient(denoiser: HiDreamO1, packed: Tensor, shapes: Any) -> Tensor:
    leaf = packed.clone().requires_grad_()
    prompts = denoiser.encode_prompt(PROMPTS)
    with applied(denoiser.model, Factors(shapes, leaf), [0, 1, 1]):
        answer = denoiser.predict(pictures(3), torch.tensor([0.9, 0.5, 0.2]), prompts)
        answer.square().mean().backward()
    assert leaf.grad is not None
    return leaf.grad


def test_gradients_reach_every_lora_and_computing_twice_changes_none(fresh: HiDreamO1) -> None:
    factors = Factors.stacked([lora(fresh, 1), lora(fresh, 2)])
    plain = _gradient(fresh, factors.packed, factors.shapes)
    fresh.checkpointing(on=True)
    again = _gradient(fresh, factors.packed, factors.shapes)
    assert (plain != 0).float().mean() > 0.9
    assert relative(again, plain) < 1e-6
    assert all(parameter.grad is None for parameter in fresh.model.parameters())
    with applied(fresh.model, Factors(factors.shapes, factors.packed.requires_grad_()), [0]):
        answer = fresh.predict(pictures(1), torch.tensor([0.5]), fresh.encode_prompt(["cat"]))
    with pytest.raises(CheckpointError):
        answer.mean().backward()
    fresh.checkpointing(on=False)
    assert not fresh.model.model.language_model.training  # type: ignore[union-attr]


def test_sampling_ends_at_the_picture_the_network_sees(fresh: HiDreamO1) -> None:
    seen = torch.linspace(-0.9, 0.9, 3).view(1, 3, 1, 1)
    fresh.model = Answers(seen)
    prompts, negatives = fresh.encode_prompt(["a cat"]), fresh.encode_prompt([" "])
    for guidance, calls in ((1.0, 4), (4.0, 12)):
        drawn = fresh.sample(
            prompts,
            negatives,
            seeds=[3],
            steps=4,
            guidance=guidance,
            applied=lambda _: nullcontext(),
            size=SIZE,
        )
        assert torch.allclose(drawn, (seen / 2 + 0.5).expand(1, 3, *SIZE), atol=1e-5)
        assert fresh.model.calls == calls


@pytest.mark.slow
def test_sides_of_guidance_have_their_own_loras_and_seeds_their_own_noise(
    shared: HiDreamO1,
) -> None:
    factors = Factors.stacked([lora(shared, 1), lora(shared, 2)])
    prompts, negatives = shared.encode_prompt(PROMPTS[:2]), shared.encode_prompt([" ", " "])

    def drawn(rows: slice, guidance: float, sides: dict[str, int | None]) -> Tensor:
        chosen = prompts[rows]
        return shared.sample(
            chosen,
            negatives[rows],
            seeds=[11, 12][rows],
            steps=3,
            guidance=guidance,
            applied=lambda side: applied(shared.model, factors, [sides[side]] * len(chosen)),
            size=SIZE,
        )

    styled = drawn(slice(0, 2), 2.0, {"pos": 0, "neg": 1})
    assert torch.equal(styled, drawn(slice(0, 2), 2.0, {"pos": 0, "neg": 1}))
    assert relative(drawn(slice(1, 2), 2.0, {"pos": 0, "neg": 1}), styled[1:]) < 1e-5
    assert relative(drawn(slice(0, 2), 2.0, {"pos": 0, "neg": None}), styled) > 1e-3
    unguided = drawn(slice(0, 2), 1.0, {"pos": 0, "neg": 1})
    assert torch.equal(unguided, drawn(slice(0, 2), 1.0, {"pos": 0, "neg": None}))


def test_what_cannot_be_drawn_or_read_is_refused(shared: HiDreamO1) -> None:
    with pytest.raises(UsageError, match="multiples of 32, not 70x64"):
        shared.encode_target(torch.zeros(1, 3, 64, 70))
    rounded = [ids.float() for ids in shared.encode_prompt(["cat"])]
    with pytest.raises(TypeError, match="whole numbers"):
        shared.predict(pictures(1), torch.tensor([0.5]), rounded)


def test_layers_are_those_of_the_language_model_by_their_paths(shared: HiDreamO1) -> None:
    modules = dict(shared.model.named_modules())
    layers = shared.layers("full")
    assert len(layers) == 2 * 7
    for layer in layers:
        module = modules[layer.path]
        assert isinstance(module, nn.Linear)
        assert (layer.width_in, layer.width_out) == (module.in_features, module.out_features)
    assert {path.split(".")[-1] for path, _, _ in layers} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }


def test_a_local_folder_is_known_for_what_it_is_and_opened(folder: Path, tmp_path: Path) -> None:
    source = registry.find(str(folder))
    assert source.kind == "hidream"
    assert registry.snapshot(source) == folder
    opened = denoisers.open(source, folder, device=CPU)
    assert isinstance(opened, HiDreamO1)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(WeightsError, match="is not a diffusers folder"):
        registry.find(str(tmp_path))


def test_absent_weights_are_named_with_the_command_that_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    source = registry.SOURCES["hidream-o1"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="HiDream-ai/HiDream-O1-Image@main") as refused:
        registry.snapshot(source)
    assert refused.value.fix == "style models pull hidream-o1"
    (tmp_path / "hidream-o1").symlink_to(folder)
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(tmp_path))
    assert registry.snapshot(source).resolve() == folder.resolve()


def test_a_lora_file_names_layers_as_the_weights_do(shared: HiDreamO1, tmp_path: Path) -> None:
    pairs = lora(shared, 1)
    tensors, header = lora_layouts.write(
        pairs, prefix="transformer", layout="diffusers", dtype=torch.float32
    )
    first = "transformer.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
    assert first in tensors
    save_file(tensors, tmp_path / "lora.safetensors", header)
    found = lora_layouts.read(tmp_path / "lora.safetensors").pairs
    lora_layouts.verify(found, shared.layers("full"))
    assert found.keys() == pairs.keys()
    for path, (down, up) in pairs.items():
        assert torch.equal(found[path][0], down)
        assert torch.equal(found[path][1], up)
