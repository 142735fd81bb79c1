"""Digests are those of the bytes that are there, however much of the reading is saved."""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.artifacts import cache, digests
from stylecli.artifacts.digests import Digests
from tests.conftest import ROOT

Reads = list[str]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "digests.sqlite"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    """Names of files whose bytes were read, in order; files seem to be an hour old."""
    names: Reads = []
    file_digest = hashlib.file_digest

    def noted(stream: object, kind: str) -> object:
        names.append(Path(stream.name).name)  # type: ignore[attr-defined]
        return file_digest(stream, kind)  # type: ignore[arg-type]

    now = time.time_ns
    monkeypatch.setattr(hashlib, "file_digest", noted)
    monkeypatch.setattr(time, "time_ns", lambda: now() + 3_600 * 10**9)
    yield names
    digests._index.cache_clear()


def plain(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def asked(index: Path | None, *paths: Path) -> list[str]:
    """By a process of their own, as far as the index can tell."""
    opened = Digests(index)
    found = [opened.sha256(path) for path in paths]
    opened.close()
    return found


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def edit(path: Path, data: bytes) -> None:
    """Later than before, also by the clock of files, which stands still for a while at times."""
    before = path.stat().st_ctime_ns
    while put(path, data).stat().st_ctime_ns == before:
        time.sleep(0.001)


def test_what_was_read_once_is_not_read_again_by_this_process_or_another(
    tmp_path: Path, index: Path, reads: Reads
) -> None:
    file = put(tmp_path / "a", b"one")
    opened = Digests(index)
    assert [opened.sha256(file) for _ in range(3)] == [plain(file)] * 3
    opened.close()
    assert asked(index, file) == [plain(file)]
    assert reads == ["a"]


def test_the_index_is_in_the_cache_and_written_when_the_process_ends(tmp_path: Path) -> None:
    file = put(tmp_path / "a", b"one")
    script = (
        "import sys, time; from pathlib import Path; from stylecli.artifacts import digests\n"
        "now = time.time_ns; time.time_ns = lambda: now() + 10**13\n"
        "print(digests.file_sha256(Path(sys.argv[1]))); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", script, file]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == plain(file)
    assert done.stderr == ""
    with sqlite3.connect(cache.cache_dir() / digests.NAME) as db:
        (row,) = db.execute("SELECT hex(sha256) FROM files")
    db.close()
    assert row[0].lower() == plain(file)


def test_an_edit_shows_whatever_was_done_to_hide_it(
    tmp_path: Path, index: Path, reads: Reads
) -> None:
    file = put(tmp_path / "a", b"one")
    status = file.stat()
    (first,) = asked(index, file)
    edit(file, b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    (second,) = asked(index, file)
    other = put(tmp_path / "other", b"six")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert file.stat().st_size == status.st_size
    (third,) = asked(index, file)
    assert [first, second, third] == [
        hashlib.sha256(d).hexdigest() for d in (b"one", b"two", b"six")
    ]


def test_a_touched_file_is_read_and_is_the_same(tmp_path: Path, index: Path, reads: Reads) -> None:
    file = put(tmp_path / "a", b"one")
    first = asked(index, file)
    os.utime(file, (1, 1))
    assert asked(index, file) == first
    assert reads == ["a", "a"]


def test_a_file_that_is_a_moment_old_is_not_remembered(
    tmp_path: Path, index: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could change again and still have the size and times it has now."""
    file = put(tmp_path / "a", b"one")
    changed = file.stat().st_ctime_ns
    for age in (-(10**12), 0, digests.RACY_NS - 1):
        monkeypatch.setattr(time, "time_ns", lambda age=age: changed + age)
        asked(index, file, file)
    assert len(reads) == 6
    monkeypatch.setattr(time, "time_ns", lambda: changed + digests.RACY_NS)
    asked(index, file, file)
    assert len(reads) == 7


def test_a_picture_of_a_camera_whose_clock_is_ahead_is_remembered(
    tmp_path: Path, index: Path, reads: Reads
) -> None:
    file = put(tmp_path / "a", b"one")
    os.utime(file, (2**32, 2**32))
    asked(index, file, file)
    assert reads == ["a"]


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, index: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(tmp_path / "a", b"one")
    file_digest = hashlib.file_digest

    def slow(stream: object, kind: str) -> object:
        found = file_digest(stream, kind)  # type: ignore[arg-type]
        file.write_bytes(b"other")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", slow)
        asked(index, file)
    assert asked(index, file) == [plain(file)]


@pytest.mark.slow
@given(edits=st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=3)), max_size=8))
def test_whatever_is_written_in_whatever_order_digests_are_those_of_the_bytes(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, bytes]]
) -> None:
    """Nothing is faked here: edits follow each other faster than clocks tick."""
    folder = tmp_path_factory.mktemp("edits")
    opened = Digests(folder / "index" / "x.sqlite")
    for name, data in edits:
        file = put(folder / name, data)
        assert opened.sha256(file) == plain(file)
    opened.close()


def test_names_that_are_no_text_are_told_apart(tmp_path: Path, index: Path, reads: Reads) -> None:
    names = [os.fsdecode(name) for name in (b"\xff.png", b"\xfe.png", "ä.png".encode(), b"a\nb")]
    files = [put(tmp_path / name, name.encode(errors="surrogateescape")) for name in names]
    expected = [plain(file) for file in files]
    assert asked(index, *files) == expected
    assert asked(index, *files) == expected
    assert len(reads) == len(files)


def test_a_relative_path_is_the_file_it_is_from_here(
    tmp_path: Path, index: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        put(tmp_path / folder / "a", folder.encode())
    opened = Digests(index)
    for folder in ("one", "two", "one"):
        monkeypatch.chdir(tmp_path / folder)
        assert opened.sha256(Path("a")) == hashlib.sha256(folder.encode()).hexdigest()
    opened.close()
    assert reads == ["a", "a"]


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path, index: Path) -> None:
    with pytest.raises(FileNotFoundError):
        asked(index, tmp_path / "absent")


def junk(index: Path) -> None:
    index.write_bytes(b"junk" * 1000)


def torn(index: Path) -> None:
    index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])


def scrambled(index: Path) -> None:
    data = bytearray(index.read_bytes())
    for position in range(100, len(data), 3):
        data[position] ^= 0x55
    index.write_bytes(data)


def another(index: Path) -> None:
    index.unlink()
    with sqlite3.connect(index) as db:
        db.execute("CREATE TABLE files (name TEXT)")
    db.close()


def a_folder(index: Path) -> None:
    index.unlink()
    index.mkdir()


@pytest.mark.mostly_slow
@pytest.mark.parametrize("harm", [junk, torn, scrambled, another, a_folder])
@pytest.mark.parametrize("is_open", [False, True])
def test_an_index_that_was_damaged_costs_time_and_nothing_else(
    tmp_path: Path, index: Path, harm: Callable[[Path], None], is_open: bool, reads: Reads
) -> None:
    files = [put(tmp_path / f"{i}", b"%d" % i) for i in range(200)]
    expected = [plain(file) for file in files]
    assert asked(index, *files) == expected
    opened = Digests(index) if is_open else None
    harm(index)
    opened = opened or Digests(index)
    assert [opened.sha256(file) for file in files] == expected
    opened.close()
    reads.clear()
    assert asked(index, *files) == expected
    if harm is junk:
        assert reads == []


def test_a_digest_that_was_altered_on_disk_is_not_believed(
    tmp_path: Path, index: Path, reads: Reads
) -> None:
    file = put(tmp_path / "a", b"one")
    expected = asked(index, file)
    for value in ("zeroblob(32)", "NULL", "7", "'text'"):
        with sqlite3.connect(index) as db:
            db.execute(f"UPDATE files SET sha256 = {value}")
        db.close()
        assert asked(index, file) == expected
    assert len(reads) == 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB that can be made read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_costs_time_and_nothing_else(
    tmp_path: Path, small_disk: Path, reads: Reads
) -> None:
    files = [put(tmp_path / f"{i}", b"%d" % i) for i in range(1500)]
    expected = [plain(file) for file in files]
    for _ in range(2):
        opened = Digests(small_disk / "digests.sqlite")
        for _ in range(2):
            assert [opened.sha256(file) for file in files] == expected
        opened.close()
    assert len(reads) <= 2 * len(files)


def test_a_disk_that_cannot_be_written_is_read_from(
    tmp_path: Path, small_disk: Path, reads: Reads
) -> None:
    old, new = (put(tmp_path / name, name.encode()) for name in ("old", "new"))
    index = small_disk / "digests.sqlite"
    asked(index, old)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert asked(index, old, new, new, old) == [plain(f) for f in (old, new, new, old)]
    assert reads == ["old", "new"]
    assert asked(small_disk / "none" / "x.sqlite", old, old) == [plain(old)] * 2


def test_without_an_index_a_process_remembers_some(
    tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "MAX_REMEMBERED", 2)
    files = [put(tmp_path / name, name.encode()) for name in "abc"]
    opened = Digests(None)
    for file in [*files, files[2], files[1], files[0]]:
        assert opened.sha256(file) == plain(file)
    assert "".join(reads) == "abca"


def test_a_user_without_a_home_gets_digests_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(tmp_path / "a", b"one")
    monkeypatch.setenv("STYLE_CACHE_DIR", "~nobody-of-that-name/cache")
    assert digests.file_sha256(file) == plain(file)


@pytest.mark.slow
def test_processes_at_work_together_agree_and_lose_nothing(tmp_path: Path, index: Path) -> None:
    files = [put(tmp_path / f"{i}", b"%d" % i) for i in range(60)]
    script = (
        "import sys, time; from pathlib import Path; from stylecli.artifacts import digests\n"
        "now = time.time_ns; time.time_ns = lambda: now() + 10**13\n"
        "digests.BATCH = 2; index = digests.Digests(Path(sys.argv[1]))\n"
        "for _ in range(2):\n"
        "    for file in sys.argv[2:]: print(index.sha256(Path(file)))\n"
        "index.close()"
    )
    shares = [files, files[::-1], files[30:] + files[:30]]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script, index, *share],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for share in shares
    ]  # fmt: skip
    for worker, share in zip(workers, shares, strict=True):
        out, _ = worker.communicate(timeout=200)
        assert worker.returncode == 0
        assert out.split() == [plain(file) for file in share] * 2
    with sqlite3.connect(index) as db:
        assert db.execute("SELECT count(*) FROM files").fetchone() == (len(files),)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_an_index_that_somebody_locks_is_done_without(
    tmp_path: Path, index: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "BUSY_SECONDS", 1.0)
    files = [put(tmp_path / f"{i}", b"%d" % i) for i in range(200)]
    asked(index, *files)
    opened = Digests(index)
    other = sqlite3.connect(index, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    assert [opened.sha256(file) for file in files] == [plain(file) for file in files]
    opened.close()
    assert asked(index, files[0]) == [plain(files[0])]
    # It is waited for once at most, and not by each of the files.
    assert time.monotonic() - began < 100
    other.close()


def test_entries_that_were_of_no_use_for_long_go_and_others_stay(
    tmp_path: Path, index: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(0)
    start, days = 1_700_000_000, 0

    def entries() -> int:
        with sqlite3.connect(index) as db:
            (count,) = db.execute("SELECT count(*) FROM files").fetchone()
        db.close()
        return int(count)

    monkeypatch.setattr(time, "time", lambda: start + days * 86_400 + next(seconds))
    once, daily = put(tmp_path / "once", b"1"), put(tmp_path / "daily", b"2")
    asked(index, once, daily)
    for days in range(1, 140):
        asked(index, daily)
        if days == digests.UNUSED_DAYS - 1:
            assert entries() == 2
    assert entries() == 1
    assert reads == ["once", "daily"]
    asked(index, once)
    assert reads[2:] == ["once"]


def test_no_folder_is_named_in_the_index(tmp_path: Path, index: Path, reads: Reads) -> None:
    asked(index, put(tmp_path / "secret-name", b"one"))
    assert reads
    assert b"secret-name" not in index.read_bytes()
    assert os.fsencode(tmp_path.parent.name) not in index.read_bytes()


def test_a_forked_process_leaves_what_is_to_be_written_to_its_parent(
    tmp_path: Path, index: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Digests(index)
    opened.sha256(put(tmp_path / "a", b"one"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        opened.close()
    asked(index, tmp_path / "a")
    assert reads == ["a", "a"]
