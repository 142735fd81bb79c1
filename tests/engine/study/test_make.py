"""The page and its key: what raters get, and what they must not learn."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from stylecli.engine.study import making, pictures
from stylecli.engine.study.key import COPY, PICTURES, Key
from stylecli.errors import ImageError, InputError, OutputDiffersError, UsageError
from tests.cli.conftest import draw
from tests.engine.report.conftest import data
from tests.engine.study.conftest import JACKDAW, METHODS, OURS, ZEPHYR, Bench


def page(bench: Bench, **wishes: object) -> str:
    return (bench.make(**wishes).folder / "index.html").read_text("utf-8")


def test_nobody_learns_from_the_page_whose_a_picture_is(bench: Bench) -> None:
    for row in bench.rows:
        with Image.open(row["output"]) as image:
            note = PngImagePlugin.PngInfo()
            note.add_text("style", f"made by {row['method']}")
            image.save(row["output"], pnginfo=note)
    text = page(bench)
    shown = data(bench.folder / "study" / "index.html", "pictures")
    raw = b"".join(base64.b64decode(source.partition(",")[2]) for source in shown.values())
    for secret in (*METHODS, "task-1", "photo1", "look1", "1.png", "all.jsonl", str(bench.folder)):
        assert secret not in text, secret
        assert secret.encode() not in raw, secret
    assert COPY not in text


def test_the_key_says_whose_each_picture_is(bench: Bench) -> None:
    made = bench.make()
    key = Key.read(made.folder)
    assert key == made.key
    html = made.folder / "index.html"
    shown, told = data(html, "pictures"), data(html)
    assert (told["study"], key.methods) == (key.study, METHODS)
    assert key.files["index.html"] == hashlib.sha256(html.read_bytes()).hexdigest()

    def pixels(source: str) -> np.ndarray:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            return np.asarray(image, dtype=float)

    for item in (*told["items"], *told["copies"]):
        pair = key.pairs[item["id"]]
        task = {row["method"]: row for row in bench.rows if row["id"] == pair.task}
        files = {method: row["output"] for method, row in task.items()}
        files[COPY] = task[OURS]["content"]
        for method, name, digest in zip(
            (pair.first, pair.second), (item["first"], item["second"]), pair.sha256, strict=True
        ):
            (expected,) = pictures.encoded([files[method]], 32)
            found = pixels(shown[name])
            with Image.open(io.BytesIO(expected)) as image:
                assert np.abs(found - np.asarray(image, dtype=float)).max() == 0
            assert digest == hashlib.sha256(files[method].read_bytes()).hexdigest()
    assert {pair.first for pair in key.pairs.values()} >= {OURS, ZEPHYR, JACKDAW}


def test_ours_meets_every_other_method_on_every_task_once(bench: Bench) -> None:
    key = bench.make().key
    met = [
        (key.pairs[id_].task, {key.pairs[id_].first, key.pairs[id_].second})
        for id_ in key.design.items
    ]
    assert sorted((task, *sorted(pair)) for task, pair in met) == sorted(
        (f"task-{n}", *sorted((OURS, rival))) for n in range(4) for rival in (ZEPHYR, JACKDAW)
    )
    assert len(bench.make(all_pairs=True, overwrite=True).key.design.items) == 12
    assert len(bench.make(against=[ZEPHYR], overwrite=True).key.design.items) == 4
    assert len(bench.make(items=3, overwrite=True).key.design.items) == 6


def test_ours_is_not_always_the_first_picture(tmp_path: Path) -> None:
    key = Bench(tmp_path).fill(tasks=24).make(side_px=16).key
    firsts = sum(key.pairs[id_].first == OURS for id_ in key.design.items)
    assert 12 <= firsts <= 36


def test_the_page_asks_nobody_for_anything(bench: Bench) -> None:
    text = page(bench)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "form-action 'none'" in policy[1]
    assert not re.search(r"https?://|//cdn", text)
    assert not re.search(r"fetch\(|XMLHttpRequest|sendBeacon|WebSocket", text)


def test_pictures_are_of_one_size_and_format_and_carry_nothing(tmp_path: Path) -> None:
    content = draw(tmp_path / "c.png", 0, (200, 100))
    small = draw(tmp_path / "s.png", 1, (64, 32))
    cut = draw(tmp_path / "u.png", 2, (199, 101))  # as models cut
    style = draw(tmp_path / "t.png", 3, (30, 90))
    with Image.open(small) as image:
        exif = Image.Exif()
        exif[0x010E] = "made by rival"
        image.save(small, exif=exif)
    found = pictures.encoded([content, small, cut, style], 96)
    sizes = []
    for one in found:
        with Image.open(io.BytesIO(one)) as image:
            assert (image.format, image.mode, image.getexif().get(0x010E)) == ("WEBP", "RGB", None)
            sizes.append(image.size)
    assert sizes == [(96, 48), (96, 48), (96, 48), (32, 96)]


def test_beside_the_page_pictures_have_names_that_tell_nothing(bench: Bench) -> None:
    made = bench.make(beside=True)
    files = sorted(path.name for path in (made.folder / PICTURES).iterdir())
    assert all(re.fullmatch(r"[0-9a-f]{24}\.webp", name) for name in files)
    shown = data(made.folder / "index.html", "pictures")
    assert sorted(shown.values()) == [f"./{PICTURES}/{name}" for name in files]
    assert (
        "base64"
        not in (made.folder / "index.html").read_text("utf-8").split('id="pictures"')[1][:200]
    )
    stranger = made.folder / PICTURES / "mine.webp"
    stranger.write_bytes(b"x")
    bench.make(overwrite=True)
    assert list((made.folder / PICTURES).iterdir()) == [stranger]


def test_the_same_again_changes_nothing_and_another_is_refused(bench: Bench) -> None:
    made = bench.make()
    before = {path: path.read_bytes() for path in made.folder.iterdir()}
    assert made.is_new
    assert not bench.make().is_new
    with pytest.raises(OutputDiffersError, match="another study"):
        bench.make(title="Another")
    assert {path: path.read_bytes() for path in made.folder.iterdir()} == before
    again = bench.make(output=bench.folder / "again")
    assert (again.folder / "index.html").read_bytes() == before[made.folder / "index.html"]
    assert bench.make(title="Another", overwrite=True).key.study != made.key.study


@pytest.mark.parametrize("lost", ["key.json", "index.html", "pictures"])
def test_what_an_interrupted_run_lacks_is_made_by_the_same_command(lost: str, bench: Bench) -> None:
    made = bench.make(beside=True)
    before = {path: path.read_bytes() for path in made.folder.rglob("*.*")}
    for path in before:
        if lost in (path.name, path.parent.name):
            path.unlink()
    assert bench.make(beside=True).is_new
    assert {path: path.read_bytes() for path in made.folder.rglob("*.*")} == before


def test_a_method_may_be_called_as_any_word_of_the_page(tmp_path: Path) -> None:
    assert Bench(tmp_path).fill(methods=("picture", "research")).make(ours="picture").is_new


def test_a_page_of_someone_else_is_not_overwritten(bench: Bench) -> None:
    file = bench.folder / "study" / "index.html"
    file.parent.mkdir()
    file.write_text("mine")
    with pytest.raises(OutputDiffersError):
        bench.make()
    assert file.read_text() == "mine"


@pytest.mark.parametrize("wish", ["title", "consent", "instructions"])
def test_texts_of_ones_own_are_shown_as_they_are_and_name_no_method(
    wish: str, bench: Bench
) -> None:
    text = page(bench, **{wish: "<b>Look</b> & choose"})
    assert "&lt;b&gt;Look&lt;/b&gt; &amp; choose" in text
    with pytest.raises(UsageError, match="names the method"):
        bench.make(**{wish: f"Is {ZEPHYR.upper()} better?"}, overwrite=True)


def test_questions_are_ours_or_ones_own(bench: Bench) -> None:
    made = bench.make(questions=["style", "Which </script> is finer?"])
    assert [(q.key, q.text) for q in made.key.questions] == [
        ("style", "Which picture has more of the style?"),
        ("own1", "Which </script> is finer?"),
    ]
    assert data(made.folder / "index.html")["questions"][1]["text"] == "Which </script> is finer?"
    # Without the question about style a copy of the content is no check.
    assert not bench.make(questions=["overall"], overwrite=True).key.design.copies
    with pytest.raises(UsageError, match="asked twice"):
        bench.make(questions=["style", "style"])


def test_what_is_not_on_the_page_is_not_asked_about(bench: Bench) -> None:
    for row in bench.rows:
        del row["content"]
    with pytest.raises(InputError, match="no content") as caught:
        bench.make()
    assert "--question style --question overall" in caught.value.fix
    assert bench.make(questions=["style", "overall"]).key.design.copies == ()


def test_one_method_alone_is_refused(bench: Bench) -> None:
    bench.rows = [row for row in bench.rows if row["method"] == OURS]
    with pytest.raises(InputError, match="all results are of one method"):
        bench.make()


def test_methods_that_are_not_there_are_refused(bench: Bench) -> None:
    with pytest.raises(UsageError, match="no method") as caught:
        bench.make(ours="ours-quixotik")
    assert OURS in caught.value.fix
    with pytest.raises(UsageError, match="is --ours"):
        bench.make(against=[OURS])
    with pytest.raises(UsageError, match="there are 8 items"):
        bench.make(per_rater=9)


def test_only_what_all_methods_have_is_compared(bench: Bench) -> None:
    lost = bench.rows.pop(1)
    made = bench.make()
    assert made.incomplete == [lost["id"]]
    assert lost["id"] not in {pair.task for pair in made.key.pairs.values()}
    for at, row in enumerate(bench.rows):
        row["id"] = str(at)
    with pytest.raises(InputError, match="no result is of all methods"):
        bench.make(overwrite=True)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nbroken"])
def test_a_picture_that_cannot_be_read_takes_its_task_with_it(content: bytes, bench: Bench) -> None:
    bad = bench.rows[4]
    bad["output"].write_bytes(content)
    made = bench.make()
    assert list(made.failures) == [bad["id"]]
    assert isinstance(made.failures[bad["id"]], ImageError)
    assert str(bad["output"]) in made.failures[bad["id"]].what
    assert len(made.key.design.items) == 6
    for row in bench.rows:
        row["output"].write_bytes(content)
    with pytest.raises(InputError, match="no result can be shown"):
        bench.make(overwrite=True)


def test_a_file_that_may_not_be_read_takes_its_task_with_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, read = bench.rows[4]["output"], making.store.file_sha256

    def refuse(path: Path) -> str:
        if path == bad:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(making.store, "file_sha256", refuse)
    made = bench.make()
    assert made.failures["task-1"].what == f"{bad}: Permission denied"
    assert len(made.key.design.items) == 6


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "{", '{"schema_version": 1, "design": 3}', "null"]
)
def test_a_damaged_key_is_told_in_one_line(text: str, bench: Bench) -> None:
    made = bench.make()
    (made.folder / "key.json").write_text(text)
    with pytest.raises(InputError, match=r"key\.json"):
        Key.read(made.folder)


def test_a_damaged_page_and_a_missing_key_are_told(bench: Bench) -> None:
    made = bench.make(beside=True)
    picture = next((made.folder / PICTURES).iterdir())
    kept = picture.read_bytes()
    picture.unlink()
    with pytest.raises(InputError, match=f"{picture.name} is missing"):
        Key.read(made.folder)
    picture.write_bytes(kept)
    html = made.folder / "index.html"
    html.write_text(html.read_text("utf-8").replace("Content", "Kontent"))
    with pytest.raises(InputError, match=r"index\.html has changed"):
        Key.read(made.folder)
    (made.folder / "key.json").unlink()
    with pytest.raises(InputError, match=r"key\.json: No such file"):
        Key.read(made.folder)


def test_the_key_can_be_read_by_others(bench: Bench) -> None:
    record = json.loads((bench.make().folder / "key.json").read_text())
    assert record["methods"] == list(METHODS)
    assert set(record["pairs"]) == {*record["design"]["items"], *record["design"]["copies"]}
