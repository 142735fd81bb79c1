"""A whole training: checkpoints, its log, its alarms, and what is measured of LoRAs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stylecli.backbone import row_loras
from stylecli.engine.i2l.data.items import Dataset
from stylecli.engine.i2l.training import course as courses
from stylecli.engine.i2l.training import measures
from stylecli.engine.i2l.training.course import Course
from stylecli.engine.i2l.training.maker import PREDICTOR
from stylecli.engine.i2l.training.steps import Trainer
from stylecli.engine.i2l.training.validation import Examination
from stylecli.engine.training.log import Log
from stylecli.engine.training.state import STATE, Place
from stylecli.errors import UsageError, WeightsError
from stylecli.recipe.i2l import Train, Validation
from tests.engine.i2l import toy

pytestmark = pytest.mark.slow

SETTINGS = Train(lr=1e-2, warmup=2, steps=9, global_batch=2, ema=0.9, save_every=2, keep=2)


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.warned: list[str] = []
        self.steps = 0
        self.killed_at: int | None = None

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        self.warned.append(text)

    def advance(self, n: int = 1) -> None:
        self.steps += n
        if self.steps == self.killed_at:
            raise SystemError("killed")

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Heard]:
        yield self


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return toy.dataset(tmp_path_factory.mktemp("toy"), styles=12, contents=8)


@pytest.fixture(autouse=True)
def _rows_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courses, "ROW_STEPS", 4)


def begun(world: Dataset, folder: Path, settings: Train = SETTINGS, key: str = "a") -> Course:
    material = toy.material(world, settings)
    validation = Validation(every=3, tuples=4, sigmas=2, images_every=100)
    return Course(
        trainer=Trainer(toy.predictor(), material, settings),
        place=Place(folder / "p.training", key, "data", settings.keep, PREDICTOR),
        write=lambda file: file.parent.mkdir(parents=True) or file.write_bytes(b"usable"),
        examination=Examination(material, toy.held_out(world), validation, seed=0),
        settings=validation,
        log=folder / "p.log.jsonl",
        reporter=Heard(),
        skipped={"alone in its style": 3},
        seed=0,
    )


def state(course: Course) -> dict[str, Tensor]:
    own = {k: v.detach().clone() for k, v in course.trainer.predictor.named_parameters()}
    return own | {f"averages {k}": v for k, v in (course.trainer.averages or {}).items()}


def killed(course: Course, step: int) -> None:
    """Ends between two steps, and nobody has time to save."""
    course.reporter.killed_at = step  # type: ignore[attr-defined]
    with pytest.raises(SystemError):
        course.run()


def interrupted(course: Course, step: int) -> None:
    """Ends within a step, as by a signal."""
    real = course.trainer.step

    def until() -> object:
        if course.trainer.done == step:
            raise KeyboardInterrupt
        return real()

    course.trainer.step = until  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        course.run()


@pytest.mark.parametrize(
    ("end", "stops"), [(interrupted, (1,)), (interrupted, (3, 5, 8)), (killed, (1, 7))]
)
def test_ended_anywhere_it_goes_on_to_the_same_numbers_and_the_same_log(
    world: Dataset, tmp_path: Path, stops: tuple[int, ...], end: Callable[[Course, int], None]
):
    whole = begun(world, tmp_path / "whole")
    figures = whole.run()
    for stop in stops:
        end(begun(world, tmp_path / "parts"), stop)
    with (tmp_path / "parts" / "p.log.jsonl").open("a") as stream:
        stream.write('{"step": 8, "lo')  # torn by the kill
    last = begun(world, tmp_path / "parts")
    assert last.run() == figures
    expected = state(whole)
    assert state(last).keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in state(last).items())
    texts = [(tmp_path / name / "p.log.jsonl").read_text() for name in ("whole", "parts")]
    assert texts[0] == texts[1]
    rows = [json.loads(line) for line in texts[0].splitlines()]
    assert [row["step"] for row in rows] == [0, 3, 4, 6, 8, 9, 9]
    assert rows[0]["skipped"] == {"alone in its style": 3}


def test_only_the_last_checkpoints_stay_and_a_half_written_one_is_none(
    world: Dataset, tmp_path: Path
):
    killed(begun(world, tmp_path), 7)
    folder = tmp_path / "p.training"
    assert sorted(entry.name for entry in folder.iterdir()) == ["step-00000004", "step-00000006"]
    (folder / "step-00000008").mkdir()
    (folder / "step-00000008" / "predictor.safetensors").write_bytes(b"half")
    place = Place(folder, "a", "data", 2, PREDICTOR)
    assert place.newest() == 6
    (folder / "mine.txt").write_text("kept")
    place.clear()
    assert [entry.name for entry in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    place.clear()
    assert not folder.exists()
    place.clear()


def test_interrupted_it_keeps_all_that_whole_steps_have_learned(
    world: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    interrupted(begun(world, tmp_path), 5)
    assert begun(world, tmp_path).place.newest() == 5
    torn = begun(world, tmp_path / "torn")

    def stop() -> None:
        if torn.trainer.done == 3:
            raise KeyboardInterrupt
        real()

    real = torn.trainer.optimiser.step
    monkeypatch.setattr(torn.trainer.optimiser, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        torn.run()
    assert torn.place.newest() == 2, "nobody knows how many parameters the optimiser had changed"


def test_out_of_memory_on_the_first_step_nothing_is_looked_at_again(
    world: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = begun(world, tmp_path / "whole")
    figures = whole.run()
    for _ in range(2):
        short = begun(world, tmp_path / "parts")
        monkeypatch.setattr(short.trainer, "gradients", _out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            short.run()
    assert short.place.newest() == 0
    last = begun(world, tmp_path / "parts")
    assert last.examination is not None
    asked: list[int] = []
    real = last.examination.sit
    monkeypatch.setattr(
        last.examination, "sit", lambda given: asked.append(last.trainer.done) or real(given)
    )
    assert last.run() == figures
    assert asked == [3, 6, 9]
    expected = state(whole)
    assert all(torch.equal(value, expected[name]) for name, value in state(last).items())
    texts = [(tmp_path / name / "p.log.jsonl").read_text() for name in ("whole", "parts")]
    assert texts[0] == texts[1]


def _out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_checkpoint_of_something_else_is_refused_by_name(world: Dataset, tmp_path: Path):
    interrupted(begun(world, tmp_path), 5)
    other = begun(world, tmp_path, key="b")
    with pytest.raises(UsageError, match="other settings"):
        other.run()
    data = replace(other, place=replace(other.place, settings="a", data="others"))
    with pytest.raises(UsageError, match="other data"):
        data.run()
    assert other.trainer.done == 0
    other.run(force=True)
    assert other.trainer.done == SETTINGS.steps


def test_a_damaged_checkpoint_is_refused(world: Dataset, tmp_path: Path):
    interrupted(begun(world, tmp_path), 5)
    file = tmp_path / "p.training" / "step-00000005" / STATE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a checkpoint"):
        begun(world, tmp_path).run()


def test_alarms_sound_when_references_count_for_nothing_and_when_ranks_collapse(
    world: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(courses, "PATIENCE_STEPS", 6)
    slow = begun(world, tmp_path / "slow", SETTINGS.model_copy(update={"lr": 1e-12}))
    slow.run()
    heard = slow.reporter.warned  # type: ignore[attr-defined]
    assert [text.startswith("after 6 steps") for text in heard[:1]] == [True]
    rows = [json.loads(line) for line in slow.log.read_text().splitlines()]
    assert [row["step"] for row in rows if "alarms" in row] == [6, 9]
    equal = begun(world, tmp_path / "equal")
    queries = equal.trainer.predictor.queries
    queries.data.copy_(queries.data[:, :, :1].expand_as(queries))
    equal.run()
    said = equal.reporter.warned  # type: ignore[attr-defined]
    assert "raise i2l.predictor.query_std" in said[0]
    assert any("of 4 directions" in text for text in said[1:])
    fine = begun(world, tmp_path / "fine")
    monkeypatch.setattr(courses, "PATIENCE_STEPS", 10_000)
    fine.run()
    assert not fine.reporter.warned  # type: ignore[attr-defined]


def test_a_log_that_begins_again_forgets_the_old_one(tmp_path: Path):
    file = tmp_path / "log.jsonl"
    first = Log(file, None)
    for step in (0, 5, 10):
        first.add({"step": step})
    Log(file, 5).add({"step": 6})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [0, 5, 6]
    Log(file, 0)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [0]
    Log(file, None)
    assert not file.read_text()


def test_sizes_and_cosines_are_those_of_the_whole_changes():
    predictor = toy.predictor()
    denoiser = toy.Toy()
    for up in predictor.heads.up.values():
        up.data.normal_(generator=torch.Generator().manual_seed(3))
    tokens = torch.randn(3, 2, 1, toy.WIDTH, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        packed = predictor(tokens)
    found = measures.measure(predictor, packed, denoiser)
    pairs = row_loras.views(predictor.row_shapes, packed)
    changes = {path: up @ down for path, (down, up) in pairs.items()}
    for path, change in changes.items():
        weight = getattr(denoiser.model, path).weight
        expected = (change.square().sum(dim=(1, 2)).mean() / weight.square().sum()).sqrt()
        assert found.sizes[path] == pytest.approx(expected.item(), rel=1e-4)
    whole = torch.cat([change.flatten(1) for change in changes.values()], dim=1)
    cosines = torch.nn.functional.cosine_similarity(whole[:, None], whole[None], dim=2)
    assert found.alike == pytest.approx((cosines.sum().item() - 3) / 6, rel=1e-3)
    assert 3 < found.rank < 4


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0", "attn2.to_out.0"),
        ("mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj", "ff.net.0.proj"),
        ("layers.3.attention.to_q", "attention.to_q"),
        ("noise_refiner.0.feed_forward.w1", "feed_forward.w1"),
        ("single_transformer_blocks.7.attn.to_qkv_mlp_proj", "attn.to_qkv_mlp_proj"),
        ("model.language_model.layers.3.mlp.gate_proj", "mlp.gate_proj"),
        ("up_blocks.1.attentions.0.proj_in", "proj_in"),
    ],
)
def test_layers_of_all_blocks_are_of_a_few_kinds(path: str, kind: str):
    assert measures.kind_of(path) == kind
