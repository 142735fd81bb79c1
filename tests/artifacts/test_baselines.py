"""What the papers printed is here digit by digit, with its caveats."""

from __future__ import annotations

import dataclasses
import tomllib
from fnmatch import fnmatch
from itertools import product

import pytest
from scipy.stats import binomtest

from stylecli.artifacts import baselines
from stylecli.artifacts.baselines import Baseline, BaselineRow
from stylecli.errors import UsageError
from tests.conftest import ROOT

PAPERS = ("diffstyler", "diffstyler-v1", "regionroute", "stylegallery")


def rows_with(*metrics: str) -> list[BaselineRow]:
    every = (row for name in PAPERS for row in baselines.load(name).rows)
    return [row for row in every if all(metric in row.values for metric in metrics)]


def ends(row: BaselineRow, metric: str) -> tuple[float, float]:
    """What the printed number may have been before it was rounded."""
    half = 0.5 * 10 ** -row.digits[metric]
    return row.values[metric] - half, row.values[metric] + half


def test_every_paper_is_known_by_its_name_with_and_without_the_prefix() -> None:
    assert baselines.names() == PAPERS
    for name in PAPERS:
        assert baselines.load(name) == baselines.load(f"paper:{name}")
        assert baselines.load(name).name == name


def test_an_unknown_paper_is_answered_with_the_nearest_and_all() -> None:
    with pytest.raises(UsageError, match="'paper:difstyler'") as raised:
        baselines.load("paper:difstyler")
    assert "did you mean diffstyler?" in raised.value.fix
    assert ", ".join(PAPERS) in raised.value.fix
    with pytest.raises(UsageError) as raised:
        baselines.load("../i2l")
    assert "did you mean" not in raised.value.fix


@pytest.mark.parametrize("name", PAPERS)
def test_every_number_is_of_a_metric_that_the_paper_is_said_to_have(name: str) -> None:
    baseline = baselines.load(name)
    assert baseline.paper
    assert baseline.title
    assert baseline.protocol
    assert len(baseline.caveats) >= 3
    used = {metric for row in baseline.rows for metric in row.values}
    assert used == set(baseline.metrics)
    for row in baseline.rows:
        assert row.std.keys() <= row.values.keys() == row.digits.keys()
    keys = [(row.dataset, row.method) for row in baseline.rows]
    assert len(set(keys)) == len(keys)


def test_a_row_of_each_table_is_the_papers() -> None:
    """Cells at the corners, which a shifted column or row would put elsewhere."""
    tables: dict[str, Baseline] = {name: baselines.load(name) for name in PAPERS}
    assert [len(tables[name].rows) for name in PAPERS] == [10, 8, 21, 9]
    first, last = tables["diffstyler"].rows[0], tables["diffstyler"].rows[-1]
    assert first.values == {"artfid": 22.06, "fid_art": 17.85, "lpips": 0.17, "clip_i_style": 0.36}
    assert [*last.values.values()] == [34.79, 23.16, 0.44, 0.18, 37, 14, 16]
    assert [*tables["diffstyler-v1"].rows[-1].values.values()] == [44, 18, 26]
    edge = tables["regionroute"].rows[-1]
    assert (edge.method, edge.dataset) == ("RegionRoute", "BIG")
    assert [*edge.values.values()] == [0.6159, 0.1593, 0.0474, 0.76, 0.07, 0.23, 0.04]
    assert edge.std == {"rsm": 0.0193, "lpips_bg": 0.1681, "mse_bg": 0.0967}
    assert [*tables["stylegallery"].rows[0].values.values()] == [
        0.5219,
        16.719,
        17.623,
        0.3856,
        25.804,
    ]
    assert sum(row.is_ablation for row in tables["stylegallery"].rows) == 4


def test_printed_zeros_count_as_digits() -> None:
    (row,) = (row for row in baselines.load("diffstyler").rows if row.method == "InST")
    assert (row.values["lpips"], row.digits["lpips"], row.digits["votes_style"]) == (0.2, 2, 0)


def test_artfid_is_the_product_of_its_printed_factors_as_far_as_rounding_allows() -> None:
    rows = rows_with("artfid", "fid_art", "lpips")
    assert len(rows) == 15
    for row in rows:
        products = [
            (1 + lpips) * (1 + fid)
            for lpips, fid in product(ends(row, "lpips"), ends(row, "fid_art"))
        ]
        low, high = ends(row, "artfid")
        assert min(products) <= high, row.method
        assert max(products) >= low, row.method
        # Closer than rounding demands: the papers multiplied what they printed.
        exact = (1 + row.values["lpips"]) * (1 + row.values["fid_art"])
        assert exact == pytest.approx(row.values["artfid"], abs=0.012), row.method


def test_the_caveat_names_the_votes_that_133_cannot_tell_from_a_tie() -> None:
    """At the 5 % level two-sided, 54 of 133 differ from one half and 55 do not."""
    assert binomtest(54, 133).pvalue < 0.05 < binomtest(55, 133).pvalue
    assert binomtest(21, 60).pvalue < 0.05 < binomtest(22, 60).pvalue
    baseline = baselines.load("diffstyler")
    (caveat,) = (text for text in baseline.caveats if "not below 50" in text)
    undecided = [
        (row.method, metric.removeprefix("votes_"), int(value))
        for row in baseline.rows
        for metric, value in row.values.items()
        if metric.startswith("votes_") and value > 100 * 54 / 133
    ]
    assert len(undecided) == 5
    for method, question, value in undecided:
        assert method in caveat
        assert f"{question} {value}" in caveat


def test_the_caveats_of_regionroute_hold_for_its_numbers() -> None:
    rows = baselines.load("regionroute").rows
    rsm = [row.values["rsm"] for row in rows]
    assert (round(min(rsm), 3), round(max(rsm), 3)) == (0.594, 0.633)
    assert all(0.18 < 2 * value - 1 < 0.27 for value in rsm)
    assert sum(row.std["mse_bg"] > row.values["mse_bg"] for row in rows) > len(rows) / 2
    assert {row.dataset for row in rows} == {"COCO", "VOC", "BIG"}


def test_what_cannot_be_computed_alike_says_so() -> None:
    unknown = {
        (name, metric)
        for name in PAPERS
        for metric, about in baselines.load(name).metrics.items()
        if not about.scale_known
    }
    assert unknown == {
        ("diffstyler", "clip_i_style"),
        ("regionroute", "mse_bg"),
        ("stylegallery", "gram"),
        ("stylegallery", "style_match"),
    }


def test_one_method_on_two_inputs_is_why_tables_do_not_mix() -> None:
    found = {
        name: row.values["lpips"]
        for name in ("diffstyler", "stylegallery")
        for row in baselines.load(name).rows
        if row.method == "StyleID"
    }
    assert found == {"diffstyler": 0.27, "stylegallery": 0.4496}
    for name in found:
        assert any("0.27" in text and "0.4496" in text for text in baselines.load(name).caveats)


def test_nobody_can_alter_what_was_published() -> None:
    baseline = baselines.load("stylegallery")
    with pytest.raises(dataclasses.FrozenInstanceError):
        baseline.rows = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        baseline.rows[0].values["lpips"] = 0.0  # type: ignore[index]


def test_the_wheel_carries_the_tables() -> None:
    """All of the package goes into it, and nothing leaves these files out."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert settings["targets"]["wheel"]["packages"] == ["stylecli"]
    assert "exclude" not in settings["targets"]["wheel"]
    assert baselines.FOLDER.is_relative_to(ROOT / "stylecli")
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for name in PAPERS:
        assert not any(fnmatch(f"{name}.json", pattern) for pattern in ignored)
    assert not any("assets" in pattern for pattern in ignored)
