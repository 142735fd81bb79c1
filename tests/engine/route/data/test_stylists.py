"""Who restyles: rules, and a model that is told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.backbone.editors.base import Text
from stylecli.engine.route.data.making import Subject, View, seed_of
from stylecli.engine.route.data.stylists import ByEditor, ByFilter, Restyler, agreement
from stylecli.errors import ItemError, MemoryExhaustedError
from stylecli.methods.regionroute.styles import PAPER
from stylecli.recipe.route import Apply
from stylecli.tensors.filters import FILTERS


class Negative:
    """An editor whose latents are pixels, and whose every edit is the negative, moved by a seed."""

    native_px, multiple_px = 32, 8
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, shifts: Sequence[int] = (0,)) -> None:
        self.asked: list[Any] = []
        self._shifts = list(shifts)

    def encode_image(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def encode_prompt(self, prompts: Sequence[str]) -> Text:
        self.asked.append(prompts)
        return Text(torch.zeros(1, 1, 1))

    def edit(self, reference: Tensor, text: Text, **said: Any) -> Tensor:
        self.asked.append((tuple(reference.shape), said))
        return (1 - reference).roll(self._shifts.pop(0) if self._shifts[1:] else 0, dims=-1)


def view(size: tuple[int, int] = (48, 40), seed: int = 0) -> View:
    chance = torch.Generator().manual_seed(seed)
    picture = torch.rand(3, *size, generator=chance)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[8:40, 8:32] = True
    return View(b"", ".png", picture, mask)


SUBJECT = Subject("142", "bread", "train")
MODEL = {"model": "f", "dtype": "torch.float32"}


def test_an_editor_is_told_to_restyle_all_of_the_picture() -> None:
    editor = Negative()
    apply = Apply(steps=9, guidance=3.5, image_guidance=1.5)
    hand = Restyler(ByEditor(lambda: editor, MODEL, apply))  # type: ignore[arg-type,return-value]
    seen = view((64, 96))
    styled = hand.styled(SUBJECT, seen, PAPER[0])
    prompts, (shape, said) = editor.asked
    assert prompts == ["make the image into pixel art style"]
    assert said == {
        "seeds": [seed_of("142", PAPER[0])], "steps": 9, "guidance": 3.5, "image_guidance": 1.5,
    }  # fmt: skip
    # The area of a square of its own side, in the picture's shape.
    assert shape == (1, 3, 24, 40)
    assert styled.picture.shape == seen.picture.shape
    assert styled.mask is seen.mask


def test_a_picture_of_the_models_size_comes_back_to_the_pixel() -> None:
    editor = Negative()
    seen = view((32, 32))
    styled = Restyler(ByEditor(lambda: editor, MODEL, Apply())).styled(SUBJECT, seen, PAPER[1])  # type: ignore[arg-type,return-value]
    torch.testing.assert_close(styled.picture, 1 - seen.picture, atol=0.5 / 255 + 1e-6, rtol=0)
    assert styled.quality["structure"] > 0.99


def test_an_editor_that_moved_the_object_is_asked_again_with_another_seed() -> None:
    editor = Negative(shifts=(9, 0))
    hand = Restyler(ByEditor(lambda: editor, MODEL, Apply(), tries=3))  # type: ignore[arg-type,return-value]
    styled = hand.styled(SUBJECT, view((32, 32)), PAPER[0])
    seeds = [one[1]["seeds"][0] for one in editor.asked if isinstance(one, tuple)]
    assert len(seeds) == 2
    assert seeds[0] == seed_of("142", PAPER[0])
    assert styled.seed == seeds[1] != seeds[0]
    assert styled.quality["structure"] > 0.99


def test_what_decides_an_edit_is_among_its_facts() -> None:
    def facts(model: Any = MODEL, **changes: Any) -> object:
        return ByEditor(Negative, model, Apply(**changes)).facts  # type: ignore[arg-type]

    assert facts() == facts(soft_route=True)
    assert facts() != facts(steps=3) != facts(guidance=2.0)
    assert facts() != facts(MODEL | {"dtype": "torch.bfloat16"})


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "NaN or infinity"), (0.5, "one flat colour"),
                        (-3.0, "one flat colour")]
)  # fmt: skip
def test_nothing_to_be_seen_is_no_target(
    value: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = Negative()
    monkeypatch.setattr(editor, "decode", lambda latents: torch.full_like(latents, value))
    hand = Restyler(ByEditor(lambda: editor, MODEL, Apply()))  # type: ignore[arg-type,return-value]
    with pytest.raises(ItemError, match=said):
        hand.styled(SUBJECT, view(), PAPER[0])


def test_too_little_memory_is_told_with_the_sample_and_other_faults_are_as_they_were() -> None:
    def failing(error: Exception) -> Restyler:
        def opening() -> Any:
            raise error

        return Restyler(ByEditor(opening, MODEL, Apply()))

    for error in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")):
        with pytest.raises(MemoryExhaustedError, match=r"pixel_art/142/bread: out of memory"):
            failing(error).styled(SUBJECT, view(), PAPER[0])
    with pytest.raises(RuntimeError, match="of another shape"):
        failing(RuntimeError("of another shape")).styled(SUBJECT, view(), PAPER[0])


@pytest.mark.parametrize("style", PAPER, ids=lambda style: style.id)
def test_rules_restyle_all_of_the_paper_and_ask_no_chance(style) -> None:  # type: ignore[no-untyped-def]
    picture = view().picture
    made = ByFilter().stylise(picture, style, 1)
    assert torch.equal(made, ByFilter().stylise(picture, style, 2))
    assert torch.equal(made, FILTERS[style.id](picture))
    assert not torch.equal(made, picture)


@given(st.integers(0, 100))
def test_agreement_is_one_with_itself_its_negative_and_its_fainter_self(seed: int) -> None:
    seen = view(seed=seed)
    for other in (seen.picture, 1 - seen.picture, seen.picture * 0.5 + 0.2):
        assert agreement(seen.picture, other, seen.mask) == pytest.approx(1, abs=1e-4)
    assert abs(agreement(seen.picture, view(seed=seed + 1).picture, seen.mask)) < 0.25
    assert agreement(seen.picture, torch.full_like(seen.picture, 0.5), seen.mask) == 0
