"""Whole trainings: ended anywhere, in turns or alone, they come to the same numbers and logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from stylecli.engine.route.data.items import Dataset
from stylecli.engine.route.training import course as courses
from stylecli.engine.route.training.course import Course, curves_of, draw_curves
from stylecli.engine.route.training.examination import Examination
from stylecli.engine.route.training.maker import EXPERT
from stylecli.engine.route.training.pictures import Pictures
from stylecli.engine.training.log import Log
from stylecli.engine.training.state import Place
from stylecli.errors import UsageError
from stylecli.recipe.route import Apply, Lora, Route, Train, Validation
from tests.engine.i2l.test_training_course import Heard
from tests.engine.route.training import toy
from tests.engine.route.training.test_steps import trainer

pytestmark = pytest.mark.slow

SETTINGS = Route(
    train=Train(
        lr=1e-2, warmup=2, micro_batch=2, accumulation=1, steps=9, save_every=2, p_drop_text=0.2
    ),
    lora=Lora(rank=2),
    validation=Validation(every=3, pairs=1, levels=1, images_every=100, images=1),
    apply=Apply(steps=1),
)
Begin = Callable[..., Course]


@pytest.fixture(autouse=True)
def _rows_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courses, "ROW_STEPS", 4)


@pytest.fixture
def begun(route_world: Path, pairs: Dataset) -> Begin:
    def begin(
        folder: Path,
        style_id: str = "line_art",
        *,
        key: str = "a",
        beside: Course | None = None,
        settings: Route = SETTINGS,
    ) -> Course:
        if beside is None:
            one = trainer(toy.editor(route_world), pairs, settings, style_id=style_id)
        else:
            experts, editor = beside.trainer.experts, beside.trainer.material.editor
            one = trainer(editor, pairs, settings, style_id=style_id, experts=experts)
        held_out = [sample for sample in pairs.split("val") if sample.style_id == style_id]
        asked = (style_id, one.experts, one.material, held_out, 0)
        return Course(
            trainer=one,
            place=Place(folder / f"{style_id}.training", key, "data", 2, EXPERT),
            write=lambda file: file.parent.mkdir(parents=True) or file.write_bytes(b"usable"),  # type: ignore[func-returns-value]
            examination=Examination(*asked),
            pictures=Pictures(*asked),
            log=folder / f"{style_id}.log.jsonl",
            reporter=Heard(),  # type: ignore[arg-type]
        )

    return begin


def start(course: Course) -> None:
    course.resume()
    course.begin(skipped=3)


def run(course: Course, until: int | None = None) -> object:
    """To the end, or killed before the step of this number."""
    start(course)
    while not course.is_done:
        if course.trainer.done == until:
            return None
        course.advance()
    return course.finish()


def interrupted(course: Course, step: int) -> None:
    """Ends within a step, as by a signal."""
    _stopped_in(course.trainer, "gradients", course, step)


def examined(course: Course, step: int) -> None:
    """Ends while it is examined after a step."""
    _stopped_in(course._examination, "sit", course, step - 1)
    assert course._place.newest() == step


def drawn(course: Course, step: int) -> None:
    """Ends when the examination after a step is in the log already."""
    _stopped_in(course._pictures, "draw", course, step - 1)
    assert course._place.newest() == step


def _stopped_in(whom: object, what: str, course: Course, step: int) -> None:
    start(course)
    while course.trainer.done < step:
        course.advance()
    setattr(whom, what, _stop)
    with pytest.raises(KeyboardInterrupt), course.kept():
        course.advance()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def killed(course: Course, step: int) -> None:
    """Ends between two steps, and nobody has time to save."""
    run(course, until=step)


def numbers(course: Course) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in course.trainer.parameters().items()}


@pytest.mark.parametrize(
    ("end", "stops"),
    [(interrupted, (1, 5)), (killed, (1, 7)), (examined, (3, 9)), (drawn, (9,))],
)
def test_ended_anywhere_it_goes_on_to_the_same_numbers_and_the_same_log(
    begun: Begin, tmp_path: Path, end: Callable[[Course, int], None], stops: tuple[int, ...]
) -> None:
    whole = begun(tmp_path / "whole")
    figures = run(whole)
    for stop in stops:
        end(begun(tmp_path / "parts"), stop)
    with (tmp_path / "parts" / "line_art.log.jsonl").open("a") as stream:
        stream.write('{"step": 8, "lo')  # torn by the kill
    last = begun(tmp_path / "parts")
    assert run(last) == figures
    expected = numbers(whole)
    assert all(torch.equal(value, expected[name]) for name, value in numbers(last).items())
    texts = [(tmp_path / name / "line_art.log.jsonl").read_text() for name in ("whole", "parts")]
    assert texts[0] == texts[1]
    rows = [json.loads(line) for line in texts[0].splitlines()]
    assert [row["step"] for row in rows] == [0, 3, 4, 6, 8, 9, 9]
    assert rows[0]["skipped"] == 3
    assert rows[0]["expert"] == rows[0]["base"]
    assert {"loss", "pixels", "focus", "cover", "inside", "lr"} <= rows[2].keys()


def test_in_turns_each_becomes_what_it_would_be_alone(begun: Begin, tmp_path: Path) -> None:
    alone = {}
    for style_id in ("line_art", "pixel_art"):
        course = begun(tmp_path / "alone", style_id)
        run(course)
        alone[style_id] = numbers(course)
    first = begun(tmp_path / "both", "line_art")
    both = [first, begun(tmp_path / "both", "pixel_art", beside=first)]
    for course in both:
        start(course)
    while left := [course for course in both if not course.is_done]:
        min(left, key=lambda course: course.trainer.done).advance()
    for course, expected in zip(both, alone.values(), strict=True):
        assert all(torch.equal(v, expected[k]) for k, v in numbers(course).items())


def test_curves_and_attention_are_drawn(begun: Begin, tmp_path: Path) -> None:
    course = begun(tmp_path)
    run(course)
    log = tmp_path / "line_art.log.jsonl"
    with Image.open(curves_of(log)) as picture:
        picture.load()
        assert picture.width > 600
    with Image.open(tmp_path / "line_art.training" / "attention-00000009.png") as picture:
        assert picture.width > 6 * toy.PX
    before = curves_of(log).read_bytes()
    draw_curves(log)
    assert curves_of(log).read_bytes() == before


def test_a_checkpoint_of_something_else_is_refused_by_name(begun: Begin, tmp_path: Path) -> None:
    killed(begun(tmp_path), 5)
    other = begun(tmp_path, key="b")
    with pytest.raises(UsageError, match="other settings"):
        other.resume()
    assert other.trainer.done == 0
    other.resume(force=True)
    assert other.trainer.done == 4


def test_a_checkpoint_of_more_steps_than_are_asked_for_is_refused(
    begun: Begin, tmp_path: Path
) -> None:
    killed(begun(tmp_path), 5)
    fewer = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"steps": 3})})
    with pytest.raises(UsageError, match="has learned 4 steps") as caught:
        begun(tmp_path, settings=fewer).resume()
    assert "--steps 4 takes it as it is" in caught.value.fix


def test_what_is_no_number_is_null_in_the_log_and_in_no_curve(tmp_path: Path) -> None:
    file = tmp_path / "line_art.log.jsonl"
    log = Log(file, None)
    log.add({"step": 0, "pixels": float("nan"), "expert": {"pixels": float("inf")}})
    log.add({"step": 1, "pixels": 0.5, "expert": {"pixels": 0.5}, "base": {"pixels": 0.5}})
    assert json.loads(file.read_text().splitlines()[0])["pixels"] is None
    draw_curves(file)
    assert curves_of(file).is_file()
