"""`style evaluate`: checked first, then row by row, then what follows from the rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

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
    checks,
    items,
    negatives,
    overall,
    parts,
    pools,
    printed,
    report,
    summary,
    texts,
)
from stylecli.engine.scoring.conclusion import conclude
from stylecli.engine.scoring.entries import Entries, Entry, Shared, in_columns
from stylecli.engine.scoring.item import COLUMNS, Item
from stylecli.engine.scoring.items import Asked
from stylecli.engine.scoring.networks import Found, Networks
from stylecli.engine.scoring.pictures import Album, Case
from stylecli.engine.scoring.rows import Bench, Scored
from stylecli.engine.scoring.summary import Outcome
from stylecli.engine.scoring.wishes import Bound, Wishes, bound
from stylecli.errors import BelowThresholdError
from stylecli.evaluation import table
from stylecli.evaluation.metric import Metric
from stylecli.evaluation.normalising import Ranges
from stylecli.evaluation.published import WEIGHTS, Weights
from stylecli.evaluation.table import Chosen
from stylecli.recipe.schema import Recipe
from stylecli.recipe.scoring import Evaluate

# Those that can move a number.
LIBRARIES = ("torch", "numpy", "pillow", "scipy", "lpips", "open_clip_torch")


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
        bounds = [bound(text) for text in wishes.fail_under]
        extra = [b.metric for b in bounds if b.metric not in chosen.metrics]
        chosen = Chosen(
            tuple(
                metric.under(settings.model_dump())
                for metric in (*chosen.metrics, *dict.fromkeys(extra))
            ),
            chosen.named | {bound.metric.name for bound in bounds},
        )
        checks.require_parts(chosen)
        baseline = baselines.load(wishes.baseline) if wishes.baseline else None
        fixed = overall.ranges_of(settings)
        found_items = items.collect(asked, settings)
        if any(negatives.COLUMN in metric.columns for metric in chosen.metrics):
            found_items = negatives.drawn(found_items, settings.seed)
        checks.tell_pairs(found_items, asked, settings, reporter)
        checks.check_names(found_items, wishes, bounds, settings)
        named = [metric for metric in chosen.metrics if metric.name in chosen.named]
        for metric in named:
            for column in metric.columns:
                items.require(found_items, column, metric.name)

        def pull(weights: Weights) -> Path:
            return metric_weights.pull(weights, wishes.weights_dir)

        may_pull = pull if wishes.allow_download and not wishes.dry_run else None
        found = Found.of(chosen.metrics, wishes.weights_dir, may_pull)
        if not wishes.dry_run:
            checks.require_weights(named, found)
            cache.ensure_writable()
        made = cls(
            recipe=recipe,
            asked=asked,
            items=[item for item in found_items if parts.belongs(item.id, wishes.part)],
            columns=frozenset(c for c in COLUMNS if any(item.has(c) for item in found_items)),
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
            checks.refuse_all(
                {made.why_not(m) for m in chosen.metrics if m.kind != "overall"}, found
            )
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
                return f"{checks.UNAVAILABLE}{self.found.missing[need].what}"
        files = [WEIGHTS[need].file for need in metric.needs if need in self.found.missing]
        if files:
            return f"{checks.UNAVAILABLE}needs {', '.join(files)}"
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
            outcome = self._outcome(self._rows(bench, each), bench.store)
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

    def _outcome(self, entries: Mapping[str, Entries], store: FeatureStore) -> Outcome:
        found = conclude(
            self.ready,
            entries,
            store,
            self.settings,
            compare=self.wishes.compare,
            ranges=self.ranges,
        )
        return Outcome(
            metrics=self.chosen.metrics,
            entries=entries,
            aggregates=found.aggregates,
            overalls=found.overalls,
            absent={m.name: why for m in self.chosen.metrics if (why := self.why_not(m))},
            compared=self.wishes.compare,
            comparisons=found.comparisons,
            baseline=self.baseline,
            gaps=found.gaps,
        )

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
