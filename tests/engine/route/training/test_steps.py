"""An expert's steps: what moves, what they add up to, and that attention goes where it is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from stylecli.backbone.editors.unet_edit import UnetEdit
from stylecli.backbone.experts import Experts
from stylecli.engine.route.data.items import Dataset, Sample
from stylecli.engine.route.training import draws as drawing
from stylecli.engine.route.training.draws import Draws, batch
from stylecli.engine.route.training.examination import Examination
from stylecli.engine.route.training.steps import Trainer, answered, looking
from stylecli.errors import ItemError
from stylecli.methods.regionroute import losses
from stylecli.recipe.route import Lora, Loss, Route, Train, Validation
from tests.engine.route.training import toy
from tests.engine.route.training.test_draws import lesson, of_style

FEW = Route(
    train=Train(lr=1e-2, micro_batch=2, accumulation=2, steps=8),
    lora=Lora(rank=2),
    validation=Validation(pairs=2, levels=2),
)


def with_loss(**settings: Any) -> Route:
    return FEW.model_copy(update={"loss": Loss(**settings)})


def trainer(
    made: UnetEdit,
    pairs: Dataset,
    settings: Route = FEW,
    *,
    style_id: str = "line_art",
    experts: Experts | None = None,
    at_once: int | None = None,
) -> Trainer:
    experts = experts or Experts(made.model)
    experts.new(style_id, made.layers("attn"), rank=2, generator=Generator().manual_seed(0))
    material = toy.material(made, settings)
    lessons = Draws(of_style(pairs, style_id), material.encoded, settings.train, 0)
    return Trainer(style_id, experts, material, lessons, at_once=at_once)


def numbers(one: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in one.parameters().items()}


def gradients(one: Trainer) -> dict[str, Tensor]:
    one.gradients()
    found = {name: value.grad for name, value in one.parameters().items()}
    return {name: value.clone() for name, value in found.items() if value is not None}


@pytest.mark.slow
def test_steps_of_one_expert_move_nothing_of_another_and_not_the_model(
    made: UnetEdit, pairs: Dataset
) -> None:
    experts = Experts(made.model)
    first = trainer(made, pairs, experts=experts)
    second = trainer(made, pairs, style_id="pixel_art", experts=experts)
    base = {k: v.clone() for k, v in made.model.state_dict().items() if ".lora_" not in k}
    for _ in range(2):
        second.step()
    kept, begun = numbers(second), numbers(first)
    for _ in range(3):
        figures = first.step()
    assert all(torch.equal(value, kept[name]) for name, value in numbers(second).items())
    assert all(not torch.equal(value, begun[name]) for name, value in numbers(first).items())
    now = made.model.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in base.items())
    assert figures.norm > 0
    assert 0 < figures.inside < 1
    assert figures.loss == pytest.approx(
        figures.pixels + 0.1 * figures.focus + 0.2 * figures.cover, rel=1e-6
    )


@pytest.mark.mostly_slow
@pytest.mark.parametrize("settings", [FEW, with_loss(per_layer=True, background_weight=2.0)])
def test_however_many_pairs_pass_together_the_gradient_is_the_same(
    made: UnetEdit, pairs: Dataset, settings: Route
) -> None:
    experts = Experts(made.model)
    together = trainer(made, pairs, settings, experts=experts)
    # B is zero at first, and with it the gradient of A.
    together.step()
    expected, said = gradients(together), together.gradients()
    apart = Trainer("line_art", experts, together.material, together._lessons, at_once=1)
    apart.done = together.done
    found = gradients(apart)
    assert all(torch.allclose(v, expected[k], rtol=1e-3, atol=1e-7) for k, v in found.items())
    assert apart.gradients() == pytest.approx(said, rel=1e-5)


@pytest.mark.slow
def test_checkpointing_changes_no_gradient(made: UnetEdit, pairs: Dataset) -> None:
    one = trainer(made, pairs)
    one.step()
    plain = gradients(one)
    made.checkpointing(on=True)
    frugal = gradients(one)
    made.checkpointing(on=False)
    assert all(torch.allclose(v, plain[k], rtol=1e-5, atol=1e-9) for k, v in frugal.items())


def test_a_samples_attention_is_compared_with_its_own_mask_alone(
    made: UnetEdit, pairs: Dataset
) -> None:
    """In the authors' code every mask of a batch was compared with every map."""
    one = trainer(made, pairs)
    one.step()
    material, samples = one.material, of_style(pairs)[:2]
    some = batch(made, material.encoded, [lesson(sample) for sample in samples])
    with looking(made, material.settings.loss) as probe, one.experts.learning("line_art"):
        _, seen = answered(material, some, probe)
    assert seen is not None
    rows = [
        [loss(seen.maps[row : row + 1, :, 0], some.masks[row : row + 1, :, 0], material.forms)
         for row in (0, 1)]
        for loss in (losses.focus, losses.cover)
    ]  # fmt: skip
    for of_both, each in zip((seen.losses.focus, seen.losses.cover), rows, strict=True):
        assert of_both.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-4)
    # Another mask, and other words, of the second.
    moved = replace(some, masks=torch.cat([some.masks[:1], some.masks[1:].flip(1)]))
    other = drawing.batch(
        made, material.encoded, [lesson(samples[0]), lesson(of_style(pairs, "pixel_art")[3])]
    )
    for changed in (moved, other):
        with looking(made, material.settings.loss) as probe, one.experts.learning("line_art"):
            _, again = answered(material, changed, probe)
        assert again is not None
        assert torch.allclose(again.maps[0], seen.maps[0], rtol=1e-4, atol=1e-8)


def test_without_weights_attention_is_not_looked_at(made: UnetEdit, pairs: Dataset) -> None:
    one = trainer(made, pairs, with_loss(focus_weight=0.0, cover_weight=0.0))
    with looking(made, one.material.settings.loss) as probe:
        assert probe is None
    figures = one.step()
    assert (figures.focus, figures.cover, figures.inside) == (0, 0, 0)
    assert figures.loss == figures.pixels > 0


def test_without_words_only_pictures_are_learned(made: UnetEdit, pairs: Dataset) -> None:
    settings = FEW.model_copy(update={"train": FEW.train.model_copy(update={"p_drop_text": 1.0})})
    figures = trainer(made, pairs, settings).step()
    assert (figures.focus, figures.cover) == (0, 0)
    assert figures.pixels > 0


def test_places_outside_the_object_count_for_more_and_all_for_one_on_average(
    made: UnetEdit, pairs: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trainer(made, pairs, with_loss(background_weight=3.0))
    material = one.material
    some = batch(made, material.encoded, [lesson(of_style(pairs)[0])])
    plain = replace(material, settings=FEW)
    monkeypatch.setattr(made, "predict", lambda *_: made.target(
        some.clean, some.noise, some.times) + 1.0)  # fmt: skip
    even, weighed = (answered(x, some, None)[0] for x in (plain, material))
    assert torch.allclose(even, weighed, rtol=1e-5), "an error everywhere counts as before"
    inside = some.masks[..., 0].view(1, 1, *some.grid)
    inside = torch.nn.functional.interpolate(inside, some.clean.shape[2:]) > 0.999
    monkeypatch.setattr(made, "predict", lambda *_: made.target(
        some.clean, some.noise, some.times) + inside)  # fmt: skip
    even, weighed = (answered(x, some, None)[0] for x in (plain, material))
    assert float(weighed / even) < 0.6


def test_a_loss_that_is_no_number_ends_the_training_and_changes_nothing(
    made: UnetEdit, pairs: Dataset
) -> None:
    one = trainer(made, pairs)
    before = numbers(one)
    made.model.conv_out.bias.data.fill_(torch.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(ItemError, match="at step 0"):
        one.step()
    assert all(torch.equal(value, before[name]) for name, value in numbers(one).items())
    assert not one.done


@pytest.mark.slow
def test_an_examination_is_the_same_each_time_and_a_fresh_expert_is_the_model(
    made: UnetEdit, pairs: Dataset
) -> None:
    one = trainer(made, pairs)
    held_out = [sample for sample in pairs.split("val") if sample.style_id == "line_art"]
    examination = Examination("line_art", one.experts, one.material, held_out, 0)
    first = examination.sit()
    assert first.expert == first.base
    assert set(first.expert) == {"pixels", "focus", "cover", "inside", "lift", "iou", "hit"}
    for _ in range(2):
        one.step()
    second = examination.sit()
    assert second.base == first.base
    assert second.expert != first.expert
    assert examination.sit() == second
    again = Examination("line_art", one.experts, one.material, held_out, 0).sit()
    assert again == second


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "is_led"), [((0.1, 0.2), True), ((0.0, 0.0), False)])
def test_attention_goes_to_the_object_where_it_is_told_to(
    made: UnetEdit, pairs: Dataset, weights: tuple[float, float], is_led: bool
) -> None:
    """Thirty steps on four pairs; the tiny model's pictures need not be any good."""
    focus, cover = weights
    settings = FEW.model_copy(
        update={
            "loss": Loss(focus_weight=focus, cover_weight=cover),
            "train": FEW.train.model_copy(update={"micro_batch": 4, "accumulation": 1}),
        }
    )
    one = trainer(made, pairs, settings)
    samples: list[Sample] = of_style(pairs)

    def lift() -> float:
        asked = Examination("line_art", one.experts, one.material, samples, 0)
        return asked.sit().expert["lift"]

    before = lift()
    for _ in range(30):
        one.step()
    assert (lift() > 1.25 * before) == is_led


def test_draws_of_a_style_know_nothing_of_another(made: UnetEdit, pairs: Dataset) -> None:
    material = toy.material(made, FEW)
    with pytest.raises(ValueError, match="too many values"):
        Draws(pairs.split("train"), material.encoded, FEW.train, 0)
