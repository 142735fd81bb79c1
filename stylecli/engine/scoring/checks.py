"""What is refused, or told, before any network is loaded."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NoReturn

from stylecli.engine.context import Reporter
from stylecli.engine.scoring import items
from stylecli.engine.scoring.item import Item
from stylecli.engine.scoring.items import Asked
from stylecli.engine.scoring.networks import Found
from stylecli.engine.scoring.pictures import ANCHORS
from stylecli.engine.scoring.wishes import Bound, Wishes
from stylecli.errors import UsageError, WeightsError
from stylecli.evaluation.comparison import MIN_SHARED
from stylecli.evaluation.metric import Metric
from stylecli.evaluation.table import Chosen
from stylecli.recipe.scoring import Evaluate

# Names in a warning.
SHOWN = 5
# Begins what is said of a metric whose files are not here.
UNAVAILABLE = "unavailable: "


def refuse_all(reasons: Set[str], found: Found) -> NoReturn:
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


def require_parts(chosen: Chosen) -> None:
    if all(metric.kind == "overall" for metric in chosen.metrics):
        raise UsageError(
            f"{chosen.metrics[0].name} is a mean over other metrics, and there is none",
            fix=f"name them beside it, as in --metrics {chosen.metrics[0].name},ssim,color_sw",
        )


def tell_pairs(found: Sequence[Item], asked: Asked, settings: Evaluate, reporter: Reporter) -> None:
    """Say what a user may want to check: pairs by order, and outputs that stayed alone."""
    if settings.pair == "lexicographic":
        reporter.note(items.pairs_in_words(found))
    for role, looked_for in (("content", asked.contents), ("style", asked.styles)):
        if looked_for and (alone := items.unpaired(found, role)):
            reporter.warn(
                f"{len(alone)} of {len(found)} outputs have no {role} among --{role}: "
                f"{', '.join(alone[:SHOWN])}{' …' if len(alone) > SHOWN else ''}"
            )


def check_names(
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


def require_weights(named: Sequence[Metric], found: Found) -> None:
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
