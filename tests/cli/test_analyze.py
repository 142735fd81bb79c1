"""`style analyze features` on a tiny model: what it writes, refuses, skips and leaves alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stylecli.artifacts import store
from stylecli.backbone.inversion import null_prediction
from tests import tiny
from tests.cli.conftest import draw, finish, start
from tests.cli.test_transfer import counted_rows
from tests.conftest import Outcome, Style
from tests.small import base_unet, lora

pytestmark = pytest.mark.slow

LAYERS = 12


@cache
def tensors(seed: int, size: float) -> dict[str, torch.Tensor]:
    found = lora(base_unet(), seed=seed, size=size)
    return {f"unet.{key}": value for key, value in found.items()}


def write_lora(file: Path, *, seed: int = 1, size: float = 0.5) -> Path:
    save_file(tensors(seed, size), file)
    return file


class Desk:
    """Photographs, LoRAs and a command that takes them."""

    def __init__(self, style: Style, folder: Path, recipe: Path) -> None:
        self.folder, self.recipe = folder, recipe
        self.photo = draw(folder / "photos" / "photo.png", seed=1)
        self.ink = write_lora(folder / "ink.safetensors")
        self.oil = write_lora(folder / "oil.safetensors", seed=2, size=0.3)
        self._style = style

    def analyze(self, *arguments: object) -> Outcome:
        return self._style("analyze", "features", *arguments, "-r", self.recipe, "--json")

    def pca(self, output: str, *arguments: object) -> Outcome:
        return self.analyze(self.photo, "--lora", self.ink, "-o", self.folder / output, *arguments)

    def similarity(self, *arguments: object, folder: str = "table") -> Outcome:
        return self.analyze(
            "--kind", "similarity", "-o", f"{self.folder / folder}/", *arguments
        )  # fmt: skip

    def table(self, folder: str = "table") -> dict[str, Any]:
        found: dict[str, Any] = self.read(f"{folder}/similarity.json")
        return found

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def domains(self) -> list[object]:
        """Two pictures of each LoRA's own, of the same names."""
        for number, look in enumerate(("ink", "oil")):
            for picture in ("a", "b"):
                draw(self.folder / look / f"{picture}.png", seed=10 * number + ord(picture))
        looks = [
            f"{self.folder / look}={self.folder / look}.safetensors" for look in ("ink", "oil")
        ]
        return [word for look in looks for word in ("--domain", look)]


@pytest.fixture
def desk(style: Style, tmp_path: Path, recipe: Path) -> Desk:
    return Desk(style, tmp_path, recipe)


def texts(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix != ".safetensors":
            yield file.read_bytes().decode("latin-1")


# Figures.


def test_a_figure_is_a_grid_with_its_numbers_and_settings(desk: Desk) -> None:
    process = start(
        *("analyze", "features", desk.photo, "--lora", desk.ink, "-r", desk.recipe),
        *("--domain", f"{desk.photo}={desk.oil}", "--t", "540", "-o", desk.folder / "out/fig.png"),
    )
    done = finish(process)
    assert done.status == 0, done.err
    assert done.out == f"{desk.folder}/out/fig.png\n"
    assert "t 540 -> 499, step 2" in done.err, "a grid of six steps: 1, 167, 333, 499, 665, 831"
    said = desk.read("out/fig.json")
    assert said["models"] == ["base", "oil (in domain)", "ink (out of domain)"]
    assert [one["layer"] for one in said["maps"]] == list(range(LAYERS))
    assert {(one["asked"], one["timestep"], one["step"]) for one in said["maps"]} == {(540, 499, 2)}
    assert said["command"].startswith("style analyze features --kind pca --domain photo.png=oil")
    assert said["command"].endswith(" -o fig.png")
    assert not [text for text in texts(desk.folder / "out") if str(desk.folder) in text]
    arrays = np.load(desk.folder / "out/fig.npz")
    for one in said["maps"]:
        stem = f"t499_layer{one['layer']:02}"
        assert arrays[f"{stem}_components"].shape == (3, one["channels"])
        assert arrays[f"{stem}_coordinates"].shape == (3, 3, one["height"], one["width"])
        assert np.allclose(arrays[f"{stem}_explained_variance"], one["explained_variance"])
        assert 0 < sum(one["explained_variance"]) <= 1 + 1e-9
    with Image.open(desk.folder / "out/fig.png") as sheet:
        # Thirteen columns of pictures, three rows.
        assert sheet.width > 13 * 32
        assert sheet.height > 3 * 32
    made_by = store.read_provenance(desk.folder / "out/fig.png")
    assert made_by is not None
    assert made_by["analysis"]["levels"] == [[540, 499, 2]]
    assert made_by["key"] == said["style"]["key"] == json.loads(str(arrays["style"]))["key"]


def test_the_maps_are_of_the_base_models_own_inversion(
    desk: Desk, style: Style, tiny_folder: Path
) -> None:
    """Against features taken out of a plain pass by a hook of our own."""
    done = desk.pca("fig.png", "--layers", "4", "--t", "333", "--tap", "output")
    assert done.status == 0, done.err
    arrays = np.load(desk.folder / "fig.npz")
    (stem,) = {name.rpartition("_")[0] for name in arrays if name.endswith("_mean")}
    assert stem == "t333_layer04"

    inverted = style("invert", desk.photo, "-r", desk.recipe, "-o", desk.folder / "t.safetensors")
    assert inverted.status == 0
    kept = load_file(desk.folder / "t.safetensors")
    at = kept["timesteps"].tolist().index(333) + 1
    backbone = tiny.backbone(tiny_folder)
    seen: list[torch.Tensor] = []
    resnet = backbone.unet.up_blocks[1].resnets[1]
    handle = resnet.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.inference_mode():
        null_prediction(backbone, 1)(kept["latents"][at][None], 333)
    handle.remove()
    features = seen[0][0].double().permute(1, 2, 0).numpy()
    projected = (features - arrays[f"{stem}_mean"]) @ arrays[f"{stem}_components"].T
    base = arrays[f"{stem}_coordinates"][0].transpose(1, 2, 0)
    assert np.allclose(projected, base, atol=1e-4)
    other = arrays[f"{stem}_coordinates"][1].transpose(1, 2, 0)
    assert not np.allclose(base, other, atol=1e-2)


def test_a_figure_is_made_once_and_again_the_same(desk: Desk) -> None:
    assert desk.pca("one/fig.png", "--layers", "2-4", "--t", "100", "--t", "900").status == 0
    files = [desk.folder / "one" / f"fig.{suffix}" for suffix in ("png", "npz", "json")]
    before = [file.read_bytes() for file in files]
    with counted_rows() as rows:
        again = desk.pca("one/fig.png", "--layers", "2-4", "--t", "100", "--t", "900")
    assert again.summary["counts"] == {"skipped": 1, "items": 1}
    assert not rows
    shutil.rmtree(desk.folder / "one")
    assert desk.pca("one/fig.png", "--layers", "2-4", "--t", "100", "--t", "900").status == 0
    assert [file.read_bytes() for file in files] == before


def test_what_lies_beside_a_figure_is_not_painted_over(desk: Desk) -> None:
    own = desk.folder / "fig.json"
    own.write_text('{"mine": 1}')
    done = desk.pca("fig.png", "--layers", "2")
    assert done.status == 3
    assert done.rows[0]["error"]["code"] == "output_differs"
    assert own.read_text() == '{"mine": 1}'
    assert desk.pca("fig.png", "--layers", "2", "--overwrite").status == 0
    assert desk.read("fig.json")["kind"] == "pca"


def test_one_bad_picture_is_the_only_one_without_a_figure(desk: Desk) -> None:
    (desk.folder / "photos" / "bad.png").write_bytes(b"no picture")
    done = desk.analyze(
        desk.folder / "photos", "-l", desk.ink, "-o", f"{desk.folder}/out/", "--layers", "3"
    )
    assert done.status == 3
    assert done.summary["counts"] == {"done": 1, "failed": 1, "items": 2}
    assert sorted(file.name for file in (desk.folder / "out").glob("*.features.*")) == [
        f"photo.features.{suffix}" for suffix in ("json", "npz", "png")
    ]


def test_a_picture_is_learned_from_and_shown_beside_its_row(desk: Desk) -> None:
    wide = draw(desk.folder / "styles" / "painting.png", seed=5, size=(90, 66))
    done = desk.analyze(desk.photo, "--style", wide, "-o", desk.folder / "fig.png", "--layers", "5")
    assert done.status == 0, done.err
    assert desk.read("fig.json")["models"] == ["base", "painting"]
    assert "--set lora.steps=12" in desk.read("fig.json")["command"]


def test_a_stripped_figure_says_nothing_of_what_made_it(desk: Desk) -> None:
    assert desk.pca("fig.png", "--layers", "2", "--strip-metadata").status == 0
    said = desk.read("fig.json")
    assert "style" not in said
    assert "command" not in said
    assert store.read_provenance(desk.folder / "fig.png") is None
    assert "style" not in np.load(desk.folder / "fig.npz")


def test_no_more_of_the_model_runs_than_is_looked_at(desk: Desk) -> None:
    with counted_rows() as rows:
        assert desk.pca("a.png", "--layers", "0", "--t", "100", "--t", "900").status == 0
    # Six of the inversion, and two levels of two models.
    assert len(rows) == 6 + 2 * 2


# Tables.


def test_a_lora_that_changes_nothing_is_exactly_alike(desk: Desk) -> None:
    nothing = write_lora(desk.folder / "nothing.safetensors", size=0)
    both = ("--lora", nothing, "--lora", desk.ink)
    done = desk.similarity(desk.photo, *both, "--layers", "all", "--tap", "layer")
    assert done.status == 0, done.err
    means = [one for order in desk.table()["orders"] for one in order["means"]]
    of_lora = {name: [one["mean"] for one in means if one["lora"] == name]
               for name in ("nothing", "ink")}  # fmt: skip
    assert of_lora["nothing"] == [1.0] * 2 * LAYERS
    assert all(-1 < mean < 1 for mean in of_lora["ink"])
    assert len(of_lora["ink"]) == 2 * LAYERS


def test_a_table_is_of_all_pictures_in_and_out_of_domain(desk: Desk) -> None:
    done = desk.similarity(*desk.domains(), "--t", "540", "--t", "100")
    assert done.status == 0, done.err
    table = desk.table()
    assert table["pictures"] == {"asked": 4, "measured": 4}
    keys = [(one["metric"], one["asked"], one["timestep"]) for one in table["orders"]]
    assert keys == [(m, *t) for m in ("position", "flat") for t in ((540, 499), (100, 167))]
    (order, *_) = table["orders"]
    domains = [
        (one["domain"], one["lora"], one["n"]) for one in order["means"] if one["layer"] == 5
    ]
    assert domains == [
        ("in", None, 4), ("out", None, 4), ("in", "ink", 2), ("in", "oil", 2),
        ("out", "ink", 2), ("out", "oil", 2),
    ]  # fmt: skip
    assert [one["layer"] for one in order["in_less_out"]] == [2, 5, 7]
    assert all(one["paired"] for one in order["in_less_out"])
    value = {
        (one["domain"], one["layer"]): one["mean"] for one in order["means"] if not one["lora"]
    }
    for gap in order["in_less_out"]:
        expected = value["in", gap["layer"]] - value["out", gap["layer"]]
        assert gap["value"] == pytest.approx(expected)
        assert gap["low"] <= gap["value"] <= gap["high"]
    assert order["holds"] == (
        all(gap["value"] >= 0 for gap in order["in_less_out"])
        and all(value[d, a] >= value[d, b] for d in ("in", "out") for a, b in ((2, 5), (5, 7)))
    )
    page = (desk.folder / "table/similarity.md").read_text()
    assert all(sentence in page for sentence in table["sentences"])
    assert "| in less out, paired" in page
    said = [row["sentence"] for row in done.rows if "sentence" in row]
    assert said == table["sentences"]
    assert not [text for text in texts(desk.folder / "table") if str(desk.folder) in text]
    assert sorted(p.relative_to(desk.folder / "table/cases").as_posix()
                  for p in (desk.folder / "table/cases").rglob("*.json")) == [
        "ink/a.json", "ink/b.json", "oil/a.json", "oil/b.json",
    ]  # fmt: skip


def test_a_bad_picture_is_missing_from_the_table_and_only_it_is_tried_again(desk: Desk) -> None:
    domains = desk.domains()
    good = (desk.folder / "ink" / "b.png").read_bytes()
    (desk.folder / "ink" / "b.png").write_bytes(good[:40])
    done = desk.similarity(*domains)
    assert done.status == 3
    assert done.summary["counts"] == {"done": 3, "failed": 1, "items": 4}
    assert desk.table()["pictures"] == {"asked": 4, "measured": 3}
    assert "1 of 4 pictures" in (desk.folder / "table/similarity.md").read_text()
    (desk.folder / "ink" / "b.png").write_bytes(good)
    with counted_rows() as rows:
        mended = desk.similarity(*domains)
    assert mended.summary["counts"] == {"done": 1, "skipped": 3, "items": 4}
    assert len(rows) == 6 + 3
    whole = desk.similarity(*domains, folder="whole")
    assert whole.status == 0
    tables = [desk.table(folder) for folder in ("table", "whole")]
    assert tables[0]["orders"] == tables[1]["orders"]


def test_shards_make_one_table(desk: Desk) -> None:
    domains = desk.domains()
    for part in ("1/2", "2/2"):
        assert desk.similarity(*domains, "--shard", part).status == 0
    assert desk.table()["pictures"] == {"asked": 4, "measured": 4}


def test_a_manifest_pairs_pictures_with_loras(desk: Desk) -> None:
    desk.domains()
    rows = [
        {"content": "ink/a.png", "lora": "ink.safetensors", "domain": "in"},
        {"content": "ink/b.png", "lora": "ink.safetensors", "domain": "in"},
        {"content": "oil/a.png", "lora": "ink.safetensors", "domain": "out"},
        {"content": "oil/b.png", "lora": "ink.safetensors", "domain": "out"},
    ]
    file = desk.folder / "cases.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    done = desk.similarity("--manifest", file)
    assert done.status == 0, done.err
    (order, _) = desk.table()["orders"]
    assert {one["n"] for one in order["means"]} == {2}
    assert not any(gap["paired"] for gap in order["in_less_out"])


def test_a_file_in_the_tables_place_that_is_none_is_left_alone(desk: Desk) -> None:
    own = desk.folder / "table" / "similarity.md"
    own.parent.mkdir()
    own.write_text("mine")
    done = desk.similarity(desk.photo, "--lora", desk.ink)
    assert done.status == 3
    assert done.summary["error"]["code"] == "output_differs"
    assert own.read_text() == "mine"


# What is refused before any work.


@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        (["--t", "1000"], "--t 1000 is out of range", "0 to 999"),
        (["--t", "-1"], "--t -1 is out of range", "0 to 999"),
        (["--layers", "12"], "there is no layer 12", "0 to 11"),
        (["--layers", "two"], "'two' is no layer", "0 to 11"),
        (["--kind", "similarity"], "similarity fills a folder", "a slash makes it a folder"),
        (["--domain", "x"], "is not PICTURES=LORA", "icons/="),
        (["--lora", "none.safetensors"], "does not exist", "check the name"),
        (["--tap", "conv"], "conv", "--help"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    desk: Desk, arguments: list[str], what: str, fix: str
) -> None:
    with counted_rows() as rows:
        done = desk.pca("out/fig.png", *arguments)
    assert done.status == 2
    assert what in done.summary["error"]["what"]
    assert fix in done.summary["error"]["fix"]
    assert not rows
    assert not (desk.folder / "out").exists()


def test_a_lora_of_another_model_costs_no_picture_its_work(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from diffusers import UNet2DConditionModel

    other = tiny.save_folder(tmp_path_factory.mktemp("other"), channels=(16, 16, 16, 16), width=16)
    theirs = lora(UNet2DConditionModel.from_pretrained(other / "unet"))
    file = desk.folder / "other.safetensors"
    save_file({f"unet.{key}": value for key, value in theirs.items()}, file)
    with counted_rows() as rows:
        done = desk.pca("out/fig.png", "--lora", file)
    assert done.status == 2
    assert "other.safetensors" in done.summary["error"]["what"]
    assert not rows
    assert not list((desk.folder / "out").glob("fig*"))


def test_a_dry_run_does_nothing(desk: Desk) -> None:
    done = desk.similarity(desk.photo, "--lora", desk.ink, "--dry-run")
    assert done.status == 0, done.err
    assert done.rows[0]["dry_run"]
    assert not (desk.folder / "table").exists()
