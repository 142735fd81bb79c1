"""What StyleGallery's third stage costs, in passes of Stable Diffusion 1.5's UNet (F) at 512 px.

For one reference and six regions, as in section 4.3 of the method's specification. Nothing is
computed: operations are counted on the meta device.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import pytest
import torch

from stylecli.backbone import hollow
from stylecli.backbone.architectures import on_paper
from stylecli.engine.bench import counting, gallery, gallery_case, scene, sides
from stylecli.engine.bench.report import Ratio, Side
from stylecli.engine.bench.scene import Scene
from stylecli.engine.bench.timing import Watch
from stylecli.engine.bench.workplace import Bench
from stylecli.engine.session import Session
from stylecli.recipe.schema import Backbone, Device, Recipe, Sampling
from tests import tiny
from tests.engine.bench.test_bench import Quiet
from tests.small import folder, relative

pytestmark = pytest.mark.slow

CPU, META = torch.device("cpu"), torch.device("meta")
STEPS = 150


def recipe() -> Recipe:
    return Recipe(
        backbone=Backbone(id=str(folder())), device=Device(name="cpu"), sampling=Sampling(size=16)
    )


@cache
def sd15() -> Scene:
    made = hollow.backbone("unet", on_paper("sd15"), dtype=torch.float32, size_px=512)
    return scene.hollow(made, recipe(), (64, 64))


@cache
def one_pass() -> float:
    return counting.flops(lambda: sides.one_pass(sd15(), Watch(META), 1, 1))


def cost(steps: int, **changes: Any) -> float:
    """Of a whole run, from a few of its timesteps."""
    given = gallery.settings(recipe(), steps=steps, **changes)
    found = counting.flops(partial(gallery.ours, sd15(), Watch(META), given))
    return STEPS / steps * found / one_pass()


def test_a_pass_is_the_one_that_costs_are_counted_in() -> None:
    assert one_pass() == pytest.approx(803e9, rel=1e-3)


def test_a_run_costs_606_passes_at_most_where_the_authors_costs_703() -> None:
    assert cost(1) <= 606
    assert cost(1, mask_mode="zero") <= 606
    plain = gallery.Plain(sd15())
    given = gallery.settings(recipe(), steps=1)
    authors = STEPS * counting.flops(partial(plain, Watch(META), given)) / one_pass()
    assert authors == pytest.approx(703, abs=3)


def test_with_refresh_it_costs_391() -> None:
    assert cost(4, refresh=4) == pytest.approx(391, abs=1)


def test_what_weighs_nothing_costs_nothing() -> None:
    """Content and reference cost about one pass a timestep each."""
    exact = cost(1)
    for off in ("content_weight", "style_weight"):
        assert cost(1, **{off: 0}) < exact - 0.94 * STEPS
    # Pictures that nobody looks at leave no trace at all.
    assert cost(1, style_weight=0, content_weight=0) == 0


def test_ours_and_the_plain_side_make_the_same_under_the_authors_masks() -> None:
    both = scene.real(tiny.backbone(folder()), recipe(), (16, 16))
    given = gallery.settings(recipe(), steps=4, mask_mode="zero", key_masks="nearest")
    ours = gallery.ours(both, Watch(CPU), given)
    assert relative(ours, gallery.Plain(both)(Watch(CPU), given)) < 1e-3


def test_half_precision_passes_through_both_sides() -> None:
    both = scene.real(tiny.backbone(folder(), torch.bfloat16), recipe(), (16, 16))
    given = gallery.settings(recipe(), steps=1)
    for side in (gallery.Plain(both), partial(gallery.ours, both)):
        found = side(Watch(CPU), given)
        assert torch.isfinite(found).all()
        assert found.dtype == torch.float32


def test_the_case_measures_three_sides_and_memory() -> None:
    bench = Bench(Session.open(recipe(), Quiet()), "tiny", effort="quick", size=(32, 32))
    rows = list(gallery_case.measure(bench))
    found = {row.name: row for row in rows if isinstance(row, Side)}
    assert list(found) == ["exact", "refresh 4", "plain", "peak", "peak, checkpoints"]
    flops = [found[name].flops for name in ("refresh 4", "exact", "plain")]
    assert flops == sorted(flops, key=float)
    ratios = [row for row in rows if isinstance(row, Ratio)]
    assert len(ratios) == 3
    # Pictures this small are not what the aims are for.
    assert all(ratio.at_least is None for ratio in ratios)
