"""Parts of an evaluation: together they are the whole, and nothing is in two of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylecli.artifacts.features import FeatureStore
from stylecli.artifacts.locks import Shard
from stylecli.engine.scoring import parts
from stylecli.errors import WeightsError
from tests.engine.jobs import Listener


@given(names=st.lists(st.text(), max_size=20), count=st.integers(1, 7))
def test_every_task_is_in_one_part(names: list[str], count: int) -> None:
    for name in names:
        assert sum(parts.belongs(name, (i + 1, count)) for i in range(count)) == 1
        assert parts.belongs(name, None)


@given(name=st.text(), count=st.integers(1, 4), cut=st.integers(1, 4))
def test_a_part_cut_into_parts_is_the_part(name: str, count: int, cut: int) -> None:
    for index in range(1, count + 1):
        smaller = parts.within((index, count), cut)
        assert sum(parts.belongs(name, one) for one in smaller) == parts.belongs(
            name, (index, count)
        )


def left(folder: Path, *shards: Shard) -> None:
    for shard in shards:
        with FeatureStore(parts.file_of(folder, shard)) as store:
            store.put({f"{shard}": [float(shard[0])]})


def test_what_parts_left_is_taken_over_and_their_files_go(tmp_path: Path) -> None:
    left(tmp_path, (1, 2), (2, 2), (5, 6))
    (tmp_path / "scores.sqlite").write_text("another's")
    with FeatureStore(tmp_path / "cache" / "features.sqlite") as store:
        parts.gather(tmp_path, None, store, Listener())
        assert store.missing(["(1, 2)", "(2, 2)", "(5, 6)"]) == []
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["scores.sqlite"]


def test_a_part_takes_over_its_own_parts_only(tmp_path: Path) -> None:
    left(tmp_path, (1, 2), (2, 2), (3, 4), (4, 4), (1, 3))
    with FeatureStore(tmp_path / "cache" / "features.sqlite") as store:
        parts.gather(tmp_path, (1, 2), store, Listener())
        assert store.missing(["(3, 4)"]) == []
        assert store.missing(["(1, 2)", "(2, 2)", "(4, 4)", "(1, 3)"]) != []
    there = {path.name for path in tmp_path.glob("scores-*")}
    assert there == {f"scores-{i}-of-{n}.sqlite" for i, n in ((1, 2), (2, 2), (4, 4), (1, 3))}


def test_a_damaged_part_is_said_and_computed_anew(tmp_path: Path) -> None:
    file = parts.file_of(tmp_path, (1, 2))
    file.write_bytes(b"not a database, but long enough to look like one" * 40)
    listener = Listener()
    with FeatureStore(tmp_path / "cache" / "features.sqlite") as store:
        parts.gather(tmp_path, None, store, listener)
        store.put({"a": [1.0]})
        assert store.get("a") is not None
    assert "is damaged" in listener.said[0]
    assert not file.exists()


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", ["cpu"] * 3), ("cuda", ["cuda:0", "cuda:1", "cuda:0"]), ("cuda:1", ["cuda:1"] * 3)],
)
def test_gpus_are_taken_in_turn_unless_one_was_named(
    device: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert parts.devices(torch.device(device), 3) == expected


def refuse(share: Shard, device: str, each: object) -> None:
    raise WeightsError(f"{device} lacks a file", fix="fetch it")


def die(share: Shard, device: str, each: object) -> None:
    import os
    import signal

    if share == (1, 2):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_what_ends_one_process_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cpu lacks a file"):
        parts.together(refuse, parts.within(None, 2), ["cpu"] * 2, 4, Listener())


@pytest.mark.slow
def test_a_process_that_was_killed_is_said_and_ends_nothing(tmp_path: Path) -> None:
    listener = Listener()
    parts.together(die, parts.within(None, 2), ["cpu"] * 2, 4, listener)
    assert "1 of 2 processes ended" in listener.said[-1]
