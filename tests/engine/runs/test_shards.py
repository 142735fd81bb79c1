"""Which part of the work is ours: as typed, or as the scheduler says it."""

from __future__ import annotations

import pytest

from stylecli.engine.runs import shards
from stylecli.errors import UsageError


@pytest.mark.parametrize(
    "text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5", "", "²/3", "1/٣", "Auto"]
)
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        shards.parse(text, {})
    assert caught.value.fix


def test_shards_are_counted_from_one() -> None:
    assert [shards.parse(f"{i}/3", {}) for i in (1, 2, 3)] == [(1, 3), (2, 3), (3, 3)]


def slurm(index: int, first: int = 0, last: int = 7, count: int = 8) -> dict[str, str]:
    return {
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_MAX": str(last),
        "SLURM_ARRAY_TASK_COUNT": str(count),
    }


@pytest.mark.parametrize("first", [0, 1, 5])
def test_the_tasks_of_an_array_are_its_parts_wherever_counting_begins(first: int) -> None:
    parts = [shards.parse("auto", slurm(i, first, first + 7)) for i in range(first, first + 8)]
    assert parts == [(i, 8) for i in range(1, 9)]


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        ({"JOB_COMPLETION_INDEX": "0", "STYLE_SHARDS": "4"}, (1, 4)),
        ({"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "4"}, (4, 4)),
        ({"RANK": "0", "WORLD_SIZE": "2"}, (1, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, (2, 2)),
        (slurm(2) | {"RANK": "0", "WORLD_SIZE": "1"}, (3, 8)),
    ],
)
def test_auto_reads_the_scheduler(environ: dict[str, str], part: tuple[int, int]) -> None:
    assert shards.parse("auto", environ) == part


def launched(rank: int, size: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}


@pytest.mark.parametrize(
    ("shard", "environ", "count"),
    [
        (None, {}, 1),
        (None, launched(1, 4), 4),
        ("auto", launched(1, 4), 1),
        # The same part was typed for all of them.
        ("1/4", launched(1, 4), 4),
        ("auto", launched(1, 4) | slurm(2), 4),
        ("auto", launched(1, 4) | {"JOB_COMPLETION_INDEX": "0"}, 4),
        # Not a launcher.
        (None, {"RANK": "1", "WORLD_SIZE": "4"}, 1),
        (None, launched(1, 4) | {"WORLD_SIZE": "many"}, 1),
    ],
)
def test_processes_of_one_part_have_one_that_speaks_for_it(
    shard: str | None, environ: dict[str, str], count: int
) -> None:
    assert shards.together(shard, environ) == count
    speaking = [
        rank
        for rank in range(4)
        if not shards.follows(shard, environ | ({"RANK": str(rank)} if "RANK" in environ else {}))
    ]
    assert speaking == ([0] if count > 1 else [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "neither Slurm"),
        ({"JOB_COMPLETION_INDEX": "0"}, "not of how many"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is '2' of '2'"),
        (slurm(3, 3, 7, 2), "with gaps"),
        (slurm(0, 0, 14, 8), "with gaps"),
        (slurm(0) | {"SLURM_ARRAY_TASK_COUNT": ""}, "not all numbers"),
    ],
)
def test_where_nothing_tells_the_part_auto_is_refused(environ: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        shards.parse("auto", environ)
    assert caught.value.fix
