from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylecli.masks.base import MaskResult
from stylecli.masks.choose import choose, nothing_matches
from stylecli.recipe.finding import Masks

SCORES = st.lists(st.floats(-1, 1), max_size=5)


def finds(scores: list[float]) -> list[MaskResult]:
    random = torch.Generator().manual_seed(len(scores))
    return [
        MaskResult(
            mask=torch.rand(3, 4, generator=random),
            score=score,
            prompt="deer",
            boxes=((0.0, 0.0, float(i + 1), 1.0),),
        )
        for i, score in enumerate(scores)
    ]


@given(scores=SCORES, least=st.floats(-1, 1), margin=st.floats(0, 1))
def test_the_best_is_taken_if_it_scores_enough_and_leads_by_enough(
    scores: list[float], least: float, margin: float
) -> None:
    results = finds(scores)
    chosen = choose(results, Masks(min_score=least, min_margin=margin))
    enough = sorted((s for s in scores if s >= least), reverse=True)
    if not enough or (len(enough) > 1 and enough[0] - enough[1] < margin):
        assert chosen is None
    else:
        assert chosen is not None
        assert chosen.score == max(scores)


@given(scores=SCORES, least=st.floats(-1, 1))
def test_the_union_is_the_greatest_of_all_that_score_enough(
    scores: list[float], least: float
) -> None:
    results = finds(scores)
    chosen = choose(results, Masks(select="union", min_score=least, min_margin=1.0))
    enough = [one for one in results if one.score >= least]
    assert (chosen is None) == (not enough)
    if chosen is not None:
        for y in range(3):
            for x in range(4):
                assert float(chosen.mask[y, x]) == max(float(one.mask[y, x]) for one in enough)
        assert chosen.score == max(one.score for one in enough)
        assert set(chosen.boxes) == {box for one in enough for box in one.boxes}


@given(scores=SCORES, number=st.integers(0, 6))
def test_a_number_counts_from_the_best(scores: list[float], number: int) -> None:
    chosen = choose(finds(scores), Masks(select=number, min_score=-1.0))
    ranked = sorted(scores, reverse=True)
    assert (chosen.score if chosen else None) == (ranked[number] if number < len(ranked) else None)


@pytest.mark.parametrize(
    ("scores", "settings", "words", "fix"),
    [
        ([], {}, "nothing was found", "masks.threshold"),
        ([0.21, 0.4], {"min_score": 0.5}, "scores 0.4, below masks.min_score 0.5", "min_score"),
        ([0.5, 0.45], {"min_margin": 0.1}, "leads the next by only 0.05", "min_margin"),
        ([0.5], {"select": 3}, "number 3 is asked for, counting from 0, of 1", "select"),
    ],
)
def test_the_error_names_picture_words_score_and_what_to_do(
    scores: list[float], settings: dict[str, Any], words: str, fix: str
) -> None:
    chosen = Masks(**settings)
    assert choose(finds(scores), chosen) is None
    error = nothing_matches("photo.jpg", "deer", finds(scores), chosen)
    assert error.what.startswith("photo.jpg: nothing matches 'deer'")
    assert words in error.what
    assert fix in error.fix
    assert "--point" in error.fix
    assert "on_empty" in error.fix
    assert "\n" not in error.what + error.fix
