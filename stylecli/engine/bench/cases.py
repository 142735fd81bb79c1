"""What `style bench` measures, case by case; every one gives rows as soon as it knows them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.registry import FLOWS, Kind
from stylecli.backbone.tuning import tune
from stylecli.engine.bench import counting, gallery_case, memory, sides, training, transfer_case
from stylecli.engine.bench.report import Count, Figure, Ratio, Row, Side
from stylecli.engine.bench.scene import Scene, shortened
from stylecli.engine.bench.timing import Spread, Watch
from stylecli.engine.bench.workplace import Bench
from stylecli.errors import UsageError, did_you_mean
from stylecli.recipe.schema import Injection

# All kinds of steps are in these, and what the next step needs does not grow.
MEMORY_STEPS = 4
# Rows are counted with the thresholds of the method's cost model, whatever the recipe says.
COUNTED_STEPS, SOURCE_STEPS = 50, 49
COUNTED = Injection(feature_steps=30, attn_steps=25, attn_tail="adaptive")


def peaks(bench: Bench) -> Iterator[Row]:
    """Peak memory of ours and of the plain reference, each in a process of its own."""
    recipe = shortened(bench.session.recipe, MEMORY_STEPS)
    found: dict[str, int | None] = {}
    for side in memory.SIDES:
        found[side] = memory.peak(recipe, side, bench.size, blank=bench.session.is_blank)
        yield Side(
            case="memory",
            name=side,
            peak_bytes=found[side],
            how=f"above the loaded model and its LoRA, from picture to picture in {MEMORY_STEPS} "
            "steps; a process of its own" + ("" if found[side] is not None else "; it did not fit"),
        )
    if (ours := found["ours"]) and (plain := found["plain"]):
        value = plain / ours
        yield Ratio(
            name="plain / ours, peak memory",
            value=Figure(median=value, low=value, high=value),
            at_least=bench.aim(2.5),
            how=f"at {bench.size[0]}x{bench.size[1]} px, tensors above what was there before",
        )


def rows(bench: Bench) -> Iterator[Row]:
    """Rows of the settings in the method's cost model, counted by a hook."""
    side = bench.scene.backbone.multiple_px // bench.scene.backbone.latent_px
    sampling = {"steps": COUNTED_STEPS, "guidance": 2.0, "negative": ""}

    def given(tail: str = "adaptive", guidance: float = 2.0) -> Scene:
        injection = COUNTED.model_copy(update={"attn_tail": tail})
        settings = bench.recipe.sampling.model_copy(update=sampling | {"guidance": guidance})
        recipe = bench.recipe.model_copy(update={"sampling": settings, "injection": injection})
        clean = bench.scene.clean[..., :side, :side]
        return replace(bench.scene, recipe=recipe, clean=clean)

    def count(name: str, expected: int, scene: Scene, run: Callable[[Scene], object]) -> Count:
        with counting.passes(scene.backbone.unet) as found:
            run(scene)
        return Count(name=name, rows=counting.rows(found), expected=expected)

    def styled(number: int) -> Callable[[Scene], object]:
        return lambda scene: sides.ours(scene, Watch(scene.clean.device), number)

    def split(number: int) -> Callable[[Scene], object]:
        return lambda scene: sides.regional(scene, Watch(scene.clean.device), number)

    shared = COUNTED_STEPS + SOURCE_STEPS
    yield count("1 style, adaptive", 199, given(), styled(1))
    yield count("1 style, hard 30/25", 180, given("hard"), styled(1))
    yield count("1 style, guidance 1", 149, given(guidance=1.0), styled(1))
    for number in bench.amount.counted:
        if number > 1:
            expected = shared + 2 * COUNTED_STEPS * number
            yield count(f"{number} styles in lock-step", expected, given(), styled(number))
    for number in bench.amount.counted[:2]:
        expected = shared + 2 * COUNTED_STEPS * number
        name = f"{number} region{'s' if number > 1 else ''}"
        yield count(name, expected, given(), split(number))
        expected = shared + COUNTED_STEPS * number
        yield count(f"{name}, guidance 1", expected, given(guidance=1.0), split(number))


def styles(bench: Bench) -> Iterator[Row]:
    """One content in several styles: one after another, in lock-step, and ways to hold LoRAs."""
    scene, number = bench.scene, bench.amount.styles
    fused = Adapters(scene.backbone.unet, fused=True)
    for look in scene.looks:
        for name in look.weights:
            fused.adopt(name)

    def alone(watch: Watch) -> None:
        for look in range(number):
            one = replace(scene, loras=scene.loras[look : look + 1])
            sides.ours(one, watch)

    work: dict[str, Callable[[Watch], object]] = {
        "one after another": alone,
        "lock-step, passes": lambda watch: sides.ours(scene, watch, number),
        "lock-step, fused": lambda watch: sides.ours(scene, watch, number, adapters=fused),
        "lock-step, rows": lambda watch: sides.ours(scene, watch, number, in_rows=True),
    }
    shown = bench.turns(work)
    for name, watches in shown.items():
        yield bench.side("styles", name, watches, how=f"{number} styles of one content")
    yield from bench.against("styles", shown, "one after another")


def compiled(bench: Bench) -> Iterator[Row]:
    """torch.compile beside the same without."""
    device = bench.session.recipe.device
    scene = bench.scene

    def under(mode: str) -> Callable[[Watch], object]:
        def run(watch: Watch) -> None:
            tune(scene.backbone, device.model_copy(update={"compile": mode}))
            # Regions are traced anew once the setting changes, which is no part of a picture.
            sides.ours(scene, Watch(bench.session.context.device))
            sides.ours(scene, watch)

        return run

    try:
        tune(scene.backbone, device.model_copy(update={"compile": "default"}))
        first = Watch(bench.session.context.device)
        sides.ours(scene, first)
        shown = bench.turns({"as it is": under("none"), "compiled": under("default")})
    except UsageError as error:
        bench.session.context.reporter.warn(f"device.compile is left out: {error.what}")
        return
    finally:
        tune(scene.backbone, device)
    how = {
        "as it is": "device.compile none",
        "compiled": f"device.compile default; the first run took "
        f"{sum(first.seconds.values()):.0f} s, compiling",
    }
    for name, watches in shown.items():
        yield bench.side("compile", name, watches, how=how[name])
    yield from bench.against("compile", shown, "as it is")


def train(bench: Bench) -> Iterator[Row]:
    """Steps of training beside bare passes forwards and backwards."""
    plain = copy.copy(bench.scene.backbone)
    plain.unet = bench.scene.base
    settings, steps = bench.recipe.lora, bench.amount.training
    for number in (1, bench.amount.styles):
        count = number * settings.batch
        device = bench.session.context.device
        training.bare(plain, settings, Watch(device), 2, count)
        before, after = Watch(device), Watch(device)
        training.bare(plain, settings, before, steps, count)
        clock = training.fit(plain, settings, steps + training.WARM + 1, number)
        training.bare(plain, settings, after, steps, count)
        bare = [watch.seconds["pass"] / steps for watch in (before, after)]
        own = Spread.of(clock.seconds())
        said = f"{number} LoRA{'s' if number > 1 else ''}"
        yield Side(
            case="train",
            name=f"train-lora, {said}",
            seconds=Figure.of(own),
            cpu_seconds=Figure.of(Spread.of(clock.cpu_seconds())),
            rows=count,
            how="one step of each; draws, optimiser and bookkeeping included",
        )
        yield Side(
            case="train",
            name=f"bare passes, {said}",
            seconds=Figure.of(Spread.of(bare)),
            rows=count,
            how="as many rows forwards and backwards through the UNet without a LoRA, measured "
            "before and after",
        )
        least = sum(bare) / 2
        yield Ratio(
            name=f"train-lora / bare passes, {said}",
            value=Figure.of(Spread.of([seconds / least for seconds in clock.seconds()])),
            how="by steps",
        )


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table.

    Attributes:
        what: In a few words, for people.
        has_rival: It is measured beside a plain implementation, which knows UNets like Stable
            Diffusion's alone.
    """

    run: Callable[[Bench], Iterator[Row]]
    what: str
    has_rival: bool = False


CASES: Mapping[str, Case] = {
    "transfer": Case(
        transfer_case.measure, "ours, the plain reference and the authors' procedure, in turns"
    ),
    "memory": Case(peaks, "peak memory, each side in a process of its own", has_rival=True),
    "rows": Case(rows, "rows of the cost model, counted"),
    "styles": Case(styles, "several styles of one content"),
    "train": Case(train, "training steps and bare passes"),
    "gallery": Case(
        gallery_case.measure,
        "StyleGallery's updates beside a plain implementation",
        has_rival=True,
    ),
    "compile": Case(compiled, "torch.compile"),
}


def chosen(names: Sequence[str], kind: Kind = "unet") -> list[str]:
    """Cases in the order they are measured; none named is all that fit the model.

    Raises:
        UsageError: No such case, or one that a model of this kind cannot have.
    """
    for name in names:
        if name not in CASES:
            raise UsageError(
                f"--cases: there is no {name!r}",
                fix=f"{did_you_mean(name, CASES)}known: {', '.join(CASES)}",
            )
    unfit = [] if kind == "unet" else [name for name, case in CASES.items() if case.has_rival]
    unfit += ["compile"] if kind in FLOWS else []
    if named := [name for name in names if name in unfit]:
        raise UsageError(
            f"--cases {named[0]} is for UNets like Stable Diffusion's, and this is another model",
            fix=f"known for it: {', '.join(name for name in CASES if name not in unfit)}",
        )
    return [name for name in CASES if name in names or not (names or name in unfit)]


def measure(bench: Bench, names: Sequence[str]) -> Iterator[Row]:
    """Some of `CASES`; a row as soon as it is known."""
    yield from bench.ceilings
    for name in names:
        bench.session.context.reporter.note(f"measuring  {name}: {CASES[name].what}")
        yield from CASES[name].run(bench)
