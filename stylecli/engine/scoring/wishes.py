"""What the user wants of an evaluation beside its results and its recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stylecli.artifacts.locks import Shard
from stylecli.errors import UsageError
from stylecli.evaluation import table
from stylecli.evaluation.metric import Metric

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


def bound(text: str) -> Bound:
    """What ``METRIC=VALUE`` or ``METHOD:METRIC=VALUE`` asks for.

    Raises:
        UsageError: It is neither, or names no metric.
    """
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
