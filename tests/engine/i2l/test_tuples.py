"""What a step of i2L's training sees: targets, and references that do not give them away."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.engine.i2l.data import Dataset, Item, Pick, Tuples
from stylecli.errors import InputError
from stylecli.recipe.i2l import Data, References

Shown = list[tuple[str, str, int]]


def item(style: str, place: int, content: str, caption: str, file: int) -> Item:
    return Item(
        id=f"{style}-{place}",
        style_id=style,
        folder=Path("set"),
        name=f"{place}.webp",
        caption=caption,
        width=64,
        height=64,
        sha256=f"{file:064x}",
        content_id=content or None,
    )


def dataset(styles: list[Shown]) -> Dataset:
    """A set from (content, caption, file) of every picture of every style."""
    items = [
        item(f"s{number}", place, *shown)
        for number, pictures in enumerate(styles)
        for place, shown in enumerate(pictures)
    ]
    return Dataset(items, "digest", {})


def plain_set(styles: int, pictures: int) -> Dataset:
    """Everything different."""
    return dataset(
        [
            [(f"c{p}", f"thing {p}", 1000 * s + p) for p in range(pictures)]
            for s in range(styles)
        ]
    )  # fmt: skip


def settings(most: int = 8, *, allow_self: bool = False, p_single: float = 0.25) -> Data:
    return Data(n_refs=References(max=most, p_single=p_single), allow_self=allow_self)


def shows_same(one: Item, other: Item) -> bool:
    """What may never be among the references of a target."""
    return (
        one.id == other.id
        or one.sha256 == other.sha256
        or one.caption.lower().strip(" .") == other.caption.lower().strip(" .")
        or (one.content_id is not None and one.content_id == other.content_id)
    )


def assert_fair(pick: Pick, most: int) -> None:
    ids = [one.id for one in pick.references]
    assert 1 <= len(ids) == len(set(ids)) <= most
    for reference in pick.references:
        assert reference.style_id == pick.style_id
        assert not any(shows_same(reference, target) for target in pick.targets)
    assert {target.style_id for target in pick.targets} == {pick.style_id}


pictures = st.tuples(
    st.sampled_from(["", "c1", "c2", "c3"]),
    st.sampled_from(["a fox", "A fox. ", "an owl", "a hut", "a bee"]),
    st.integers(0, 4),
)


@given(
    styles=st.lists(st.lists(pictures, min_size=1, max_size=7), min_size=1, max_size=5),
    targets=st.integers(1, 4),
    batch=st.integers(1, 4),
    step=st.integers(0, 200),
)
def test_no_reference_shows_what_a_target_does_whatever_the_set(
    styles: list[Shown], targets: int, batch: int, step: int
) -> None:
    data = dataset(styles)
    pairs = [
        (one, other)
        for one in data.items
        for other in data.items
        if one.style_id == other.style_id and not shows_same(one, other)
    ]
    if not pairs:
        with pytest.raises(InputError, match="two pictures of different things"):
            Tuples(data, settings(), 0, targets=targets)
        return
    tuples = Tuples(data, settings(), 0, targets=targets)
    assert tuples.skipped == sum(
        one.style_id not in {pair[0].style_id for pair in pairs} for one in data.items
    )
    picks = tuples.at(step, batch)
    assert len(picks) == batch
    assert len({len(pick.references) for pick in picks}) == 1, "one N a step"
    for pick in picks:
        assert len(pick.targets) == targets
        assert_fair(pick, 8)


@pytest.mark.slow
@pytest.mark.slow
def test_ten_thousand_draws_have_the_lengths_that_were_asked_for() -> None:
    tuples = Tuples(plain_set(40, 8), settings(most=5), seed=3)
    lengths: Counter[int] = Counter()
    for step in range(10_000):
        picks = tuples.at(step, 2)
        for pick in picks:
            assert_fair(pick, 5)
        lengths[len(picks[0].references)] += 1
    wanted = {1: 0.25, 2: 0.1875, 3: 0.1875, 4: 0.1875, 5: 0.1875}
    assert lengths.keys() == wanted.keys()
    for length, share in wanted.items():
        assert lengths[length] / 10_000 == pytest.approx(share, abs=0.01)


def test_a_style_gives_no_more_references_than_it_has_left() -> None:
    tuples = Tuples(plain_set(10, 4), settings(p_single=0.0), 0)
    lengths = {len(pick.references) for step in range(200) for pick in tuples.at(step, 2)}
    assert lengths == {2, 3}


def test_large_and_small_styles_meet_only_where_they_must() -> None:
    """References in plenty are not given up because a style beside it has few."""
    small, large = 12, 12
    data = dataset(
        [[(f"c{p}", f"t{p}", 100 * s + p) for p in range(2 if s < small else 9)]
         for s in range(small + large)]
    )  # fmt: skip
    tuples = Tuples(data, settings(p_single=0.0), 0)
    steps = tuples.steps(8)
    kinds = [{pick.style_id in {f"s{n}" for n in range(small)} for pick in tuples.at(step, 8)}
             for step in range(steps)]  # fmt: skip
    assert sum(len(kind) == 2 for kind in kinds) <= 1


@pytest.mark.parametrize(("targets", "batch"), [(1, 7), (4, 3), (4, 50), (3, 5)])
def test_an_epoch_shows_every_picture_about_once(targets: int, batch: int) -> None:
    data = plain_set(11, 8)
    tuples = Tuples(data, settings(), 5, targets=targets)
    for epoch in range(3):
        seen: Counter[str] = Counter()
        for step in range(tuples.steps(batch)):
            for pick in tuples.at(epoch * tuples.steps(batch) + step, batch):
                seen.update(one.id for one in pick.targets)
        rounds = -(-batch // tuples.groups)
        # The last group of a style begins again with its first pictures.
        most = rounds * (1 if 8 % targets == 0 else 2)
        assert max(seen.values()) <= most
        assert seen.total() == tuples.steps(batch) * batch * targets


@pytest.mark.slow
@pytest.mark.slow
def test_over_many_epochs_every_picture_is_a_target_equally_often() -> None:
    """Also those of small styles, and though the end of an epoch is cut off."""
    data = dataset([[(f"c{p}", f"t{p}", 100 * s + p) for p in range(2 + 3 * (s % 3))]
                    for s in range(6)])  # fmt: skip
    tuples = Tuples(data, settings(), 1)
    seen: Counter[str] = Counter()
    epochs, batch = 400, 7
    for step in range(epochs * tuples.steps(batch)):
        seen.update(pick.targets[0].id for pick in tuples.at(step, batch))
    expected = seen.total() / len(data)
    assert len(seen) == len(data)
    assert all(count == pytest.approx(expected, rel=0.12) for count in seen.values())


def test_a_step_depends_on_seed_and_number_alone() -> None:
    data = plain_set(9, 6)
    one, other = (Tuples(data, settings(), 7, targets=2) for _ in range(2))
    forward = [one.at(step, 4) for step in range(40)]
    # As after a crash in the middle of an epoch, and in any order.
    assert [other.at(step, 4) for step in reversed(range(40))] == forward[::-1]
    assert [Tuples(data, settings(), 8, targets=2).at(step, 4) for step in range(40)] != forward


def test_epochs_differ() -> None:
    tuples = Tuples(plain_set(9, 6), settings(), 7)
    steps = tuples.steps(6)
    first, second = (
        [[pick.targets for pick in tuples.at(epoch * steps + step, 6)] for step in range(steps)]
        for epoch in (0, 1)
    )
    assert first != second


def test_pictures_without_company_are_counted() -> None:
    data = dataset(
        [
            [("a", "a fox", 1), ("b", "an owl", 2)],
            [("a", "a fox", 3)],
            [("a", "x", 4), ("a", "y", 5)],
        ]
    )
    tuples = Tuples(data, settings(), 0)
    assert tuples.skipped == 3
    assert {pick.style_id for step in range(20) for pick in tuples.at(step, 2)} == {"s0"}


def test_a_target_is_its_own_reference_only_where_that_is_allowed() -> None:
    data = dataset([[("a", "a fox", 1)]])
    with pytest.raises(InputError, match="two pictures of different things") as refused:
        Tuples(data, settings(), 0)
    assert "allow_self=true" in refused.value.fix
    (pick,) = Tuples(data, settings(allow_self=True), 0).at(0, 1)
    assert pick.references == pick.targets == (data.items[0],)


def test_an_examination_asks_neighbours_of_different_styles_and_always_the_same() -> None:
    data = plain_set(5, 6)
    tuples = Tuples(data, settings(), 2)
    asked = tuples.fixed(12, 4)
    assert asked == Tuples(data, settings(), 2).fixed(12, 4)
    assert len(asked) == 12
    for pick, following in itertools.pairwise(asked):
        assert len(pick.references) == 4
        assert_fair(pick, 4)
        assert pick.style_id != following.style_id
    assert len({pick.targets[0].id for pick in asked}) == 12, "no target twice while there are more"
    assert {len(pick.references) for pick in tuples.fixed(3, 16)} == {5}
