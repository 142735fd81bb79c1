"""The cache stays within its size, and takes nothing away that is needed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.artifacts import cache, files
from stylecli.artifacts.cache import Budget
from stylecli.errors import DiskFullError, ItemError, UsageError
from tests.conftest import ROOT

DAY = 86_400


def put(path: Path, size: int, *, days: float = 0) -> Path:
    """A file that was last of use so many days ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def trajectory(root: Path, name: str, size: int = 1000, *, days: float = 0) -> Path:
    return put(root / "trajectories" / "00" / name, size, days=days)


def kept(root: Path) -> set[str]:
    return {file.name for file in root.rglob("*") if file.is_file()}


def total(root: Path) -> int:
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("", 20 * 10**9),
        (" ", 20 * 10**9),
        ("0", None),
        ("0GB", None),
        ("20GB", 20 * 10**9),
        ("20 gb", 20 * 10**9),
        ("1.5 TB", 1_500 * 10**9),
        ("500MB", 500 * 10**6),
        ("7kB", 7000),
        ("12b", 12),
    ],
)
def test_sizes_are_read_as_people_write_them(
    said: str, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLE_CACHE_SIZE", said)
    assert cache.size_limit() == size


@pytest.mark.parametrize("said", ["20", "GB", "-1GB", "many", "20 GiB", "1e9", "nan"])
def test_a_size_that_is_none_is_refused_before_the_work(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLE_CACHE_SIZE", said)
    with pytest.raises(UsageError, match=f"STYLE_CACHE_SIZE={said} is not a size") as caught:
        cache.ensure_writable()
    assert "20GB" in caught.value.fix


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STYLE_CACHE_DIR", "~nobody-of-that-name/cache")
    with pytest.raises(UsageError, match="has no home") as caught:
        cache.ensure_writable()
    assert "STYLE_CACHE_DIR" in caught.value.fix


def test_trajectories_go_first_and_the_longest_unused_of_them(tmp_path: Path) -> None:
    put(tmp_path / "loras" / "00" / "style", 1000, days=50)
    for number in range(8):
        trajectory(tmp_path, f"t{number}", days=10 - number)
    newest = trajectory(tmp_path, "newest")
    Budget(tmp_path, 8000).spend(newest)
    assert kept(tmp_path) == {"style", "newest", "t3", "t4", "t5", "t6", "t7"}


def test_without_trajectories_what_nobody_used_for_days_goes(tmp_path: Path) -> None:
    old = [put(tmp_path / "masks" / "00" / f"m{n}", 1000, days=20 - n) for n in range(3)]
    put(tmp_path / "loras" / "00" / "of-this-run", 1000, days=0.5)
    newest = trajectory(tmp_path, "newest")
    Budget(tmp_path, 3800).spend(newest)
    assert kept(tmp_path) == {"newest", "of-this-run", old[2].name}
    Budget(tmp_path, 100).spend(newest)
    assert kept(tmp_path) == {"newest", "of-this-run"}


def test_the_newest_stays_even_where_it_alone_is_too_large(tmp_path: Path) -> None:
    trajectory(tmp_path, "old", days=1)
    newest = trajectory(tmp_path, "newest", days=3)
    Budget(tmp_path, 10).spend(newest)
    assert kept(tmp_path) == {"newest"}


def test_databases_locks_and_what_is_being_written_stay(tmp_path: Path) -> None:
    stay = {"digests.sqlite", "digests.sqlite-journal", "x.lock", ".y.1.aa.part", "empty"}
    for name in stay:
        put(tmp_path / "others" / name, 0 if name == "empty" else 1000, days=400)
    for name in ("x.lock", ".y.1.aa.part"):
        os.utime(tmp_path / "others" / name)
    newest = trajectory(tmp_path, "newest")
    Budget(tmp_path, 10).spend(newest)
    assert kept(tmp_path) == stay | {"newest"}


def test_what_was_touched_counts_as_used_and_as_unchanged(tmp_path: Path) -> None:
    old, older = (trajectory(tmp_path, name, days=days) for name, days in (("a", 5), ("b", 9)))
    before = older.stat().st_mtime_ns
    cache.touch(older)
    assert older.stat().st_mtime_ns == before
    Budget(tmp_path, 2500).spend(trajectory(tmp_path, "newest"))
    assert not old.exists()
    assert older.exists()
    cache.touch(tmp_path / "absent")


@pytest.mark.slow
@given(
    limit=st.integers(1, 40_000),
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=30),
)
def test_the_size_is_never_exceeded_by_more_than_one_part_and_the_newest(
    tmp_path_factory: pytest.TempPathFactory, limit: int, sizes: list[int]
) -> None:
    root = tmp_path_factory.mktemp("cache")
    budget = Budget(root, limit)
    for number, size in enumerate(sizes):
        newest = trajectory(root, f"{number}", size)
        os.utime(newest, (number, number))
        budget.spend(newest)
        assert newest.exists()
        assert total(root) <= limit + limit / cache.SLACK + max(sizes[: number + 1])


@pytest.mark.slow
def test_most_writes_cost_no_look_through_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    look = cache._entries

    def noted(root: Path) -> Iterator[cache.Entry]:
        looks.append(root)
        return look(root)

    monkeypatch.setattr(cache, "_entries", noted)
    budget = Budget(tmp_path, 64_000)
    for number in range(400):
        budget.spend(trajectory(tmp_path, f"{number}", 1000))
    assert len(looks) < 400 / 3
    assert total(tmp_path) <= 68_000


@pytest.mark.slow
@given(
    limit=st.integers(1, 40_000),
    writes=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3000)), max_size=30),
)
def test_each_of_several_writers_exceeds_the_size_by_one_part_at_most(
    tmp_path_factory: pytest.TempPathFactory, limit: int, writes: list[tuple[int, int]]
) -> None:
    root = tmp_path_factory.mktemp("cache")
    budgets = [Budget(root, limit) for _ in range(3)]
    for number, (writer, size) in enumerate(writes):
        budgets[writer].spend(trajectory(root, f"{number}", size))
        largest = max(size for _, size in writes[: number + 1])
        assert total(root) <= limit + 3 * limit / cache.SLACK + largest


def test_a_lock_that_may_be_held_is_not_pruned(tmp_path: Path) -> None:
    fresh = put(tmp_path / "locks" / "a.lock", 0)
    old = put(tmp_path / "locks" / "b.lock", 0, days=3)
    gone = [entry.path for entry in cache.prunable(tmp_path, older_than_seconds=0)]
    assert gone == [old]
    assert fresh.exists()


@pytest.mark.slow
def test_processes_that_fill_a_cache_together_stay_within_its_size(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from stylecli.artifacts.cache import Budget\n"
        "root = Path(sys.argv[1]); budget = Budget(root, 32_000)\n"
        "for i in range(150):\n"
        "    file = root / 'trajectories' / sys.argv[2] / str(i)\n"
        "    file.parent.mkdir(parents=True, exist_ok=True)\n"
        "    file.write_bytes(bytes(1000)); budget.spend(file)"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path, name], cwd=ROOT) for name in "abc"
    ]
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0, 0]
    assert 10_000 < total(tmp_path) <= 32_000 + 3 * 3_000


def test_a_file_that_is_being_read_is_read_to_its_end(tmp_path: Path) -> None:
    old = trajectory(tmp_path, "old", 100_000, days=2)
    with old.open("rb") as stream:
        stream.read(1)
        Budget(tmp_path, 10).spend(trajectory(tmp_path, "newest"))
        assert not old.exists()
        assert len(stream.read()) == 99_999


def test_a_file_that_somebody_removed_meanwhile_is_no_failure(tmp_path: Path) -> None:
    Budget(tmp_path, 10).spend(tmp_path / "absent")


def writes(path: Path, size: int) -> None:
    files.write_atomic(path, bytes(size))


def test_what_is_kept_counts_against_the_size_that_was_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STYLE_CACHE_SIZE", "3kB")
    said: list[str] = []
    for number in range(9):
        path = cache.cached("trajectories", f"{number:064}", ".safetensors")
        assert cache.keep(path, lambda path=path: writes(path, 1000), said.append)
        assert path.exists()
    assert total(cache.cache_dir()) <= 3000
    assert said == []
    monkeypatch.setenv("STYLE_CACHE_SIZE", "0")
    for number in range(9):
        path = cache.cached("trajectories", f"{number:064}", ".safetensors")
        cache.keep(path, lambda path=path: writes(path, 1000), said.append)
    assert total(cache.cache_dir()) == 9000


def test_a_full_disk_is_said_once_and_the_work_goes_on() -> None:
    said: list[str] = []
    path = cache.cached("trajectories", "a" * 64, ".safetensors")

    def full() -> None:
        raise DiskFullError(f"{path} cannot be written: No space left")

    for _ in range(3):
        assert cache.keep(path, full, said.append) is False
    (line,) = said
    assert str(cache.cache_dir()) in line
    assert cache.keep(path, lambda: writes(path, 10), said.append) is True


def test_another_failure_to_keep_a_file_names_the_way_out() -> None:
    path = cache.cached("trajectories", "a" * 64, ".safetensors")

    def refused() -> None:
        raise files.unwritable(path, OSError(errno.EACCES, "Permission denied"))

    with pytest.raises(ItemError, match="Permission denied") as caught:
        cache.keep(path, refused, print)
    assert "STYLE_CACHE_DIR" in caught.value.fix
