"""`style show` and `style rerun` on a tiny model, and files that say nothing."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from stylecli.artifacts import store
from stylecli.artifacts.locate import Locator
from stylecli.cli.app import main
from stylecli.cli.console import LISTED_FAILURES
from stylecli.engine.again.differences import Difference
from stylecli.engine.again.rerun import Again
from tests.artifacts.test_store import assert_bare
from tests.cli.conftest import draw
from tests.conftest import Outcome, Style

pytestmark = pytest.mark.slow

SECRETS = ("jane-doe", "photo-of-anna", "look-of-ben", "runs.jsonl")


RECIPE = """\
backbone: {{id: "{folder}"}}
sampling: {{size: 32, steps: 3, guidance: 3}}
inversion: {{steps: 3}}
injection: {{feature_steps: 2, attn_steps: 2}}
lora: {{resolution: 32, steps: 1, rank: 4, prompt: a red picture}}
"""


class Desk:
    """A photograph, a painting and a LoRA in a folder with a telling name, and a picture made."""

    def __init__(self, style: Style, folder: Path, model: Path) -> None:
        self.style, self.model, self.folder = style, model, folder
        self.photo, self.look = folder / "in/photo-of-anna.png", folder / "in/look-of-ben.png"
        self.lora, self.out = folder / "in/look.safetensors", folder / "out"
        self.made = folder / "out/made.png"
        self.recipe = folder / "quick.yaml"

    def run(self, command: str, *words: object) -> Outcome:
        done = self.style(command, *words, "-r", self.recipe, "-q")
        assert done.status == 0, done.err
        return done

    def picture(self, name: str, *words: object) -> Path:
        self.run("transfer", self.photo, "-l", self.lora, "-o", self.out / name, *words)
        return self.out / name

    def rerun(self, *words: object) -> Outcome:
        return self.style("rerun", *words, "-i", self.folder, "--backbone", self.model)


@pytest.fixture(scope="module")
def furnished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every desk begins with; made once, because it takes a model."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "quick.yaml").write_text(RECIPE.format(folder=tiny_folder))
    photo = draw(folder / "in/photo-of-anna.png", seed=1)
    look = draw(folder / "in/look-of-ben.png", seed=2, size=(70, 66))
    lora = folder / "in/look.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stylecli.engine.training.draws.EVAL_PAIRS", 2)
        for words in (
            ("train-lora", look, "-o", lora),
            ("transfer", photo, "-l", lora, "-o", folder / "out/made.png"),
        ):
            assert main([*map(str, words), "-r", str(folder / "quick.yaml"), "-q"]) == 0
    return folder


@pytest.fixture
def desk(
    style: Style,
    furnished: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    monkeypatch.setattr("stylecli.engine.training.draws.EVAL_PAIRS", 2)
    return Desk(style, shutil.copytree(furnished, tmp_path / "jane-doe"), tiny_folder)


# What a file says


def test_what_made_a_picture_is_shown_for_people_and_for_programs(desk: Desk) -> None:
    out = desk.made
    made_by = store.read_provenance(out)
    page = desk.style("show", out)
    assert page.status == 0
    assert "as the file itself says" in page.out.splitlines()[0]
    assert yaml.safe_load(page.out) == made_by
    done = desk.style("show", out, "--json")
    row = done.rows[0]
    assert (row["source"], row["provenance"]) == ("file", made_by)
    assert done.summary["counts"] == {"done": 1, "items": 1}


def test_loras_trajectories_and_masks_are_shown_too(desk: Desk) -> None:
    folder = desk.folder / "lora"
    folder.mkdir()
    shutil.copy(desk.lora, folder / "adapter_model.safetensors")
    desk.run("invert", desk.photo, "-o", desk.out / "t.safetensors")
    desk.run("masks", desk.photo, "-o", f"{desk.folder}/masks/", "--set", "masks.clusters=2")
    masks = desk.folder / "masks/photo-of-anna.json"
    files = (desk.lora, folder, desk.out / "t.safetensors", masks)
    done = desk.style("show", *files, "--json")
    assert done.status == 0, done.err
    commands = [row["provenance"]["command"] for row in done.rows[:-1]]
    assert commands == ["train-lora", "train-lora", "invert", "masks"]


def test_a_folder_is_all_that_was_made_in_it_and_names_come_from_a_list_too(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = desk.picture("deep/b.jpg")
    draw(desk.out / "foreign.png")
    found = [row["file"] for row in desk.style("show", desk.out, "--json").rows[:-1]]
    assert found == [str(b), str(desk.made)]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{b}\0"))
    done = desk.style("show", "-", "-0", "--json")
    assert [row["file"] for row in done.rows[:-1]] == [str(b)]


def test_a_foreign_file_is_two_lines_alone_and_an_item_that_fails_among_many(desk: Desk) -> None:
    foreign = draw(desk.out / "foreign.png")
    alone = desk.style("show", foreign)
    assert alone.status == 2
    assert [line.split()[0] for line in alone.err.splitlines()] == ["error", "fix"]
    assert "foreign.png does not say what made it" in alone.err
    among = desk.style("show", foreign, desk.made, "--json")
    assert among.status == 3
    assert [row["status"] for row in among.rows[:-1]] == ["failed", "done"]
    empty = desk.folder / "empty"
    empty.mkdir()
    for words in ([desk.out / "absent.png"], [empty], ["no*.png"]):
        refused = desk.style("show", *words)
        assert refused.status == 2
        assert "fix" in refused.err


def test_a_stripped_file_is_known_by_its_journal_while_it_is_the_same(desk: Desk) -> None:
    out = desk.picture("deep/out.png", "--strip-metadata")
    row = desk.style("show", out, "--json").rows[0]
    assert row["source"] == "journal"
    assert row["provenance"]["command"] == "transfer"
    assert row["provenance"]["sha256"] == store.file_sha256(out)
    assert "as the journal beside it says" in desk.style("show", out).out
    refused = desk.rerun(out)
    assert refused.status == 2
    assert "its journal holds no settings" in refused.err
    draw(out, seed=5)
    changed = desk.style("show", out)
    assert changed.status == 2
    assert "is not the file that its journal tells of" in changed.err


# Files made again


def test_the_same_bytes_are_said_to_be_and_kept_where_told(desk: Desk) -> None:
    out = desk.picture("out.jpg")
    again = desk.folder / "again.jpg"
    done = desk.rerun(out, "-o", again)
    assert done.status == 0, done.err
    assert done.out == f"{out}  the same bytes\n"
    assert again.read_bytes() == out.read_bytes()
    refused = desk.rerun(out, "-o", again)
    assert refused.status == 2
    assert "exists" in refused.err


def test_many_are_kept_in_a_folder_and_those_of_one_name_are_not_mixed_up(desk: Desk) -> None:
    files = [desk.made, desk.picture("b.webp", "--set", "sampling.guidance=2")]
    done = desk.rerun(*files, "-o", f"{desk.folder}/again/", "--json")
    assert done.status == 0, done.err
    assert done.summary["counts"] == {"same": 2, "items": 2}
    for file in files:
        assert (desk.folder / "again" / file.name).read_bytes() == file.read_bytes()
    assert desk.rerun(*files, "-o", desk.folder / "one.png").status == 2
    (desk.out / "deep").mkdir()
    shutil.copy(files[0], desk.out / "deep/made.png")
    same_name = desk.rerun(files[0], desk.out / "deep/made.png", "-o", f"{desk.folder}/more/")
    assert same_name.status == 2
    assert "several files are called made.png" in same_name.err


def test_one_that_cannot_be_made_is_its_own_failure_and_the_others_are_made(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model is none of this machine: alone that ends the command, with a status of its own."""
    said = store.read_provenance(desk.made)
    assert said is not None
    said["recipe"]["backbone"]["id"] = said["model"]["id"] = "sd15"
    absent = desk.out / "absent.png"
    store.save_image(absent, torch.zeros(4, 4, 3, dtype=torch.uint8), said)
    monkeypatch.chdir(desk.model.parent)
    places = ("-i", desk.folder)
    assert desk.style("rerun", absent, *places).status == 4
    done = desk.style("rerun", absent, desk.made, *places, "--json")
    assert done.status == 3, done.err
    assert [row["status"] for row in done.rows[:-1]] == ["failed", "same"]
    assert done.rows[0]["error"]["code"] == "weights"


def test_places_are_walked_once_for_all_files(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[Locator] = []
    plain = Locator._walk

    def counted(self: Locator) -> Any:
        walks.append(self)
        return plain(self)

    monkeypatch.setattr(Locator, "_walk", counted)
    copies = [desk.out / f"{number}.png" for number in range(2)]
    for copy in copies:
        shutil.copy(desk.made, copy)
    assert desk.rerun(*copies).status == 0
    assert len(walks) == 1


def test_the_last_line_names_some_of_many_that_differ(
    style: Style, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    difference = Difference("pixels", "1", "2")
    monkeypatch.setattr(
        "stylecli.engine.again.rerun.rerun", lambda path, *_, **__: Again(path, None, [difference])
    )
    files = [draw(tmp_path / f"{number}.png", seed=1) for number in range(LISTED_FAILURES + 2)]
    done = style("rerun", *files)
    assert done.status == 1
    (line,) = [line for line in done.err.splitlines() if "came out different" in line]
    assert f" {files[LISTED_FAILURES - 1].name} and 2 more" in line
    assert files[LISTED_FAILURES].name not in line


def test_a_folder_too_full_of_one_name_is_refused_before_any_work(
    style: Style, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(
        "stylecli.engine.again.rerun.rerun", lambda path, *_, **__: made.append(path)
    )
    files = [draw(tmp_path / name) for name in ("first.png", "a/x.png", "b/x.png")]
    assert style("rerun", *files, "-o", f"{tmp_path}/again/").status == 2
    assert not made


def test_a_file_that_comes_out_different_says_in_what(desk: Desk) -> None:
    """Somebody painted one pixel and changed one word of what the file says."""
    out = desk.made
    made_by = store.read_provenance(out)
    assert made_by is not None
    made_by["versions"]["torch"] = "1.0.0"
    pixels = torch.from_numpy(_pixels(out).copy())
    pixels[3, 4, 1] ^= 8
    store.save_image(out, pixels, made_by)
    done = desk.rerun(out, "--json")
    assert done.status == 1
    assert done.summary["error"]["code"] == "not_reproduced"
    (row,) = done.rows[:-1]
    assert row["status"] == "differs"
    found = {one["what"]: (one["was"], one["now"]) for one in row["differences"]}
    assert found == {
        "versions.torch": ("1.0.0", torch.__version__),
        "pixels": ("1216 pixels", "1 differ, by at most 8 of 255"),
    }
    table = desk.rerun(out).out.splitlines()
    assert table[0].endswith("made.png  differs")
    assert [line.split()[0] for line in table[1:]] == ["what", "versions.torch", "pixels"]


def _pixels(file: Path) -> Any:
    import numpy as np

    return np.asarray(Image.open(file).convert("RGB"))


def test_inputs_that_are_gone_are_named_with_what_they_hold(desk: Desk) -> None:
    out = desk.made
    digests = {file: store.file_sha256(file) for file in (desk.photo, desk.lora)}
    desk.lora.unlink()
    desk.photo.rename(desk.folder / "attic.png")
    done = desk.rerun(out)
    assert done.status == 2
    assert f"lora {desk.lora.name}, SHA-256 {digests[desk.lora]}" in done.err
    assert digests[desk.photo] not in done.err, "it is there, under another name"
    assert "--inputs" in done.err
    assert desk.rerun(out, "-i", desk.folder / "nowhere").status == 2


def test_a_model_folder_has_to_be_named_and_another_one_is_told_of(
    desk: Desk, tmp_path: Path
) -> None:
    from tests.tiny import save_folder

    out = desk.made
    bare = desk.style("rerun", out, "-i", desk.folder)
    assert bare.status == 2
    assert f"'{desk.model.name}'" in bare.err
    assert "--backbone" in bare.err
    other = save_folder(tmp_path / "other", seed=1)
    done = desk.style("rerun", out, "-i", desk.folder, "--backbone", other, "--json")
    assert done.status == 1
    assert "another model" in done.err
    names = [one["what"] for one in done.rows[0]["differences"]]
    assert "model.fingerprint" in names
    assert "model.id" not in names, "its folder's name is no difference"
    assert "pixels" in names


def test_a_device_there_is_none_of_is_refused(desk: Desk) -> None:
    for device, message in (("gpu", "--device 'gpu'"), ("cuda:99", "not on this machine")):
        done = desk.rerun(desk.made, "--device", device)
        assert done.status == 2
        assert message in done.err
    assert desk.rerun(desk.made, "--device", "cpu").status == 0


def test_a_picture_that_was_torn_off_differs(desk: Desk) -> None:
    data = desk.made.read_bytes()
    at = data.index(b"IDAT") + 200
    desk.made.write_bytes(data[:at] + bytes(20) + data[at + 20 :])
    done = desk.rerun(desk.made)
    assert done.status == 1
    assert "pixels" in done.out


def test_masks_are_made_again_with_all_that_belongs_to_them(desk: Desk) -> None:
    desk.run("masks", desk.photo, "-o", f"{desk.out}/", "--set", "masks.clusters=2")
    files = sorted(desk.out.glob("photo-of-anna*"))
    assert len(files) == 4
    done = desk.rerun(desk.out / "photo-of-anna.json", "-o", f"{desk.folder}/again/")
    assert done.status == 0, done.err
    for file in files:
        assert (desk.folder / "again" / file.name).read_bytes() == file.read_bytes()


WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "version": (lambda said: said.update(schema_version=7), "is of schema 7"),
    "command": (lambda said: said.update(command="paint"), "made by 'paint'"),
    "key": (lambda said: said.pop("key"), "no usable 'key'"),
    "inputs": (lambda said: said.update(inputs=[{"role": "content"}]), "no usable 'inputs.0"),
    "place": (lambda said: said["inputs"][0].update(name="../../x.png"), "is no file's name"),
    "setting": (lambda said: said["recipe"]["sampling"].update(sizes=1), "sampling.sizes"),
    "value": (lambda said: said["recipe"]["sampling"].update(steps="many"), "sampling.steps"),
    "finder": (lambda said: said["recipe"]["masks"].update(model="/etc/x"), "masks.model"),
    "sections": (lambda said: said["recipe"].update(backbone=3, device=[]), "device"),
    "omitted": (lambda said: said.update(inputs_omitted=[]), "leaves its list of inputs"),
    "figure": (lambda said: said.update(figure={"name": "sweep", "cells": [1]}), "other cells"),
    "words": (lambda said: said.update(command="generate"), "says no words"),
    "number": (
        lambda said: said.update(
            command="generate",
            prompt="a",
            inputs=[{"role": "prompt", "name": "a-99999999999", "sha256": "0" * 64}],
        ),
        "picture 99999999999",
    ),
    "model": (lambda said: said["recipe"]["backbone"].update(id="../up"), "model folder 'up'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_made_again_is_refused_before_any_work(
    desk: Desk, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "schema_version": 1,
        "command": "transfer",
        "key": "0" * 64,
        "recipe": {"backbone": {"id": "tiny"}, "sampling": {}, "masks": {}},
        "inputs": [
            {"role": "content", "name": desk.photo.name, "sha256": store.file_sha256(desk.photo)}
        ],
    }
    change, message = WRONG[wrong]
    change(said)
    out = desk.out / "out.png"
    store.save_image(out, torch.zeros(4, 4, 3, dtype=torch.uint8), said)
    machine = () if wrong == "model" else ("--backbone", desk.model)
    done = desk.style("rerun", out, "-i", desk.folder, *machine)
    assert done.status == 2, done.err
    assert message in done.err
    assert "fix" in done.err
    assert "Traceback" not in done.err


# Files that say nothing


def assert_nothing_is_said(file: Path) -> None:
    assert_bare(file, SECRETS)


@pytest.mark.parametrize("suffix", [".png", pytest.param(".jpg", marks=pytest.mark.slow)])
def test_a_stripped_picture_holds_a_picture_and_nothing_else(desk: Desk, suffix: str) -> None:
    plain = desk.picture(f"plain{suffix}")
    with pytest.raises(AssertionError):
        assert_nothing_is_said(plain)
    stripped = desk.picture(f"stripped{suffix}", "--strip-metadata", "--compare")
    assert_nothing_is_said(stripped)
    assert_nothing_is_said(desk.out / f"stripped.compare{suffix}")
    assert store.read_provenance(stripped) is None
    assert (_pixels(stripped) == _pixels(plain)).all()


@pytest.mark.parametrize(
    "layout", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("kohya", "peft")), "comfy"]
)
def test_a_stripped_lora_keeps_what_loading_it_takes(desk: Desk, layout: str) -> None:
    lora = desk.folder / ("bare" if layout == "peft" else "bare.safetensors")
    words = ("--format", layout, "--strip-metadata")
    desk.run("train-lora", desk.look, "-o", lora, *words)
    file = lora / "adapter_model.safetensors" if lora.is_dir() else lora
    assert_nothing_is_said(file)
    with safe_open(file, "pt") as stream:
        header = dict(stream.metadata())
    assert store.KEY not in header
    assert "modelspec.title" not in header
    assert header["format"] == "pt"
    assert header["ss_network_dim"] == header["ss_network_alpha"] == "4"
    assert header["modelspec.trigger_phrase"] == "a red picture"
    assert "style.colours" in header
    assert "ss_seed" not in header
    desk.run("transfer", desk.photo, "-l", lora, "-o", desk.out / "x.png", "--strip-metadata")
    assert_nothing_is_said(desk.out / "x.png")


def test_stripped_trajectories_and_masks_say_nothing_either(desk: Desk) -> None:
    desk.run("invert", desk.photo, "-o", desk.out / "t.safetensors", "--strip-metadata")
    assert_nothing_is_said(desk.out / "t.safetensors")
    masks = (desk.photo, "-o", f"{desk.out}/m/", "--set", "masks.clusters=2", "--strip-metadata")
    desk.run("masks", *masks)
    for file in (desk.out / "m").glob("*.png"):
        assert_nothing_is_said(file)
    listing = desk.out / "m/photo-of-anna.json"
    said = json.loads(listing.read_text())
    assert store.KEY not in said
    assert said["picture"].keys() == {"width", "height"}
    row = desk.style("show", listing, "--json").rows[0]
    assert row["source"] == "journal"
    assert row["provenance"]["inputs"][0]["name"] == desk.photo.name


def test_a_stripped_run_is_done_when_it_is_run_again(desk: Desk) -> None:
    desk.picture("out.png", "--strip-metadata")
    before = (desk.out / "out.png").stat().st_mtime_ns
    words = ("transfer", desk.photo, "-l", desk.lora, "-o", desk.out / "out.png", "--json")
    done = desk.style(*words, "--strip-metadata", "-r", desk.recipe)
    assert done.summary["counts"] == {"skipped": 1, "items": 1}, done.err
    assert (desk.out / "out.png").stat().st_mtime_ns == before
