"""`style i2l-data`: sets of drawn icons, of lists and of tables, whole after any interruption."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from stylecli.artifacts import glyphs, images, store
from stylecli.engine.i2l.data import Tuples, read, rows, styles
from stylecli.engine.i2l.data.styles import Counts
from stylecli.recipe.i2l import Data
from stylecli.tensors import treatments
from stylecli.tensors.treatments import Style
from tests.cli.conftest import draw, finish, start
from tests.conftest import Outcome
from tests.conftest import Style as Run

pytestmark = pytest.mark.slow

BODIES = (
    '<circle cx="8" cy="8" r="6" fill="{}"/>',
    '<rect x="3" y="2" width="9" height="12" fill="{}"/>',
    '<path d="M8 1L15 14L1 14Z" fill="{}"/>',
)
SEEN = ("airplane", "bat", "candle", "drum", "eagle")
HELD = tuple(n for n in (f"word{k}" for k in range(200)) if glyphs.content_is_held_out(n))[:3]
SMALL = ("--styles", 10, "--held-out", "1,2,1", "--per-style", 2, "--size", 16, "--workers", 2)
# Four held-out families as they are, and one draw of them.
STYLES = {"train": 10, "easy": 1, "medium": 2, "hard": 5}


@pytest.fixture(scope="session")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Families of three shapes, each in a colour of its own."""
    folder = tmp_path_factory.mktemp("icons")
    for number, prefix in enumerate(glyphs.FAMILIES):
        colour = f"#{(number * 37 + 40) % 256:02x}{(number * 91) % 256:02x}80"
        drawn = {
            name: {"body": BODIES[place % 3].format(colour)}
            for place, name in enumerate((*SEEN, *HELD))
        }
        (folder / prefix).mkdir()
        (folder / prefix / "icons.json").write_text(
            json.dumps({"prefix": prefix, "width": 16, "height": 16, "icons": drawn})
        )
    return folder


@pytest.fixture(scope="session")
def made(icons: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A small set of them, which tests only look at, and what was said of it."""
    folder = tmp_path_factory.mktemp("made") / "set"
    words = ("i2l-data", "--icons", icons, "-o", folder, *SMALL, "--json")
    return folder, finish(start(*words))


def files(folder: Path) -> dict[str, bytes]:
    """All of a set."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix != ".lock"
    }


def about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
    return found


# Icons.


def test_icons_become_a_set_whose_held_out_styles_show_held_out_things(
    made: tuple[Path, Outcome],
) -> None:
    folder, done = made
    assert done.status == 0, done.err
    data = read(folder)
    assert data.splits == {split: 2 * count for split, count in STYLES.items()}
    assert about(folder)["styles_by_split"] == STYLES
    named = {
        row["id"]: Style.from_json(row["style"])
        for row in map(json.loads, (folder / "styles.jsonl").read_text().splitlines())
    }
    licences: dict[str, int] = defaultdict(int)
    for item in data.items:
        hand = named[item.style_id]
        family = glyphs.FAMILIES[hand.family]
        assert glyphs.content_is_held_out(item.content_id or "") == (item.split != "train")
        assert family.is_held_out == (item.split == "hard")
        unseen = {name for name, _ in hand.treatments} & set(treatments.HELD_OUT)
        assert bool(unseen) == (item.split == "medium")
        assert item.licence == family.licence
        assert item.caption == (item.content_id or "").replace("-", " ")
        licences[item.licence] += 1
    row, summary = done.rows
    assert row["licences"] == about(folder)["licences"] == licences
    assert (row["status"], row["items"], row["failed"]) == ("done", 36, 0)
    assert summary["counts"] == {"done": 1, "items": 1}
    assert Tuples(data.split("train"), Data(), 0).at(0, 4)
    said = {key: about(folder)[key] for key in ("command", "version", "key")}
    assert store.read_provenance(folder / "sheet.png") == said
    texts = {name: content.decode("latin-1") for name, content in files(folder).items()}
    assert not [name for name, text in texts.items() if str(folder.parent) in text]
    assert not (folder / ".parts").exists()


def test_a_picture_is_what_its_style_makes_of_the_icon(
    icons: Path, made: tuple[Path, Outcome]
) -> None:
    drawings = {(i.family, i.content): i.svg for i in glyphs.read_icons(icons)}
    named = {one.id: one.style for one in styles.drawn(Counts(10, 1, 2, 1), 0)}
    for item in read(made[0]).items:
        hand = named[item.style_id]
        if any(name == "paper" for name, _ in hand.treatments):
            continue  # its grain is random in each picture
        large = glyphs.render(drawings[hand.family, item.content_id or ""], 32)
        icon = F.avg_pool2d(torch.from_numpy(large).permute(2, 0, 1)[None].double(), 2)[0] / 255
        expected = images.to_pixels(hand.draw(icon.float()))
        difference = expected.int() - images.read(item.image).pixels.int()
        assert difference.abs().max() <= 1


def test_styles_are_those_the_shipped_predictor_learned() -> None:
    """Drawn here in the plainest way, which the seeds fix for ever."""
    train = [p for p, family in glyphs.FAMILIES.items() if not family.is_held_out]
    held = [p for p, family in glyphs.FAMILIES.items() if family.is_held_out]
    known = [name for name in treatments.TREATMENTS if name not in ("silhouette", "halftone")]
    expected = [Style(family) for family in train]
    chance = torch.Generator().manual_seed(20260)
    while len(expected) < 60:
        expected.append(Style.drawn(train[len(expected) % 9], chance, among=known))
    chance = torch.Generator().manual_seed(1)
    expected += [Style.drawn(train[i % 9], chance, among=known) for i in range(20)]
    chance = torch.Generator().manual_seed(2)
    expected += [
        Style.drawn(train[i % 9], chance, among=[("silhouette", "halftone")[i % 2]])
        for i in range(10)
    ]
    expected += [Style(family) for family in held]
    chance = torch.Generator().manual_seed(3)
    expected += [Style.drawn(held[i % 4], chance, among=known) for i in range(6)]
    assert [one.style for one in styles.drawn(Counts(60, 20, 10, 6), 0)] == expected
    assert [one.style for one in styles.drawn(Counts(60, 20, 10, 6), 1)] != expected


def test_a_set_is_made_once_and_the_same_by_any_number_of_workers(
    icons: Path, made: tuple[Path, Outcome], tmp_path: Path, style: Run
) -> None:
    folder = tmp_path / "one"
    one = ("i2l-data", "--icons", icons, "-o", folder, *SMALL[:-1], 1)
    assert style(*one).out == f"{folder}\n"
    assert files(folder) == files(made[0])
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    again = style(*one, "--json")
    assert again.summary["counts"] == {"skipped": 1, "items": 1}
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_picture_that_was_lost_is_made_again(tmp_path: Path, style: Run) -> None:
    rows, out = jsonl(tmp_path, 4), tmp_path / "set"
    assert style("i2l-data", rows, "-o", out).status == 0
    lost = next(file for file in (out / "images").rglob("*") if file.is_file())
    was = lost.read_bytes()
    lost.unlink()
    assert style("i2l-data", rows, "-o", out).status == 0
    assert lost.read_bytes() == was


def test_another_set_is_not_replaced_unless_told(
    icons: Path, made: tuple[Path, Outcome], tmp_path: Path, style: Run
) -> None:
    folder = tmp_path / "set"
    assert style("i2l-data", jsonl(tmp_path, 3), "-o", folder).status == 0
    before = files(folder)
    other = ("i2l-data", "--icons", icons, "-o", folder, *SMALL, "--json")
    for dry in ((), ("--dry-run",)):
        refused = style(*other, *dry)
        assert refused.status == 3
        assert refused.summary["error"]["code"] == "output_differs"
        assert "--overwrite" in refused.summary["error"]["fix"]
    assert files(folder) == before
    assert style(*other, "--overwrite").status == 0
    assert files(folder) == files(made[0])


def test_a_replacement_that_was_killed_leaves_nothing_of_the_old_set(
    tmp_path: Path, style: Run
) -> None:
    folder = tmp_path / "set"
    assert style("i2l-data", jsonl(tmp_path, 3), "-o", folder).status == 0
    other = ("i2l-data", jsonl(tmp_path / "other", 2), "-o", folder, "--overwrite")
    removed = shutil.rmtree

    def killed(path: Path, **_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        assert style(*other).status == 130
    assert shutil.rmtree is removed
    assert not (folder / "dataset.json").exists()
    assert style(*other).status == 0
    assert len([name for name in files(folder) if name.startswith("images/")]) == 2


@pytest.mark.parametrize("name", ["items.jsonl", "images"])
def test_a_folder_of_somebody_elses_is_left_alone(
    icons: Path, tmp_path: Path, style: Run, name: str
) -> None:
    (tmp_path / name).mkdir()
    done = style("i2l-data", "--icons", icons, "-o", tmp_path, *SMALL, "--overwrite", "--json")
    assert done.status == 3
    assert f"holds {name}, and no set of ours" in done.summary["error"]["what"]
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_missing_family_is_refused_with_the_command_that_gets_it(
    tmp_path: Path, style: Run
) -> None:
    done = style("i2l-data", "--icons", tmp_path, "-o", tmp_path / "set")
    assert done.status == 2
    assert "npm install @iconify-json/" in done.err
    assert not (tmp_path / "set").exists()


# Lists.


def jsonl(folder: Path, count: int, *, name: str = "list.jsonl", drawn: int = 12) -> Path:
    """A list as MegaStyle would write it, four pictures a style; some show several rows."""
    for n in range(min(drawn, count)):
        draw(folder / "pictures" / f"{n}.png", seed=n, size=(24, 20))
    said = [
        {"image": f"pictures/{n % drawn}.png", "style": f"Hand {n // 4}, ink",
         "content": f"thing number {n}", "score": 0.5}
        for n in range(count)
    ]  # fmt: skip
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in said))
    return folder / name


def test_a_list_becomes_a_set_of_the_files_it_names(tmp_path: Path, style: Run) -> None:
    done = style("i2l-data", jsonl(tmp_path, 120), "-o", tmp_path / "set", "--holdout", 8, "--json")
    assert done.status == 0, done.err
    data = read(tmp_path / "set")
    assert data.splits == {"train": 112, "test": 8}
    assert len(data.styles) == 30
    by_caption = {item.caption: item for item in data.items}
    for n in (0, 77):
        item = by_caption[f"thing number {n}"]
        picture = tmp_path / "pictures" / f"{n % 12}.png"
        assert item.style_caption == f"Hand {n // 4}, ink"
        # The very file: nothing was encoded again.
        assert item.image.read_bytes() == picture.read_bytes()
        assert (item.width, item.height) == (24, 20)
    assert {item.style_id for item in data.split("test").items}.isdisjoint(
        item.style_id for item in data.split("train").items
    )


def test_a_list_of_our_own_keeps_what_it_says(
    made: tuple[Path, Outcome], tmp_path: Path, style: Run
) -> None:
    own = made[0] / "items.jsonl"
    assert style("i2l-data", own, "-o", tmp_path / "two").status == 0
    assert (tmp_path / "two" / "items.jsonl").read_bytes() == own.read_bytes()
    done = style("i2l-data", own, "-o", made[0], "--overwrite")
    assert done.status == 2
    assert "lies inside the output" in done.err
    assert own.exists()


def test_long_lists_are_read_in_pieces_that_fit_together(tmp_path: Path) -> None:
    count = 2 * rows.LINES + 3
    lines = [json.dumps({"image": "a", "content": f"é{n}", "style": "s"}) for n in range(count)]
    # Blank lines are no rows, but count.
    lines[300:300] = ["", "  "]
    (tmp_path / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = rows.Lines(tmp_path / "list.jsonl")
    assert source.counts == [rows.LINES, rows.LINES, 3]
    raws = [raw for piece in range(3) for raw in source.raws(piece)]
    assert [raw.said.caption for raw in raws] == [f"é{n}" for n in range(count)]
    assert [raw.place for raw in raws] == [
        f"list.jsonl:{n + (3 if n >= 300 else 1)}" for n in range(count)
    ]


def test_one_bad_picture_costs_only_itself_and_is_tried_again(tmp_path: Path, style: Run) -> None:
    listed = jsonl(tmp_path, 12)
    good = (tmp_path / "pictures" / "5.png").read_bytes()
    (tmp_path / "pictures" / "5.png").write_bytes(good[:60])
    (tmp_path / "pictures" / "7.png").unlink()
    (tmp_path / "pictures" / "9.png").write_bytes(b"")
    done = style("i2l-data", listed, "-o", tmp_path / "set", "--json")
    assert done.status == 3
    failed = {
        row["key"]: row["error"]["what"] for row in done.rows if row.get("status") == "failed"
    }
    assert failed.keys() == {"list.jsonl:6", "list.jsonl:8", "list.jsonl:10"}
    assert "damaged" in failed["list.jsonl:6"]
    assert "No such file" in failed["list.jsonl:8"]
    assert "is empty" in failed["list.jsonl:10"]
    assert len(read(tmp_path / "set")) == about(tmp_path / "set")["items"] == 9
    for n in (5, 7, 9):
        (tmp_path / "pictures" / f"{n}.png").write_bytes(good)
    mended = style("i2l-data", listed, "-o", tmp_path / "set", "--json")
    assert mended.status == 0
    assert mended.rows[0]["items"] == 12
    assert mended.rows[0]["failed"] == 0
    assert not (tmp_path / "set" / ".parts").exists()


def test_captions_that_name_their_style_are_refused_before_any_picture_is_read(
    tmp_path: Path, style: Run
) -> None:
    listed = jsonl(tmp_path, 200)
    lines = listed.read_text().splitlines()
    told = [json.loads(line) for line in lines[:3]]
    for row in told:
        row["content"] += f", {row['style'].upper()}"
    listed.write_text("\n".join([*map(json.dumps, told), *lines[3:]]))
    done = style("i2l-data", listed, "-o", tmp_path / "set", "--json")
    assert done.status == 2
    assert "3 of 200 captions name their style" in done.summary["error"]["what"]
    assert not (tmp_path / "set").exists()
    listed.write_text("\n".join([json.dumps(told[0]), *lines[1:]]))
    done = style("i2l-data", listed, "-o", tmp_path / "set", "--json")
    assert done.status == 0
    assert done.rows[0]["left_out"] == {"caption names the style": 1}
    assert "1 pictures left out: caption names the style" in done.err
    assert len(read(tmp_path / "set")) == 199


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"image": "a.png", "content": "x"}', "list.jsonl:3: says not what is shown, or not in"),
        ('{"image": "a.png", "content": " . ", "style": "y"}', "list.jsonl:3: says not what"),
        ('{"image": "a.png", "content": ["x"], "style": "y"}', "list.jsonl:3: caption is ["),
        ('{"image": "a.png", "content": "x", "style": "y", "split": "tset"}', "did you mean test?"),
        ("{]", "list.jsonl:3: is not JSON"),
        ("7", "list.jsonl:3: is not an object"),
    ],
)
def test_a_line_that_is_no_row_is_refused_by_its_number(
    tmp_path: Path, style: Run, line: str, what: str
) -> None:
    listed = jsonl(tmp_path, 2)
    listed.write_text(listed.read_text() + line)
    done = style("i2l-data", listed, "-o", tmp_path / "set")
    assert done.status == 2
    assert what in done.err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "give either --icons or lists"),
        (["list.jsonl", "--icons", "icons"], "give either --icons or lists"),
        (["list.jsonl", "--styles", "3"], "--styles belongs to --icons"),
        (["list.jsonl", "--held-out", "1,1,1"], "--held-out belongs to --icons"),
        (["--icons", "icons", "--upscale-to", "64"], "--upscale-to belongs to lists and tables"),
        (["--icons", "icons", "--held-out", "1,1"], "is not EASY,MEDIUM,HARD"),
        (["list.jsonl", "--upscaler", "lanczos"], "--upscaler without --upscale-to"),
        (["list.jsonl", "--upscale-to", "64", "--upscaler", "lancos"], "did you mean lanczos?"),
        (["list.jsonl", "--upscale-to", "64", "--upscaler", "no.such:thing"], "No module named"),
        (["list.jsonl", "--upscale-to", "64", "--upscaler", "math:pi"], "math:pi is no function"),
        (["other.jsonl"], "other.jsonl: does not exist"),
        (["*.parquet"], "*.parquet: no .jsonl list and no .parquet table"),
        (["pictures/0.png"], "is neither a .jsonl list nor"),
        (["-"], "the list on standard input is empty"),
        (["list.jsonl", "--workers", "1000"], "'--workers'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    tmp_path: Path,
    style: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    what: str,
) -> None:
    jsonl(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    done = style("i2l-data", *arguments, "-o", "set")
    assert done.status == 2
    assert what in done.err
    assert not (tmp_path / "set").exists()


def test_ids_that_occur_twice_are_refused_across_files(tmp_path: Path, style: Run) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        listed = jsonl(tmp_path, 1, name=name)
        listed.write_text(json.dumps(json.loads(listed.read_text()) | {"id": "x"}))
    done = style("i2l-data", tmp_path / "*.jsonl", "-o", tmp_path / "set")
    assert done.status == 2
    assert "b.jsonl: id 'x' occurs twice" in done.err


# Upscaling.


def test_small_pictures_are_brought_up_and_large_ones_are_left(tmp_path: Path, style: Run) -> None:
    listed = jsonl(tmp_path, 3)
    large = draw(tmp_path / "pictures" / "1.png", seed=9, size=(90, 70))
    done = style("i2l-data", listed, "-o", tmp_path / "set", "--upscale-to", 40)
    assert done.status == 0, done.err
    first, second, _ = read(tmp_path / "set").items
    assert (first.width, first.height) == (48, 40)
    with Image.open(tmp_path / "pictures" / "0.png") as small, Image.open(first.image) as found:
        expected = small.convert("RGB").resize((48, 40), Image.Resampling.LANCZOS)
        assert np.array_equal(np.asarray(expected), np.asarray(found.convert("RGB")))
        assert found.format == "WEBP"
    assert second.image.read_bytes() == large.read_bytes()


UPSCALER = """
from PIL import Image

def good(picture, size):
    return Image.new("RGB", size, (picture.width, 0, 7))

def small(picture, size):
    return picture

def bad(picture, size):
    raise ValueError("out of tiles")
"""


@pytest.mark.parametrize(
    ("name", "what"),
    [("small", "returned 24x20 for 48x40"), ("bad", "ValueError: out of tiles")],
)
def test_an_upscaler_of_somebody_elses_is_used_and_watched(
    tmp_path: Path, style: Run, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    (tmp_path / "theirs.py").write_text(UPSCALER)
    monkeypatch.syspath_prepend(tmp_path)
    listed = jsonl(tmp_path, 1)

    def run(function: str, folder: str) -> Outcome:
        return style(
            "i2l-data", listed, "-o", tmp_path / folder,
            "--upscale-to", 40, "--upscaler", f"theirs:{function}",
        )  # fmt: skip

    assert run("good", "set").status == 0
    (item,) = read(tmp_path / "set").items
    assert images.read(item.image).pixels[0, 0].tolist() == [24, 0, 7]
    failed = run(name, "none")
    assert failed.status == 2
    assert what in failed.err


# Tables.


def png(seed: int, size: tuple[int, int] = (24, 20)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_tables_of_either_kind_become_a_set(tmp_path: Path, style: Run, kind: str) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is optional")
    from pyarrow import parquet

    pictures: list[Any] = [png(n) for n in range(30)]
    column = [{"bytes": p, "path": None} for p in pictures] if kind == "struct" else pictures
    column[3] = None
    said = {
        "image": column,
        "style": [None if n == 4 else f"hand {n // 5}" for n in range(30)],
        "content": [f"thing {n}" for n in range(30)],
        "rank": list(range(30)),
    }
    (tmp_path / "parts").mkdir()
    for part in range(2):
        table = pa.table({key: values[part * 15 : part * 15 + 15] for key, values in said.items()})
        parquet.write_table(table, tmp_path / "parts" / f"{part}.parquet", row_group_size=4)
    done = style("i2l-data", tmp_path / "parts", "-o", tmp_path / "set", "--json")
    assert done.status == 3
    (failed,) = [row for row in done.rows if row.get("status") == "failed"]
    assert failed["key"] == "0.parquet:4"
    assert "has no picture" in failed["error"]["what"]
    data = read(tmp_path / "set")
    assert [item.caption for item in data.items] == [
        f"thing {n}" for n in range(30) if n not in (3, 4)
    ]
    assert [item.image.read_bytes() for item in data.items] == [
        png(n) for n in range(30) if n not in (3, 4)
    ]
    assert len(data.styles) == 6
    assert about(tmp_path / "set")["left_out"] == {
        "says not what is shown, or not in which style": 1
    }


def test_a_table_with_an_unknown_split_is_refused_by_its_row(tmp_path: Path, style: Run) -> None:
    """As a line of a list is: taken for training, a misspelt test would be learned from."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is optional")
    from pyarrow import parquet

    said = {
        "image": [png(n) for n in range(3)],
        "style": ["hand"] * 3,
        "content": [f"thing {n}" for n in range(3)],
        "split": ["train", None, "tset"],
    }
    parquet.write_table(pa.table(said), tmp_path / "a.parquet", row_group_size=2)
    done = style("i2l-data", tmp_path / "a.parquet", "-o", tmp_path / "set")
    assert done.status == 2
    assert "a.parquet:3: split is 'tset'" in done.err
    assert "did you mean test?" in done.err
    assert not (tmp_path / "set").exists()


def test_tables_that_are_none_are_refused(tmp_path: Path, style: Run) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is optional")
    from pyarrow import parquet

    parquet.write_table(pa.table({"image": [b"x"], "content": ["a"]}), tmp_path / "a.parquet")
    done = style("i2l-data", tmp_path / "a.parquet", "-o", tmp_path / "set")
    assert done.status == 2
    assert "has no column style" in done.err
    assert "it has content, image" in done.err
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and then nothing")
    done = style("i2l-data", tmp_path / "b.parquet", "-o", tmp_path / "set")
    assert done.status == 2
    assert "damaged, or not parquet" in done.err


def test_a_row_group_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is optional")
    from pyarrow import parquet

    size, count = 200_000, 400
    noise = np.random.default_rng(0).bytes(size * count)
    pictures = [noise[n * size : (n + 1) * size] for n in range(count)]
    table = pa.table({"image": pictures, "style": ["s"] * count, "content": ["c"] * count})
    # A page is: its writer decides how large those are.
    parquet.write_table(table, tmp_path / "a.parquet", use_dictionary=False, write_batch_size=8)
    del table, pictures, noise
    source = rows.Table(tmp_path / "a.parquet")
    assert source.counts == [count]
    pool = pa.default_memory_pool()
    before, most, seen = pool.bytes_allocated(), 0, 0
    for raw in source.raws(0):
        assert len(raw.data()) == size
        most = max(most, pool.bytes_allocated() - before)
        seen += 1
    assert seen == count
    assert most < size * count / 3


def test_without_pyarrow_tables_are_refused_with_the_line_that_installs_it(
    tmp_path: Path, style: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = style("i2l-data", tmp_path / "a.parquet", "-o", tmp_path / "set", "--json")
    assert done.status == 2
    assert done.summary["error"]["fix"] == "pip install pyarrow"
    assert done.summary["error"]["code"] == "usage"


# Interruption.

FRAGILE = """
import os, signal
from pathlib import Path
from PIL import Image

def up(picture, size):
    fuse = Path("fuse")
    if fuse.exists():
        left = int(fuse.read_text()) - 1
        fuse.write_text(str(left))
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return picture.resize(size)
"""


def test_a_killed_run_goes_on_and_makes_the_same_set(
    tmp_path: Path, style: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = [jsonl(tmp_path, 10, name=name) for name in ("a.jsonl", "b.jsonl")]
    (tmp_path / "fragile.py").write_text(FRAGILE)
    (tmp_path / "fuse").write_text("13")
    words = ("--upscale-to", 30, "--upscaler", "fragile:up", "--workers", 1)
    killed = finish(start("i2l-data", *lists, "-o", "set", *words, cwd=tmp_path))
    assert killed.status == -signal.SIGKILL
    assert not (tmp_path / "set" / "dataset.json").exists()
    assert not (tmp_path / "set" / "items.jsonl").exists()
    assert (tmp_path / "set" / ".parts" / "000000.jsonl").exists()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # What was finished is not made again: the fuse would not last for it.
    (tmp_path / "fuse").write_text("12")
    assert style("i2l-data", *lists, "-o", "set", *words).status == 0
    assert int((tmp_path / "fuse").read_text()) == 2
    (tmp_path / "fuse").unlink()
    assert style("i2l-data", *lists, "-o", "whole", *words).status == 0
    assert files(tmp_path / "set") == files(tmp_path / "whole")
    for item in read(tmp_path / "set").items:
        assert hashlib.sha256(item.image.read_bytes()).hexdigest() == item.sha256


def test_a_picture_that_is_gone_is_made_again_before_the_list_is(
    tmp_path: Path, style: Run
) -> None:
    listed = jsonl(tmp_path, 5)
    (tmp_path / "pictures" / "2.png").write_bytes(b"")
    assert style("i2l-data", listed, "-o", tmp_path / "set").status == 3
    gone = read(tmp_path / "set").items[0].image
    gone.unlink()
    draw(tmp_path / "pictures" / "2.png", seed=2, size=(24, 20))
    assert style("i2l-data", listed, "-o", tmp_path / "set").status == 0
    assert gone.exists()
    assert len(read(tmp_path / "set")) == 5


def test_a_dry_run_says_how_much_there_is(icons: Path, tmp_path: Path, style: Run) -> None:
    done = style("i2l-data", "--icons", icons, "-o", tmp_path / "set", *SMALL, "--dry-run")
    assert done.out == f"36 pictures into {tmp_path / 'set'}, nothing made\n"
    assert not (tmp_path / "set").exists()
