"""Training a LoRA: what it starts from, what it learns, and that it can be stopped anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from stylecli.artifacts import store
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.inversion import invert, null_prediction
from stylecli.backbone.lora import LoraFile
from stylecli.backbone.model import Backbone
from stylecli.backbone.row_loras import Factors, applied
from stylecli.engine.training import factors
from stylecli.engine.training.lora import Fitted, fit, identity, style_pictures
from stylecli.errors import InputError, ItemError, UsageError
from stylecli.methods.diffstyler import Look, transfer
from stylecli.recipe.schema import Injection, Lora
from tests import tiny
from tests.cli.conftest import draw
from tests.conftest import Style
from tests.small import (
    assert_same_state,
    base_unet,
    folder,
    lora,
    noise,
    outputs,
    relative,
    state,
    with_loras,
)

pytestmark = pytest.mark.slow

SETTINGS = Lora(rank=4, steps=6, lr=1e-2, resolution=32, save_every=2, dtype="float32")
PROMPT = "a picture in sss style"


class Watcher:
    """A reporter that does something at every step of a task; the first call comes before any."""

    def __init__(self, on_step: Callable[[int], object] = lambda _: None) -> None:
        self.on_step = on_step
        self.done = 0

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Watcher]:
        self.done = 0
        yield self

    def advance(self, n: int = 1) -> None:
        self.done += n
        self.on_step(self.done)


def stop_at(step: int) -> Watcher:
    def stop(done: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return Watcher(stop)


@pytest.fixture(autouse=True)
def _few_pairs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a short training is being judged; only the tests of learning need a fair judge."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr("stylecli.engine.training.draws.EVAL_PAIRS", 2)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return draw(tmp_path / "painting.png", seed=7, size=(40, 32))


def train(
    backbone: Backbone,
    *paths: Path,
    settings: Lora = SETTINGS,
    seed: int = 0,
    reporter: Watcher | None = None,
) -> Fitted:
    """Fit, and as the engine does, remove the state once it is no longer needed."""
    state_file = paths[0].with_suffix(".state")
    fitted = fit(
        backbone,
        style_pictures(paths, PROMPT),
        settings,
        seed=seed,
        state_file=state_file,
        reporter=reporter or Watcher(),
    )
    state_file.unlink(missing_ok=True)
    return fitted


def settings(**changes: Any) -> Lora:
    return SETTINGS.model_copy(update=changes)


def assert_equal(ours: Fitted, theirs: Fitted) -> None:
    assert ours.tensors.keys() == theirs.tensors.keys()
    different = [k for k, v in ours.tensors.items() if not torch.equal(v, theirs.tensors[k])]
    assert not different
    assert ours.header == theirs.header
    assert (ours.loss_before, ours.loss_after) == (theirs.loss_before, theirs.loss_after)


def largest_difference(ours: Fitted, theirs: Fitted) -> float:
    return max(float((v - theirs.tensors[k]).abs().max()) for k, v in ours.tensors.items())


def test_training_starts_from_the_base_model(fresh: Backbone, picture: Path) -> None:
    """Point 21: B is zero, A is drawn with deviation 1/rank, all of it float32."""
    shapes = factors.layout(fresh.unet, SETTINGS)
    first = factors.first(shapes, 0)
    pairs = factors.named(shapes, first)
    assert all(not v.any() for k, v in pairs.items() if ".lora_B." in k)
    drawn = torch.cat([v.flatten() for k, v in pairs.items() if ".lora_A." in k])
    assert float(drawn.std()) == pytest.approx(1 / SETTINGS.rank, rel=0.05)
    assert {v.dtype for v in pairs.values()} == {torch.float32}
    before = outputs(fresh)
    with applied(fresh.unet, Factors(shapes, first[None]), [0, 0]):
        assert torch.equal(outputs(fresh), before)
    fitted = train(fresh, picture, settings=settings(steps=1, lr=1e-12, weight_decay=0.0))
    for name, tensor in pairs.items():
        assert torch.allclose(fitted.tensors[f"unet.{name}"], tensor, rtol=0, atol=1e-11)


def test_only_the_chosen_projections_learn_and_the_base_model_is_left_as_it_was(
    fresh: Backbone, picture: Path
) -> None:
    """Point 21."""
    weights, before = state(fresh.unet), outputs(fresh)
    fitted = train(fresh, picture)
    linears = {
        name
        for name, module in base_unet().named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(("to_q", "to_k", "to_v"))
    }
    assert set(fitted.tensors) == {
        f"unet.{name}.lora_{matrix}.weight" for name in linears for matrix in "AB"
    }
    assert all(v.any() for k, v in fitted.tensors.items() if "lora_B" in k)
    assert_same_state(fresh.unet, weights)
    assert torch.equal(outputs(fresh), before)
    assert not [name for name, p in fresh.unet.named_parameters() if p.requires_grad]
    with_out = train(fresh, picture, settings=settings(targets=("to_out.0",), steps=1))
    assert all(".to_out.0.lora_" in key for key in with_out.tensors)


def test_an_interrupted_training_resumes_to_the_same_bits(picture: Path) -> None:
    """After a checkpoint and before the first; with a model loaded anew each time."""
    whole = train(tiny.backbone(folder()), picture)
    state_file = picture.with_suffix(".state")
    for stopped_at, resumed_at in ((1, None), (5, 4)):
        with pytest.raises(KeyboardInterrupt):
            train(tiny.backbone(folder()), picture, reporter=stop_at(stopped_at))
        assert state_file.exists() == (resumed_at is not None)
        steps: list[int] = []
        again = train(tiny.backbone(folder()), picture, reporter=Watcher(steps.append))
        assert steps == list(range(resumed_at or 0, SETTINGS.steps + 1))
        assert_equal(again, whole)


def test_an_interruption_leaves_the_base_model(fresh: Backbone, picture: Path) -> None:
    weights, before = state(fresh.unet), outputs(fresh)
    with pytest.raises(KeyboardInterrupt):
        train(fresh, picture, reporter=stop_at(3))
    assert_same_state(fresh.unet, weights)
    assert torch.equal(outputs(fresh), before)


@pytest.mark.parametrize("changed", ["seed", "lr", "caption"])
def test_a_state_of_another_run_is_refused(fresh: Backbone, picture: Path, changed: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(fresh, picture, reporter=stop_at(3))
    if changed == "caption":
        picture.with_suffix(".txt").write_text("a dog")
    with pytest.raises(UsageError, match="other pictures or settings") as caught:
        train(
            fresh,
            picture,
            seed=int(changed == "seed"),
            settings=settings(lr=2e-2) if changed == "lr" else SETTINGS,
        )
    assert str(picture.with_suffix(".state")) in caught.value.what
    assert caught.value.fix


def test_what_cannot_change_the_values_is_no_part_of_the_identity(
    shared: Backbone, picture: Path
) -> None:
    """And all that can is: each setting but two, the picture, its caption, the seed, the model."""
    pictures = style_pictures([picture], PROMPT)
    own = identity(shared, pictures, SETTINGS, 0)
    for changes in ({"save_every": 9}, {"gradient_checkpointing": True}):
        assert identity(shared, pictures, settings(**changes), 0) == own
    others = {
        "rank": 5, "alpha": 2.0, "steps": 7, "lr": 1e-3, "weight_decay": 0.0, "batch": 2,
        "targets": ("to_q",), "resolution": 64, "crop": "random", "crop_px": 64,
        "caption_dropout": 0.5, "dtype": "float16", "format": "kohya",
    }  # fmt: skip
    assert set(Lora.model_fields) - set(others) == {
        "prompt",
        "save_every",
        "gradient_checkpointing",
    }
    found = {identity(shared, pictures, settings(**{k: v}), 0) for k, v in others.items()}
    found.add(identity(shared, pictures, SETTINGS, 1))
    found.add(identity(shared, style_pictures([picture], "a dog"), SETTINGS, 0))
    another = draw(picture.with_name("b.png"), seed=1)
    found.add(identity(shared, style_pictures([another], PROMPT), SETTINGS, 0))
    assert len(found - {own}) == len(others) + 3


def test_checkpointing_gradients_changes_no_value(fresh: Backbone, picture: Path) -> None:
    plain = train(fresh, picture, settings=settings(steps=2))
    frugal = train(fresh, picture, settings=settings(steps=2, gradient_checkpointing=True))
    assert largest_difference(plain, frugal) < 1e-6
    assert not fresh.unet.is_gradient_checkpointing


def test_the_global_generator_is_neither_asked_nor_moved(fresh: Backbone, picture: Path) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(train(fresh, picture, settings=settings(steps=1)))
        assert torch.equal(torch.get_rng_state(), before)
    assert_equal(*found)


def test_other_loras_in_the_model_neither_change_the_training_nor_are_changed_by_it(
    fresh: Backbone, picture: Path
) -> None:
    """As when one run learns several styles."""
    alone = train(tiny.backbone(folder()), picture, settings=settings(steps=2))
    adapters = with_loras(fresh, other=lora(fresh.unet))
    before = outputs(fresh)
    with adapters.use({"other": 1.0}):
        other = outputs(fresh)
    assert_equal(train(fresh, picture, settings=settings(steps=2)), alone)
    assert torch.equal(outputs(fresh), before)
    with adapters.use({"other": 1.0}):
        assert torch.equal(outputs(fresh), other)
    assert not [name for name, p in fresh.unet.named_parameters() if p.requires_grad]


def test_alpha_is_its_own_setting(fresh: Backbone, picture: Path) -> None:
    fitted = train(fresh, picture, settings=settings(steps=1, alpha=2.5, format="kohya"))
    alphas = {float(v) for k, v in fitted.tensors.items() if k.endswith(".alpha")}
    assert alphas == {2.5}
    assert fitted.header["ss_network_alpha"] == "2.5"
    assert "lora_adapter_metadata" not in fitted.header


@pytest.mark.parametrize("targets", [("to_nowhere",), ("to_q", "to_nowhere"), ("norm1",)])
def test_a_target_that_matches_nothing_is_refused(
    fresh: Backbone, picture: Path, targets: tuple[str, ...]
) -> None:
    weights = state(fresh.unet)
    with pytest.raises(UsageError, match=rf"lora\.targets {targets[-1]} is no linear"):
        train(fresh, picture, settings=settings(targets=targets))
    assert_same_state(fresh.unet, weights)
    train(fresh, picture, settings=settings(steps=1))


def test_a_loss_that_is_not_a_number_stops_the_training(fresh: Backbone, picture: Path) -> None:
    with pytest.raises(ItemError, match=r"the loss is (nan|inf) at step \d") as caught:
        train(fresh, picture, settings=settings(lr=1e30))
    assert "lora.lr" in caught.value.fix


# Pictures and captions


def test_a_caption_beside_a_picture_wins(picture: Path, tmp_path: Path) -> None:
    plain = draw(tmp_path / "plain.png", seed=8)
    picture.with_suffix(".txt").write_text("\ufeff a red cat in sss style \n", encoding="utf-8")
    found = style_pictures([picture, plain], PROMPT)
    assert [p.caption for p in found] == ["a red cat in sss style", PROMPT]
    assert found[0].sha256 == store.file_sha256(picture)


def test_a_caption_that_is_no_text_is_refused(picture: Path) -> None:
    picture.with_suffix(".txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match=r"painting\.txt cannot be read: not UTF-8"):
        style_pictures([picture], PROMPT)


def test_the_caption_decides_what_is_learned(fresh: Backbone, picture: Path) -> None:
    common = train(fresh, picture, settings=settings(steps=2))
    picture.with_suffix(".txt").write_text("a blue dog")
    own = train(fresh, picture, settings=settings(steps=2))
    assert largest_difference(common, own) > 1e-4
    assert own.header["modelspec.trigger_phrase"] == "a blue dog"
    dropped = train(fresh, picture, settings=settings(steps=2, caption_dropout=1.0))
    picture.with_suffix(".txt").write_text("")
    assert largest_difference(train(fresh, picture, settings=settings(steps=2)), dropped) == 0


def test_several_pictures_of_any_size_are_all_learned_from(fresh: Backbone, tmp_path: Path) -> None:
    """In a batch of three every one counts: changing any of them changes the result."""
    sizes = [(40, 32), (90, 40), (40, 70)]

    def train_with(changed: int | None) -> Fitted:
        paths = [
            draw(tmp_path / f"{i}.png", seed=99 if i == changed else i, size=size)
            for i, size in enumerate(sizes)
        ]
        return train(fresh, *paths, settings=settings(steps=1, batch=3))

    original = train_with(None)
    for i in range(3):
        assert largest_difference(train_with(i), original) > 1e-4, sizes[i]


# What it learns


def styled(backbone: Backbone, fitted: Fitted | None) -> Tensor:
    """One content in the learned look."""
    adapters = Adapters(backbone.unet)
    weights: dict[str, float] = {}
    if fitted:
        adapters.add("look", LoraFile(fitted.tensors, {}, {}, {}))
        weights = {"look": 1.0}
    schedule = backbone.schedule
    path = invert(noise(1, 4, 8, 8), null_prediction(backbone, 1), schedule, schedule.levels(5))
    latents = transfer(
        backbone,
        adapters,
        path,
        Look(weights=weights, prompt=PROMPT),
        Injection(feature_steps=3, attn_steps=2),
    )
    if fitted:
        adapters.remove("look")
    return latents


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_it_learns_and_the_look_is_more_than_the_seed(picture: Path, prediction: str) -> None:
    """Point 21: beyond three standard errors; two seeds end nearer each other than to the base."""
    backbone = tiny.backbone(folder(prediction))
    looks = []
    for seed in (0, 1):
        fitted = train(backbone, picture, seed=seed, settings=settings(steps=60, save_every=60))
        assert fitted.loss_before - fitted.loss_after > 3 * fitted.standard_error
        looks.append(styled(backbone, fitted))
    base = styled(backbone, None)
    between_seeds = relative(looks[0], looks[1])
    assert all(relative(look, base) > between_seeds for look in looks)


# The command


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(
        f"backbone: {{id: {folder()}}}\nlora: {{rank: 4, steps: 2, resolution: 32, alpha: 2}}\n"
    )
    return file


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as stream:
        return dict(stream.metadata())


@pytest.mark.parametrize("layout", ["diffusers", "peft"])
def test_the_same_command_twice_gives_the_same_bytes(
    style: Style, recipe: Path, picture: Path, tmp_path: Path, layout: str
) -> None:
    written = []
    for name in ("one", "two"):
        out = tmp_path / name / ("style" if layout == "peft" else "style.safetensors")
        out.parent.mkdir()
        done = style("train-lora", picture, "-o", out, "-r", recipe, "--format", layout)
        assert done.status == 0, done.err
        files = [out] if out.is_file() else sorted(p for p in out.rglob("*") if p.is_file())
        written.append({file.name: file.read_bytes() for file in files})
    assert written[0] == written[1]
    assert written[0]


def test_a_lora_says_what_it_was_made_from_and_names_no_path(
    style: Style, recipe: Path, picture: Path, tmp_path: Path
) -> None:
    other = draw(tmp_path / "other.png", seed=8)
    other.with_suffix(".txt").write_text("the blue dog")
    out = tmp_path / "style.safetensors"
    done = style("train-lora", picture, other, "-o", out, "-r", recipe, "--seed", 5, "--json")
    assert done.status == 0, done.err
    found = header(out)
    assert found["format"] == "pt"
    assert found["ss_network_dim"] == "4"
    assert found["ss_network_alpha"] == "2.0"
    assert found["ss_steps"] == "2"
    assert found["ss_seed"] == "5"
    assert found["modelspec.sai_model_spec"] == "1.0.0"
    assert found["modelspec.trigger_phrase"] == Lora().prompt
    made_by = json.loads(found["style"])
    text = json.dumps(made_by)
    assert store.file_sha256(picture) in text
    assert store.file_sha256(other) in text
    assert made_by["training"] == done.rows[0]["details"]
    assert {"loss_before", "loss_after", "standard_error"} <= made_by["training"].keys()
    assert str(tmp_path) not in json.dumps(found)
    assert str(folder()) not in json.dumps(found)
