"""Who sees what, when and on which side."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.engine.study.design import AGAIN, Design, handed_out

# Seed, items, copies and how many for each rater. A design is made within the test: its types are
# checked by drawing numbers, which a strategy must not do.
numbers = st.tuples(st.integers(0, 9), st.integers(1, 40), st.integers(0, 8)).flatmap(
    lambda sizes: st.tuples(*map(st.just, sizes), st.integers(1, sizes[1]))
)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,8}", fullmatch=True)


def designed(given: tuple[int, ...]) -> Design:
    seed, items, copies, per_rater = given
    return Design(
        seed=seed,
        items=tuple(f"{n:03x}" for n in range(items)),
        copies=tuple(f"c{n:02x}" for n in range(copies)),
        per_rater=per_rater,
    )


@given(numbers, names)
def test_a_page_holds_its_items_once_and_a_tenth_of_checks(
    numbers: tuple[int, ...], rater: str
) -> None:
    design = designed(numbers)
    places = design.places(rater)
    kinds = Counter(place.kind for place in places)
    assert kinds["item"] == design.per_rater
    assert kinds["item"] == len({p.item for p in places if p.kind == "item"})
    checks = kinds["again"] + kinds["copy"]
    assert checks == max(1, int(design.per_rater / 10 + 0.5))
    # More than a third of checks fail for whoever never looks: half of them are repeated items.
    assert kinds["again"] * 2 >= checks
    assert [place.order for place in places] == list(range(1, design.length + 1))


@given(numbers, names)
def test_what_is_met_again_has_its_sides_swapped_and_is_far_away(
    numbers: tuple[int, ...], rater: str
) -> None:
    design = designed(numbers)
    places = {place.item: place for place in design.places(rater)}
    for place in places.values():
        if place.kind == "again":
            first = places[place.item.removesuffix(AGAIN)]
            assert place.is_swapped != first.is_swapped
            assert abs(place.order - first.order) >= design.per_rater // 2 - sum(design.checks)


@given(numbers, st.integers(1, 60))
def test_raters_in_turn_see_every_item_equally_often(numbers: tuple[int, ...], raters: int) -> None:
    design = designed(numbers)
    seen: Counter[str] = Counter(dict.fromkeys(design.items, 0))
    for rater in range(1, raters + 1):
        seen.update(p.item for p in design.places(str(rater)) if p.kind == "item")
    assert max(seen.values()) - min(seen.values()) <= 1


def test_tasks_and_pairs_are_balanced_within_every_rater_and_across_raters() -> None:
    cells = handed_out([f"t{n}" for n in range(12)], ["a", "b", "c"])
    assert len(set(cells)) == 36
    design = Design(
        seed=1, items=tuple(f"{task}.{pair}" for task, pair in cells), copies=(), per_rater=9
    )
    total: Counter[str] = Counter()
    for rater in range(1, 5):
        own = [p.item for p in design.places(str(rater)) if p.kind == "item"]
        assert len({item.split(".")[0] for item in own}) == 9, "no task comes twice"
        assert set(Counter(item.split(".")[1] for item in own).values()) == {3}
        total.update(own)
    assert set(total.values()) == {1}


def test_either_side_is_as_frequent_and_orders_differ() -> None:
    design = Design(seed=3, items=tuple(f"{n:04x}" for n in range(40)), copies=(), per_rater=40)
    pages = [design.places(f"rater-{n}") for n in range(100)]
    swapped = [p.is_swapped for page in pages for p in page if p.kind == "item"]
    # Four standard errors of 4,000 throws.
    assert sum(swapped) / len(swapped) == pytest.approx(0.5, abs=0.032)
    by_item: Counter[str] = Counter(
        p.item for page in pages for p in page if p.kind == "item" and p.is_swapped
    )
    assert min(by_item.values()) > 25
    assert len({tuple(p.item for p in page) for page in pages}) == 100
    assert design.places("rater-7") == pages[7]
    other = Design(seed=4, items=design.items, copies=(), per_rater=40)
    assert other.places("rater-7") != pages[7]
