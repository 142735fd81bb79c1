"""The table of metrics: complete, consistent, and hard to ask wrongly."""

from __future__ import annotations

import pytest

from stylecli.engine.scoring.item import COLUMNS
from stylecli.errors import UsageError
from stylecli.evaluation.metric import Metric
from stylecli.evaluation.networks import NETWORKS
from stylecli.evaluation.pixels import PREPROCESS
from stylecli.evaluation.published import WEIGHTS
from stylecli.evaluation.table import METRICS, PRESETS, choose, lookup
from stylecli.recipe.scoring import Evaluate


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda m: m.name)
def test_what_a_metric_names_exists(metric: Metric) -> None:
    assert set(metric.columns) <= set(COLUMNS)
    assert set(metric.needs) <= WEIGHTS.keys()
    assert set(metric.settings) <= Evaluate.model_fields.keys()
    assert (metric.compute is None) == (metric.kind != "row")
    assert metric.reads is None or metric.compute is not None
    assert (metric.fid != "") == (metric.kind in ("set", "pool"))
    assert metric.low < metric.high
    if metric.kind == "set":
        assert NETWORKS[metric.fid].shown
        assert not metric.lpips or METRICS[metric.lpips].kind == "row"
    if metric.similar:
        assert metric.similar in metric.uses
        assert "style" in metric.columns


def test_only_pocket_metrics_and_those_without_networks_need_no_file() -> None:
    for metric in METRICS.values():
        is_free = not metric.uses or all(use.startswith("pocket") for use in metric.uses)
        assert is_free == (not metric.needs)
        assert metric.name.startswith(("pocket", "t-pocket")) == (is_free and bool(metric.uses))


def test_every_extractor_is_shown_a_known_geometry() -> None:
    assert {n.shown for n in NETWORKS.values() if n.shown} <= PREPROCESS.keys()
    assert {n.tapped for n in NETWORKS.values() if n.tapped} <= PREPROCESS.keys()
    assert all(bool(n.tapped) == bool(n.taps) for n in NETWORKS.values())


def test_presets_are_those_of_the_recipe_and_name_known_metrics() -> None:
    allowed = Evaluate.model_json_schema()["properties"]["preset"]["enum"]
    assert set(PRESETS) == set(allowed)
    for names in PRESETS.values():
        assert set(names) <= METRICS.keys()


def test_the_headline_of_style_is_three_families_of_metrics() -> None:
    for preset in ("features", "stylegallery", "diffstyler"):
        assert {"csd_csls", "gram_rel", "kid"} <= set(PRESETS[preset])


def test_names_replace_a_preset_and_signs_change_it() -> None:
    assert [m.name for m in choose("core", ["fid", "ssim"]).metrics] == ["fid", "ssim"]
    assert choose("core", ["fid"]).named == {"fid"}
    core = [m.name for m in choose("core").metrics]
    assert [m.name for m in choose("core", ["+rsm", "-fid"]).metrics] == [
        *(name for name in core if name != "fid"),
        "rsm",
    ]
    assert choose("core").named == frozenset()


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        lookup("lpip")
    assert "did you mean lpips?" in caught.value.fix
    with pytest.raises(UsageError, match="'nope'"):
        choose("core", ["-nope"])
    with pytest.raises(UsageError, match="no metric is left"):
        choose("core", [f"-{name}" for name in PRESETS["core"]])
