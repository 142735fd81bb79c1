"""`style masks`, in this process, with a backend of another package and with a real tiny one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylecli.artifacts.store import read_provenance
from tests.cli.conftest import draw
from tests.conftest import Outcome, Style
from tests.masks import finders, plugs

pytestmark = pytest.mark.slow

Run = Callable[..., Outcome]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return draw(tmp_path / "photo.png", seed=1)


@pytest.fixture
def run(style: Style, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    plugs.install(
        monkeypatch,
        fake="tests.masks.plugs:FakeAtPlaces",
        wordy="tests.masks.plugs:Fake",
        squeezed="tests.masks.plugs:Squeezed",
    )
    return lambda *arguments: style("masks", "-r", recipe, "--backend", "fake", *arguments)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))


def greys(file: Path) -> np.ndarray:
    image = Image.open(file)
    assert image.mode == "L"
    return np.asarray(image)


def test_words_become_masks_an_overlay_and_a_list(run: Run, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(photo, "--text", "deer", "--text", "sky", "-o", f"{out}/", "--json")
    assert done.status == 0, done.err
    assert names(out) == [
        "photo.json",
        "photo.overlay.png",
        "photo__deer.png",
        "photo__sky.png",
        "runs.jsonl",
    ]
    mask = greys(out / "photo__deer.png")
    assert mask.shape == (40, 48)
    assert (mask[:, :12] == 255).all()
    assert not mask[:, 12:].any()
    listing = json.loads((out / "photo.json").read_text())
    assert listing["backend"] == "fake"
    assert listing["licence"] == "MIT"
    assert listing["picture"] == {"name": "photo.png", "width": 48, "height": 40}
    deer, sky = listing["regions"]
    assert (deer["file"], deer["prompt"], deer["score"]) == ("photo__deer.png", "deer", 0.9)
    assert (deer["area_px"], deer["area_share"], deer["boxes"]) == (480.0, 0.25, [[0, 0, 12, 40]])
    assert sky["area_share"] == 1.0
    assert Image.open(out / "photo.overlay.png").size == (48, 40)


def test_a_mask_says_what_made_it_and_nothing_about_the_machine(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(photo, "-t", "deer", "-o", out, "--set", f"masks.model={tmp_path}").status == 0
    made_by = read_provenance(out / "photo__deer.png")
    assert made_by is not None
    assert made_by["command"] == "masks"
    assert made_by["region"]["prompt"] == "deer"
    assert made_by["region"]["score"] == 0.9
    assert made_by["finder"]["backend"] == "fake"
    assert made_by["inputs"][0]["name"] == "photo.png"
    for file in out.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name


def test_the_backend_and_its_licence_are_announced(run: Run, photo: Path, tmp_path: Path) -> None:
    done = run(photo, "-t", "deer", "-o", tmp_path / "out/")
    assert "regions by fake (MIT)" in done.err


def test_a_second_run_does_nothing_and_another_question_is_refused_unless_overwrite(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    command = (photo, "-t", "deer", "-o", tmp_path / "out/", "--json")
    assert run(*command).summary["counts"] == {"done": 1, "items": 1}
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").glob("*.png")}
    assert run(*command).summary["counts"] == {"skipped": 1, "items": 1}
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "out").glob("*.png")}
    other = run(photo, "-t", "sky", "-o", tmp_path / "out/", "--json")
    assert other.status == 3
    assert other.rows[0]["error"]["code"] == "output_differs"
    assert run(photo, "-t", "sky", "-o", tmp_path / "out/", "--overwrite").status == 0
    (tmp_path / "out/photo.json").unlink()
    assert run(photo, "-t", "sky", "-o", tmp_path / "out/").status == 0


def test_a_mask_that_somebody_edited_is_not_painted_over(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    edited = draw(out / "photo__deer.png", seed=7)
    before = edited.read_bytes()
    done = run(photo, "-t", "sky", "-t", "deer", "-o", out, "--json")
    assert done.status == 3
    assert "photo__deer.png" in done.rows[0]["error"]["what"]
    assert edited.read_bytes() == before
    assert names(out) == ["photo__deer.png", "runs.jsonl"], "half of an item was written"
    assert run(photo, "-t", "sky", "-t", "deer", "-o", out, "--overwrite").status == 0


def test_settings_that_shape_a_mask_where_it_is_used_do_not_make_it_another(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    command = (photo, "-t", "deer", "-o", tmp_path / "out/", "--json")
    assert run(*command).status == 0
    for setting in ("invert=true", "dilate_px=3", "feather_px=2", "resize=any"):
        assert run(*command, "--set", f"masks.{setting}").summary["counts"]["skipped"] == 1
    for setting in ("min_score=0.1", "threshold=0.2", "select=union", "on_empty=full"):
        assert run(*command, "--set", f"masks.{setting}").status == 3, setting


def test_one_picture_and_one_prompt_can_be_one_file(run: Run, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "mask.png"
    command = (photo, "-t", "deer", "-o", out, "--json")
    assert run(*command).status == 0
    assert greys(out).mean() == pytest.approx(255 / 4)
    assert not (tmp_path / "mask.overlay.png").exists()
    assert run(*command).summary["counts"] == {"skipped": 1, "items": 1}


def test_all_finds_are_numbered_from_the_best(run: Run, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(photo, "-t", "deer", "-t", "sky", "--all", "-o", out).status == 0
    assert [name for name in names(out) if "__" in name] == [
        "photo__deer-1.png",
        "photo__deer-2.png",
        "photo__sky-1.png",
    ]
    assert greys(out / "photo__deer-2.png").mean() == pytest.approx(255 * 3 / 4)


def test_without_words_every_region_there_is_is_written(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(photo, "-o", f"{out}/").status == 0
    assert [name for name in names(out) if "__" in name] == [
        f"photo__region-{i}.png" for i in (1, 2, 3)
    ]


def test_places_are_counted_in_the_upright_picture(run: Run, tmp_path: Path) -> None:
    turned = Image.new("RGB", (30, 60), "grey")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be seen turned by a quarter: 60 wide, 30 high
    turned.save(tmp_path / "turned.jpg", exif=exif)
    out = tmp_path / "out"
    places = ("--point", "45,10", "--point", "1,1,-", "--box", "0,0,60,30")
    done = run(tmp_path / "turned.jpg", *places, "-o", f"{out}/")
    assert done.status == 0, done.err
    assert greys(out / "turned__points.png").shape == (30, 60)
    assert greys(out / "turned__points.png").mean() == pytest.approx(255 * 45 / 60)
    assert greys(out / "turned__box-1.png").all()


def test_a_place_outside_fails_its_picture_and_no_other(run: Run, tmp_path: Path) -> None:
    draw(tmp_path / "in/a.png", size=(20, 20))
    draw(tmp_path / "in/b.png", size=(90, 90))
    done = run(tmp_path / "in", "--point", "50,50", "-o", tmp_path / "out/", "--json")
    assert done.status == 3
    assert done.summary["counts"] == {"done": 1, "failed": 1, "items": 2}
    failed = next(row for row in done.rows if row.get("status") == "failed")
    assert "a.png: point 50,50 lies outside its 20x20 px" in failed["error"]["what"]


def test_nothing_found_is_an_item_that_failed_unless_settings_say_otherwise(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    command = (photo, "-t", "deer", "-t", "cow", "--json", "-o")
    done = run(*command, tmp_path / "error/")
    assert done.status == 3
    assert "nothing matches 'cow'" in done.rows[0]["error"]["what"]
    assert names(tmp_path / "error") == ["runs.jsonl"]
    assert run(*command, tmp_path / "skip/", "--set", "masks.on_empty=skip").status == 0
    assert "photo__cow.png" not in names(tmp_path / "skip")
    assert run(*command, tmp_path / "full/", "--set", "masks.on_empty=full").status == 0
    assert (greys(tmp_path / "full/photo__cow.png") == 255).all()
    alone = run(photo, "-t", "cow", "-o", tmp_path / "c.png", "--set", "masks.on_empty=skip")
    assert alone.status == 3
    assert not (tmp_path / "c.png").exists()


def test_what_cannot_be_is_refused_before_any_work(run: Run, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out/"
    twin = draw(tmp_path / "other" / "photo.png", seed=5)
    clash = draw(tmp_path / "photo__red-deer.png", seed=6)
    cases: list[tuple[list[object], str]] = [
        ([photo, "-t", "deer", "--point", "1,1", "-o", out], "both given"),
        ([photo, "--point", "1", "-o", out], "is not X,Y"),
        ([photo, "--box", "5,5,5,9", "-o", out], "has no area"),
        ([photo, "-t", "a", "-t", "b", "-o", tmp_path / "x.png"], "several masks"),
        ([photo, "-o", tmp_path / "x.png"], "several masks"),
        ([photo, "-t", "a", "--all", "-o", tmp_path / "x.png"], "several masks"),
        ([photo, "-t", "a", "-o", tmp_path / "x.jpg"], "use .png"),
        ([photo, twin, "-t", "deer", "-o", out], "would both write"),
        ([photo, clash, "-t", "red deer", "-o", tmp_path], "one of the inputs"),
        ([photo, "-t", "a", "-o", out, "--name", "{content}.png"], "use .json"),
        ([photo, "-t", "a", "-o", out, "--backend", "clipsec"], "did you mean clipseg?"),
        ([photo, "--point", "1,1", "-o", out, "--backend", "wordy"], "by words alone"),
        ([photo, "-t", "deer", "-o", out, "--backend", "squeezed"], "24x20, but the picture"),
        ([tmp_path / "absent.png", "-t", "a", "-o", out], "absent.png"),
    ]
    for arguments, words in cases:
        done = run(*arguments)
        assert (done.status, words in done.err) == (2, True), (arguments, done.err)
        assert "Traceback" not in done.err


def test_pictures_that_differ_only_in_what_words_add_do_not_share_a_mask(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    other = draw(tmp_path / "photo__red.png", seed=5)
    done = run(photo, other, "-t", "red__deer", "-t", "deer", "-o", tmp_path / "out/")
    assert done.status == 2
    assert "would both write" in done.err


def test_shards_meet_and_do_not_overlap(run: Run, tmp_path: Path) -> None:
    for i in range(4):
        draw(tmp_path / f"in/{i}.png", seed=i)
    made: list[set[str]] = []
    for part in ("1/2", "2/2"):
        done = run(tmp_path / "in", "-t", "sky", "-o", tmp_path / "out/", "--shard", part, "--json")
        assert done.status == 0, done.err
        made.append({row["output"] for row in done.rows if "output" in row})
    assert not made[0] & made[1]
    assert len(made[0] | made[1]) == 4
    again = run(tmp_path / "in", "-t", "sky", "-o", tmp_path / "out/", "--json")
    assert again.summary["counts"] == {"skipped": 4, "items": 4}


def test_dry_run_shows_the_plan_and_does_nothing(run: Run, photo: Path, tmp_path: Path) -> None:
    done = run(photo, "-t", "deer", "-o", tmp_path / "out/", "--dry-run", "--json")
    assert done.status == 0, done.err
    assert done.rows[0]["jobs"][0]["output"].endswith("photo.json")
    assert not (tmp_path / "out").exists()


def test_a_real_backend_runs_from_a_folder_without_the_diffusion_model(
    run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*_: object, **__: object) -> None:
        raise AssertionError("the diffusion model was loaded")

    monkeypatch.setattr("stylecli.engine.session.load", unwanted)
    folder = finders.clipseg(tmp_path / "clipseg")
    command = (photo, "-t", "deer", "--backend", "clipseg", "-o", tmp_path / "out/", "--json")
    done = run(*command, "--set", f"masks.model={folder}")
    assert done.status == 0, done.err
    assert greys(tmp_path / "out/photo__deer.png").shape == (40, 48)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    other = run(*command, "--set", f"masks.model={folder}")
    assert other.status == 3, "other weights of the same name are another model"


def test_missing_weights_exit_4_with_the_command_that_gets_them(
    run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    done = run(photo, "-t", "deer", "--backend", "clipseg", "-o", tmp_path / "out/")
    assert done.status == 4
    assert "CIDAS/clipseg-rd64-refined" in done.err
    assert "--allow-download" in done.err
