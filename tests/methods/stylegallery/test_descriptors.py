"""Descriptors are what the formulas say, whatever the random numbers drawn around them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.methods.stylegallery.descriptors import Described, describe, pooled, unit
from stylecli.methods.stylegallery.dfcc import Seen
from stylecli.recipe.gallery import Matching
from tests.reference import stylegallery_matching as reference

WIDTH = 8


def seen(labels: Tensor, *, seed: int = 0, width: int = WIDTH) -> Seen:
    """Regions differ in mean and in spread; one channel is flat."""
    random = torch.Generator().manual_seed(seed)
    means = torch.randn(int(labels.max()) + 1, width, generator=random)
    noise = torch.randn(width, *labels.shape, generator=random) * (0.1 + 0.2 * labels)
    features = means[labels].permute(2, 0, 1) + noise + 3.0
    features[width // 2] = 0.7
    latents = torch.zeros(4, *labels.shape)
    return Seen(clean=latents, noise=latents, features=features)


def three_regions() -> Tensor:
    labels = torch.ones(5, 7, dtype=torch.long)
    labels[1:4, 4:] = 2
    labels[4, 0] = 3
    return labels


def statistics(picture: Seen, labels: Tensor, **settings: object) -> Tensor:
    found = describe(picture, labels, Matching(semantics="none", **settings)).statistics  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.mostly_slow
@pytest.mark.parametrize("features", ["standardised", "raw"])
def test_statistics_are_those_of_cells_that_looked_at_their_likes(features: str) -> None:
    labels = three_regions()
    picture = seen(labels)
    values = picture.features
    if features == "standardised":
        values = reference.standardised(values)
    expected = [
        reference.attention_statistics(values, labels, number, skip_flat=features == "standardised")
        for number in (1, 2, 3)
    ]
    found = statistics(picture, labels, features=features)
    torch.testing.assert_close(found, torch.stack(expected).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("features", ["standardised", "raw"])
def test_the_authors_statistics_are_those_behind_an_untrained_transformer(features: str) -> None:
    labels = three_regions()
    picture = seen(labels)
    values = picture.features
    if features == "standardised":
        values = reference.standardised(values)
    expected = [reference.transformer_statistics(values, labels, number) for number in (1, 2, 3)]
    found = statistics(picture, labels, statistics="transformer", features=features)
    torch.testing.assert_close(found, torch.stack(expected).float(), atol=1e-5, rtol=1e-5)


def test_the_authors_variances_hardly_count() -> None:
    labels = torch.ones(24, 24, dtype=torch.long)
    labels[:12], labels[12:, 12:] = 2, 3
    found = statistics(seen(labels), labels, statistics="transformer", features="raw")
    assert found[:, WIDTH:].norm(dim=1).max() < 0.05
    means, both = unit(found[:, :WIDTH]), unit(found)
    torch.testing.assert_close(means @ means.T, both @ both.T, atol=1e-3, rtol=0)


def test_statistics_tell_regions_apart_across_pictures() -> None:
    """Light or dark, the picture's own mean is gone; the authors' raw ones are all alike."""
    labels = torch.ones(8, 8, dtype=torch.long)
    labels[4:] = 2
    photo, painting = seen(labels), seen(labels)
    moved = Seen(painting.clean, painting.noise, painting.features.flip(2) * 2 + 5)
    ours = statistics(photo, labels) @ statistics(moved, labels).T
    assert ours.diag().min() > ours.fliplr().diag().max() + 0.5
    raw = {"statistics": "transformer", "features": "raw"}
    theirs = statistics(photo, labels, **raw) @ statistics(moved, labels, **raw).T
    assert theirs.max() - theirs.min() < 0.2


def test_the_only_region_of_a_picture_is_neutral() -> None:
    labels = torch.ones(5, 6, dtype=torch.long)
    assert not statistics(seen(labels), labels).any()
    assert not statistics(seen(labels), labels, statistics="transformer").any()
    assert statistics(seen(labels), labels, features="raw").norm() == pytest.approx(1)
    alone = describe(seen(labels), labels, Matching(semantics="features")).semantics
    assert alone is not None
    assert not alone.any()


def test_one_cell_has_a_mean_and_no_spread() -> None:
    labels = three_regions()
    row = statistics(seen(labels), labels)[2]
    assert row[:WIDTH].norm() == pytest.approx(math.sqrt(0.5))
    assert not row[WIDTH:].any()


def test_a_picture_of_one_cell_has_descriptors() -> None:
    labels = torch.ones(1, 1, dtype=torch.long)
    for name in ("attention", "transformer"):
        found = describe(seen(labels), labels, Matching(statistics=name, semantics="features"))
        assert found.statistics is not None
        assert not found.statistics.any()
        assert found.circles.tolist() == [[0.5, 0.5, 0.5]]


@pytest.mark.parametrize("features", ["standardised", "raw"])
def test_a_picture_of_one_colour_has_no_spread(features: str) -> None:
    labels = torch.ones(9, 9, dtype=torch.long)
    labels[3:] = 2
    flat = Seen(torch.zeros(4, 9, 9), torch.zeros(4, 9, 9), torch.full((WIDTH, 9, 9), 0.3))
    found = statistics(flat, labels, features=features)
    assert not found[:, WIDTH:].any()
    assert found[:, :WIDTH].any() == (features == "raw")


def test_channels_flat_in_one_picture_stay_in_their_place() -> None:
    labels = three_regions()
    picture = seen(labels)
    found = statistics(picture, labels)
    assert found.shape == (3, 2 * WIDTH)
    assert not found[:, [WIDTH // 2, WIDTH + WIDTH // 2]].any()


def test_nothing_is_compared_that_is_off() -> None:
    labels = three_regions()
    given_rows = torch.ones(3, 2)
    found = describe(
        seen(labels), labels, Matching(statistics="none", semantics="none"), semantics=given_rows
    )
    assert found.statistics is None
    assert found.semantics is None
    assert describe(seen(labels), labels, Matching()).semantics is None


def test_vectors_of_other_models_are_taken_as_they_are() -> None:
    labels = three_regions()
    vectors = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    found = describe(seen(labels), labels, Matching(semantics="clip"), semantics=vectors)
    assert found.semantics is vectors


def test_semantics_from_features_are_mean_directions() -> None:
    labels = three_regions()
    picture = seen(labels)
    values = reference.standardised(picture.features)
    found = describe(picture, labels, Matching(semantics="features")).semantics
    assert found is not None
    for number in (1, 2, 3):
        rows = [reference.unit(values[:, y, x]) for y, x in reference.cells(labels, number)]
        torch.testing.assert_close(found[number - 1], (sum(rows) / len(rows)).float())


@pytest.mark.parametrize("name", ["attention", "transformer"])
def test_drawn_numbers_change_nothing_and_none_is_drawn(name: str) -> None:
    labels = three_regions()
    settings = Matching(statistics=name, semantics="features")
    before = torch.get_rng_state()
    first = describe(seen(labels), labels, settings)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    again = describe(seen(labels), labels, settings)
    for field in Described.__slots__:
        assert torch.equal(getattr(first, field), getattr(again, field))


def test_no_graph_is_recorded() -> None:
    labels = three_regions()
    picture = seen(labels)
    picture.features.requires_grad_()
    found = describe(picture, labels, Matching(semantics="features"))
    assert found.statistics is not None
    assert not found.statistics.requires_grad


@pytest.mark.parametrize(("kind", "least"), [("enclosing", 0.5 / 7), ("centroid", 0.0)])
def test_circles_are_around_the_middles_of_cells(kind: str, least: float) -> None:
    expected: dict[str, Callable[[list[tuple[float, float]]], tuple[float, float, float]]] = {
        "enclosing": reference.smallest_circle,
        "centroid": reference.centroid_circle,
    }
    labels = three_regions()
    found = describe(seen(labels), labels, Matching(circle=kind)).circles
    for number, row in enumerate(found.tolist(), start=1):
        middles = [((x + 0.5) / 7, (y + 0.5) / 5) for y, x in reference.cells(labels, number)]
        x, y, radius = expected[kind](middles)
        assert row == pytest.approx((x, y, max(radius, least)), abs=1e-9)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("size", "grid"), [((6, 8), (3, 4)), ((5, 7), (3, 4)), ((4, 4), (6, 3)), ((3, 5), (1, 1))]
)
def test_tokens_count_by_the_area_they_share_with_a_region(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    random = torch.Generator().manual_seed(1)
    labels = torch.randint(1, 4, size, generator=random)
    labels.view(-1)[:3] = torch.tensor([1, 2, 3])
    tokens = torch.randn(*grid, 5, generator=random)
    for view, explicit in (
        ("whole", reference.pooled),
        ("centre", reference.pooled_by_authors),
    ):
        found = pooled(tokens, labels, view=view)
        for number in (1, 2, 3):
            expected = explicit(tokens, labels, number).float()
            torch.testing.assert_close(found[number - 1], expected, atol=1e-5, rtol=1e-5)


def test_an_authors_token_is_kept_for_any_of_its_sixteen_cells() -> None:
    labels = torch.ones(64, 64, dtype=torch.long)
    labels[5, 5] = 2
    tokens = torch.randn(16, 16, 3, generator=torch.Generator().manual_seed(0))
    found = pooled(tokens, labels, view="centre")
    torch.testing.assert_close(found[1], tokens[1, 1])
    torch.testing.assert_close(found[0], tokens.mean(dim=(0, 1)))
    assert not torch.allclose(pooled(tokens, labels)[0], found[0], atol=1e-6)


def test_the_authors_leave_out_a_token_of_ten_pixels() -> None:
    labels = torch.ones(64, 64, dtype=torch.long)
    labels[0, :11] = labels[63, 54:] = 2
    tokens = torch.arange(4.0).view(2, 2, 1)
    assert pooled(tokens, labels, view="centre")[1].tolist() == [0.0]
    assert pooled(tokens, labels)[1].tolist() == [pytest.approx(3.0 * 10 / 21)]


@given(st.integers(0, 63), st.integers(0, 63), st.sampled_from(["whole", "centre"]))
def test_a_region_of_one_cell_shows_something(y: int, x: int, view: str) -> None:
    """Even where it is too little of a token to be kept by the authors' rule."""
    labels = torch.ones(64, 64, dtype=torch.long)
    labels[y, x] = 2
    for side in (2, 32):
        tokens = torch.arange(1.0, side * side + 1).view(side, side, 1)
        expected = tokens[y * side // 64, x * side // 64]
        torch.testing.assert_close(pooled(tokens, labels, view=view)[1], expected)


def test_the_corner_of_a_picture_is_seen_by_its_own_token() -> None:
    """With a cut centre the token of the corner shows something else."""
    labels = torch.ones(16, 16, dtype=torch.long)
    labels[:2, :2] = 2
    tokens = torch.zeros(8, 8, 1)
    tokens[0, 0] = 1.0
    assert pooled(tokens, labels)[:, 0].tolist() == [0.0, 1.0]
