"""Which cells a grid has, which it refuses, and what is said beneath it, on made-up cells."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.engine import ablations, figure_sheet, figures, trends
from stylecli.engine.grids import Axis, Claim, Figure, build
from stylecli.engine.yardsticks import Yardsticks
from stylecli.errors import RecipeError, UsageError
from stylecli.recipe.load import load
from stylecli.recipe.schema import Injection, Recipe, Sampling

RECIPE = Recipe()


def labels(figure: Figure) -> list[str]:
    return [cell.label for cell in figure.cells]


# What is typed.


@given(
    st.integers(-50, 50),
    st.integers(-20, 20).filter(bool),
    st.integers(2, 20),
    st.sampled_from([1, 10, 100]),
)
def test_two_numbers_and_dots_go_on_to_the_last_and_no_further(
    first: int, step: int, count: int, parts: int
) -> None:
    def written(index: int) -> str:
        """Parts of a whole, as a person writes them."""
        return f"{(first + index * step) / parts:.2f}".rstrip("0").rstrip(".")

    found = figures.values(f"{written(0)}, {written(1)},..,{written(count)}")
    assert [Fraction(value) for value in found] == [
        Fraction(first + index * step, parts) for index in range(count + 1)
    ]


@given(st.lists(st.sampled_from(["hard", "3", "[4, 5]", "0.5", "from_anchor"]), min_size=1))
def test_what_needs_no_continuing_is_taken_as_it_stands(parts: list[str]) -> None:
    assert figures.values(" , ".join(parts)) == parts


@given(st.integers(0, 9), st.integers(2, 9), st.integers(2, 6), st.data())
def test_a_last_number_that_is_not_arrived_at_is_refused(
    first: int, step: int, count: int, data: st.DataObject
) -> None:
    beside = data.draw(st.integers(1, step - 1))
    with pytest.raises(ValueError, match="does not arrive"):
        figures.values(f"{first},{first + step},..,{first + count * step + beside}")


def test_one_axis_is_a_row_and_two_are_rows_and_columns_however_they_are_given() -> None:
    row = figures.sweep(RECIPE, ["features=0,10,..,50"])
    assert [cell.recipe.injection.feature_steps for cell in row.cells] == [0, 10, 20, 30, 40, 50]
    assert (len(row.axes), row.columns) == (1, 6)
    together = figures.sweep(RECIPE, ["features=0, 10  attention=0,25,50"])
    apart = figures.sweep(RECIPE, ["injection.feature_steps=0,10", "attention=0, 25, 50"])
    assert together == apart
    assert together.columns == 3
    assert [
        (cell.recipe.injection.feature_steps, cell.recipe.injection.attn_steps)
        for cell in together.cells
    ] == [(0, 0), (0, 25), (0, 50), (10, 0), (10, 25), (10, 50)]
    assert labels(together)[4] == "features 10 | attention 25"


def test_shares_of_the_steps_are_swept_like_their_numbers() -> None:
    figure = figures.sweep(RECIPE, ["features=0%,25%,..,100%", "attention=0%,50%"])
    numbers = figures.sweep(RECIPE, ["features=0,13,25,38,50", "attention=0,25"])
    assert [cell.recipe for cell in figure.cells] == [cell.recipe for cell in numbers.cells]
    assert figure.axes[0].numbers == (0, 25, 50, 75, 100)
    assert figure.axes[0].labels[1] == "features 25%"
    with pytest.raises(RecipeError, match=r"feature_steps  is 120%, beyond sampling\.steps"):
        figures.sweep(RECIPE, ["features=0%,120%"])


def test_a_cell_is_the_recipe_of_the_run_but_for_what_is_swept() -> None:
    recipe = RECIPE.model_copy(update={"sampling": Sampling(weight=0.3, prompt="a {trigger}")})
    figure = figures.sweep(recipe, ["weight=0.5,1", "injection.attn_layers=none,[4, 5]"])
    for cell, weight, layers in zip(
        figure.cells, [0.5, 0.5, 1.0, 1.0], ["none", (4, 5)] * 2, strict=True
    ):
        assert cell.recipe == recipe.model_copy(
            update={
                "sampling": recipe.sampling.model_copy(update={"weight": weight}),
                "injection": recipe.injection.model_copy(update={"attn_layers": layers}),
            }
        )
    assert figure.axes[0].numbers == (0.5, 1.0)
    assert figure.axes[1].numbers is None


@pytest.mark.parametrize(
    ("texts", "error", "words"),
    [
        (["features=0,60"], RecipeError, "feature_steps  is 60, beyond .* allowed 0 to 50"),
        (["features=0,a"], RecipeError, "must be a whole number of 0 or more"),
        (["guidance=0.5,2"], RecipeError, "sampling.guidance  must be a number from 1 to 1000"),
        (["injection.attn_tail=hard,soft"], RecipeError, "one of adaptive, time, printed"),
        (["sampling.steps=20,50"], RecipeError, "cannot be swept"),
        (["injection.preset=v1,aaai26"], RecipeError, "cannot be swept"),
        (["feature=0,1"], RecipeError, "there is no such setting"),
        (["features"], UsageError, "not NAME=VALUES"),
        (["features=5"], UsageError, "one value"),
        (["features=5,,6"], UsageError, "empty"),
        (["features=5,"], UsageError, "empty"),
        (["features=0,..,6"], UsageError, "two numbers before"),
        (["features=0,3,.."], UsageError, "one behind"),
        (["features=4,4,..,9"], UsageError, "does not arrive"),
        (["features=0,1,..,1000000"], UsageError, "more than 64"),
        (["guidance=2,3,2.0"], UsageError, "2.0 twice"),
        (["features=0,1", "injection.feature_steps=2,3"], UsageError, "same setting twice"),
        (["features=0,1 attention=0,1 weight=0,1"], UsageError, "3 axes"),
        (["features=0,1,..,10 attention=0,1,..,10"], UsageError, "121 cells"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(
    texts: list[str], error: type[UsageError], words: str
) -> None:
    with pytest.raises(error, match=words):
        figures.sweep(RECIPE, texts)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("feature", "features"), ("injection.feature_step", "injection.feature_steps")],
)
def test_an_unknown_name_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(RecipeError) as refused:
        figures.sweep(RECIPE, [f"{typed}=0,1"])
    assert refused.value.fix.startswith(f"did you mean {meant}? ")


def test_a_figure_is_a_sweep_or_an_ablation_or_none() -> None:
    assert figures.chosen(RECIPE) is None
    with pytest.raises(UsageError, match="exclude"):
        figures.chosen(RECIPE, ["features=0,1"], "v1")
    with pytest.raises(UsageError, match="no such figure") as refused:
        figures.chosen(RECIPE, ablation="aaaj")
    assert "did you mean aaai?" in refused.value.fix


def test_what_decides_a_grid_is_its_cells_and_not_how_they_were_typed() -> None:
    typed = ["features=0,10,20", "features=0,10,..,20", "features=20,10,0", "features=0,10,30"]
    listed, dotted, backwards, other = (figures.sweep(RECIPE, [text]).settings() for text in typed)
    assert listed == dotted
    assert len({str(one) for one in (listed, backwards, other)}) == 3


# Ablations.


@pytest.mark.slow
@given(st.integers(1, 120), st.sampled_from(list(ablations.ABLATIONS)))
def test_an_ablation_fits_any_number_of_steps(steps: int, name: str) -> None:
    sampling, injection = Sampling(steps=steps), Injection(feature_steps=0, attn_steps=0)
    recipe = RECIPE.model_copy(update={"sampling": sampling, "injection": injection})
    figure = ablations.ablate(recipe, name)
    places = range(len(figure.cells))
    assert len(set(labels(figure))) == len(figure.cells) > 1
    for claim in figure.claims:
        assert all(place in places for group in claim.order for place in group)
        assert len(claim.order) > 1


def injection_of(preset: str) -> Injection:
    """As the recipe layer reads it."""
    loaded = load(overrides=[f"injection.preset={preset}"]).recipe
    return loaded.injection.model_copy(update={"preset": None})


@pytest.mark.slow
def test_the_whole_method_of_each_ablation_is_that_papers_preset() -> None:
    own = RECIPE.model_copy(update={"injection": Injection(feature_steps=3, attn_mix="qk")})
    by_label = {
        name: {cell.label: cell.recipe.injection for cell in ablations.ablate(own, name).cells}
        for name in ablations.ABLATIONS
    }
    assert by_label["aaai"]["adaptive"] == injection_of("aaai26")
    assert by_label["adaptive"]["adaptive"] == injection_of("aaai26")
    assert by_label["v1"]["F+SA+CA | +both"] == injection_of("v1")
    assert by_label["aaai"]["LoRA only"] == by_label["v1"]["none | SD"]
    assert by_label["aaai"]["LoRA only"] == injection_of("plain_lora")


def test_the_first_version_is_taken_apart_by_what_is_injected_and_what_brings_the_style() -> None:
    cells = ablations.ablate(RECIPE, "v1").cells
    injections = [cell.recipe.injection for cell in cells[::4]]
    assert [
        (one.feature_layers, one.feature_steps, one.attn_layers, one.attn_cross, one.attn_steps)
        for one in injections
    ] == [
        ("none", 0, "none", "none", 0),
        ("from_anchor", 30, "none", "none", 0),
        ("from_anchor", 30, "all", "none", 25),
        ("from_anchor", 30, "all", "all", 25),
    ]
    assert {one.attn_tail for one in injections} == {"hard"}
    assert [cell.recipe.injection for cell in cells] == [one for one in injections for _ in "abcd"]
    assert [(cell.recipe.sampling.weight, cell.recipe.sampling.prompt) for cell in cells] == [
        (0.0, ""),
        (1.0, ""),
        (0.0, None),
        (1.0, None),
    ] * 4


def test_attention_stops_never_stops_or_fades() -> None:
    cells = ablations.ablate(RECIPE, "adaptive").cells
    assert [(c.recipe.injection.attn_steps, c.recipe.injection.attn_tail) for c in cells] == [
        (30, "hard"),
        (50, "full"),
        (25, "adaptive"),
    ]


# What is said of the cells.


def made_up(rows: Sequence[float], columns: Sequence[float]) -> Figure:
    """A grid of thresholds; one row is one axis."""
    axes = [
        Axis(name, tuple(f"{name} {value:g}" for value in values), tuple(values))
        for name, values in (("features", rows), ("attention", columns))
    ]
    changes = [{"injection.attn_steps": i} for i in range(len(rows) * len(columns))]
    return build("sweep", RECIPE, axes if len(rows) > 1 else axes[1:], changes, place="here")


@pytest.mark.parametrize(
    ("numbers", "values", "course", "correlation"),
    [
        ([0, 10, 20], [0.1, 0.2, 0.9], "rises at every step", 1),
        ([0, 10, 20], [0.9, 0.2, 0.1], "falls at every step", -1),
        ([20, 10, 0], [0.9, 0.2, 0.1], "rises at every step", 1),
        ([10, 0, 20], [0.2, 0.1, 0.9], "rises at every step", 1),
        ([0, 10, 20], [0.5, 0.5, 0.5], "does not change", None),
        ([0, 10, 20], [0.1, 0.5, 0.5], "never falls", 0.5 * 3**0.5),
        ([0, 10, 20], [0.5, 0.5, 0.1], "never rises", -0.5 * 3**0.5),
        ([0, 10, 20], [0.1, 0.9, 0.5], "rises and falls", 0.5),
    ],
)
def test_a_trend_is_that_of_growing_numbers(
    numbers: list[float], values: list[float], course: str, correlation: float | None
) -> None:
    (trend,) = trends.trends(made_up([0], numbers), {"content_kept": values})
    assert trend.course == course
    assert trend.correlation == (None if correlation is None else pytest.approx(correlation))
    assert trend.means == tuple(values)
    assert course in trend.sentence()


@pytest.mark.slow
@given(st.integers(2, 4), st.integers(2, 4), st.lists(st.floats(0, 9), min_size=16, max_size=16))
def test_along_one_axis_stands_the_mean_over_the_other(
    height: int, width: int, values: list[float]
) -> None:
    values = values[: height * width]
    figure = made_up(range(height), range(width))
    down, across = trends.trends(figure, {"from_content": values})
    for row in range(height):
        assert down.means[row] == fmean(values[row * width + column] for column in range(width))
    for column in range(width):
        assert across.means[column] == fmean(values[row * width + column] for row in range(height))


def test_words_have_no_order_and_so_no_correlation() -> None:
    figure = figures.sweep(RECIPE, ["injection.attn_tail=hard,adaptive,full"])
    (trend,) = trends.trends(figure, {"content_kept": [0.1, 0.2, 0.3]})
    assert trend.as_row()["rank_correlation"] is None
    assert "rises" not in trend.sentence()


CLAIM = Claim("more is kept", "content_kept", ((0, 1), (2, 3), (4, 5)), rises=True)


@pytest.mark.parametrize(
    ("values", "holds", "steady", "opening"),
    [
        ([0.1, 0.1, 0.2, 0.4, 0.5, 0.5], True, True, "as claimed: "),
        ([0.1, 0.1, 0.0, 0.0, 0.5, 0.5], True, False, "as claimed from first to last, but not"),
        ([0.5, 0.5, 0.2, 0.4, 0.1, 0.1], False, False, "NOT as claimed: "),
        ([0.5, 0.3, 0.4, 0.4, 0.3, 0.5], False, False, "NOT as claimed: "),
    ],
)
def test_a_claim_holds_only_where_the_numbers_show_it(
    values: list[float], holds: bool, steady: bool, opening: str
) -> None:
    (verdict,) = trends.judge([CLAIM], {"content_kept": values})
    assert (verdict.holds, verdict.is_steady) == (holds, steady)
    assert verdict.sentence().startswith(opening)
    falling = Claim("less", "content_kept", CLAIM.order, rises=False)
    (opposite,) = trends.judge([falling], {"content_kept": [1 - value for value in values]})
    assert (opposite.holds, opposite.is_steady) == (holds, steady)


def test_what_was_not_measured_is_neither_shown_nor_denied() -> None:
    (verdict,) = trends.judge(
        [Claim("near", "from_style", ((0,), (1,)), rises=False)], {"content_kept": [0.1, 0.2]}
    )
    assert (verdict.holds, verdict.as_row()["at_every_step"]) == (None, None)
    assert verdict.sentence().startswith("not measured")


def cell(seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (4, 6, 3), dtype=torch.uint8, generator=random)


def never(a: int, b: int) -> float:
    raise AssertionError(f"{a} and {b} are equal")


def test_cells_with_the_same_bytes_are_named() -> None:
    names = ["a", "b", "c", "d", "e"]
    cells = [cell(0), cell(1), cell(0), cell(1), cell(2)]
    found = trends.differences(cells, lambda a, b: 1.0)
    assert found.equal == ((0, 2), (1, 3))
    assert (found.least.largest, found.least.perceptual) == (0, 0.0)
    assert found.as_row(names)["equal_cells"] == [["a", "c"], ["b", "d"]]
    assert found.sentences(names)[0] == "the same bytes: [a] = [c]; [b] = [d]"
    assert trends.differences([cell(0)] * 3, never).equal == ((0, 1, 2),)


def test_the_least_and_the_greatest_difference_are_those_of_the_nearest_and_farthest_pairs() -> (
    None
):
    cells = [cell(seed) for seed in range(4)]
    cells[3] = cells[1].clone()
    cells[3][2, 3, 1] ^= 64
    distances = {(a, b): abs(a - b) + a / 10 for a in range(4) for b in range(4)}
    distances[1, 3] = 0.25
    found = trends.differences(cells, lambda a, b: distances[a, b])
    assert found.least == trends.Difference((1, 3), 64, 0.25)
    largest = max(
        abs(int(a) - int(b)) for a, b in zip(cells[0].flatten(), cells[3].flatten(), strict=True)
    )
    assert found.most == trends.Difference((0, 3), largest, 3.0)
    assert not found.equal
    first, second = found.sentences(["a", "b", "c", "d"])
    assert "least [b] and [d], by up to 64 of 255" in first
    assert "greatest difference is of [a] and [d]" in second


def test_measures_know_the_content_and_the_style() -> None:
    cells = [cell(seed).repeat_interleave(16, 0).repeat_interleave(12, 1) for seed in (0, 1)]
    content, style = (pixels.permute(2, 0, 1) / 255 for pixels in cells)
    found = figure_sheet.measured(Yardsticks(), cells, content, style)
    assert found["content_kept"][0] > found["content_kept"][1]
    assert found["from_content"][0] < found["from_content"][1]
    assert found["from_style"][0] > found["from_style"][1]
    assert "from_style" not in figure_sheet.measured(Yardsticks(), cells, content, None)
