"""Settings that fit: the fastest, never slower with more memory, around what the user decided."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.engine.planner.costs import Cost
from stylecli.engine.planner.fit import (
    CHECKPOINTING,
    CHECKPOINTING_OF_GALLERY,
    GB,
    KEYS,
    SAME,
    Choice,
    choose,
)
from stylecli.errors import UsageError
from stylecli.recipe.gallery import Gallery
from stylecli.recipe.schema import Device, Recipe


class Model:
    """Costs of a model that is easily understood."""

    def __init__(self, items: int = 8) -> None:
        self.items = items
        self.asked: list[tuple[Device, bool]] = []

    def cost(self, settings: Device, *, checkpointing: bool) -> Cost:
        self.asked.append((settings, checkpointing))
        rows = min(2 * settings.batch, settings.max_rows or 512)
        weights = {"none": 4.0, "parts": 3.0, "blocks": 1.0}[settings.offload]
        pictures = settings.batch * (0.1 if settings.tiling else 0.8)
        training = 0.5 if checkpointing else 2.0
        gigabytes = weights + max(0.25 * rows, pictures, training)
        groups = -(-self.items // settings.batch)
        calls = groups * -(-2 * settings.batch // rows)
        seconds = 10.0 * groups * settings.batch + calls * 5
        seconds *= {"none": 1.0, "parts": 1.1, "blocks": 2.0}[settings.offload]
        seconds *= (1.2 if settings.tiling else 1.0) * (1.3 if checkpointing else 1.0)
        return Cost(seconds, round(gigabytes * GB))


def fit(
    gigabytes: float, recipe: Recipe | None = None, *, kept: tuple[str, ...] = (), items: int = 8
) -> Choice:
    return choose(
        Model(items),
        recipe or Recipe(),
        gigabytes=gigabytes,
        items=items,
        learns=True,
        can_wait=True,
        kept=kept,
    )


def best(gigabytes: float, items: int = 8) -> float | None:
    """The least seconds of all settings that fit, by trying each."""
    model = Model(items)
    batches = {1, 2, 4, 8, 16, 32, 64, 128, 256} & set(range(1, items + 1)) | {items}
    found = []
    for batch in batches:
        for rows in (None, *[n for n in range(1, 2 * items) if n & (n - 1) == 0 or n == 2 * items]):
            for tiling in (False, True):
                for offload in ("none", "parts", "blocks"):
                    for checkpointing in (False, True):
                        device = Device(batch=batch, max_rows=rows, tiling=tiling, offload=offload)
                        cost = model.cost(device, checkpointing=checkpointing)
                        if cost.memory_bytes <= gigabytes * GB:
                            found.append(cost.seconds)
    return min(found, default=None)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("gigabytes", [1.5, 2, 3, 4.5, 6, 8, 12, 24])
@pytest.mark.parametrize("items", [1, 6, 8])
def test_the_fastest_that_fits_is_chosen(gigabytes: float, items: int) -> None:
    chosen = fit(gigabytes, items=items).cost
    fastest = best(gigabytes, items)
    assert fastest is not None
    assert chosen.memory_bytes <= gigabytes * GB
    assert fastest <= chosen.seconds <= fastest * SAME


@given(low=st.floats(1.6, 30), more=st.floats(0, 60))
def test_more_memory_is_never_slower(low: float, more: float) -> None:
    assert fit(low + more).cost.seconds <= fit(low).cost.seconds * SAME


def test_with_memory_to_spare_nothing_is_spared() -> None:
    values = fit(1000).values
    assert values == {
        "device.batch": 8,
        "device.max_rows": None,
        "device.tiling": False,
        "device.offload": "none",
        CHECKPOINTING: False,
    }


def test_what_is_kept_for_gradients_is_a_choice_of_a_gallery_too() -> None:
    options: dict[str, Any] = {"items": 8, "learns": True, "can_wait": True}
    key = CHECKPOINTING_OF_GALLERY
    found = choose(Model(), Recipe(), gigabytes=1000, checkpointing=key, **options)
    assert found.values.keys() == {*KEYS, key} - {CHECKPOINTING}
    assert found.values[key] is False
    recipe = Recipe(gallery=Gallery(gradient_checkpointing=True))
    model = Model()
    choose(model, recipe, gigabytes=1000, checkpointing=key, kept=(key,), **options)
    assert {checkpointing for _, checkpointing in model.asked} == {True}


def test_what_the_user_decided_is_kept_and_is_no_choice() -> None:
    recipe = Recipe(device=Device(batch=2, tiling=True))
    values = fit(8, recipe, kept=("device.batch", "device.tiling")).values
    assert values.keys() == set(KEYS) - {"device.batch", "device.tiling"}
    model = Model()
    choose(
        model, recipe, gigabytes=8, items=8, learns=True, can_wait=True,
        kept=("device.batch", "device.tiling"),
    )  # fmt: skip
    assert {(device.batch, device.tiling) for device, _ in model.asked} == {(2, True)}


def test_where_nothing_fits_the_least_is_told() -> None:
    with pytest.raises(UsageError) as refused:
        fit(1.2)
    assert refused.value.what == "--fit 1.2: nothing fits; the least is about 1.5 GB"
    assert "--fit 1.5" in refused.value.fix
    assert fit(1.5).cost.memory_bytes <= 1.5 * GB
    with pytest.raises(UsageError, match=r"with device\.offload as given; the least is about 4\.5"):
        fit(1.2, kept=("device.offload",))


def test_what_would_change_nothing_is_left_alone() -> None:
    model = Model(1)
    recipe = Recipe()
    choose(model, recipe, gigabytes=100, items=1, learns=False, can_wait=False)
    assert {device.offload for device, _ in model.asked} == {"none"}
    assert {checkpointing for _, checkpointing in model.asked} == {False}
    assert {device.batch for device, _ in model.asked} == {1}
    assert {device.max_rows for device, _ in model.asked} == {None, 1}
