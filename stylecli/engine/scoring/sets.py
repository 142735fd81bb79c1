"""Numbers of a method as a whole: distances between its outputs and the styles it was given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from stylecli.artifacts.features import FeatureRows, FeatureStore
from stylecli.engine.scoring.entries import ABSENT, Entries, Entry, in_columns
from stylecli.errors import ItemError
from stylecli.evaluation import frechet
from stylecli.evaluation.cmmd import KernelSums
from stylecli.evaluation.frechet import Moments
from stylecli.evaluation.metric import Distance, Metric

# Delete-a-group jackknife; see `evaluation.statistics`.
GROUPS = 20
KID_SCALE = 1000
SUBSETS_SEED = 0


@dataclass(frozen=True, slots=True)
class SetScore:
    """A set metric of one method.

    Attributes:
        without: The same with each group of contents left out, by group; for the jackknife.
        is_deficient: Fewer pictures than features: the covariance is singular, and biased.
        reason: Why there is no value.
    """

    value: float
    n_outputs: int
    n_references: int
    without: Mapping[int, float]
    is_deficient: bool = False
    reason: str = ""


def groups_of(contents: Iterable[str]) -> dict[str, int]:
    """Content -> group; the same for every method, and even in size.

    >>> groups_of(["b", "a", "b"])
    {'a': 0, 'b': 1}
    """
    return {content: index % GROUPS for index, content in enumerate(sorted(set(contents)))}


def distinct(metric: Metric, entries: Sequence[Entry]) -> Entries:
    """Each output once: a copy of one picture for forty tasks is one sample, not forty."""
    rows = in_columns(entries)
    outputs = rows.outputs(metric.name)
    codes, first = np.unique(outputs, return_index=True)
    kept = np.zeros(len(rows), dtype=np.bool_)
    kept[first[codes != ABSENT]] = True
    return rows.where(kept)


def score(
    metric: Metric,
    entries: Sequence[Entry],
    groups_by_content: Mapping[str, int],
    store: FeatureStore,
    *,
    compared_with: Entries | None = None,
) -> SetScore:
    """One set metric of one method, from features that the rows left in the store.

    Args:
        compared_with: Rows whose styles are the reference, where it is not those of the entries.
    """
    rows = in_columns(entries)
    is_counted = rows.outputs(metric.name) != ABSENT
    if metric.lpips:
        is_counted &= ~np.isnan(rows.column(metric.lpips))
    counted = rows.where(is_counted)
    outputs = [rows.shared.keys[code] for code in counted.outputs(metric.name).tolist()]
    others = counted if compared_with is None else compared_with
    named = [code for code in others.references(metric.name).tolist() if code != ABSENT]
    # A repeated reference is not another sample.
    each = (key for code in dict.fromkeys(named) for key in rows.shared.references[code])
    references = list(dict.fromkeys(each))
    if min(len(outputs), len(references)) < 2:
        reason = f"{len(outputs)} outputs and {len(references)} styles; two of each are needed"
        return SetScore(math.nan, len(outputs), len(references), {}, reason=reason)
    if metric.is_paired:
        references = [key for code in named for key in rows.shared.references[code]]
    tables = [store.rows(keys) for keys in (outputs, references)]
    contents = counted.contents.tolist()
    groups = torch.tensor([groups_by_content[rows.shared.contents[code]] for code in contents])
    try:
        value, without = _distance(metric)(tables[0], tables[1], groups)
    except ItemError as error:
        return SetScore(math.nan, len(outputs), len(references), {}, reason=error.what)
    if metric.lpips:
        lpips = torch.from_numpy(counted.column(metric.lpips))
        value = frechet.art_fid(float(lpips.mean()), value)
        without = {
            group: frechet.art_fid(float(lpips[groups != group].mean()), fid)
            for group, fid in without.items()
        }
    width, different = tables[0][0:1].shape[1], len(set(references))
    is_fitted = metric.distance.startswith("frechet")
    is_deficient = is_fitted and min(len(outputs), different) <= width
    return SetScore(value, len(outputs), different, without, is_deficient)


def _distance(metric: Metric) -> Callable[..., tuple[float, dict[int, float]]]:
    by_kind: dict[Distance, Callable[..., tuple[float, dict[int, float]]]] = {
        "frechet": _frechet,
        "frechet limit": _frechet_in_the_limit,
        "kid": _kid,
        "cmmd": _cmmd,
        "cmmd unbiased": partial(_cmmd, unbiased=True),
    }
    return by_kind[metric.distance]


def _frechet_in_the_limit(
    outputs: FeatureRows, references: FeatureRows, _: Int[Tensor, " n"]
) -> tuple[float, dict[int, float]]:
    (moments,) = _moments(references, torch.zeros(len(references))).values()
    generator = torch.Generator().manual_seed(SUBSETS_SEED)
    # What is left out would be seen less than which subsets were drawn.
    return frechet.fid_infinity(outputs, moments, generator), {}


def _frechet(
    outputs: FeatureRows, references: FeatureRows, groups: Int[Tensor, " n"]
) -> tuple[float, dict[int, float]]:
    width = outputs[0:1].shape[1]
    if max(len(outputs), len(references)) <= width:
        ours, theirs = outputs[0 : len(outputs)], references[0 : len(references)]
        return _leaving_out(
            groups, lambda kept: frechet.frechet_distance_features(ours[kept], theirs)
        )
    (reference,) = _moments(references, torch.zeros(len(references))).values()
    factor = frechet.factor_of(reference)
    by_group = _moments(outputs, groups)

    def distance(left_out: int | None) -> float:
        kept = [m for group, m in by_group.items() if group != left_out]
        total = kept[0]
        for other in kept[1:]:
            total = total.merge(other)
        return frechet.frechet_distance(total, reference, factor=factor)

    # Without the only group nothing would be left.
    without = {group: distance(group) for group in by_group} if len(by_group) > 1 else {}
    return distance(None), without


def _kid(
    outputs: FeatureRows, references: FeatureRows, groups: Int[Tensor, " n"]
) -> tuple[float, dict[int, float]]:
    if len(outputs) <= frechet.KID_EXACT_UP_TO:
        ours = outputs[0 : len(outputs)]
        return _leaving_out(groups, lambda kept: KID_SCALE * frechet.kid(ours[kept], references))
    # Its subsets are drawn at random, so leaving a group out would measure the draw.
    generator = torch.Generator().manual_seed(SUBSETS_SEED)
    return KID_SCALE * frechet.kid(outputs, references, generator=generator), {}


def _cmmd(
    outputs: FeatureRows,
    references: FeatureRows,
    groups: Int[Tensor, " n"],
    *,
    unbiased: bool = False,
) -> tuple[float, dict[int, float]]:
    sums = KernelSums.of(outputs, references, groups)
    return sums.distance(unbiased=unbiased), dict(sums.jackknife(unbiased=unbiased))


def _leaving_out(
    groups: Int[Tensor, " n"], distance: Callable[[Tensor], float]
) -> tuple[float, dict[int, float]]:
    everything = torch.ones_like(groups, dtype=torch.bool)
    present = [int(group) for group in groups.unique()]
    if len(present) < 2 or any(int((groups != group).sum()) < 2 for group in present):
        return distance(everything), {}
    return distance(everything), {group: distance(groups != group) for group in present}


def _moments(rows: FeatureRows, groups: Tensor) -> dict[int, Moments]:
    """Moments of each group, of which never more than a block of features is held.

    Group by group: a scatter is a matrix of 34 MB for the widest features, and to add one for every
    group of every block would take longer than all else.
    """
    found: dict[int, Moments] = {}
    for group in (int(g) for g in groups.unique()):
        for block in rows.only((groups == group).nonzero()[:, 0]).blocks():
            part = Moments.of(block)
            found[group] = found[group].merge(part) if group in found else part
    return found
