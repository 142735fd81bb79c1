"""Files are there whole or not at all: killed, crowded or out of disk."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stylecli.artifacts import files
from stylecli.errors import DiskFullError, ItemError
from tests.conftest import ROOT


def in_a_process(script: str, *arguments: object) -> subprocess.Popen[str]:
    preface = "import os, sys; from pathlib import Path; from stylecli.artifacts import files\n"
    return subprocess.Popen(
        [sys.executable, "-c", preface + script, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("this system has no mount")
    if done.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_file_and_no_scrap(small_disk: Path) -> None:
    path = small_disk / "x.png"
    files.write_atomic(path, b"old")
    with pytest.raises(DiskFullError, match=r"x\.png cannot be written: No space left") as caught:
        files.write_atomic(path, bytes(100_000))
    assert "disk" in caught.value.fix
    assert path.read_bytes() == b"old"
    assert [file.name for file in small_disk.iterdir()] == ["x.png"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_late_leaves_the_old_file_and_no_scrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = tmp_path / "x.png"
    files.write_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    with pytest.raises(ItemError, match=os.strerror(number)) as caught:
        files.write_atomic(path, b"new")
    # Room that is missing is missing for all; anything else may be this file's alone.
    assert isinstance(caught.value, DiskFullError) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert caught.value.exit_status == 3
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("existing", [None, b"old"])
def test_a_writer_killed_before_the_end_leaves_no_half_file(
    tmp_path: Path, existing: bytes | None
) -> None:
    path = tmp_path / "x.bin"
    if existing:
        path.write_bytes(existing)
    writer = in_a_process(
        "os.fsync = lambda handle: os.kill(os.getpid(), 9)\n"
        "files.write_atomic(Path(sys.argv[1]), b'x' * 100_000)",
        path,
    )
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    assert (path.read_bytes() if path.exists() else None) == existing


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_whole_files(tmp_path: Path) -> None:
    script = (
        "print('on', flush=True)\n"
        "for i in range(10**9): files.write_atomic(Path(sys.argv[1]), b'%d' % (i % 10) * 50_000)"
    )
    for round_ in range(4):
        path = tmp_path / f"{round_}.bin"
        writer = in_a_process(script, path)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.02 + 0.013 * round_)
        writer.kill()
        writer.communicate()
        if path.exists():
            data = path.read_bytes()
            assert len(data) == 50_000
            assert len(set(data)) == 1


@pytest.mark.slow
def test_writers_of_one_file_leave_one_of_their_versions_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    script = (
        "for _ in range(30): files.write_atomic(Path(sys.argv[1]), sys.argv[2].encode() * 9999)"
    )
    writers = [in_a_process(script, path, letter) for letter in "abc"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            data = path.read_bytes()
            assert len(data) == 9999
            assert len(set(data)) == 1
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert [file.name for file in tmp_path.iterdir()] == ["x.bin"]


def test_the_longest_name_a_file_system_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("絵" * 83 + ".png")
    files.write_atomic(path, b"x")
    assert path.read_bytes() == b"x"


def test_a_file_gets_the_rights_any_new_file_gets(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    files.write_atomic(tmp_path / "x", b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_folders_are_made_and_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a" / "b" / "x", b"x")
    with pytest.raises(ItemError, match="a/b/x/y cannot be written"):
        files.write_atomic(tmp_path / "a" / "b" / "x" / "y", b"x")


def test_a_folder_that_cannot_be_synced_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def files_only(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    files.write_atomic(tmp_path / "x", b"x")
    assert (tmp_path / "x").read_bytes() == b"x"


def test_sweeping_takes_old_scraps_and_nothing_else(tmp_path: Path) -> None:
    names = [
        ".x.png.1.aa.part",
        ".a\nb.png.0123abcd-1.aa.part",
        os.fsdecode(b".\xff.png.0123abcd-1.bb.part"),
        ".y.png.1.bb.part",
        "x.png",
        ".hidden",
        "model.part",
        ".of-a-browser.part",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    two_hours_ago = time.time() - 2 * 3600
    for name in names[:3] + names[4:]:
        os.utime(tmp_path / name, (two_hours_ago, two_hours_ago))
    files.sweep(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(names[3:])
    files.sweep(tmp_path / "absent")


def killed_while_writing(path: Path) -> Path:
    """The unfinished file of a process that is no more."""
    writer = in_a_process(
        "os.fsync = lambda handle: os.kill(os.getpid(), 9)\n"
        "files.write_atomic(Path(sys.argv[1]), b'x')",
        path,
    )
    writer.communicate()
    (scrap,) = path.parent.glob(".*.part")
    return scrap


def test_what_a_killed_run_left_goes_at_once(tmp_path: Path) -> None:
    scrap = killed_while_writing(tmp_path / "x.png")
    files.sweep(tmp_path)
    assert not scrap.exists()


def test_what_a_run_is_writing_stays(tmp_path: Path) -> None:
    writer = in_a_process(
        "import time\n"
        "with files.replacing(Path(sys.argv[1])): print('on', flush=True); time.sleep(60)",
        tmp_path / "theirs.png",
    )
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        with files.replacing(tmp_path / "ours.png") as stream:
            files.sweep(tmp_path)
            stream.write(b"x")
            assert len(list(tmp_path.glob(".*.part"))) == 2
    finally:
        writer.kill()
        writer.communicate()
    assert (tmp_path / "ours.png").read_bytes() == b"x"
    files.sweep(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["ours.png"]


def test_a_writer_on_another_machine_is_not_judged_from_here(tmp_path: Path) -> None:
    scrap = killed_while_writing(tmp_path / "x.png")
    world, rest = scrap.name.removeprefix(".x.png.").split("-", maxsplit=1)
    assert len(world) == 8
    elsewhere = tmp_path / f".x.png.{'0' * 8}-{rest}"
    scrap.rename(elsewhere)
    files.sweep(tmp_path)
    assert elsewhere.exists()


def test_no_name_of_this_machine_is_in_the_name_of_a_file(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "x"):
        (scrap,) = tmp_path.glob(".*.part")
    assert socket.gethostname() not in scrap.name


@pytest.mark.slow
def test_writing_to_a_folder_clears_away_what_killed_runs_left_there_once(tmp_path: Path) -> None:
    """Subfolders of an output are nobody's to search: those that are written to are enough."""
    scraps = [killed_while_writing(tmp_path / name / "x.png") for name in ("one", "two")]
    files.write_atomic(tmp_path / "one" / "y.png", b"y")
    assert [scrap.exists() for scrap in scraps] == [False, True]
    later = killed_while_writing(tmp_path / "one" / "z.png")
    files.write_atomic(tmp_path / "one" / "y.png", b"y")
    assert later.exists()
