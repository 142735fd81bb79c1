"""`style i2l-predict` as it is typed, and `--negative-lora` where pictures are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stylecli.artifacts.store import read_provenance
from tests import predictors
from tests.cli.conftest import draw
from tests.conftest import Outcome, Style

pytestmark = pytest.mark.slow

FEW = ("--guidance", "3")


class Desk:
    """Two references, a predictor of the tiny model, and somewhere to write to."""

    def __init__(self, style: Style, recipe: Path, folder: Path) -> None:
        self.style, self.folder = style, folder
        self.refs = [draw(folder / "refs" / f"{name}.png", seed=i) for i, name in enumerate("ab")]
        self.model = Path(yaml.safe_load(recipe.read_text())["backbone"]["id"])
        self.predictor = predictors.save(folder / "weights" / "p.safetensors", self.model)
        self.recipe = recipe

    def predict(self, out: str, *more: object, refs: tuple[object, ...] | None = None) -> Outcome:
        place = f"{self.folder / out}{'/' if out.endswith('/') else ''}"
        named = self.refs if refs is None else refs
        given = ("--predictor", self.predictor, "-r", self.recipe)
        return self.style("i2l-predict", *named, "-o", place, *given, *more)

    def generate(self, out: str, lora: Path, *more: object) -> Outcome:
        given = ("--prompt", "a cat", "--lora", lora, "-r", self.recipe)
        return self.style("generate", *given, "-o", self.folder / out, *more)


@pytest.fixture
def desk(style: Style, recipe: Path, tmp_path: Path) -> Desk:
    return Desk(style, recipe, tmp_path)


def test_a_lora_with_its_preview_is_made_once_and_says_what_made_it(desk: Desk) -> None:
    done = desk.predict("l.safetensors", "--json", "--preview", "a cat", *FEW)
    assert done.status == 0, done.err
    assert [Path(row["output"]).name for row in done.rows[:2]] == ["l.safetensors", "l.preview.png"]
    assert done.rows[0]["details"]["references"] == 2
    made_by = read_provenance(desk.folder / "l.safetensors")
    assert made_by is not None
    assert [item["role"] for item in made_by["inputs"]] == ["style", "style", "predictor"]
    again = desk.predict("l.safetensors", "--json", "--preview", "a cat", *FEW)
    assert again.summary["counts"] == {"items": 2, "skipped": 2}
    # Another order is the same; another scale is not.
    turned = desk.predict("l.safetensors", "--json", refs=tuple(desk.refs[::-1]))
    assert turned.summary["counts"] == {"items": 1, "skipped": 1}
    changed = desk.predict("l.safetensors", "--json", "--scale", "0.5")
    assert (changed.status, changed.rows[0]["error"]["code"]) == (3, "output_differs")
    status = desk.style("status", desk.folder)
    assert status.status == 0, status.err
    shown = desk.style("show", desk.folder / "l.safetensors")
    assert "i2l-predict" in shown.out


def test_the_type_is_that_of_the_file_and_computed_with_on_no_machine(desk: Desk) -> None:
    done = desk.predict("h.safetensors", "--dtype", "float16")
    assert done.status == 0, done.err


def test_what_it_made_is_made_again_from_what_it_says(desk: Desk) -> None:
    assert desk.predict("l.safetensors", "--dtype", "bfloat16").status == 0
    again = desk.style(
        "rerun", desk.folder / "l.safetensors", "--inputs", desk.folder, "--backbone", desk.model
    )
    assert again.status == 0, again.out + again.err


def test_each_picture_of_a_folder_gets_one_and_a_torn_one_fails_alone(desk: Desk) -> None:
    (desk.folder / "refs" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = desk.predict("out/", "--each", "--json", refs=(desk.folder / "refs",))
    assert done.status == 3
    assert done.summary["counts"] == {"done": 2, "failed": 1, "items": 3}
    names = sorted(path.name for path in (desk.folder / "out").glob("*.safetensors"))
    assert names == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    ("refs", "more", "status", "said"),
    [
        ((), (), 2, "no reference was named"),
        (("nowhere.png",), (), 2, "nowhere.png does not exist"),
        (None, ("--predictor", "nowhere.safetensors"), 4, "nowhere.safetensors cannot be read"),
        (None, ("--backbone", "sd15"), 2, "not for sd15"),
        (None, ("--fuse", "sum"), 2, "--fuse"),
        (None, ("--format", "gguf"), 2, "i2l.format"),
        (None, ("--dtype", "float64"), 2, "i2l.dtype"),
        (None, ("--each", "--fuse", "delta"), 2, "keeps styles apart"),
        (None, ("--exclude-refiners",), 2, "only Z-Image has refiners"),
        (None, ("--preview", "a", "--shard", "1/2"), 2, "--shard"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(
    desk: Desk, refs: tuple[str, ...] | None, more: tuple[str, ...], status: int, said: str
) -> None:
    done = desk.predict("l.safetensors", *more, refs=refs)
    assert (done.status, said in done.err) == (status, True), done.err
    assert not (desk.folder / "l.safetensors").exists()


def test_a_predictor_nobody_compared_is_used_by_those_who_say_so(desk: Desk) -> None:
    converted = {"from_sha256": "0" * 64, "map_sha256": "1" * 64, "verified": False, "worst": None}
    predictors.save(desk.predictor, desk.model, training={"converted": converted})
    refused = desk.predict("l.safetensors")
    assert refused.status == 2, refused.err
    assert "never compared" in refused.err
    assert "--accept-unverified" in refused.err
    assert not (desk.folder / "l.safetensors").exists()
    assert desk.predict("l.safetensors", "--accept-unverified").status == 0
    lora = desk.folder / "l.safetensors"
    drawn = desk.generate("n.png", lora, "--negative-lora", "neutral")
    assert drawn.status == 0, drawn.err
    again = desk.style("rerun", lora, "--inputs", desk.folder, "--backbone", desk.model)
    assert again.status == 0, again.out + again.err
    predictors.save(
        desk.predictor, desk.model, training={"converted": {**converted, "verified": True}}
    )
    assert desk.predict("m.safetensors").status == 0


def test_photos_start_from_the_colours_of_the_references(desk: Desk) -> None:
    lora, photo = desk.folder / "l.safetensors", draw(desk.folder / "photo.png", seed=9)
    assert desk.predict(lora.name).status == 0
    shown = {}
    for begin in ("palette", "inversion"):
        out = desk.folder / f"{begin}.png"
        done = desk.style(
            *("transfer", photo, "--lora", lora, "-r", desk.recipe, "-o", out),
            *("--set", f"sampling.start={begin}"),
        )
        assert done.status == 0, done.err
        assert "colours" not in done.err
        shown[begin] = np.array(Image.open(out)).astype(int)
    assert np.abs(shown["palette"] - shown["inversion"]).max() > 20


def test_a_predictor_says_which_backbone_it_is_for(desk: Desk) -> None:
    done = desk.style(
        *("i2l-predict", *desk.refs, "-o", desk.folder / "l.safetensors", "--dry-run", "--json"),
        *("--predictor", desk.predictor),
    )
    assert done.status == 0, done.err
    assert done.rows[0]["model"]["id"] == desk.model.name


def test_pictures_are_guided_away_from_what_is_named(desk: Desk) -> None:
    lora = desk.folder / "l.safetensors"
    neutral = desk.folder / "n.safetensors"
    assert desk.predict(lora.name, "--neutral-out", neutral, "--dtype", "float32").status == 0
    shown = {}
    for name in ("neutral", "same", "none", neutral):
        out = f"{Path(name).name}.png"
        done = desk.generate(out, lora, "--negative-lora", name)
        assert done.status == 0, done.err
        shown[name] = np.array(Image.open(desk.folder / out)).astype(int)
    assert desk.generate("usual.png", lora).status == 0
    usual = np.array(Image.open(desk.folder / "usual.png")).astype(int)
    assert (usual == shown["neutral"]).all()
    assert np.abs(shown[neutral] - usual).max() <= 1
    assert min(np.abs(shown[name] - usual).max() for name in ("same", "none")) > 1
    refused = desk.generate("x.png", neutral, "--negative-lora", "neutral")
    assert (refused.status, "has no neutral LoRA" in refused.err) == (2, True), refused.err
