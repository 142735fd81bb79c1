"""One content in one style: ours beside the plain reference, the authors' procedure, and passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from stylecli.engine.bench import counting, sides
from stylecli.engine.bench.report import Ratio, Row
from stylecli.engine.bench.scene import Scene, shortened
from stylecli.engine.bench.timing import Watch
from stylecli.engine.bench.workplace import Bench, quotients

# Of the authors' sampling, of which every step costs the same.
AUTHORS_SAMPLED = 4
# Most of its steps are not measured but counted.
AUTHORS = "authors' procedure / ours, SCALED"


def measure(bench: Bench) -> Iterator[Row]:
    """One content in one style: ours, the plain reference and the authors' procedure, in turns."""
    scene = bench.scene
    if not scene.has_reference:
        yield from _transfer_alone(bench)
        return
    backbone = scene.backbone
    plain = sides.Plain(scene)
    few = replace(scene, recipe=shortened(scene.recipe, AUTHORS_SAMPLED))
    authors = sides.Authors(few, bench.amount.authors)
    counted: dict[str, Counter[int]] = {}

    def hooked(name: str, run: Callable[[Watch], object], unets: Sequence[Any]) -> Any:
        def side(watch: Watch) -> None:
            with counting.passes(*unets) as found:
                run(watch)
            counted[name] = found

        return side

    rows = (1, len(scene.looks[0].prompts))
    times = bench.amount.passes
    work = {
        "ours": hooked("ours", lambda watch: sides.ours(scene, watch), [backbone.unet]),
        "plain": hooked("plain", plain, plain.unets),
        "authors": hooked("authors", authors, authors.unets),
        "vae": lambda watch: sides.vae(scene, watch),
    } | {f"pass of {n}": partial(_bare, scene, n, times) for n in sorted(set(rows))}
    once = shortened(scene.recipe, 1)
    warm = {
        "ours": lambda watch: sides.ours(replace(scene, recipe=once), watch),
        "plain": lambda watch: plain(watch, once),
    }
    shown = bench.turns(work, warm)
    yield from _transfer_sides(bench, shown, counted)
    yield from _transfer_ratios(bench, shown, counted["ours"])
    share = bench.session.recipe.sampling.steps
    yield Ratio(
        name=AUTHORS,
        value=quotients(
            [authors.scaled(watch.seconds, share) for watch in shown["authors"]],
            [watch.total * share / bench.steps for watch in shown["ours"]],
        ),
        cpu=quotients(
            [authors.scaled(watch.cpu_seconds, share) for watch in shown["authors"]],
            [watch.cpu_total * share / bench.steps for watch in shown["ours"]],
        ),
        at_least=bench.aim(8.0),
        how=f"SCALED: {bench.amount.authors} of {sides.AUTHORS_STEPS} steps of inversion and as "
        f"many of reconstruction, {few.recipe.sampling.steps} of {share} steps of sampling (3 rows "
        f"through each of two UNets); ours from {bench.steps} steps to {share}; their injection "
        "and attention matrices are left out, so theirs takes longer than this",
    )


def _bare(scene: Scene, rows: int, times: int, watch: Watch) -> None:
    sides.one_pass(scene, watch, rows, times)


def _transfer_alone(bench: Bench) -> Iterator[Row]:
    """Ours, of a model that no reference knows: beside the passes that it is made of."""
    scene, times = bench.scene, bench.amount.passes
    counted: dict[str, Counter[int]] = {}

    def ours(watch: Watch) -> None:
        with counting.passes(scene.backbone.unet) as found:
            sides.ours(scene, watch)
        counted["ours"] = found

    rows = sorted({1, len(scene.looks[0].prompts)})
    work: dict[str, Callable[[Watch], object]] = {
        "ours": ours,
        "vae": lambda watch: sides.vae(scene, watch),
    }
    work |= {f"pass of {n}": partial(_bare, scene, n, times) for n in rows}
    once = shortened(scene.recipe, 1)
    warm = {"ours": lambda watch: sides.ours(replace(scene, recipe=once), watch)}
    shown = bench.turns(work, warm)
    yield from _transfer_sides(bench, shown, counted)
    yield _against_rows(bench, shown, counted["ours"])


def _transfer_ratios(
    bench: Bench, shown: Mapping[str, Sequence[Watch]], counted: Counter[int]
) -> Iterator[Row]:
    def added(kind: str, *names: str) -> list[float]:
        each = [[getattr(watch, kind) for watch in shown[name]] for name in names]
        return [sum(round_) for round_ in zip(*each, strict=True)]

    kinds = "total", "cpu_total"
    value, cpu = (
        quotients(added(kind, "plain", "vae"), added(kind, "ours", "vae")) for kind in kinds
    )
    yield Ratio(
        name="plain / ours",
        value=value,
        cpu=cpu,
        at_least=bench.aim(1.5),
        how=f"{bench.steps} steps at {bench.size[0]}x{bench.size[1]} px, same weights and "
        "settings, from picture to picture; in turns, by rounds",
    )

    yield _against_rows(bench, shown, counted)


def _against_rows(
    bench: Bench, shown: Mapping[str, Sequence[Watch]], counted: Counter[int]
) -> Ratio:
    def least(kind: str) -> list[float]:
        times = bench.amount.passes
        each = [
            [number * getattr(watch, kind) / times for watch in shown[f"pass of {size}"]]
            for size, number in counted.items()
        ]
        return [sum(round_) for round_ in zip(*each, strict=True)]

    def own(kind: str) -> list[float]:
        return [getattr(watch, kind) for watch in shown["ours"]]

    value, cpu = (quotients(own(kind), least(kind)) for kind in ("total", "cpu_total"))
    return Ratio(
        name="ours / rows x one row",
        value=value,
        cpu=cpu,
        at_most=bench.aim(1.15),
        how=f"{_passes(counted)}; a row is a pass of the model without LoRAs, at the same "
        "number of rows, timed in the same rounds",
    )


def _passes(found: Counter[int]) -> str:
    return ", ".join(f"{times} passes of {size}" for size, times in sorted(found.items()))


def _transfer_sides(
    bench: Bench, shown: Mapping[str, Sequence[Watch]], counted: Mapping[str, Counter[int]]
) -> Iterator[Row]:
    hollow = bench.hollow()
    silent = Watch(hollow.backbone.device)
    flops = {"ours": counting.flops(lambda: sides.ours(hollow, silent))}
    if hollow.has_reference:
        plain = sides.Plain(hollow)
        flops["plain"] = counting.flops(lambda: plain(silent))
    how = {
        "ours": "inversion and sampling with early exit, skipping and fused attention",
        "plain": "the reference of the tests: three rows a step, attention matrices written out",
        "authors": f"{bench.amount.authors} steps each way and {AUTHORS_SAMPLED} of sampling, "
        "as measured",
        "vae": "encoding and decoding, the same for all",
    }
    for name, watches in shown.items():
        facts: dict[str, Any] = {"how": how.get(name, "the model without LoRAs, nothing injected")}
        if name in counted:
            facts["rows"] = counting.rows(counted[name])
        if name in flops:
            facts["flops"] = flops[name]
        if name.startswith("pass"):
            size = int(name.rpartition(" ")[2])
            times = bench.amount.passes
            facts["rows"] = size * times
            facts["flops"] = counting.flops(partial(sides.one_pass, hollow, silent, size, times))
        yield bench.side("transfer", name, watches, **facts)
