"""A predictor's steps: what moves, what stays, what is refused, and that it learns."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from stylecli.backbone import row_loras
from stylecli.engine.i2l.data.items import Dataset
from stylecli.engine.i2l.data.tuples import Tuples
from stylecli.engine.i2l.training.course import summary
from stylecli.engine.i2l.training.steps import (
    Trainer,
    groups,
    in_model,
    losses,
    predicted,
)
from stylecli.engine.i2l.training.validation import DIFFERENCES, Examination, can_compare
from stylecli.engine.training.optimising import learning_rate
from stylecli.errors import ItemError, UsageError
from stylecli.recipe.i2l import Data, References, Train, Validation
from tests.engine.i2l import toy

pytestmark = pytest.mark.slow

FEW = Train(lr=1e-2, warmup=0, steps=8, global_batch=4, targets_per_style=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return toy.dataset(tmp_path_factory.mktemp("toy"))


def numbers(trainer: Trainer) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in trainer.predictor.named_parameters()}


def test_a_step_is_the_gradient_of_the_mean_loss_clipped_and_given_to_adamw(world: Dataset):
    """By hand, one row at a time, with every LoRA added to the weights."""
    settings = FEW.model_copy(update={"clip": 0.05})
    material = toy.material(world, settings)
    trainer = Trainer(toy.predictor(), material, settings)
    ours = copy.deepcopy(trainer.predictor)
    for step in range(2):
        total = torch.zeros(())
        for lesson in material.draws.at(step):
            batch = material.batch([lesson])
            packed = ours(batch.tokens)
            pairs = row_loras.views(ours.row_shapes, packed)
            for row in range(len(batch.clean)):
                hidden = batch.prompts[row]
                for path in ("draw", "turn"):
                    down, up = pairs[path]
                    weight = getattr(material.denoiser.model, path).weight
                    hidden = (weight + up[0] @ down[0]) @ hidden
                total = total + (hidden - batch.clean[row]).square().mean() / 8
        total.backward()
        grads = [p.grad for p in ours.parameters() if p.grad is not None]
        norm = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
        assert norm > 0.06, "or nothing would be cut"
        for grad in grads:
            grad.mul_(0.05 / norm)
        if step == 0:
            optimiser = torch.optim.AdamW(groups(ours, FEW.weight_decay), lr=FEW.lr)
        optimiser.step()
        optimiser.zero_grad()
        figures = trainer.step()
        assert figures.loss == pytest.approx(total.item(), rel=1e-5)
        assert figures.norm == pytest.approx(norm.item(), rel=1e-4)
    for name, value in trainer.predictor.named_parameters():
        assert torch.allclose(value, dict(ours.named_parameters())[name], atol=2e-5), name


def test_styles_that_pass_one_at_a_time_learn_what_they_do_together(world: Dataset):
    whole = Trainer(toy.predictor(), toy.material(world, FEW), FEW)
    parts = Trainer(toy.predictor(), toy.material(world, FEW), FEW, at_once=1)
    for _ in range(3):
        assert whole.step().loss == pytest.approx(parts.step().loss, rel=1e-5)
    apart = numbers(parts)
    assert all(torch.allclose(v, apart[k], atol=1e-4) for k, v in numbers(whole).items())


def test_only_the_predictor_learns(world: Dataset):
    material = toy.material(world, FEW)
    before = copy.deepcopy(material.denoiser.model.state_dict())
    trainer = Trainer(toy.predictor(), material, FEW)
    start = numbers(trainer)
    for _ in range(3):
        trainer.step()
    now = material.denoiser.model.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in before.items())
    assert all(p.grad is None for p in material.denoiser.model.parameters())
    assert not any(module._forward_hooks for module in material.denoiser.model.modules())
    assert all(not torch.equal(value, start[name]) for name, value in numbers(trainer).items())


def test_half_precision_and_dead_predictors_are_refused(world: Dataset):
    material = toy.material(world, FEW)
    with pytest.raises(UsageError, match="is bfloat16"):
        Trainer(toy.predictor().to(torch.bfloat16), material, FEW)
    dead = toy.predictor()
    for up in dead.heads.up.values():
        up.data.zero_()
    with pytest.raises(UsageError, match="never learn"):
        Trainer(dead, material, FEW)


def test_a_loss_that_is_no_number_ends_the_training_and_changes_nothing(world: Dataset):
    material = toy.material(world, FEW)
    trainer = Trainer(toy.predictor(), material, FEW)
    material.denoiser.model.turn.weight.data[0, 0] = torch.nan
    before = numbers(trainer)
    with pytest.raises(ItemError, match="at step 0"):
        trainer.step()
    assert all(torch.equal(v, before[k]) for k, v in numbers(trainer).items())
    assert not trainer.done


def test_averages_follow_and_are_only_lent(world: Dataset):
    settings = FEW.model_copy(update={"ema": 0.5})
    trainer = Trainer(toy.predictor(), toy.material(world, settings), settings)
    expected = numbers(trainer)
    for step in range(1, 4):
        trainer.step()
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in numbers(trainer).items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    own = numbers(trainer)
    with trainer.averaged():
        lent = numbers(trainer)
    assert all(torch.allclose(lent[k], expected[k], atol=1e-6) for k in lent)
    assert all(torch.equal(numbers(trainer)[k], own[k]) for k in own)


def test_the_rate_rises_stays_or_falls_to_its_end():
    rising = Train(lr=0.1, warmup=4, steps=104)
    assert [learning_rate(rising, step) for step in (0, 1, 3, 4, 99)] == pytest.approx(
        [0.025, 0.05, 0.1, 0.1, 0.1]
    )
    falling = rising.model_copy(update={"schedule": "cosine", "lr_end": 0.02})
    found = [learning_rate(falling, step) for step in range(4, 105)]
    assert found == sorted(found, reverse=True)
    assert found[50] == pytest.approx(0.06)
    assert found[-1] == pytest.approx(0.02)


def test_grey_and_dropped_words_take_their_share_and_move_no_other_draw(world: Dataset):
    some = FEW.model_copy(update={"p_grey": 0.3, "p_drop_text": 0.4})
    plain, mixed = toy.material(world, FEW).draws, toy.material(world, some).draws
    lessons = [
        (a, b) for step in range(60) for a, b in zip(plain.at(step), mixed.at(step), strict=True)
    ]
    greys = [b for _, b in lessons if b.is_grey]
    words = [caption for _, b in lessons for caption in b.captions]
    assert 0.2 < len(greys) / len(lessons) < 0.4
    assert 0.3 < words.count("") / len(words) < 0.5
    assert all(a.targets == b.targets for a, b in lessons if not b.is_grey)
    assert all(a.references == b.references for a, b in lessons)
    assert any(one.targets[0].style_id != one.references[0].style_id for one in greys)


def test_it_learns_what_references_show_and_not_one_thing_for_all(world: Dataset):
    """Two hundred steps, judged on styles and contents that no step saw."""
    settings = Train(lr=5e-3, warmup=10, steps=200, global_batch=8, targets_per_style=2)
    material = toy.material(world, settings)
    examination = Examination(
        material, toy.held_out(world), Validation(tuples=24, sigmas=2), seed=0
    )
    trainer = Trainer(toy.predictor(), material, settings)
    first = examination.sit(trainer.predictor)
    assert first.losses.std(dim=0).max() == 0, "a fresh predictor changes nothing"
    for _ in range(settings.steps):
        trainer.step()
    answer = examination.sit(trainer.predictor)
    base, match, other, grey = answer.losses.mean(dim=(1, 2)).tolist()
    assert match < 0.85 * base
    assert match < 0.85 * other
    assert match < grey
    for name in DIFFERENCES:
        mean, error = answer.difference(name)
        assert mean > 4 * error
    assert answer.measured.alike is not None
    assert answer.measured.alike < 0.99
    assert summary(answer).keys() == {"d_base", "d_mis", "d_grey"}


def test_an_examination_says_what_single_rows_say(world: Dataset):
    material = toy.material(world, FEW)
    settings = Validation(tuples=10, sigmas=3)
    examination = Examination(material, toy.held_out(world), settings, seed=0)
    trainer = Trainer(toy.predictor(), material, FEW)
    for _ in range(8):
        trainer.step()
    answer = examination.sit(trainer.predictor)
    assert torch.equal(answer.losses, examination.sit(trainer.predictor).losses)
    question, place = examination.questions[3], 3
    encoded, denoiser = material.encoded, material.denoiser
    others = [
        one for one in examination.questions[4:] if one.target.style_id != question.target.style_id
    ]
    for way, look, of in (
        (1, encoded.tokens, question),
        (2, encoded.tokens, others[0]),
        (3, encoded.grey, question),
    ):
        tokens = torch.stack([look(item) for item in of.references])[None]
        with torch.no_grad():
            packed = predicted(trainer.predictor, tokens, denoiser)
            batch = examination._rows(0, examination.questions[:8], answer.levels[1], 1)
            with in_model(trainer.predictor, packed, [0] * 8, denoiser):
                row = losses(denoiser, batch)[place]
        assert float(answer.losses[way, place, 1]) == pytest.approx(float(row), rel=1e-5)
    assert answer.levels == sorted(answer.levels)


def test_an_examination_takes_no_more_rows_at_once_than_it_is_given(
    world: Dataset, monkeypatch: pytest.MonkeyPatch
):
    material = toy.material(world, FEW)
    trainer = Trainer(toy.predictor(), material, FEW)
    for _ in range(4):
        trainer.step()
    seen: list[int] = []
    real = material.denoiser.predict

    def predict(noised: Tensor, times: Tensor, prompts: list[Tensor]) -> Tensor:
        seen.append(len(noised))
        return real(noised, times, prompts)

    monkeypatch.setattr(material.denoiser, "predict", predict)
    settings, answers = Validation(tuples=10, sigmas=2), []
    for rows, largest in ((100, 8), (3, 3), (1, 1)):
        seen.clear()
        examination = Examination(material, toy.held_out(world), settings, seed=0, rows=rows)
        answers.append(examination.sit(trainer.predictor))
        assert max(seen) == largest
    for answer in answers[1:]:
        assert torch.allclose(answer.losses, answers[0].losses, rtol=1e-5)
        assert answer.measured.alike == pytest.approx(answers[0].measured.alike, rel=1e-4)


def test_styles_are_compared_where_the_questions_are_of_several(world: Dataset):
    tuples = toy.held_out(world)
    assert can_compare(tuples, 2)
    assert not can_compare(tuples, 1)
    one = [item for item in world.items if item.style_id == "s5"]
    alone = Tuples(Dataset(one, "one", {}), Data(n_refs=References(max=4)), 0)
    assert not can_compare(alone, 256)
    with pytest.raises(ValidationError):
        Validation(tuples=1)


@pytest.mark.parametrize("settings", [FEW, FEW.model_copy(update={"ema": 0.9})])
def test_what_is_cached_is_what_is_computed(world: Dataset, settings: Train):
    def learned(material) -> tuple[list[float], int]:
        trainer = Trainer(toy.predictor(), material, settings)
        return [trainer.step().loss for _ in range(4)], material.denoiser.calls

    without, asked = learned(toy.material(world, settings))
    first, _ = learned(toy.material(world, settings, cache=True))
    second, again = learned(toy.material(world, settings, cache=True))
    assert without == first == second
    assert asked > 0
    assert again == 0


def test_of_a_full_shelf_the_oldest_leaves_memory(tmp_path: Path):
    from stylecli.engine.training.shelf import Shelf

    shelf = Shelf("i2l-tokens", "a", is_kept=False, warn=print, memory_bytes=80)
    made: list[str] = []

    def make(name: str) -> Tensor:
        made.append(name)
        return torch.ones(10)

    for name in "abacab":
        shelf.get(name, lambda name=name: make(name))
    assert made == ["a", "b", "c", "b"]
