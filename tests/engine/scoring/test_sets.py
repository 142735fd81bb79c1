"""Set metrics: from stored features, in blocks, with every group left out in turn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from stylecli.artifacts.features import FeatureStore
from stylecli.engine.scoring import sets
from stylecli.engine.scoring.entries import Entry, in_columns
from stylecli.engine.scoring.summary import of_set
from stylecli.evaluation import frechet
from stylecli.evaluation.table import lookup

FID, KID, ARTFID = (lookup(name) for name in ("pocket-fid", "pocket-kid", "pocket-artfid"))


def entries(store: FeatureStore, outputs: Tensor, references: Tensor) -> list[Entry]:
    """Outputs of as many contents, each with one of the references."""
    store.put({f"o{i}": row.numpy() for i, row in enumerate(outputs)})
    store.put({f"r{i}": row.numpy() for i, row in enumerate(references)})
    return [
        Entry(
            id=str(i),
            method="m",
            content=f"c{i:03}",
            style=f"r{i % len(references)}",
            values={"pocket-lpips": 0.01 * i},
            features={m.name: (f"o{i}", f"r{i % len(references)}") for m in (FID, KID, ARTFID)},
            reasons={},
        )
        for i in range(len(outputs))
    ]


def features(rows: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator)


@pytest.mark.parametrize("width", [4, 60])
def test_the_distance_is_that_of_the_features_whichever_form_it_takes(
    store: FeatureStore, width: int
) -> None:
    outputs, references = features(30, width, 1), features(25, width, 2) + 1
    rows = entries(store, outputs, references)
    groups = sets.groups_of(row.content for row in rows)
    score = sets.score(FID, rows, groups, store)
    wanted = frechet.frechet_distance_features(outputs.double(), references.double())
    assert score.value == pytest.approx(wanted, rel=1e-8)
    assert (score.n_outputs, score.n_references) == (30, 25)
    assert score.is_deficient == (width == 60)
    assert len(score.without) == 20
    left = torch.tensor([groups[row.content] != 3 for row in rows])
    fid = frechet.frechet_distance_features(outputs[left].double(), references.double())
    assert score.without[3] == pytest.approx(fid, rel=1e-8)


def test_a_reference_given_to_many_outputs_counts_once(store: FeatureStore) -> None:
    outputs, references = features(24, 4, 1), features(6, 4, 2)
    rows = entries(store, outputs, references)
    score = sets.score(KID, rows, sets.groups_of(r.content for r in rows), store)
    assert score.n_references == 6
    wanted = 1000 * frechet.kid(outputs.double(), references.double())
    assert score.value == pytest.approx(wanted, rel=1e-6)


def test_artfid_is_the_product_of_its_factors_and_leaves_groups_out_of_both(
    store: FeatureStore,
) -> None:
    rows = entries(store, features(30, 4, 1), features(25, 4, 2) + 1)
    groups = sets.groups_of(row.content for row in rows)
    fid, art = (sets.score(metric, rows, groups, store) for metric in (FID, ARTFID))
    lpips = sum(row.values["pocket-lpips"] for row in rows) / 30
    assert art.value == pytest.approx((1 + lpips) * (1 + fid.value))
    kept = [row.values["pocket-lpips"] for row in rows if groups[row.content] != 0]
    assert art.without[0] == pytest.approx((1 + sum(kept) / len(kept)) * (1 + fid.without[0]))


def test_one_style_is_no_distribution(store: FeatureStore) -> None:
    rows = entries(store, features(5, 4, 1), features(1, 4, 2))
    score = sets.score(FID, rows, sets.groups_of(r.content for r in rows), store)
    assert math.isnan(score.value)
    assert "5 outputs and 1 styles" in score.reason


@pytest.mark.parametrize("width", [4, 60])
def test_many_outputs_of_one_content_have_a_distance_and_no_interval(
    store: FeatureStore, width: int
) -> None:
    rows = entries(store, features(30, width, 1), features(25, width, 2) + 1)
    rows = [replace(row, content="one") for row in rows]
    score = sets.score(FID, rows, sets.groups_of(["one"]), store)
    assert score.value > 0
    assert score.without == {}
    assert of_set(FID, "m", score).interval.method == "none"


def test_groups_are_even_and_the_same_for_all_who_share_contents() -> None:
    names = [f"c{i:02}" for i in range(50)]
    groups = sets.groups_of([*names, *names[::-1]])
    sizes = [list(groups.values()).count(g) for g in range(20)]
    assert set(sizes) == {2, 3}
    assert groups == sets.groups_of(names[::-1])


def test_a_copy_made_for_many_tasks_is_one_sample(store: FeatureStore) -> None:
    rows = entries(store, features(6, 4, 1), features(3, 4, 2))
    copies = [replace(row, features={KID.name: ("o0", "r0", "r1")}) for row in rows]
    assert [e.id for e in sets.distinct(KID, [*copies, *rows])] == ["0", "1", "2", "3", "4", "5"]


def test_failed_rows_are_in_no_set(store: FeatureStore) -> None:
    rows = entries(store, features(6, 4, 1), features(3, 4, 2))
    broken = Entry(
        id="x", method="m", content="x", style="", values={}, features={}, reasons={"ssim": "no"}
    )
    groups = sets.groups_of(row.content for row in [*rows, broken])
    assert sets.score(FID, [*rows, broken], groups, store).n_outputs == 6


def test_the_limit_of_many_outputs_is_not_taken_from_few(store: FeatureStore) -> None:
    rows = [
        replace(row, features={"fid_inf": row.features["pocket-fid"]})
        for row in entries(store, features(30, 4, 1), features(25, 4, 2))
    ]
    score = sets.score(lookup("fid_inf"), rows, sets.groups_of(r.content for r in rows), store)
    assert math.isnan(score.value)
    assert "8000" in score.reason


@pytest.mark.parametrize("width", [4, 60])
def test_paired_references_count_as_often_as_outputs_have_them(
    store: FeatureStore, width: int
) -> None:
    outputs, references = features(30, width, 1), features(20, width, 2) + 1
    rows = entries(store, outputs, references)
    groups = sets.groups_of(row.content for row in rows)
    settings = {"fid_ref": "paired"}
    paired = sets.score(FID.under(settings), rows, groups, store)
    repeated = references[[i % 20 for i in range(30)]]
    a, b = (
        (x.mean(axis=0), np.cov(x, rowvar=False))
        for x in (outputs.double().numpy(), repeated.double().numpy())
    )
    root = scipy.linalg.sqrtm(a[1] @ b[1]).real.trace()
    wanted = ((a[0] - b[0]) ** 2).sum() + a[1].trace() + b[1].trace() - 2 * root
    assert paired.value == pytest.approx(wanted, rel=1e-4)
    unique = sets.score(FID, rows, groups, store)
    assert unique.value != pytest.approx(paired.value, rel=1e-3)
    assert unique.n_references == paired.n_references == 20
    # Repeats would break the independence that the unbiased form relies on.
    assert KID.under(settings) is KID
    art = sets.score(ARTFID.under(settings), rows, groups, store)
    lpips = sum(row.values["pocket-lpips"] for row in rows) / 30
    assert art.value == pytest.approx((1 + lpips) * (1 + paired.value))


def test_what_is_counted_otherwise_says_so() -> None:
    assert "as often as outputs" in FID.under({"fid_ref": "paired"}).definition
    assert FID.under({"fid_ref": "unique"}) is FID


def test_a_copy_of_a_content_is_compared_with_the_styles_of_all_its_tasks(
    store: FeatureStore,
) -> None:
    rows = entries(store, features(12, 4, 1), features(3, 4, 2))
    # Four contents in three styles each, and the content itself in place of every result.
    copies = in_columns(
        [
            replace(row, features={FID.name: (f"o{i // 3}", f"r{i % 3}")}, content=f"c{i // 3}")
            for i, row in enumerate(rows)
        ]
    )
    own = sets.distinct(FID, copies)
    groups = sets.groups_of(row.content for row in copies)
    score = sets.score(FID, own, groups, store, compared_with=copies)
    assert (score.n_outputs, score.n_references) == (4, 3)
    wanted = frechet.frechet_distance_features(
        features(12, 4, 1)[:4].double(), features(3, 4, 2).double()
    )
    assert score.value == pytest.approx(wanted, rel=1e-8)
