"""Commands on a transformer in one file: as on a folder with the same transformer."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylecli.artifacts import store
from stylecli.backbone import registry, transformer_files
from stylecli.backbone.editors.flux_kontext import FluxKontext
from stylecli.cli.console import console
from stylecli.engine.session import Session
from stylecli.recipe.route import Route
from stylecli.recipe.schema import Backbone, Recipe
from tests import ldm, released
from tests.cli.conftest import draw
from tests.cli.test_backbones import SMALL
from tests.conftest import Outcome, Style
from tests.engine.route.training import toy
from tests.released import FLOWS, Released

ROUTE = """\
backbone: {{id: {id}}}
route:
  text_length: 24
  lora: {{rank: 2}}
  train: {{micro_batch: 1, accumulation: 1, steps: 1, save_every: 1, keep: 1}}
  validation: {{every: 100, pairs: 1, levels: 1, images_every: 100, images: 1}}
  apply: {{steps: 1}}
"""


FEW = [word for one in ("sampling", "inversion") for word in ("--set", f"{one}.steps=2")]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return draw(tmp_path / "photo.png", seed=1)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int16)


def settings(backbone: Path) -> list[str]:
    sets = (word for one in SMALL for word in ("--set", one))
    return ["--backbone", str(backbone), *sets]


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_a_file_does_what_a_folder_with_its_transformer_does(
    name: str, photo: Path, tmp_path: Path, style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Released(name, tmp_path, monkeypatch)
    lora, painting = tmp_path / "ink.safetensors", draw(tmp_path / "ink.png", seed=2)
    learned = style("train-lora", painting, "--prompt", "ink", "-o", lora, *settings(made.file))
    assert learned.status == 0, learned.err
    outs = []
    for backbone in (made.file, made.whole):
        out = tmp_path / f"{backbone.name}.png"
        done = style("transfer", photo, "--lora", lora, "-o", out, *settings(backbone))
        assert done.status == 0, done.err
        outs.append(out)
    ours, theirs = map(pixels, outs)
    assert abs(ours - theirs).max() <= 1
    said, other = (store.read_provenance(out) for out in outs)
    assert said is not None
    assert other is not None
    assert said["model"]["id"].endswith(made.file.name)
    assert said["model"]["fingerprint"] != other["model"]["fingerprint"]
    path = tmp_path / "path.safetensors"
    assert style("invert", photo, "-o", path, *settings(made.file)).status == 0
    switched = tmp_path / "switched.png"
    schedule = f"{lora}:0-50%,base:50%-100%"
    done = style("switch", photo, "--schedule", schedule, "-o", switched, *settings(made.file))
    assert done.status == 0, done.err


def test_an_editor_in_a_file_is_opened_with_the_parts_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Released("flux1-kontext", tmp_path, monkeypatch)
    file = made.file.rename(tmp_path / "flux.safetensors")
    recipe = Recipe(backbone=Backbone(id=str(file)), route=Route(text_length=24))
    session = Session.open(recipe, console, kinds=registry.EDITING)
    assert "FLUX.1-dev, which edits nothing" in capsys.readouterr().err
    assert isinstance(session.editor, FluxKontext)
    assert session.folder == made.rest
    assert session.fingerprint == transformer_files.fingerprint(file, made.rest)
    assert session.editor.encode_prompt(["a cat"]).embeds.shape[1] == 24


def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def hollow(name: str, tmp_path: Path) -> Path:
    """The released file at its full size, without a number in it: nothing of it is written."""
    from tests.backbone.test_transformer_files import full_size

    tensors = released.original(name, full_size(name).state_dict())
    return ldm.hollow(tmp_path / f"{name}.safetensors", {k: v.shape for k, v in tensors.items()})


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_a_file_is_planned_from_alone(
    name: str, photo: Path, tmp_path: Path, style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere(tmp_path, monkeypatch)
    file = hollow(name, tmp_path)
    command = ["transfer", photo, "--style", photo, "--prompt", "a", "-o", tmp_path / "o.png"]
    own = ["--backbone", file, "--set", "sampling.size=256", "--dtype", "bfloat16", *FEW]
    plan = style(*command, *own, "--dry-run")
    assert plan.status == 0, plan.err
    assert "planned from the published configuration" in plan.err
    assert "# memory" in plan.out
    refused = style(*command, *own)
    assert refused.status == 4
    assert f"style models pull {name}" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.slow
def test_an_editor_in_a_file_is_planned_from_alone(
    tmp_path: Path, style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere(tmp_path, monkeypatch)
    toy.dataset(tmp_path / "pairs")
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(ROUTE.format(id=hollow("flux1-kontext", tmp_path)))
    command = ["route-train", tmp_path / "pairs", "-r", recipe, "-o", tmp_path / "experts"]
    plan = style(*command, "--dry-run")
    assert plan.status == 0, plan.err
    refused = style(*command)
    assert refused.status == 4
    assert "style models pull flux1-kontext" in refused.err


def verified(style: Style, file: Path) -> Outcome:
    return style("models", "verify", file, "--json")


def test_verify_tells_what_a_file_is(
    tmp_path: Path, style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Released("flux2-klein", tmp_path, monkeypatch)
    done = verified(style, made.file)
    assert done.status == 0, done.err
    (row, *_) = done.rows
    assert (row["backbone"], row["ok"]) == ("flux2-klein", True)
    assert row["holds"].startswith("its transformer alone")
    assert len(row["sha256"]) == 64
    made.save(lambda tensors: tensors.pop("time_in.in_layer.weight"))
    refused = verified(style, made.file)
    assert refused.status == 4
    assert "tensor time_in.in_layer.weight of flux2-klein is missing" in refused.err


def test_a_file_is_neither_bundled_nor_pulled_where_nothing_is_lacking(
    tmp_path: Path, style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Released("flux2-klein", tmp_path, monkeypatch)
    done = style("models", "bundle", made.file, "-o", tmp_path / "x.tar")
    assert done.status != 0
    assert "is a file of yours" in done.err
    pulled = style("models", "pull", made.file)
    assert pulled.status == 0, pulled.err
    assert str(made.rest) in pulled.out
    shutil.rmtree(made.rest)
    nowhere(tmp_path, monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert style("models", "pull", made.file).status == 4
