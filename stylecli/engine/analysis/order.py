"""The paper's table of similarities: means, how sure they are, and whether its order holds.

DiffStyler's table 1 says that features under a LoRA stay nearer to the base model's for pictures
of the LoRA's own domain than for others, and less near with depth. Pictures are drawn anew, with
all that was measured of them; the limits hold for these LoRAs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stylecli.engine.analysis.asked import Level
from stylecli.engine.analysis.cases import METRICS, Case, Cell, Metric
from stylecli.engine.analysis.subjects import Domain
from stylecli.evaluation.statistics import Interval, Numbers, mean_interval, std

RESAMPLES = 10_000
IN_WORDS: Mapping[Domain, str] = {
    "in": "in domain",
    "out": "out of domain",
    "": "all",
}


@dataclass(frozen=True, slots=True)
class Mean:
    """Of some cases at one place.

    Attributes:
        lora: Of this one alone; empty is all.
    """

    cell: Cell
    domain: Domain
    lora: str
    n: int
    mean: Interval
    std: float


@dataclass(frozen=True, slots=True)
class Gap:
    """In domain less out of domain at one place.

    Attributes:
        paired: Every picture is of one LoRA's domain and not of another's, so that differences
            between pictures cancel.
    """

    cell: Cell
    difference: Interval
    paired: bool


@dataclass(frozen=True, slots=True)
class Fall:
    """How much nearer a layer is to the base model than the next deeper one."""

    cell: Cell
    deeper: int
    domain: Domain
    difference: Interval


@dataclass(frozen=True, slots=True)
class Order:
    """All that is said of one level by one metric."""

    level: Level
    metric: Metric
    means: tuple[Mean, ...]
    gaps: tuple[Gap, ...]
    falls: tuple[Fall, ...]

    @property
    def differences(self) -> list[Interval]:
        """All that are not below 0 where the paper's order holds."""
        return [one.difference for one in self.gaps] + [one.difference for one in self.falls]

    @property
    def holds(self) -> bool | None:
        """Whether every mean is where the paper has it; None without both domains."""
        if not self.gaps:
            return None
        return all(one.value >= 0 for one in self.differences)

    @property
    def is_clear(self) -> bool:
        """Whether no interval of a difference reaches 0."""
        return all(one.low > 0 for one in self.differences)

    def sentence(self) -> str:
        """Whether the paper's order holds, in one."""
        where = f"{self.level}, {self.metric}"
        if not self.gaps:
            return f"{where}: no order to speak of, for not both domains have pictures."
        verdict = "holds" if self.holds else "does not hold"
        if self.holds and not self.is_clear:
            verdict = "holds in the means, but not beyond chance"
        gaps = ", ".join(f"{signed(one.difference)} (layer {one.cell.layer})" for one in self.gaps)
        parts = [f"{where}: the paper's order {verdict}: in less out of domain is {gaps}"]
        for domain in ("in", "out"):
            steps = [
                f"{signed(one.difference, -1)} ({one.cell.layer} to {one.deeper})"
                for one in self.falls
                if one.domain == domain
            ]
            if steps:
                parts.append(f"with depth, {IN_WORDS[domain]} changes by {', '.join(steps)}")
        return f"{'; '.join(parts)}."


def orders(cases: Sequence[Case], seed: int) -> list[Order]:
    """Everything the cases say, level by level and metric by metric."""
    found = []
    cells = list(dict.fromkeys(cell for case in cases for cell in case.cosines))
    for metric in METRICS:
        for level in dict.fromkeys(cell.level for cell in cells):
            mine = [cell for cell in cells if cell.level == level and cell.metric == metric]
            found.append(_order(level, metric, sorted(mine, key=lambda c: c.layer), cases, seed))
    return found


def _order(
    level: Level, metric: Metric, cells: Sequence[Cell], cases: Sequence[Case], seed: int
) -> Order:
    groups: dict[Domain, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.domain, []).append(case)
    domains: list[Domain] = [domain for domain in ("in", "out", "") if domain in groups]
    means = []
    for domain in domains:
        means += [_mean(cell, domain, "", groups[domain], seed) for cell in cells]
    loras = dict.fromkeys((case.lora, case.lora_name) for case in cases)
    for domain in domains if len(loras) > 1 else ():
        for lora, name in loras:
            mine = [case for case in groups[domain] if case.lora == lora]
            means += [_mean(cell, domain, name, mine, seed) for cell in cells if mine]
    has_both = "in" in groups and "out" in groups
    gaps = [_gap(cell, groups["in"], groups["out"], seed) for cell in cells] if has_both else []
    return Order(
        level,
        metric,
        tuple(means),
        tuple(gaps),
        tuple(_falls(cells, {domain: groups[domain] for domain in domains}, seed)),
    )


def _mean(cell: Cell, domain: Domain, lora: str, cases: Sequence[Case], seed: int) -> Mean:
    values = [case.cosines[cell] for case in cases]
    return Mean(cell, domain, lora, len(values), _interval(values, cases, seed), std(values))


def _falls(
    cells: Sequence[Cell], groups: Mapping[Domain, Sequence[Case]], seed: int
) -> Iterator[Fall]:
    for domain, cases in groups.items():
        for cell, deeper in pairwise(cells):
            lost = [case.cosines[cell] - case.cosines[deeper] for case in cases]
            yield Fall(cell, deeper.layer, domain, _interval(lost, cases, seed))


def _interval(values: Sequence[float], cases: Sequence[Case], seed: int) -> Interval:
    pictures = [case.picture for case in cases]
    # One style for all: with two of them there is nothing to draw from.
    return mean_interval(values, pictures, [""] * len(values), seed=seed, resamples=RESAMPLES)


def _gap(cell: Cell, inside: Sequence[Case], outside: Sequence[Case], seed: int) -> Gap:
    pictures = [{case.picture for case in group} for group in (inside, outside)]
    met: dict[str, set[tuple[str, str]]] = {}
    for case in (*inside, *outside):
        met.setdefault(case.picture, set()).add((case.lora, case.domain))
    difference = mean_difference(
        [(case.picture, case.cosines[cell]) for case in inside],
        [(case.picture, case.cosines[cell]) for case in outside],
        {picture: repr(sorted(loras)) for picture, loras in met.items()},
        seed=seed,
    )
    return Gap(cell, difference, pictures[0] == pictures[1])


def mean_difference(
    first: Sequence[tuple[str, float]],
    second: Sequence[tuple[str, float]],
    strata: Mapping[str, str],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """Mean of the first less mean of the second, with limits from drawing pictures anew.

    A picture that is drawn brings all its values on both sides. Where each has some on both, this
    is the paired bootstrap; where none has, that of two samples. As many are drawn of each stratum
    as it has, so that how two LoRAs differ in strength is not taken for chance. Draws that leave a
    side empty are left out.

    Args:
        first: A picture's name and a value each; likewise `second`.
        strata: Of every picture; all are one where a stratum has but one picture.
    """
    names = sorted(strata)
    (sums, counts), (other_sums, other_counts) = (_tally(side, names) for side in (first, second))
    value = float(sums.sum() / counts.sum() - other_sums.sum() / other_counts.sum())
    if len(names) < 2:
        return Interval(value, math.nan, math.nan, math.nan, "none")
    groups = np.array([strata[name] for name in names])
    if min(Counter(strata.values()).values()) < 2:
        groups[:] = groups[0]
    random = np.random.default_rng(seed)
    drawn = np.zeros((resamples, len(names)))
    for group in np.unique(groups):
        mine = np.flatnonzero(groups == group)
        drawn[:, mine] = random.multinomial(mine.size, np.full(mine.size, 1 / mine.size), resamples)
    drawn = drawn[(drawn @ counts > 0) & (drawn @ other_counts > 0)]
    differences = (drawn @ sums) / (drawn @ counts) - (drawn @ other_sums) / (drawn @ other_counts)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    spread = float(differences.std(ddof=1))
    return Interval(value, float(low), float(high), spread, "cluster bootstrap")


def _tally(side: Sequence[tuple[str, float]], names: Sequence[str]) -> tuple[Numbers, Numbers]:
    """Sum and number of the values of every picture."""
    place = {name: index for index, name in enumerate(names)}
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    for name, value in side:
        sums[place[name]] += value
        counts[place[name]] += 1
    return sums, counts


def signed(difference: Interval, sign: int = 1) -> str:
    """``+0.0012 [+0.0003, +0.0020]``; with -1, of the change the other way round.

    >>> signed(Interval(0.01, -0.002, 0.02, 0.005, "cluster bootstrap"), -1)
    '-0.0100 [-0.0200, +0.0020]'
    """
    value, low, high = (sign * one for one in (difference.value, difference.low, difference.high))
    low, high = (low, high) if sign > 0 else (high, low)
    limits = "" if math.isnan(low) else f" [{low:+z.4f}, {high:+z.4f}]"
    return f"{value:+z.4f}{limits}"
