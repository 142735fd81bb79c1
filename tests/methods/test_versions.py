"""Versions side by side: each is what it would be alone, and they share what is shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from stylecli.backbone.exchange import Taken
from stylecli.backbone.inversion import Trajectory, invert, null_prediction
from stylecli.methods.diffstyler import (
    Background,
    Look,
    Region,
    Version,
    paint,
    paint_versions,
    transfer,
)
from stylecli.recipe.schema import Injection
from stylecli.tensors.regions import shares
from tests import tiny
from tests.small import base_unet, folder, lora, noise, relative, with_loras

pytestmark = pytest.mark.slow

STEPS = 5
INK = Look(weights={"ink": 0.8}, prompt="a cat in sss style", negative="the dog", guidance=3.0)
OIL = Look(weights={"oil": 1.1}, prompt="the dog", negative="", guidance=2.0)
BASE = Look(weights={}, prompt="a")
INJECTION = Injection(feature_steps=3, attn_steps=2)
LONG = Injection(feature_steps=30, attn_steps=25)


class Model:
    """A tiny model with two LoRAs."""

    def __init__(self) -> None:
        self.backbone = tiny.backbone(folder())
        self.adapters = with_loras(
            self.backbone, ink=lora(base_unet()), oil=lora(base_unet(), seed=2)
        )

    def trajectory(self, contents: int, steps: int = STEPS) -> Trajectory:
        schedule = self.backbone.schedule
        predict = null_prediction(self.backbone, contents)
        return invert(noise(contents, 4, 8, 12), predict, schedule, schedule.levels(steps))

    @contextmanager
    def counted(self) -> Iterator[list[int]]:
        """How many rows each call of the UNet has."""
        rows: list[int] = []
        hook = self.backbone.unet.register_forward_pre_hook(
            lambda _module, inputs: rows.append(len(inputs[0]))
        )
        try:
            yield rows
        finally:
            hook.remove()


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


def everywhere(look: Look, steps: int = STEPS) -> Version:
    return Version(regions=[Region(looks=[look] * steps)])


def pinned() -> Version:
    """Two regions on the content's own background."""
    masks = torch.zeros(2, 1, 1, 8, 12)
    masks[0, ..., :5], masks[1, ..., 3:8] = 0.6, 1
    own, rest = shares(list(masks), "over")
    looks = ([INK] * STEPS, [OIL, OIL, BASE, INK, INK])
    regions = [Region(looks=each, share=s) for each, s in zip(looks, own, strict=True)]
    return Version(regions=regions, background=Background(share=rest, pin_until=4))


def hidden() -> Version:
    """Nothing of its region is to be seen."""
    nothing = torch.zeros(1, 1, 8, 12)
    region = Region(looks=[INK] * STEPS, share=nothing)
    return Version(regions=[region], background=Background(share=1 - nothing))


@pytest.mark.parametrize("contents", [1, 2])
@pytest.mark.parametrize("source", ["replay", "denoise"])
def test_each_version_is_bit_for_bit_what_it_is_alone(
    model: Model, contents: int, source: str
) -> None:
    path = model.trajectory(contents)
    injection = INJECTION.model_copy(update={"source": source})
    started = Version(regions=[Region(looks=[OIL] * STEPS)], start=path.latents[-1] * 0.9)
    versions = [everywhere(INK), pinned(), hidden(), everywhere(BASE), started]
    together = paint_versions(model.backbone, model.adapters, path, versions, injection)
    for version, found in zip(versions, together, strict=True):
        alone = paint(
            model.backbone,
            model.adapters,
            path,
            version.regions,
            injection,
            background=version.background,
            start=version.start,
        )
        assert torch.equal(found, alone)
    assert relative(together[0], together[4]) > 1e-3


@pytest.mark.parametrize("styles", [1, 3])
def test_one_content_in_n_styles_costs_99_and_100_n_rows(model: Model, styles: int) -> None:
    """50 of the inversion, 49 of the source, 100 for each style."""
    with model.counted() as rows:
        path = model.trajectory(1, 50)
        versions = [everywhere(INK, 50) for _ in range(styles)]
        paint_versions(model.backbone, model.adapters, path, versions, LONG)
    assert sum(rows) == 99 + 100 * styles


@pytest.mark.parametrize(("guidance", "each"), [(3.0, 100), (1.0, 50)])
def test_k_regions_cost_99_and_100_k_rows_or_50_k_without_guidance(
    model: Model, guidance: float, each: int
) -> None:
    look = Look(weights={"ink": 0.8}, prompt="a cat", guidance=guidance)
    masks = torch.zeros(3, 1, 1, 8, 12)
    for k in range(3):
        masks[k, ..., 3 * k : 3 * k + 2] = 1
    own, rest = shares(list(masks), "over")
    with model.counted() as rows:
        path = model.trajectory(1, 50)
        regions = [Region(looks=[look] * 50, share=share) for share in own]
        paint(
            model.backbone, model.adapters, path, regions, LONG, background=Background(share=rest)
        )
    assert sum(rows) == 99 + each * 3


@pytest.mark.parametrize("max_rows", [1, 2, 3, 5])
@pytest.mark.parametrize("source", ["replay", "denoise"])
def test_rows_may_pass_in_chunks_of_any_size(model: Model, max_rows: int, source: str) -> None:
    path = model.trajectory(3)
    injection = INJECTION.model_copy(update={"source": source, "feature_layers": "from_anchor"})
    versions = [everywhere(INK), pinned()]
    whole = paint_versions(model.backbone, model.adapters, path, versions, injection)
    model.backbone.max_rows = max_rows
    try:
        with model.counted() as rows:
            chunked = paint_versions(model.backbone, model.adapters, path, versions, injection)
    finally:
        model.backbone.max_rows = None
    assert max(rows) == max_rows
    for one, other in zip(whole, chunked, strict=True):
        assert relative(one, other) < 1e-5
    # Each content has its own source: chunks that lost count would mix them up.
    assert relative(whole[0][0], whole[0][1]) > 1e-2


class Shelf:
    """Keeps everything."""

    def __init__(self) -> None:
        self.steps: dict[int, Taken] = {}

    def get(self, step: int) -> Taken | None:
        return self.steps.get(step)

    def put(self, step: int, taken: Taken) -> None:
        self.steps[step] = {k: tuple(t.clone() for t in v) for k, v in taken.items()}


def test_what_a_content_left_serves_its_next_look_bit_for_bit(model: Model) -> None:
    path, shelf = model.trajectory(2), Shelf()

    def painted(look: Look, keeper: Shelf | None) -> tuple[Tensor, int]:
        with model.counted() as rows:
            (found,) = paint_versions(
                model.backbone,
                model.adapters,
                path,
                [everywhere(look)],
                INJECTION,
                keeper=keeper,
            )
        return found, sum(rows)

    first, rows = painted(INK, shelf)
    assert torch.equal(first, transfer(model.backbone, model.adapters, path, INK, INJECTION))
    assert sorted(shelf.steps) == [0, 1, 2, 3]
    assert set(shelf.steps[0]) > set(shelf.steps[3])
    second, fewer = painted(OIL, shelf)
    assert torch.equal(second, painted(OIL, None)[0])
    assert rows - fewer == 2 * 4


def test_a_source_that_walks_its_own_path_is_not_kept(model: Model) -> None:
    shelf = Shelf()
    injection = INJECTION.model_copy(update={"source": "denoise"})
    paint_versions(
        model.backbone,
        model.adapters,
        model.trajectory(1),
        [everywhere(INK)],
        injection,
        keeper=shelf,
    )
    assert not shelf.steps


@pytest.mark.parametrize("max_rows", [None, 3])
def test_rows_with_loras_of_their_own_pass_together_and_equal_passes(
    model: Model, max_rows: int | None
) -> None:
    path = model.trajectory(2)
    both = Look(weights={"ink": 0.5, "oil": -0.4}, prompt="a", negative="the dog", guidance=4.0)
    versions = [everywhere(INK), pinned(), everywhere(BASE), everywhere(both)]
    passes = paint_versions(model.backbone, model.adapters, path, versions, INJECTION)
    model.backbone.max_rows = max_rows
    try:
        with model.counted() as rows:
            together = paint_versions(
                model.backbone, model.adapters, path, versions, INJECTION, in_rows=True
            )
    finally:
        model.backbone.max_rows = None
    # Of two contents: looks with and without guidance, a base, a sum; and the source's rows.
    whole = 2 * (2 + 2 + 2 + 1 + 2)
    targets = [whole, whole, whole - 2, whole, whole + 2]
    assert sum(rows) == sum(targets) + 2 * 4
    assert max(rows) == (max_rows or max(targets))
    for one, other in zip(passes, together, strict=True):
        assert relative(one, other) < 1e-5
    alone = paint_versions(model.backbone, model.adapters, path, [versions[0]], INJECTION)
    assert torch.equal(alone[0], passes[0])
