"""Pocket's predictor: trained by the part `i2l`, and judged by what references are worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stylecli.artifacts import glyphs
from stylecli.engine.i2l import predictors
from stylecli.engine.i2l.data.styles import Counts
from stylecli.pocket import i2l, judge, parts

SHAPES = (
    '<circle cx="8" cy="8" r="6" fill="{}"/>',
    '<rect x="3" y="2" width="9" height="12" fill="{}"/>',
    '<path d="M8 1L15 14L1 14Z" fill="{}"/>',
)
SEEN = ("airplane", "bat", "candle", "drum", "eagle", "fire")
HELD = tuple(n for n in (f"word{k}" for k in range(300)) if glyphs.content_is_held_out(n))[:6]
RECIPE = """\
backbone: {id: pocket}
i2l:
  predictor: {d: 32, depth: 1, heads: 1, ff: 32, bottleneck: 8, rank: 2}
  data: {n_refs: {max: 2}}
  train: {lr: 1.0e-30, weight_decay: 0, global_batch: 2}
  validation: {tuples: 2, sigmas: 1, images_every: 100}
"""


@pytest.fixture
def icons(tmp_path: Path) -> Path:
    """`--data`, with families of three shapes."""
    for number, prefix in enumerate(glyphs.FAMILIES):
        folder = tmp_path / "data" / "node_modules" / "@iconify-json" / prefix
        folder.mkdir(parents=True)
        colour = f"#{(number * 37 + 40) % 256:02x}{(number * 91) % 256:02x}80"
        drawn = {
            name: {"body": SHAPES[place % 3].format(colour)}
            for place, name in enumerate((*SEEN, *HELD))
        }
        said = {"prefix": prefix, "width": 16, "height": 16, "icons": drawn}
        (folder / "icons.json").write_text(json.dumps(said))
    return tmp_path / "data"


@pytest.mark.slow
def test_the_part_trains_and_one_that_learned_nothing_gains_nothing(
    icons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A fresh predictor's LoRAs are zero: all ways draw the same, to the bit."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE)
    monkeypatch.setattr(i2l, "RECIPE", str(recipe))
    monkeypatch.setattr(i2l, "Counts", lambda: Counts(train=4, easy=2, medium=2, hard=1))
    monkeypatch.setattr("stylecli.engine.i2l.training.sheets.STEPS", 1)
    monkeypatch.setattr(i2l, "STEPS", 2)
    job = parts.Job(parts.PROFILES["cpu"], 1.0, 1, icons, tmp_path / "work", is_fresh=False)
    i2l.train(job)
    i2l.train(job)  # has nothing to do
    file = i2l.predictor_in(job.work)
    assert file == tmp_path / "work" / i2l.NAME
    assert predictors.read_config(file).backbone == "pocket"
    shipped = judge.load(i2l.ASSETS / "pocket")
    dataset = i2l.icons(icons, tmp_path / "judged", Counts(train=1, easy=2, medium=2, hard=1))
    found = i2l.figures(shipped.backbone, shipped.lpips, file, dataset)
    for kind in i2l.KINDS:
        assert found[f"i2l_{kind}_match_over_mis"] == 1.0
        assert found[f"i2l_{kind}_match_over_base"] == 1.0
        assert found[f"i2l_{kind}_nearer_than_mis"] == 0.0
    assert found.keys() & judge.TOLERANCE.keys() == {"i2l_easy_match_over_mis"}


def test_only_a_trained_predictor_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(i2l, "ASSETS", tmp_path / "assets")
    (tmp_path / "assets").mkdir()
    i2l.ship(tmp_path / "work")
    assert i2l.predictor_in(tmp_path / "work") is None
    (tmp_path / "work" / i2l.NAME).parent.mkdir(parents=True)
    (tmp_path / "work" / i2l.NAME).write_bytes(b"trained")
    i2l.ship(tmp_path / "work")
    assert (tmp_path / "assets" / i2l.NAME).read_bytes() == b"trained"
    assert i2l.predictor_in(tmp_path / "other") == tmp_path / "assets" / i2l.NAME


def test_a_predictor_for_which_references_count_less_does_not_ship():
    name = "i2l_easy_match_over_mis"
    assert not judge.worse({name: 0.82}, {name: 0.80})
    assert judge.worse({name: 0.84}, {name: 0.80})
    assert not judge.worse({name: 0.5}, {name: 0.80})
    assert judge.worse({}, {name: 0.80})
