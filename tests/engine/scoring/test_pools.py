"""Numbers of rows that need all rows: by hand, from what the rows left in the store."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stylecli.artifacts.features import FeatureStore
from stylecli.engine.scoring import pools, sets, summary
from stylecli.engine.scoring.entries import Entry
from stylecli.evaluation.cmmd import cmmd
from stylecli.evaluation.neighbours import csls, gaps
from stylecli.evaluation.table import lookup

CSLS, CSD, CMMD, CMMD_U = (lookup(name) for name in ("csd_csls", "csd", "cmmd", "cmmd_u"))
ALL = (CSLS, CSD, CMMD, CMMD_U)


def unit(rows: int, seed: int) -> Tensor:
    found = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(found, dim=1)


def entries(store: FeatureStore, outputs: Tensor, references: Tensor) -> list[Entry]:
    """Each output was compared with two references, in turn."""
    store.put({f"o{i}": row.numpy() for i, row in enumerate(outputs)})
    store.put({f"r{i}": row.numpy() for i, row in enumerate(references)})
    count = len(references)
    return [
        Entry(
            id=str(i),
            method="m",
            content=f"c{i:03}",
            style=f"s{i % count}",
            values={"csd": 0.5},
            features={m.name: (f"o{i}", f"r{i % count}", f"r{(i + 1) % count}") for m in ALL},
            reasons={},
            family="ab"[i % 2],
        )
        for i in range(len(outputs))
    ]


def test_a_rows_number_is_the_mean_over_its_references(store: FeatureStore) -> None:
    outputs, references = unit(13, 1), unit(5, 2)
    found = pools.scored(CSLS, entries(store, outputs, references), store)
    for i, entry in enumerate(found):
        pairs = torch.tensor([[i, i % 5], [i, (i + 1) % 5]])
        expected = float(csls(outputs, references, pairs).mean())
        assert entry.values["csd_csls"] == pytest.approx(expected, abs=1e-6)
        assert entry.values["csd"] == 0.5
    assert pools.references(CSLS, found) == 5
    of_rows = summary.of_rows(CSLS, "m", found, seed=0, resamples=200)
    assert of_rows.n == 13
    assert of_rows.interval.method != "none"


def test_a_copy_that_stands_for_many_rows_is_one_neighbour(store: FeatureStore) -> None:
    outputs, references = unit(4, 3), unit(3, 4)
    rows = entries(store, outputs, references)
    again = [replace(row, id=f"again {row.id}") for row in rows for _ in range(9)]
    once, often = (pools.scored(CSLS, e, store) for e in (rows, [*rows, *again]))
    assert [e.values for e in often[:4]] == [e.values for e in once]
    assert often[4].values == once[0].values


def test_a_failed_row_is_nobodys_neighbour(store: FeatureStore) -> None:
    rows = entries(store, unit(6, 5), unit(3, 6))
    broken = replace(rows[2], features={}, values={}, reasons={"csd_csls": "no picture"})
    found = pools.scored(CSLS, [*rows[:2], broken, *rows[3:]], store)
    assert found[2] == broken
    without = pools.scored(CSLS, [*rows[:2], *rows[3:]], store)
    assert [e.values for e in (*found[:2], *found[3:])] == [e.values for e in without]


def test_one_style_has_no_neighbours_and_the_row_says_so(store: FeatureStore) -> None:
    rows = [
        replace(row, features={"csd_csls": (row.features["csd_csls"][0], "r0")})
        for row in entries(store, unit(4, 7), unit(2, 8))
    ]
    found = pools.scored(CSLS, rows, store)
    assert all("csd_csls" not in entry.values for entry in found)
    assert "4 outputs and 1 styles" in found[0].reasons["csd_csls"]
    assert math.isnan(summary.of_rows(CSLS, "m", found, seed=0, resamples=200).value)


@pytest.mark.parametrize("metric", [CSD, CSLS])
def test_gaps_are_of_the_references_each_once_in_its_family(
    store: FeatureStore, metric: object
) -> None:
    references = unit(6, 9)
    rows = [
        replace(row, features={CSD.name: keys, CSLS.name: keys}, family="ab"[i % 2])
        for i, row in enumerate(entries(store, unit(12, 10), references))
        for keys in [(f"o{i}", f"r{i % 6}")]
    ]
    nameless = [
        replace(rows[0], family="", features={CSD.name: ("o0", "r5"), CSLS.name: ("o0", "r5")})
    ]
    chosen = CSLS if metric is CSLS else CSD
    found = pools.gaps(chosen, [*rows, *nameless], store)
    expected = gaps(references, ["a", "b"] * 3, corrected=chosen is CSLS)
    assert found.keys() == {"a", "b"}
    for family, gap in found.items():
        assert gap.value == pytest.approx(expected[family].value, abs=1e-6)
        assert gap.n == 3
    assert pools.gaps(chosen, nameless, store) == {}
    blind = summary.undecidable(found)
    assert blind == [family for family, gap in found.items() if gap.value <= 0]


def test_cmmd_of_a_method_leaves_every_group_out(store: FeatureStore) -> None:
    outputs, references = unit(30, 11), unit(6, 12)
    rows = entries(store, outputs, references)
    groups = sets.groups_of(row.content for row in rows)
    for metric, unbiased in ((CMMD, False), (CMMD_U, True)):
        score = sets.score(metric, rows, groups, store)
        assert score.value == pytest.approx(cmmd(outputs, references, unbiased=unbiased), abs=1e-6)
        assert len(score.without) == 20
        left = torch.tensor([groups[row.content] != 7 for row in rows])
        without = cmmd(outputs[left], references, unbiased=unbiased)
        assert score.without[7] == pytest.approx(without, abs=1e-6)
        assert not score.is_deficient
        assert summary.of_set(metric, "m", score).interval.method == "jackknife"
