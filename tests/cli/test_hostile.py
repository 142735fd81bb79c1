"""What a folder, a disk or an environment can do to a run; rows out are always items in."""

from __future__ import annotations

import io
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.conftest import draw, finish, start
from tests.conftest import ROOT, Outcome, Style

pytestmark = pytest.mark.slow

QUICK = ("--set", "sampling.steps=2", "--set", "inversion.steps=2", "--set", "sampling.guidance=1",
         "--set", "injection.feature_steps=1", "--set", "injection.attn_steps=1")  # fmt: skip
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA", "ICO", "JPEG2000")
SUFFIXES = {"JPEG2000": "jp2"}


@pytest.fixture(scope="module")
def lora(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    painting = draw(folder / "painting.png", seed=7)
    done = finish(start("train-lora", painting, "-o", folder / "style.safetensors", "-r", recipe))
    assert done.status == 0, done.err
    return folder / "style.safetensors"


def mutated(data: bytes, random_: random.Random) -> bytes:
    """Bytes changed, cut, doubled, or exchanged with noise: what disks and networks do."""
    changed = bytearray(data)
    for _ in range(random_.randint(1, 6)):
        at = random_.randrange(len(changed)) if changed else 0
        match random_.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([random_.randrange(256)])
            case 1:
                changed = changed[:at]
            case 2:
                changed[at:at] = random_.randbytes(random_.randint(1, 40))
            case 3:
                changed[at : at + random_.randint(1, 200)] = b""
            case 4:
                changed[at : at + 4] = b"\xff\xff\xff\x7f"
            case 5:
                changed[at:at] = changed[at : at + 64]
    return bytes(changed)


def spoil(folder: Path, count: int) -> None:
    """Pictures of every kind, some whole, most damaged in their own way."""
    random_ = random.Random(5)
    folder.mkdir()
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        image = Image.new("RGB", (random_.randint(1, 40), random_.randint(1, 40)))
        image.putdata([tuple(random_.randbytes(3)) for _ in range(image.width * image.height)])
        buffer = io.BytesIO()
        image.save(buffer, kind)
        data = buffer.getvalue() if i % 7 == 0 else mutated(buffer.getvalue(), random_)
        (folder / f"{i:03}.{SUFFIXES.get(kind, kind.lower())}").write_bytes(data)


def survive(style: Style, recipe: Path, lora: Path, folder: Path, count: int) -> Outcome:
    spoil(folder / "in", count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = style("transfer", folder / "in", "-l", lora, "-o", f"{folder / 'out'}/", "-r", recipe,
                 *QUICK, "--json")  # fmt: skip
    assert done.summary["counts"]["items"] == count
    rows = [row for row in done.rows if not row.get("summary")]
    assert len(rows) == count
    assert len({row["inputs"][0]["name"] for row in rows}) == count
    assert done.status == 3
    assert {row["status"] for row in rows} == {"done", "failed"}
    assert "Traceback" not in done.err
    for row in rows:
        if row["status"] == "failed":
            assert row["error"]["code"] == "image", row
            assert row["inputs"][0]["name"] in row["error"]["what"]
            assert "\n" not in row["error"]["what"]
            assert row["error"]["fix"]
        else:
            Image.open(row["output"]).load()
    # Megabytes; the pictures are tiny, so what a header promises was not believed.
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 700
    return done


def test_sixty_spoilt_pictures_are_sixty_rows(
    style: Style, recipe: Path, lora: Path, tmp_path: Path
) -> None:
    survive(style, recipe, lora, tmp_path, 60)


@pytest.mark.timeout(1800)
def test_five_hundred_spoilt_pictures_are_five_hundred_rows(
    style: Style, recipe: Path, lora: Path, tmp_path: Path
) -> None:
    survive(style, recipe, lora, tmp_path, 500)


def test_a_content_that_changes_during_a_run_is_not_told_as_the_old_one(
    style: Style, recipe: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylecli.artifacts import images

    content = draw(tmp_path / "a.png", seed=1)
    decode = images.read

    def late(path: Path, **options: Any) -> images.Picture:
        if path == content:
            draw(content, seed=2)
        return decode(path, **options)

    monkeypatch.setattr(images, "read", late)
    done = style("transfer", content, "-l", lora, "-o", tmp_path / "out.png", "-r", recipe, *QUICK)
    assert done.status == 3
    assert "changed during the run" in done.err
    assert not (tmp_path / "out.png").exists()


def test_a_setting_that_the_model_cannot_follow_is_refused_before_any_item(
    style: Style, recipe: Path, lora: Path, tmp_path: Path
) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a__style.png").write_bytes(b"foreign")
    done = style("transfer", tmp_path / "a.png", "-l", lora, "-o", tmp_path / "out", "-r", recipe,
                 "--set", "sampling.steps=5", "--set", "injection.feature_steps=2")  # fmt: skip
    assert done.status == 2
    assert "skips timestep" in done.err
    assert os.listdir(tmp_path / "out") == ["a__style.png"]  # noqa: PTH208


NAMES = (
    "plain", "with space", "ünïcödé 猫", "new\nline", "-leading", "--json", "a'b\"c", "$(touch x)",
    "percent%s{content}", "dots..png", "tab\there", "emoji 🐈", "\\back", "*?[x]", "e\u0301",
)  # fmt: skip


def test_names_are_only_names(
    style: Style, recipe: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(NAMES):
        draw(tmp_path / "in" / f"{name}.png", seed=i)
    undecodable = os.fsdecode(b"latin-\xe9.png")
    draw(tmp_path / "x.png", seed=50).rename(tmp_path / "in" / undecodable)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    done = style("transfer", "in", "-l", lora, "-o", "out/", "-r", recipe, *QUICK, "--json")
    counts = done.summary["counts"]
    assert counts == {"done": len(NAMES) + 1, "failed": 2, "items": len(NAMES) + 3}, done.err
    assert len(list((tmp_path / "out").glob("*__style.png"))) == len(NAMES) + 1
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]  # noqa: PTH208
    again = style("transfer", "in", "-l", lora, "-o", "out/", "-r", recipe, *QUICK, "--json")
    assert again.summary["counts"]["skipped"] == len(NAMES) + 1


def test_leading_dashes_come_after_two_of_them(
    style: Style, recipe: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "-x.png")
    done = style("transfer", "-l", lora, "-o", "out.png", "-r", recipe, *QUICK, "--", "-x.png")
    assert done.status == 0, done.err


def test_a_tree_keeps_its_shape(style: Style, recipe: Path, lora: Path, tmp_path: Path) -> None:
    for i, name in enumerate(("a.png", "2025/a.png", "2026/11/a.png")):
        draw(tmp_path / "in" / name, seed=i)
    command = ("transfer", tmp_path / "in", "-l", lora, "-o", f"{tmp_path / 'out'}/", "-r", recipe,
               *QUICK, "--json")  # fmt: skip
    refused = style(*command)
    assert refused.status == 2
    assert "{folder}" in refused.err
    draw(tmp_path / "in" / "a.jpg", seed=5)
    both = style(*command, "--name", "{folder}/{content}.{ext}.png", "--dry-run")
    assert both.status == 0, both.err
    (tmp_path / "in" / "a.jpg").unlink()
    done = style(*command, "--name", "{folder}/{content}.png")
    assert done.status == 0, done.err
    made = {
        path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("out/**/*.png")
    }
    assert made == {"a.png", "2025/a.png", "2026/11/a.png"}
    assert {Path(row["output"]).parent.name for row in done.rows[:-1]} == {"out", "2025", "11"}
    # Results inside the contents' own folder are no contents.
    inside = style("transfer", tmp_path / "in", "-l", lora, "-o", f"{tmp_path / 'in' / 'out'}/",
                   "-r", recipe, *QUICK, "--json", "--name", "{folder}/{content}.png",
                   "--strip-metadata")  # fmt: skip
    assert inside.summary["counts"]["items"] == 3
    again = style("transfer", tmp_path / "in", "-l", lora, "-o", f"{tmp_path / 'in' / 'out'}/",
                  "-r", recipe, *QUICK, "--json", "--name", "{folder}/{content}.png",
                  "--strip-metadata")  # fmt: skip
    assert again.summary["counts"] == {"skipped": 3, "items": 3}


def test_shards_of_any_number_make_the_whole_and_nothing_twice(
    style: Style, recipe: Path, lora: Path, tmp_path: Path
) -> None:
    for i in range(6):
        draw(tmp_path / "in" / f"{i}.png", seed=i)

    def run(out: str, *options: object) -> Outcome:
        return style("transfer", tmp_path / "in", "-l", lora, "-o", f"{tmp_path / out}/",
                     "-r", recipe, *QUICK, "--json", *options)  # fmt: skip

    def pictures(out: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / out).glob("*.png")}

    run("whole")
    made = [row["output"] for i in (1, 2, 3) for row in run("parts", "--shard", f"{i}/3").rows[:-1]]
    assert len(made) == len(set(made)) == 6
    assert pictures("parts") == pictures("whole")
    # With another number of parts there is nothing left to do.
    for i in (1, 2):
        assert "done" not in run("parts", "--shard", f"{i}/2").summary["counts"]


def test_rows_of_a_manifest_have_settings_of_their_own(
    style: Style, recipe: Path, lora: Path, tmp_path: Path
) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "jobs.csv").write_text(
        "content,output,guidance,injection.attn_steps\n"
        "a.png,plain.png,,\na.png,strong.png,9,\na.png,free.png,,0\n"
    )

    def run(*options: object) -> Outcome:
        return style("transfer", "--manifest", tmp_path / "jobs.csv", "-l", lora, "-o",
                     f"{tmp_path / 'out'}/", "-r", recipe, "--json", *options)  # fmt: skip

    assert run().status == 0
    made = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert len(set(made.values())) == 3
    one = style("transfer", tmp_path / "a.png", "-l", lora, "-o", tmp_path / "one.png",
                "-r", recipe, "--guidance", "9")  # fmt: skip
    assert one.status == 0
    alone, strong = Image.open(tmp_path / "one.png"), Image.open(tmp_path / "out" / "strong.png")
    assert alone.tobytes() == strong.tobytes()
    assert run().summary["counts"] == {"skipped": 3, "items": 3}
    for column, value, words in (
        ("guidanc", "9", "unknown column"),
        ("sampling.guidanc", "9", "sampling.guidance"),
        ("lora.rank", "9", "whole run"),
        ("guidance", "much", "jobs.csv:2"),
    ):
        (tmp_path / "jobs.csv").write_text(f"content,{column}\na.png,{value}\n")
        refused = run()
        assert refused.status == 2
        assert words in refused.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    size = "size=160k,mode=0777"
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", size, "tmpfs", str(place)], capture_output=True
    )
    if not done or done.returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk_ends_the_run_and_more_room_completes_it(
    recipe: Path, lora: Path, tmp_path: Path, small_disk: Path
) -> None:
    for i in range(12):
        draw(tmp_path / "in" / f"{i:02}.png", seed=i, size=(96, 96))

    def run() -> Outcome:
        command = ("transfer", tmp_path / "in", "-l", lora, "-o", f"{small_disk / 'out'}/",
                   "-r", recipe, *QUICK, "--set", "sampling.size=96", "--json")  # fmt: skip
        return finish(start(*command))

    done = run()
    counts = done.summary["counts"]
    assert done.status == 3, done.err
    assert counts["items"] == 12
    assert counts["failed"] == 1
    assert counts["pending"] > 0
    assert "No space left" in done.err
    assert "free some disk" in done.err
    assert "Traceback" not in done.err
    for picture in (small_disk / "out").glob("*.png"):
        Image.open(picture).load()
    assert not list((small_disk / "out").glob(".*.part"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    again = run()
    assert again.status == 0, again.err
    assert again.summary["counts"]["done"] == 12 - counts.get("done", 0)


def test_a_home_that_is_not_there_is_no_trouble_and_a_read_only_cache_is_named(
    recipe: Path, lora: Path, tmp_path: Path
) -> None:
    draw(tmp_path / "a.png")
    command = [sys.executable, "-m", "stylecli", "transfer", str(tmp_path / "a.png"), "-l",
               str(lora), "-o", str(tmp_path / "out.png"), "-r", str(recipe), *QUICK]  # fmt: skip
    bare = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
            "STYLE_CACHE_DIR": str(tmp_path / "cache")}  # fmt: skip
    done = subprocess.run(command, env=bare, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "file").write_text("")
    shut = bare | {"STYLE_CACHE_DIR": str(tmp_path / "file" / "cache")}
    (tmp_path / "out.png").unlink()
    done = subprocess.run(command, env=shut, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "STYLE_CACHE_DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_connection_is_tried(recipe: Path, lora: Path, tmp_path: Path) -> None:
    """Offline is not a promise of ours but a fact: every connection is refused in the process."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*args, **kwargs):\n"
        "    import traceback; traceback.print_stack()\n"
        "    raise SystemExit('SOCKET')\n"
        "class Shut(socket.socket):\n"
        "    connect = connect_ex = sendto = refuse\n"
        "socket.socket, socket.getaddrinfo = Shut, refuse\n"
    )
    draw(tmp_path / "a.png")
    done = subprocess.run(
        [sys.executable, "-m", "stylecli", "transfer", str(tmp_path / "a.png"), "--style",
         str(draw(tmp_path / "b.png", seed=4)), "-o", f"{tmp_path / 'out'}/", "-r", str(recipe),
         *QUICK, "--set", "lora.steps=2"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "SOCKET" not in done.stderr


@pytest.mark.timeout(1800)
def test_memory_does_not_grow_with_the_number_of_items(
    style: Style, recipe: Path, lora: Path, tmp_path: Path
) -> None:
    import gc

    import psutil

    def run(first: int, last: int) -> int:
        for i in range(first, last):
            draw(tmp_path / "in" / f"{i:03}.png", seed=i)
        done = style("transfer", tmp_path / "in", "-l", lora, "-o", f"{tmp_path / 'out'}/",
                     "-r", recipe, *QUICK, "-q")  # fmt: skip
        assert done.status == 0, done.err
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    warm = run(0, 60)
    assert run(60, 360) - warm < 40 * 2**20
