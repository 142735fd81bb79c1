"""`style evaluate`: checked first, then row by row, then what follows from the rows."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from stylecli import __version__
from stylecli.artifacts import baselines, cache, features
from stylecli.artifacts.baselines import Baseline
from stylecli.artifacts.features import FeatureStore
from stylecli.artifacts.journal import Journal
from stylecli.artifacts.locks import Shard
from stylecli.artifacts.store import digest
from stylecli.engine import metric_weights
from stylecli.engine.context import Reporter, RunContext, resolve
from stylecli.engine.scoring import (
    items,
    negatives,
    overall,
    parts,
    pools,
    printed,
    report,
    sets,
    summary,
    texts,
)
from stylecli.engine.scoring.entries import Entries, Entry, Shared, in_columns
from stylecli.engine.scoring.items import Asked, Item
from stylecli.engine.scoring.networks import Found, Networks
from stylecli.engine.scoring.pictures import ANCHORS, Album, Case
from stylecli.engine.scoring.rows import Bench, Scored
from stylecli.engine.scoring.summary import Aggregate, Outcome
from stylecli.errors import BelowThresholdError, UsageError, WeightsError
from stylecli.evaluation import statistics, table
from stylecli.evaluation.comparison import MIN_SHARED, Comparison
from stylecli.evaluation.metric import Metric
from stylecli.evaluation.neighbours import Gap
from stylecli.evaluation.normalising import Ranges
from stylecli.evaluation.published import WEIGHTS, Weights
from stylecli.evaluation.table import Chosen
from stylecli.recipe.schema import Recipe
from stylecli.recipe.scoring import Evaluate

# Names in a warning.
SHOWN = 5
# Begins what is said of a metric whose files are not here.
UNAVAILABLE = "unavailable: "
# Those that can move a number.
LIBRARIES = ("torch", "numpy", "pillow", "scipy", "lpips", "open_clip_torch")
_THRESHOLD = re.compile(r"(?:(?P<method>.+):)?(?P<metric>[\w-]+)=(?P<value>[^=]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asked for beside the results and the recipe.

    Attributes:
        weights_dir: Where the files of published metrics lie.
        compare: Two methods.
        baseline: ``paper:NAME``.
        fail_under: ``METRIC=VALUE`` or ``METHOD:METRIC=VALUE``.
        part: Score these rows only, for a report that is made later; None makes it of all.
        jobs: Processes that share the rows.
    """

    output: Path
    weights_dir: Path | None = None
    allow_download: bool = False
    dry_run: bool = False
    compare: tuple[str, str] | None = None
    baseline: str | None = None
    fail_under: Sequence[str] = ()
    wait: bool = False
    part: Shard | None = None
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class Bound:
    """What a metric has to reach, for every method or for the one named."""

    metric: Metric
    value: float
    method: str | None

    def is_kept(self, value: float) -> bool:
        """Whether a value is no worse; one that is missing is."""
        return value >= self.value if self.metric.better == "higher" else value <= self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """An evaluation that was checked: it can be shown, or run.

    Attributes:
        asked: What it was prepared from, as were `recipe` and `wishes`; other processes repeat it.
        items: Those of the part, where there is one.
        columns: What at least one item has, of any part.
        ranges: Fixed ones for the mean over metrics; mostly none.
        unfounded: Means over metrics -> why they have no meaning here.
    """

    recipe: Recipe
    asked: Asked
    items: Sequence[Item]
    columns: frozenset[str]
    chosen: Chosen
    found: Found
    context: RunContext
    wishes: Wishes
    bounds: Sequence[Bound]
    baseline: Baseline | None
    ranges: Ranges
    unfounded: Mapping[str, str]

    @classmethod
    def prepare(
        cls, recipe: Recipe, asked: Asked, wishes: Wishes, reporter: Reporter
    ) -> Evaluation:
        """Check all that can be checked without loading a network.

        Raises:
            UsageError: Unknown metrics, methods, baselines or bounds.
            InputError: Inputs that do not exist or do not pair, or lack what a metric needs.
            WeightsError: A metric that was asked for by name needs a file that is not here.
        """
        settings = recipe.evaluate
        chosen = table.choose(settings.preset, settings.metrics)
        bounds = [_bound(text) for text in wishes.fail_under]
        extra = [b.metric for b in bounds if b.metric not in chosen.metrics]
        chosen = Chosen(
            tuple(
                metric.under(settings.model_dump())
                for metric in (*chosen.metrics, *dict.fromkeys(extra))
            ),
            chosen.named | {bound.metric.name for bound in bounds},
        )
        _require_parts(chosen)
        baseline = baselines.load(wishes.baseline) if wishes.baseline else None
        fixed = overall.ranges_of(settings)
        found_items = items.collect(asked, settings)
        if any(negatives.COLUMN in metric.columns for metric in chosen.metrics):
            found_items = negatives.drawn(found_items, settings.seed)
        _tell_pairs(found_items, asked, settings, reporter)
        _check_names(found_items, wishes, bounds, settings)
        named = [metric for metric in chosen.metrics if metric.name in chosen.named]
        for metric in named:
            for column in metric.columns:
                items.require(found_items, column, metric.name)

        def pull(weights: Weights) -> Path:
            return metric_weights.pull(weights, wishes.weights_dir)

        may_pull = pull if wishes.allow_download and not wishes.dry_run else None
        found = Found.of(chosen.metrics, wishes.weights_dir, may_pull)
        if not wishes.dry_run:
            _require_weights(named, found)
            cache.ensure_writable()
        made = cls(
            recipe=recipe,
            asked=asked,
            items=[item for item in found_items if parts.belongs(item.id, wishes.part)],
            columns=frozenset(c for c in items.COLUMNS if any(item.has(c) for item in found_items)),
            chosen=chosen,
            found=found,
            context=resolve(recipe.device, reporter),
            wishes=wishes,
            bounds=bounds,
            baseline=baseline,
            ranges=fixed,
            unfounded=overall.unfounded(chosen.metrics, found_items, fixed),
        )
        if not made.parts and not wishes.dry_run:
            _refuse_all({made.why_not(m) for m in chosen.metrics if m.kind != "overall"}, found)
        return made

    @property
    def settings(self) -> Evaluate:
        return self.recipe.evaluate

    @property
    def methods(self) -> list[str]:
        """As they first appear; anchors not among them."""
        return list(dict.fromkeys(item.method for item in self.items))

    @property
    def pictures(self) -> Iterator[Path]:
        """Outputs, contents and styles of all items."""
        for item in self.items:
            yield item.output
            yield from (item.content,) if item.content else ()
            yield from item.style

    @property
    def ready(self) -> list[Metric]:
        """Metrics that can be computed: the weights are here, and some item has the columns."""
        return [metric for metric in self.chosen.metrics if not self.why_not(metric)]

    @property
    def parts(self) -> list[Metric]:
        """Those of them that measure something, and are no mean over the others."""
        return [metric for metric in self.ready if metric.kind != "overall"]

    def why_not(self, metric: Metric) -> str:
        """Why a metric cannot be computed; empty if it can."""
        if metric.kind == "overall":
            return self.unfounded[metric.name]
        for need in metric.needs:
            if need in self.found.unusable:
                return f"{UNAVAILABLE}{self.found.missing[need].what}"
        files = [WEIGHTS[need].file for need in metric.needs if need in self.found.missing]
        if files:
            return f"{UNAVAILABLE}needs {', '.join(files)}"
        lacking = [column for column in metric.columns if column not in self.columns]
        return f"no item has {', '.join(lacking)}" if lacking else ""

    def run(self, each: Callable[[Scored], None]) -> Outcome:
        """Score everything and write the report; what was scored before is not computed again.

        Args:
            each: Told of every row as it is scored.

        Raises:
            LockedError: Another run writes to the same folder.
            WeightsError: A file is damaged.
        """
        with self._work() as bench:
            outcome = self._conclude(self._rows(bench, each), bench.store)
            if cuts := bench.read.cuts():
                self.context.reporter.warn(texts.in_words(cuts))
                outcome = replace(outcome, cuts=cuts)
            if fooled := summary.misled(outcome.aggregates):
                self.context.reporter.warn(printed.misled_in_words(fooled))
            report.write(self.wishes.output, outcome)
        return outcome

    def run_part(self, each: Callable[[Scored], None]) -> None:
        """Score the part's rows, and leave their numbers for whoever makes the report.

        Raises:
            LockedError: Another run writes the same rows, or the report.
            WeightsError: A file is damaged.
        """
        with self._work() as bench:
            for scored in self._scored(bench):
                each(scored)

    @contextmanager
    def _work(self) -> Iterator[Bench]:
        """All that rows are scored with; what was done is said in the journal when it has ended."""
        began = time.monotonic()
        folder, part = self.wishes.output, self.wishes.part
        with (
            Journal(folder, part, wait=self.wishes.wait) as journal,
            self._cache() as known,
            FeatureStore(parts.file_of(folder, part), known) if part else known as store,
        ):
            if known.was_damaged:
                self.context.reporter.warn("the cache of scores was damaged; all are computed anew")
            parts.gather(folder, part, store, self.context.reporter)
            if self.wishes.jobs > 1:
                self._share()
                parts.gather(folder, part, store, self.context.reporter)
            bench = self._bench(store)
            yield bench
            made_by = self._provenance(
                {u: bench.networks.identity(u) for m in self.ready for u in m.uses}
            )
            journal.append(
                made_by | {"status": "done", "seconds": round(time.monotonic() - began, 3)}
            )

    def _share(self) -> None:
        shares = parts.within(self.wishes.part, self.wishes.jobs)
        work = partial(_score_share, self.recipe, self.asked, replace(self.wishes, jobs=1))
        on = parts.devices(self.context.device, len(shares))
        parts.together(work, shares, on, len(self.items), self.context.reporter)

    @staticmethod
    def _cache() -> FeatureStore:
        return FeatureStore(cache.cache_dir() / features.NAME)

    def _bench(self, store: FeatureStore) -> Bench:
        networks = Networks(self.found.files, self.context.device)
        factors = [table.METRICS[m.lpips] for m in self.parts if m.lpips]
        wanted = dict.fromkeys([*self.parts, *factors])
        return Bench(self.settings, list(wanted), networks, store)

    def _rows(self, bench: Bench, each: Callable[[Scored], None]) -> dict[str, Entries]:
        """Score and write every row; what stays of them, by method, the anchors last."""
        shared = Shared()
        entries = {name: Entries(name, shared) for name in self.methods}
        columns = [metric.name for metric in self.parts if metric.kind != "set"]
        with report.row_files(self.wishes.output, columns) as write:
            for scored in self._scored(bench):
                write(scored)
                each(scored)
                entry = Entry.of(scored, bench)
                if entry.method not in entries:
                    entries[entry.method] = Entries(entry.method, shared)
                entries[entry.method].append(entry)
        if pooled := [metric for metric in self.parts if metric.kind == "pool"]:
            for metric in pooled:
                entries = {
                    method: in_columns(pools.scored(metric, rows, bench.store), shared)
                    for method, rows in entries.items()
                }
            every = (entry for of_method in entries.values() for entry in of_method)
            report.complete(self.wishes.output, columns, every)
        return entries

    def _scored(self, bench: Bench) -> Iterator[Scored]:
        with self.context.reporter.task("rows", len(self.items)) as task:
            for scored in bench.score_all(self._cases(Album(bench.store))):
                if scored.case.method == scored.case.item.method:
                    task.advance()
                yield scored

    def _cases(self, album: Album) -> Iterator[Case]:
        """Every item, and after the first of each id what the anchors make of its task."""
        first: dict[str, int] = {}
        others: dict[int, list[Item]] = {}
        for index, item in enumerate(self.items):
            earlier = first.setdefault(item.id, index)
            if earlier != index:
                others.setdefault(earlier, []).append(item)
        for index, item in enumerate(self.items):
            yield album.case(item)
            if first[item.id] == index:
                same = [item, *others.get(index, ())]
                yield from album.anchors(same, self.settings.anchors)

    def _conclude(self, entries: Mapping[str, Entries], store: FeatureStore) -> Outcome:
        groups = sets.groups_of(name for rows in entries.values() for name in rows.content_names())
        found: list[Aggregate] = []
        for method, of_method in entries.items():
            for metric in self.parts:
                if metric.kind == "set":
                    own = sets.distinct(metric, of_method) if method in ANCHORS else of_method
                    score = sets.score(metric, own, groups, store)
                    found.append(summary.of_set(metric, method, score))
                else:
                    of_rows = summary.of_rows(
                        metric,
                        method,
                        of_method,
                        seed=self.settings.seed,
                        resamples=self.settings.resamples,
                    )
                    if metric.kind == "pool":
                        of_rows = replace(of_rows, n_references=pools.references(metric, of_method))
                    found.append(of_rows)
        means = [
            overall.of(metric.name, self.parts, found, entries, self.ranges)
            for metric in self.ready
            if metric.kind == "overall"
        ]
        aggregates = summary.with_rel(self.parts, found, entries)
        aggregates += [one for mean in means for one in overall.aggregates_of(mean, entries)]
        return Outcome(
            metrics=self.chosen.metrics,
            entries=entries,
            aggregates=aggregates,
            overalls=means,
            absent={m.name: why for m in self.chosen.metrics if (why := self.why_not(m))},
            compared=self.wishes.compare,
            comparisons=self._compare(entries, groups, store),
            baseline=self.baseline,
            gaps=self._gaps(entries, store),
        )

    def _gaps(
        self, entries: Mapping[str, Sequence[Entry]], store: FeatureStore
    ) -> dict[str, Mapping[str, Gap]]:
        """Of every metric made of similarities, by the references of all methods together."""

        def every() -> Iterator[Entry]:
            return (entry for method in self.methods for entry in entries[method])

        found = {m.name: pools.gaps(m, every(), store) for m in self.parts if m.similar}
        return {name: gaps for name, gaps in found.items() if gaps}

    def _compare(
        self,
        entries: Mapping[str, Entries],
        groups: Mapping[str, int],
        store: FeatureStore,
    ) -> list[Comparison]:
        if self.wishes.compare is None:
            return []
        first, second = (entries.get(method, ()) for method in self.wishes.compare)
        found: list[Comparison] = []
        for metric in self.parts:
            difference = (
                summary.difference_of_rows(metric, first, second, self.settings)
                if metric.kind != "set"
                else summary.difference_of_sets(metric, first, second, groups, store)
            )
            found += [difference] if difference else []
        adjusted = statistics.holm([one.p for one in found])
        return [replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]

    def check_bounds(self, outcome: Outcome) -> None:
        """Compare what was found with what was asked for.

        Raises:
            BelowThresholdError: A bound was not kept; the report is written all the same.
        """
        values = {(one.method, one.metric): one.value for one in outcome.aggregates}
        broken = [
            f"{bound.metric.name} of {method} is {value:.4g}, bound {bound.value:g}"
            for bound in self.bounds
            for method in ([bound.method] if bound.method else self.methods)
            if not bound.is_kept(value := values.get((method, bound.metric.name), math.nan))
        ]
        if broken:
            raise BelowThresholdError(
                "\n".join(broken), fix=f"{report.ROWS} in the report has every item's figure"
            )

    def _provenance(self, weights: Mapping[str, str]) -> dict[str, object]:
        """What a later reader needs to know: no folder, no name of a person."""
        settings = self.settings.model_dump(mode="json")
        # Not where the ranges lie, but what they are.
        settings["overall_ref"] = dict(self.ranges) or None
        made_by = {
            "command": "evaluate",
            "settings": settings,
            "metrics": {metric.name: metric.version for metric in self.ready},
            "weights": dict(weights),
            "items": digest([[item.method, item.id] for item in self.items]),
            "versions": {"stylecli": __version__, **{name: version(name) for name in LIBRARIES}},
            "device": self.context.device.type,
        }
        part = self.wishes.part
        output = parts.file_of(Path(), part).name if part else report.AGGREGATE
        return {"key": digest(made_by), "output": output, **made_by}


class _Mute:
    """For processes whose parent speaks for them."""

    def note(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""

    def task(self, label: str, total: int) -> AbstractContextManager[_Mute]:
        return nullcontext(self)

    def advance(self, n: int = 1) -> None:
        """Nothing."""


def _score_share(
    recipe: Recipe, asked: Asked, wishes: Wishes, share: Shard, on: str, each: Callable[[], None]
) -> None:
    """In another process: what its parent asked of it, checked and found anew."""
    recipe = recipe.model_copy(update={"device": recipe.device.model_copy(update={"name": on})})
    own = replace(wishes, part=share, allow_download=False)
    evaluation = Evaluation.prepare(recipe, asked, own, _Mute())
    path = parts.file_of(wishes.output, share)
    with evaluation._cache() as known, FeatureStore(path, known) as store:
        for scored in evaluation._scored(evaluation._bench(store)):
            if scored.case.method == scored.case.item.method:
                each()


def _refuse_all(reasons: Set[str], found: Found) -> NoReturn:
    """Of metrics none of which can be computed.

    Raises:
        WeightsError: For want of files alone.
        UsageError: For want of columns, too.
    """
    said = "none of the metrics can be computed: " + "; ".join(sorted(reasons))
    if all(reason.startswith(UNAVAILABLE) for reason in reasons):
        names = " ".join(f"metrics/{name}" for name in found.missing)
        raise WeightsError(
            said,
            fix=f"`style models pull {names}` where there is a network, --weights-dir DIR, or "
            "another --preset",
        )
    raise UsageError(said, fix="give --content and --style, or a manifest with those columns")


def _require_parts(chosen: Chosen) -> None:
    if all(metric.kind == "overall" for metric in chosen.metrics):
        raise UsageError(
            f"{chosen.metrics[0].name} is a mean over other metrics, and there is none",
            fix=f"name them beside it, as in --metrics {chosen.metrics[0].name},ssim,color_sw",
        )


def _tell_pairs(
    found: Sequence[Item], asked: Asked, settings: Evaluate, reporter: Reporter
) -> None:
    """Say what a user may want to check: pairs by order, and outputs that stayed alone."""
    if settings.pair == "lexicographic":
        reporter.note(items.pairs_in_words(found))
    for role, looked_for in (("content", asked.contents), ("style", asked.styles)):
        if looked_for and (alone := items.unpaired(found, role)):
            reporter.warn(
                f"{len(alone)} of {len(found)} outputs have no {role} among --{role}: "
                f"{', '.join(alone[:SHOWN])}{' …' if len(alone) > SHOWN else ''}"
            )


def _check_names(
    found: Sequence[Item], wishes: Wishes, bounds: Sequence[Bound], settings: Evaluate
) -> None:
    folders = {item.output.parent for item in found}
    if any(folder.resolve() == wishes.output.resolve() for folder in folders):
        raise UsageError(
            f"--output {wishes.output} is a folder of results", fix="give one for the report"
        )
    for name in (*(wishes.compare or ()), *(b.method for b in bounds if b.method)):
        if name in settings.anchors:
            for role in ANCHORS[name].roles:
                items.require(found, role, name)
        else:
            items.choose_method(found, name)
    if wishes.compare:
        _require_shared(found, wishes.compare, settings)


def _require_shared(found: Sequence[Item], pair: tuple[str, str], settings: Evaluate) -> None:
    """Two methods are compared on the same tasks, or not at all."""
    ids = [
        {item.id for item in found if name in settings.anchors or item.method == name}
        for name in pair
    ]
    shared, most = len(ids[0] & ids[1]), max(map(len, ids))
    if not shared or (shared < MIN_SHARED * most and not settings.allow_partial):
        raise UsageError(
            f"{pair[0]} and {pair[1]} share {shared} of {most} items",
            fix="score both on the same items"
            + (", or --set evaluate.allow_partial=true" if shared else ""),
        )


def _bound(text: str) -> Bound:
    match = _THRESHOLD.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        value = float(match["value"])
        if not math.isfinite(value):
            raise ValueError
    except ValueError as error:
        raise UsageError(
            f"--fail-under {text!r} is not METRIC=VALUE", fix="such as --fail-under ssim=0.4"
        ) from error
    return Bound(table.lookup(match["metric"]), value, match["method"])


def _require_weights(named: Sequence[Metric], found: Found) -> None:
    """All that is missing at once, so that nobody fetches one file after another."""
    faults = {
        need: f"{metric.name}{':' if need in found.unusable else ' needs'} "
        + found.missing[need].what
        for metric in named
        for need in metric.needs
        if need in found.missing
    }
    if faults:
        first, *_ = (found.missing[need].fix for need in faults)
        drop = ",".join(f"-{m.name}" for m in named if any(n in faults for n in m.needs))
        raise WeightsError(
            "\n".join(faults.values()), fix=f"{first}; or leave it out: --metrics {drop}"
        )
