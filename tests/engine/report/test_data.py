"""What a report holds: every output once, as it is now, with nothing of this machine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from stylecli.engine import inputs
from stylecli.engine.plan import SHEETS
from stylecli.engine.report import journals, page, summary, thumbnails
from stylecli.engine.runs import status
from stylecli.errors import InputError, UsageError
from tests.cli.conftest import draw
from tests.engine.report.conftest import Nobody, Run, data, failure, many, write

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
RUNS = (("a", "05"), ("b", "17"))
FIELDS = ("finished", "status", "output", "command", "seconds", "seed", "inputs", "error")


@pytest.mark.slow
def test_an_output_is_shown_once_by_what_the_last_attempt_at_it_says(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.add("a.png", **failure("settled since"))
    run.add("a.png", command="old")
    run.add("a.png", command="new")
    run.add("a.png", **failure("in the way", code="output_differs"))
    run.add("b.png")
    run.add("b.png", **failure("no memory", code="memory"))
    run.save()
    found = journals.entries(journals.folders([str(tmp_path)])[0])
    told = [(one.name, one.status, one.row["command"]) for one in found]
    assert told == [("a.png", "done", "new"), ("b.png", "failed", "transfer")]
    counts = page.write(page.Wanted(outputs=[str(tmp_path)]), Nobody()).counts
    seen = status.read(tmp_path)
    assert (counts["done"], counts["failed"]) == (seen.done, seen.failed) == (1, 1)


def test_results_of_the_same_bytes_are_shown_each(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for name in ("cat.png", "copy.png"):
        run.add(name, key="k")
    names = [item["name"] for item in data(write([run.save()]), "item-data")]
    assert names == ["cat.png", "copy.png"]


@pytest.mark.mostly_slow
@pytest.mark.parametrize("command", ["invert", "masks"])
def test_what_is_no_picture_is_shown_by_the_one_made_for_people(
    tmp_path: Path, command: str
) -> None:
    run = Run(tmp_path)
    (tmp_path / "cat.safetensors").write_bytes(b"")
    run.add("cat.safetensors", picture=False, command=command)
    (item,) = data(write([run.save()]), "item-data")
    assert item["picture"] is None
    draw(tmp_path / f"cat.{SHEETS[command]}.png")
    (item,) = data(write([run.save()]), "item-data")
    assert item["picture"] == 0


def test_of_many_references_those_that_were_used_are_listed(tmp_path: Path) -> None:
    looks = [draw(tmp_path / "in" / f"look{at}.png", at) for at in range(4)]
    content = draw(tmp_path / "in/cat.png", 9)
    inputs = (("content", content), *(("style", look) for look in looks))
    run = Run(tmp_path / "out")
    run.add("all.png", *inputs)
    run.add("some.png", *inputs, details={"references": ["look1.png", "look3.png"]})
    every, some = data(write([run.save()]), "item-data")
    assert [one["name"] for one in every["inputs"]] == [
        "cat.png",
        *(f"look{n}.png" for n in "0123"),
    ]
    assert [one["name"] for one in some["inputs"]] == ["cat.png", "look1.png", "look3.png"]


@pytest.mark.parametrize("name", ["../secret.png", "/secret.png", "a/../../secret.png", "C:/x.png"])
def test_no_name_in_a_journal_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    draw(tmp_path / "secret.png")
    run = Run(tmp_path / "out")
    run.add(name, picture=False)
    (item,) = data(write([run.save()]), "item-data")
    assert item["status"] == "missing"
    assert "picture" not in item


@pytest.mark.slow
@settings(max_examples=20)
@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)), max_size=4))
def test_rows_that_hold_anything_at_all_are_passed_over_or_shown(
    tmp_path_factory: pytest.TempPathFactory, odd: list[dict[str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("out")
    run = Run(folder)
    run.add("good.png")
    run.save(*({**row, "key": str(at)} for at, row in enumerate(odd)))
    names = [item["name"] for item in data(write([folder]), "item-data")]
    assert names.count("good.png") >= 1


def test_a_page_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    content = draw(tmp_path / "deep" / "photos" / "cat.png")
    run = Run(tmp_path / "out")
    recipe = {"backbone": {"id": str(tmp_path / "models" / "mine")}, "n": [str(tmp_path / "x")]}
    run.add("a.png", ("content", content), recipe=recipe)
    run.add("b.png", ("content", content), **failure(f"{content}: the file is empty"))
    made = write([run.save()], contents=[str(tmp_path / "deep")])
    text = made.read_text("utf-8")
    assert str(tmp_path) not in text
    assert "photos" not in text
    assert "cat.png: the file is empty" in text


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    content = draw(tmp_path / "in" / "cat.png")
    run = Run(tmp_path / "out")
    for n in range(6):
        run.add(f"{n}.png", ("content", content), recipe={"sampling": {"steps": n}})
    pages = [tmp_path / "out" / f"{n}.html" for n in range(2)]
    one, other = (write([run.save()], page=at, contents=[str(content)]) for at in pages)
    assert one.read_bytes() == other.read_bytes()


def test_equal_pictures_are_held_once(tmp_path: Path) -> None:
    content = draw(tmp_path / "in" / "cat.png")
    run = Run(tmp_path / "out")
    for n in range(5):
        run.add(f"{n}.png", ("content", content))
    made = write([run.save()], contents=[str(content)])
    assert len(data(made, "picture-data")) == 5 + 1
    assert {item["inputs"][0]["picture"] for item in data(made, "item-data")} == {0}


def test_what_went_in_and_lies_nowhere_is_said(tmp_path: Path) -> None:
    run = Run(tmp_path / "out")
    run.add("a.png", ("content", draw(tmp_path / "elsewhere" / "cat.png")))
    folder = run.save()
    wanted = page.Wanted(outputs=[str(folder)], contents=[str(folder)])
    written = page.write(wanted, Nobody())
    assert written.not_found == ["cat.png"]
    assert "1 input not found" in " ".join(written.page.read_text("utf-8").split())
    assert "picture" not in data(written.page, "item-data")[0]["inputs"][0]


def test_without_a_place_what_lies_beside_the_run_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "work" / "out")
    run.add("a.png", ("content", draw(tmp_path / "work" / "photos" / "cat.png")))
    folder = run.save()
    monkeypatch.chdir(run.folder)
    found = data(write([folder]), "item-data")[0]["inputs"][0]
    assert found["picture"] == 0
    monkeypatch.setattr("stylecli.artifacts.locate.SEARCHED_FILES", 2)
    found = data(write([folder]), "item-data")[0]["inputs"][0]
    assert "picture" not in found


def test_a_lora_is_shown_by_its_name_and_its_trigger(tmp_path: Path) -> None:
    lora = tmp_path / "in" / "oil.safetensors"
    lora.parent.mkdir()
    save_file({"a": torch.zeros(1)}, lora, {"modelspec.trigger_phrase": "in <sss> oil"})
    run = Run(tmp_path / "out")
    run.add("a.png", ("lora", lora))
    (item,) = data(write([run.save()], styles=[str(lora)]), "item-data")
    assert item["inputs"] == [
        {"role": "lora", "name": "oil.safetensors", "trigger": "in <sss> oil"}
    ]


def test_only_what_differs_between_items_is_their_own(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for n in (1, 2, 2):
        run.add(f"{len(run.rows)}.png", recipe={"sampling": {"steps": 50, "guidance": n}})
    made = data(write([run.save()]))
    assert made["settings"] == [{"sampling.guidance": "1"}, {"sampling.guidance": "2"}]
    common, differing, _ = summary.settings(
        [{"a": "1", "b": "2"}, {"a": "1", "b": "3"}, {"a": "1"}], {0: 1, 1: 5, 2: 1}
    )
    assert common == {"a": "1"}
    assert differing[0]["values"] == [("3", 5), ("2", 1), ("not set", 1)]


def test_scores_are_joined_by_name_and_method_and_never_guessed(tmp_path: Path) -> None:
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    for run in (one, two):
        run.add("a.png")
        run.add("b.png")
    one.add("c.png")
    scores = tmp_path / "scores"
    scores.mkdir()
    rows = [
        {"output": "a.png", "method": "one", "ssim": 0.1},
        {"output": "a.png", "method": "two", "ssim": 0.2},
        {"output": "b.png", "method": "other", "ssim": 0.3},
        {"output": "b.png", "method": "another", "ssim": 0.4},
        {"output": "c.png", "method": "other", "ssim": 0.5, "schema_version": 1, "x": None},
        {"output": None, "method": "content_copy", "ssim": 1.0},
    ]
    (scores / "per_image.jsonl").write_text("\n".join(map(json.dumps, rows)))
    about = {"metrics": {"ssim": {"better": "higher", "definition": "structure"}}}
    (scores / "aggregate.json").write_text(json.dumps(about))
    made = write([one.save(), two.save()], scores=scores, page=tmp_path / "r.html")
    found = {(i["folder"], i["name"]): i["metrics"] for i in data(made, "item-data")}
    assert found[0, "a.png"] == {"ssim": 0.1}
    assert found[1, "a.png"] == {"ssim": 0.2}
    assert found[0, "b.png"] == {}
    assert found[0, "c.png"] == {"ssim": 0.5}
    assert data(made)["better"] == {"ssim": "higher"}


def test_runs_are_listed_with_how_they_ended(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.add("a.png")
    began = {"event": "started", "at": "2026-01-01T00:00:00+00:00", "command": "transfer"}
    counts = {"done": 30, "failed": 1, "skipped": 2}
    run.save(
        {**began, "run": "a", "items": 33, "todo": 31, "shard": [1, 4]},
        {"event": "ended", "run": "a", "at": "2026-01-01T00:01:00+00:00", "counts": counts},
        {**began, "run": "b", "at": "2026-01-02T00:00:00+00:00", "items": 33},
    )
    (first, second), _ = summary.runs(journals.folders([str(tmp_path)]))
    assert (first["rate"], first["seconds"], first["shard"]) == ("", 60, "1/4")
    assert (first["ended"], second["ended"]) == (True, False)


def test_the_page_and_the_status_tell_one_rate_without_the_time_between_runs(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    began = {"event": "started", "command": "transfer", "items": 8, "todo": 4}
    runs = [{**began, "run": name, "at": f"2026-03-04T{at}:00:00+00:00"} for name, at in RUNS]
    for name, at in RUNS:
        for n in range(4):
            run.add(f"{name}{n}.png", run=name, finished=f"2026-03-04T{at}:01:{6 * n:02d}+00:00")
    folder = run.save(*runs)
    told, per_minute = summary.runs(journals.folders([str(folder)]))
    assert per_minute == pytest.approx(10)
    assert status.read(folder).per_minute == pytest.approx(10)
    assert [one["rate"] for one in told] == ["10 a minute"] * 2
    assert '<span class="dot"></span>10 a minute' in write([folder]).read_text("utf-8")
    other = Run(tmp_path / "other")
    other.add("x.png")
    assert summary.runs(journals.folders([str(folder), str(other.save())]))[1] is None


def test_failures_of_one_kind_are_said_once_with_their_number() -> None:
    tally = summary.Tally()
    for n in range(5):
        code, fix = ("image", "copy it") if n else ("memory", "go smaller")
        error = {"code": code, "fix": fix, "what": f"{n}.png"}
        row = {"status": "failed", "command": "t", "seconds": None, "finished": "", "metrics": {}}
        tally.add({**row, "error": error})
    assert [(one["code"], one["count"], one["what"]) for one in tally.failures()] == [
        ("image", 4, "1.png"),
        ("memory", 1, "0.png"),
    ]


def test_a_thousand_items_of_noise_stay_below_20_mb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = tmp_path / "noise.png"
    Image.effect_noise((256, 256), 200).convert("RGB").save(noise)
    limit = thumbnails.PAGE_BYTES // 2_000
    assert len(thumbnails.encode(noise, limit)) <= limit
    small = thumbnails.encode(draw(tmp_path / "wide.png", size=(640, 320)), 16_000)
    (tmp_path / "small.webp").write_bytes(small)
    with Image.open(tmp_path / "small.webp") as image:
        assert image.size == (256, 128)
    # Letters for three bytes are four; the rest of a page is its items.
    assert thumbnails.PAGE_BYTES * 4 / 3 + 1_000 * 1_000 < 20_000_000


def test_a_picture_is_seen_upright_and_on_white(tmp_path: Path) -> None:
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40), "red").save(turned, exif=exif)
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(clear)
    deep = tmp_path / "deep.png"
    Image.new("I;16", (40, 40), 65535).save(deep)
    seen = {}
    for file in (turned, clear, deep):
        (tmp_path / "seen.webp").write_bytes(thumbnails.encode(file, 16_000))
        with Image.open(tmp_path / "seen.webp") as image:
            seen[file.stem] = image.size, image.convert("RGB").getpixel((5, 5))
    assert seen["turned"][0] == (40, 80)
    assert seen["clear"][1] == (255, 255, 255)
    assert min(seen["deep"][1]) > 250


def test_above_a_thousand_items_pictures_lie_beside_and_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "INLINE_ITEMS", 10)
    monkeypatch.setattr(page, "CHUNK_ITEMS", 10)
    folder = many(tmp_path / "out", 25)
    made = write([folder], contents=[str(folder / "in")])
    beside = folder / "report.files"
    pictures = {file: file.stat().st_mtime_ns for file in beside.glob("*.thumb")}
    assert len(pictures) == 1 + 15
    assert len(list(beside.glob("*.js"))) == 3
    assert "base64," not in made.read_text("utf-8")
    before = made.read_bytes()
    mine = beside / "mine.txt"
    mine.write_text("mine")
    future = time.time() + 60
    os.utime(folder / "out-0.png", (future, future))
    journal = (folder / "runs.jsonl").read_text().splitlines()
    (folder / "runs.jsonl").write_text("\n".join(journal[:20]))
    assert write([folder], contents=[str(folder / "in")]).read_bytes() != before
    left = {file: file.stat().st_mtime_ns for file in beside.glob("*.thumb")}
    assert left.keys() == pictures.keys()
    # The result is newer than its thumbnail now, and no input is.
    assert sum(pictures[file] == at for file, at in left.items()) == 15
    assert {file.name for file in beside.glob("*.js")} == set(data(made)["sources"])
    assert mine.exists()


def test_nothing_beside_a_page_is_taken_for_a_content_or_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "INLINE_ITEMS", 5)
    folder = many(tmp_path / "out", 10)
    before = inputs.expand([str(folder)])
    write([folder], contents=[str(folder / "in")])
    assert len(list((folder / "report.files").iterdir())) > 1
    assert inputs.expand([str(folder)]) == before
    assert inputs.expand([f"{folder}/**/*.[jpw][pne][gb]*"]) == before


def test_what_cannot_be_a_report_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    run = Run(tmp_path / "out")
    run.add("a.png")
    folder = run.save()
    foreign = tmp_path / "index.html"
    foreign.write_text("<p>mine")
    with pytest.raises(UsageError, match="not a report of ours"):
        write([folder], page=foreign)
    with pytest.raises(UsageError, match="a report is a page"):
        write([folder], page=tmp_path / "page.png")
    with pytest.raises(InputError, match="no journal"):
        write([tmp_path])
    with pytest.raises(InputError, match="does not exist"):
        write([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"per_image\.jsonl"):
        write([folder], scores=tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "runs.jsonl").touch()
    with pytest.raises(InputError, match="no items"):
        write([tmp_path / "empty"])
    assert foreign.read_text() == "<p>mine"
    assert sorted(file.name for file in tmp_path.rglob("*.html")) == ["index.html"]


def test_a_single_result_is_a_report_of_its_own_row(tmp_path: Path) -> None:
    run = Run(tmp_path)
    file = run.add("a.png")
    run.add("b.png")
    run.save()
    made = write([file], page=tmp_path / "one.html")
    assert [item["name"] for item in data(made, "item-data")] == ["a.png"]
