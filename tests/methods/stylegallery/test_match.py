"""Each region takes the best there is, unless somebody said otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.errors import UsageError
from stylecli.methods.stylegallery.descriptors import Described, describe, unit
from stylecli.methods.stylegallery.dfcc import Seen
from stylecli.methods.stylegallery.match import (
    Exclude,
    Match,
    Override,
    Strength,
    Table,
    Take,
    choose,
    score,
)
from stylecli.recipe.gallery import Matching
from tests.reference import stylegallery_matching as reference

seeds = st.integers(0, 10_000)
counts = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def described(regions: int, seed: int) -> Described:
    random = torch.Generator().manual_seed(seed)
    return Described(
        statistics=unit(torch.randn(regions, 6, generator=random)),
        semantics=torch.randn(regions, 5, generator=random),
        circles=torch.rand(regions, 3, generator=random, dtype=torch.double) / 2 + 0.1,
    )


def pictures(seed: int, regions: Sequence[int]) -> list[Described]:
    return [described(count, seed * 100 + at) for at, count in enumerate(regions)]


def table(totals: Sequence[Sequence[float]], regions: Sequence[int], sem: float = 1.0) -> Table:
    values = torch.tensor(totals, dtype=torch.double)
    scores = torch.zeros(*values.shape, 3, dtype=torch.double)
    scores[..., 1] = sem
    columns = [
        (style, region) for style, count in enumerate(regions) for region in range(1, count + 1)
    ]
    return Table(scores=scores, columns=tuple(columns), totals=values)


def places(matches: Sequence[Match]) -> list[tuple[int | None, tuple[int, ...]]]:
    return [(one.style, one.regions) for one in matches]


@given(seeds, st.integers(1, 4), counts)
def test_a_score_is_the_weighted_sum_of_three(seed: int, regions: int, others: list[int]) -> None:
    settings = Matching(statistics_weight=0.3, semantics_weight=0.9, geometry_weight=0.2)
    content, styles = described(regions, seed), pictures(seed, others)
    found = score(content, styles, settings)
    assert found.scores.shape == (regions, sum(others), 3)
    for row in range(regions):
        for column, (style, region) in enumerate(found.columns):
            other = styles[style]
            terms = (
                float(content.statistics[row] @ other.statistics[region - 1]),
                float(
                    reference.unit(content.semantics[row])
                    @ reference.unit(other.semantics[region - 1])
                ),
                reference.iou(
                    content.circles[row].tolist(), other.circles[region - 1].tolist(), slices=2000
                ),
            )
            assert found.scores[row, column].tolist() == pytest.approx(terms, abs=2e-3)
            stat, sem, geo = found.scores[row, column].tolist()
            total = 0.3 * stat + 0.9 * sem + 0.2 * geo
            assert float(found.totals[row, column]) == pytest.approx(total, abs=1e-12)


def test_the_default_weights_are_2_to_8_to_1() -> None:
    found = score(described(2, 0), pictures(1, [2]), Matching())
    expected = found.scores @ torch.tensor([0.25, 1.0, 0.125], dtype=torch.double)
    torch.testing.assert_close(found.totals, expected)


@pytest.mark.parametrize("term", ["statistics", "semantics"])
def test_a_term_that_a_picture_lacks_is_zero(term: str) -> None:
    content, style = described(2, 0), described(3, 1)
    values = {name: getattr(style, name) for name in Described.__slots__}
    for pair in (
        (content, Described(**values | {term: None})),
        (Described(**{n: getattr(content, n) for n in Described.__slots__} | {term: None}), style),
    ):
        scores = score(pair[0], [pair[1]], Matching()).scores
        off = ("statistics", "semantics").index(term)
        assert not scores[..., off].any()
        assert scores[..., 1 - off].any()


def test_vectors_without_a_direction_resemble_nothing() -> None:
    content = Described(None, torch.tensor([[1e-9, 0.0], [2.0, 0.0]]), torch.ones(2, 3))
    found = score(content, [content], Matching())
    assert found.scores[..., 1].tolist() == [[0.0, 0.0], [0.0, 1.0]]


@given(seeds, st.integers(1, 5), counts)
def test_the_best_of_all_references_is_chosen(seed: int, regions: int, others: list[int]) -> None:
    """Of few values, so that ties are met."""
    random = torch.Generator().manual_seed(seed)
    totals = torch.randint(0, 3, (regions, sum(others)), generator=random).tolist()
    given_table = table(totals, others)
    rows = [
        [(*column, total) for column, total in zip(given_table.columns, row, strict=True)]
        for row in totals
    ]
    found = choose(given_table, Matching())
    assert [one.content for one in found] == list(range(1, regions + 1))
    assert places(found) == [(style, (region,)) for style, region in reference.best(rows)]
    for one, row in zip(found, totals, strict=True):
        highest, *rest = sorted(row, reverse=True)
        assert one.score == highest
        assert one.margin == (highest - rest[0] if rest else 0.0)
        assert one.source == "auto"
        assert one.strength == 1.0


@given(seeds, st.integers(1, 4), counts, st.data())
def test_permuted_references_are_chosen_permuted(
    seed: int, regions: int, others: list[int], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(others))))
    settings = Matching(diversity=0.4)
    content, styles = described(regions, seed), pictures(seed + 1, others)
    first = choose(score(content, styles, settings), settings)
    permuted = choose(score(content, [styles[at] for at in order], settings), settings)
    for one, other in zip(first, permuted, strict=True):
        assert other.style is not None
        assert (one.style, one.regions) == (order[other.style], other.regions)
        assert (one.score, one.margin) == (other.score, other.margin)


def test_fewer_regions_than_the_content_has_serve_several() -> None:
    assert places(choose(table([[0.1], [0.2], [0.3]], [1]), Matching())) == [(0, (1,))] * 3


@pytest.mark.parametrize(
    ("totals", "sem", "settings", "expected"),
    [
        ([0.5, 0.49], 1.0, {}, True),
        ([0.5, 0.47], 1.0, {}, False),
        ([0.5, 0.1], 0.19, {}, True),
        ([0.5, 0.1], 0.2, {}, False),
        ([0.5, 0.1], 0.0, {"semantics": "none"}, False),
        ([0.5, 0.1], 0.0, {"semantics_weight": 0.0}, False),
        ([0.5], 1.0, {}, False),
    ],
)
def test_close_and_unlike_choices_are_marked(
    totals: list[float], sem: float, settings: dict[str, object], expected: bool
) -> None:
    (found,) = choose(table([totals], [len(totals)], sem), Matching(**settings))
    assert found.low_confidence is expected


def test_diversity_lowers_what_was_chosen_by_a_share_per_region() -> None:
    totals = [[1.0, 0.9], [1.0, 0.9], [1.0, 0.6]]
    given_table = table(totals, [1, 1])
    assert places(choose(given_table, Matching(diversity=0.27))) == [(0, (1,))] * 3
    found = choose(given_table, Matching(diversity=0.36))
    assert places(found) == [(0, (1,)), (1, (1,)), (0, (1,))]
    assert [one.score for one in found] == [1.0, 0.9, 1.0]
    assert found[1].margin == pytest.approx(0.9 - (1.0 - 0.36 / 3))


def test_what_users_chose_counts_as_chosen_from_the_beginning() -> None:
    given_table = table([[1.0, 0.9], [0.0, 0.0]], [1, 1])
    found = choose(given_table, Matching(diversity=0.5), [Take(2, 0, (1,))])
    assert places(found) == [(1, (1,)), (0, (1,))]


@given(seeds, st.sets(st.integers(0, 5), max_size=5))
def test_what_is_excluded_is_never_chosen(seed: int, banned: set[int]) -> None:
    random = torch.Generator().manual_seed(seed)
    given_table = table(torch.rand(3, 6, generator=random).tolist(), [2, 4])
    bans = [Exclude(*given_table.columns[at]) for at in banned]
    for one in choose(given_table, Matching(), bans):
        assert one.style is not None
        allowed = [at for at in range(6) if at not in banned]
        best = max(allowed, key=given_table.totals[one.content - 1].__getitem__)
        assert (one.style, one.regions[0]) == given_table.columns[best]


def test_a_whole_reference_can_be_excluded() -> None:
    given_table = table([[0.9, 0.8, 0.1]], [2, 1])
    assert places(choose(given_table, Matching(), [Exclude(0)])) == [(1, (1,))]


def test_with_everything_excluded_there_is_no_choice() -> None:
    given_table = table([[0.9, 0.8], [0.9, 0.8]], [1, 1])
    everything: list[Override] = [Exclude(0), Exclude(1)]
    with pytest.raises(UsageError, match="region 2 has nothing to choose from"):
        choose(given_table, Matching(), [*everything, Take(1, None)])
    found = choose(given_table, Matching(), [*everything, Take(1, None), Take(2, 1)])
    assert places(found) == [(None, ()), (1, ())]


def test_a_users_choice_holds_and_scores_the_mean_of_its_regions() -> None:
    given_table = table([[0.9, 0.2, 0.4, 0.1]], [1, 3])
    (found,) = choose(given_table, Matching(), [Take(1, 1, (1, 2), 0.5), Exclude(1)])
    assert found == Match(1, 1, (1, 2), 0.5, (0.2 + 0.4) / 2, source="user")
    (whole,) = choose(given_table, Matching(), [Take(1, 1)])
    assert whole.score == pytest.approx(0.7 / 3)
    (kept,) = choose(given_table, Matching(), [Take(1, None)])
    assert kept == Match(1, None, (), source="user")


def test_the_last_word_on_a_region_holds() -> None:
    given_table = table([[0.9, 0.2], [0.9, 0.2]], [1, 1])
    found = choose(
        given_table,
        Matching(),
        [Take(1, None), Strength(1, 0.1), Strength(2, 2.0), Take(1, 1, (1,)), Strength(1, 0.3)],
    )
    assert places(found) == [(1, (1,)), (0, (1,))]
    assert [one.strength for one in found] == [0.3, 2.0]
    assert [one.source for one in found] == ["user", "auto"]


def test_a_choice_held_on_to_gives_way_to_users_and_exclusions() -> None:
    given_table = table([[0.9, 0.2], [0.9, 0.2]], [1, 1])
    held = [Take(1, 1, (1,), source="auto"), Take(2, 1, (1,), source="auto")]
    found = choose(given_table, Matching(), [Take(1, None), *held])
    assert places(found) == [(None, ()), (1, (1,))]
    assert [one.source for one in found] == ["user", "auto"]
    assert found[1].margin == pytest.approx(-0.7)
    assert places(choose(given_table, Matching(), [*held, Exclude(1)])) == [(0, (1,))] * 2


@given(seeds, st.integers(1, 3), counts)
def test_rows_for_a_report_say_all_in_plain_numbers(
    seed: int, regions: int, others: list[int]
) -> None:
    settings = Matching()
    made = score(described(regions, seed), pictures(seed, others), settings)
    rows = json.loads(json.dumps(made.as_rows()))
    pairs = [(at, *column) for at in range(regions) for column in made.columns]
    assert [(r["content"] - 1, r["style"], r["region"]) for r in rows] == [
        (at, f"ref{style + 1}", region) for at, style, region in pairs
    ]
    values = [[row[name] for name in ("stat", "sem", "geo", "total")] for row in rows]
    wanted = torch.cat([made.scores, made.totals[..., None]], dim=2).flatten(0, 1)
    assert values == wanted.tolist()
    for one in choose(made, settings, [Take(1, None, (), 0.5)]):
        row = json.loads(json.dumps(one.as_row()))
        style = None if row.pop("keep", False) else int(row.pop("style").removeprefix("ref")) - 1
        assert Match(**row | {"style": style, "regions": tuple(row["regions"])}) == one


def seen(labels: Tensor, seed: int) -> Seen:
    random = torch.Generator().manual_seed(seed)
    latents = torch.zeros(4, *labels.shape)
    features = torch.randn(8, *labels.shape, generator=random) + labels
    return Seen(clean=latents, noise=latents, features=features)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("statistics", ["attention", "transformer", "none"])
@pytest.mark.parametrize("features", ["standardised", "raw"])
@pytest.mark.parametrize("circle", ["enclosing", "centroid"])
def test_a_second_call_among_drawn_numbers_matches_the_same(
    statistics: str, features: str, circle: str
) -> None:
    settings = Matching(
        statistics=statistics, features=features, circle=circle, semantics="features"
    )
    labels = torch.arange(36).view(6, 6) // 13 + 1

    def matched() -> tuple[Match, ...]:
        rows = [describe(seen(labels, seed), labels, settings) for seed in (0, 1, 2)]
        return choose(score(rows[0], rows[1:], settings), settings)

    first = matched()
    torch.rand(5)
    assert matched() == first


def test_each_reference_switch_reaches_the_table() -> None:
    labels = torch.ones(8, 8, dtype=torch.long)
    labels[:6, 2:] = 2
    ours = Matching(semantics="none")

    def scores(settings: Matching) -> Tensor:
        rows = [describe(seen(labels, seed), labels, settings) for seed in (0, 1)]
        return score(rows[0], rows[1:], settings).scores

    for changed, term in (
        ({"statistics": "transformer"}, 0),
        ({"statistics": "none"}, 0),
        ({"features": "raw"}, 0),
        ({"semantics": "features"}, 1),
    ):
        other = scores(ours.model_copy(update=changed))
        differs = (scores(ours) != other).any(dim=0).any(dim=0)
        assert differs.tolist() == [at == term for at in range(3)]
