"""What `style bench` measures of StyleGallery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from stylecli.engine.bench import counting, gallery, memory
from stylecli.engine.bench.report import Figure, Ratio, Row, Side
from stylecli.engine.bench.scene import Scene
from stylecli.engine.bench.timing import Watch
from stylecli.engine.bench.workplace import Bench, quotients
from stylecli.recipe.gallery import Gallery

REFRESH = 4
# Every timestep costs the same, or with refresh every so many do.
STEPS = REFRESH
# How many times as fast as the plain side: exact, and with refresh.
AIMS = 1.1, 1.6
MEMORY_STEPS = 2


def measure(bench: Bench) -> Iterator[Row]:
    """Times in turns, operations, and peak memory with and without checkpoints."""
    exact = gallery.settings(bench.session.recipe, steps=STEPS)
    often = f"refresh {REFRESH}"
    kinds = {"exact": exact, often: exact.model_copy(update={"refresh": REFRESH})}
    shown = bench.turns(_work(bench.scene, kinds))
    hollow = bench.hollow()
    silent = Watch(hollow.backbone.device)
    on_paper = _work(hollow, kinds)
    how = {
        "exact": "gathered keys, passes cut short, nothing computed that nobody uses",
        often: f"content and reference pass at every {REFRESH}th timestep",
        "plain": "the reference of the tests: whole passes, attention of all pairs by region",
    }
    for name, watches in shown.items():
        flops = counting.flops(partial(on_paper[name], silent))
        yield bench.side("gallery", name, watches, flops=flops, how=how[name])
    for name, at_least in zip(kinds, AIMS, strict=True):
        yield Ratio(
            name=f"gallery: plain / {name}",
            value=quotients(*([watch.total for watch in shown[one]] for one in ("plain", name))),
            cpu=quotients(*([watch.cpu_total for watch in shown[one]] for one in ("plain", name))),
            at_least=bench.aim(at_least),
            how=f"{STEPS} timesteps at {bench.size[0]}x{bench.size[1]} px, one reference, "
            f"{gallery.REGIONS} regions, same weights and type; in turns, by rounds",
        )
    yield from _peaks(bench)


def _work(scene: Scene, kinds: Mapping[str, Gallery]) -> dict[str, Callable[[Watch], object]]:
    def side(given: Gallery) -> Callable[[Watch], object]:
        return lambda watch: gallery.ours(scene, watch, given)

    plain, given = gallery.Plain(scene), kinds["exact"]
    return {name: side(one) for name, one in kinds.items()} | {
        "plain": lambda watch: plain(watch, given)
    }


def _peaks(bench: Bench) -> Iterator[Row]:
    found: dict[bool, int | None] = {}
    for checkpoints in (False, True):
        given = gallery.settings(
            bench.session.recipe, steps=MEMORY_STEPS, gradient_checkpointing=checkpoints
        )
        recipe = bench.session.recipe.model_copy(update={"gallery": given})
        found[checkpoints] = memory.peak(
            recipe, "gallery", bench.size, blank=bench.session.is_blank
        )
        yield Side(
            case="gallery",
            name="peak, checkpoints" if checkpoints else "peak",
            peak_bytes=found[checkpoints],
            how=f"above the loaded model, {MEMORY_STEPS} timesteps; a process of its own"
            + ("" if found[checkpoints] is not None else "; it did not fit"),
        )
    if (without := found[False]) and (with_them := found[True]):
        value = without / with_them
        yield Ratio(
            name="gallery: peak memory without / with checkpoints",
            value=Figure(median=value, low=value, high=value),
            how=f"at {bench.size[0]}x{bench.size[1]} px, tensors above what was there before",
        )
