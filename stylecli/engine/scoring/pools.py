"""Numbers of outputs that depend on all the others; and what the references alone can tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from stylecli.artifacts.features import FeatureStore
from stylecli.engine.scoring.entries import Entry
from stylecli.errors import ItemError
from stylecli.evaluation import neighbours
from stylecli.evaluation.metric import Metric
from stylecli.evaluation.neighbours import Gap


def scored(metric: Metric, entries: Sequence[Entry], store: FeatureStore) -> list[Entry]:
    """The entries of one method, with their numbers or with why they have none."""
    having = [entry for entry in entries if metric.name in entry.features]
    # A copy that stands for many tasks is one neighbour, not forty.
    outputs, references = (
        {key: row for row, key in enumerate(dict.fromkeys(keys))}
        for keys in (
            [entry.features[metric.name][0] for entry in having],
            [key for entry in having for key in entry.features[metric.name][1:]],
        )
    )
    try:
        values = _values(metric, having, outputs, references, store)
    except ItemError as error:
        return [
            replace(entry, reasons={metric.name: error.what, **entry.reasons}) for entry in entries
        ]
    numbers = iter(values)
    return [
        replace(entry, values={**entry.values, metric.name: next(numbers)})
        if metric.name in entry.features
        else entry
        for entry in entries
    ]


def references(metric: Metric, entries: Sequence[Entry]) -> int:
    """How many different references the outputs were compared with."""
    return len({key for entry in entries for key in entry.features.get(metric.name, ())[1:]})


def gaps(metric: Metric, entries: Iterable[Entry], store: FeatureStore) -> Mapping[str, Gap]:
    """Which families of references a similarity can tell apart; empty where none were named."""
    pairs = dict.fromkeys(
        (key, entry.family)
        for entry in entries
        if entry.family
        for key in entry.features.get(metric.name, ())[1:]
    )
    rows = store.rows([key for key, _ in pairs])
    families = [family for _, family in pairs]
    try:
        return neighbours.gaps(rows, families, corrected=metric.kind == "pool")
    except ItemError:  # features that are not finite, of which the rows tell
        return {}


def _values(
    metric: Metric,
    having: Sequence[Entry],
    outputs: Mapping[str, int],
    references: Mapping[str, int],
    store: FeatureStore,
) -> list[float]:
    """Of every entry, the mean over its references.

    Raises:
        ItemError: There are no neighbours.
    """
    if min(len(outputs), len(references)) < 2:
        raise ItemError(
            f"{len(outputs)} outputs and {len(references)} styles; neighbours need two of each",
            fix="score more outputs, in more styles",
        )
    pairs = [
        (outputs[entry.features[metric.name][0]], references[key])
        for entry in having
        for key in entry.features[metric.name][1:]
    ]
    owners = [row for row, entry in enumerate(having) for _ in entry.features[metric.name][1:]]
    found = neighbours.csls(
        store.rows(list(outputs)), store.rows(list(references)), torch.tensor(pairs)
    )
    owner = torch.tensor(owners)
    counts = torch.bincount(owner, minlength=len(having))
    means: list[float] = (torch.bincount(owner, weights=found) / counts).tolist()
    return means
