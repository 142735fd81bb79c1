"""Ray: the same files and rows as here, whatever dies; a cluster is started in another process."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylecli.engine.context import RunContext
from stylecli.engine.plan import Input, Job
from stylecli.engine.runs import ray_cluster, ray_engine, ray_worker
from stylecli.engine.runs.making import Maker, OneByOne, Result
from stylecli.engine.runs.ray_engine import Crew
from stylecli.engine.runs.ray_worker import Luggage
from stylecli.engine.session import Session
from stylecli.errors import StyleError, UsageError, WeightsError
from stylecli.recipe.schema import Recipe
from tests import tiny
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is an extra")


def jobs(count: int) -> list[Job]:
    content = (Input("content", Path("a.png"), "0"),)
    # Equal keys, as when a manifest names one content twice.
    return [Job("key", "transfer", content, Path(f"{n}.png"), n) for n in range(count)]


def nodes(*machines: dict[str, float]) -> list[dict[str, Any]]:
    return [{"Alive": True, "Resources": machine} for machine in machines]


def cluster(scenario: str, folder: Path, status: int = 0) -> Any:
    """What a scenario of `ray_scenarios.py` says of itself."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("ray_scenarios.py"), scenario, folder],
        env=kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == status, done.stderr
    assert done.stderr == "", "logs of Ray are not for the user"
    (line,) = done.stdout.splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two runs on one cluster, which takes long to start."""
    said: dict[str, Any] = cluster("fates", tmp_path_factory.mktemp("fates"))
    return said


@needs_ray
def test_a_killed_process_costs_nothing_but_time(tmp_path: Path) -> None:
    said = cluster("killed", tmp_path)
    here, there = said["local"], said["ray"]
    assert there["processes"] == 3, "two, and one in place of the killed one"
    assert there["files"] == here["files"]
    assert there["rows"] == here["rows"]
    assert len(there["rows"]) == there["counted"] == 31
    assert there["errors"] == here["errors"]
    assert there["said"] == ["started"], "once, however many processes say it"


@needs_ray
def test_a_job_that_kills_whoever_makes_it_fails_alone(fates: dict[str, Any]) -> None:
    said = fates["deadly"]
    assert said["rows"] == [*([str(n), "done", None] for n in range(5)), ["5", "failed", "item"]]
    (error,) = said["errors"]
    assert "deadly.png: 3 processes died" in error["what"]
    assert error["fix"]


@needs_ray
def test_a_machine_that_is_gone_for_good_holds_nothing_up(tmp_path: Path) -> None:
    said = cluster("unplugged", tmp_path)
    assert sorted(int(name) for name, status, _ in said["rows"] if status == "done") == [*range(20)]


@needs_ray
def test_what_would_fail_every_job_is_raised_as_it_was(fates: dict[str, Any]) -> None:
    assert fates["refused"] == WeightsError("no such model", fix="pull it").as_row()


@needs_ray
def test_told_to_end_a_run_takes_its_cluster_with_it(tmp_path: Path) -> None:
    import psutil

    family = cluster("stopped", tmp_path, status=143)
    assert len(family) > 3
    assert not [pid for pid in family if psutil.pid_exists(pid)]
    assert not list(tmp_path.rglob("*.part"))


@needs_ray
def test_a_cluster_of_our_own_answers_nobody_else(tmp_path: Path) -> None:
    said = cluster("guarded", tmp_path)
    assert said["rows"] == [["0", "done", None]]
    assert said["answers"].pop("us") == "1\n"
    assert all("InvalidAuthToken" in answer for answer in said["answers"].values()), said["answers"]


def test_a_token_is_made_for_one_run_and_never_for_a_cluster_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    ours: list[dict[str, str]] = [{}, {}]
    for environ in ours:
        ray_cluster.imported(environ)
        assert environ["RAY_AUTH_MODE"] == "token"
    assert ours[0]["RAY_AUTH_TOKEN"] != ours[1]["RAY_AUTH_TOKEN"]
    theirs = {"RAY_ADDRESS": "auto"}
    ray_cluster.imported(theirs)
    assert not [name for name in theirs if name.startswith("RAY_AUTH")]


def test_a_cluster_is_joined_where_it_is_named_and_nowhere_else() -> None:
    asked: list[str] = []

    def init(address: str, **_: object) -> None:
        asked.append(address)
        if address == "gone:6379":
            raise ConnectionError

    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
    for environ in ({}, {"RAY_ADDRESS": ""}, {"RAY_ADDRESS": "auto"}):
        with ray_cluster.joined(ray, environ):
            pass
    assert asked == ["local", "local", "auto"]
    with (
        pytest.raises(UsageError, match="RAY_ADDRESS=gone:6379") as refused,
        ray_cluster.joined(ray, {"RAY_ADDRESS": "gone:6379"}),
    ):
        pass
    assert refused.value.fix


def test_without_ray_the_user_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="Ray is not installed") as refused:
        next(ray_engine.work(jobs(1), lambda: OneByOne(lambda _: {}), Listener()))
    assert "pip install 'stylecli[ray]'" in refused.value.fix


@given(order=st.permutations(range(7)))
def test_rows_come_in_the_order_of_jobs_as_early_as_that_allows(order: Sequence[int]) -> None:
    todo = jobs(7)
    asked: list[int] = []

    def results() -> Any:
        for n in order:
            asked.append(n)
            yield Result(todo[n], "done", seconds=n)

    told = 0
    for n, result in enumerate(ray_worker.in_order(todo, results())):
        assert result.job is todo[n]
        assert len(asked) == 1 + max(order.index(earlier) for earlier in range(n + 1))
        told += 1
    assert told == len(todo)


@given(
    count=st.integers(1, 200),
    gone=st.sets(st.integers(0, 199)),
    size=st.integers(1, 40),
)
def test_chunks_are_all_that_is_left_in_order(count: int, gone: set[int], size: int) -> None:
    left = {n: job for n, job in enumerate(jobs(count)) if n not in gone}
    chunks = ray_engine._chunks(left, size)
    assert [pair for chunk in chunks for pair in chunk] == list(left.items())
    assert all(len(chunk) == size for chunk in chunks[:-1])


@given(count=st.integers(1, 10**6), crew=st.integers(1, 64), batch=st.integers(1, 256))
def test_a_chunk_is_whole_batches(count: int, crew: int, batch: int) -> None:
    size = ray_engine._chunk_size(count, Crew(crew, cpus=1, gpus=0), batch)
    assert size % batch == 0
    assert batch <= size < ray_engine.CHUNK + batch


@pytest.mark.parametrize(
    ("machines", "device", "environ", "crew"),
    [
        # A GPU each, however many cores there are; those that fail to show are not counted.
        ([{"CPU": 64.0, "GPU": 8.0}, {"CPU": 8.0}], "auto", {}, Crew(8, cpus=1, gpus=1)),
        ([{"CPU": 2.0, "GPU": 1.0}], "cuda:3", {}, Crew(1, cpus=1, gpus=1)),
        ([{"CPU": 2.0, "GPU": 1.0}], "auto", {"STYLE_RAY_ACTORS": "5"}, Crew(1, cpus=1, gpus=1)),
        # Asked for CPUs, it gets CPUs.
        ([{"CPU": 9.0, "GPU": 2.0}], "cpu", {}, Crew(4, cpus=2, gpus=0)),
        # A process fits on every machine that has a core at all.
        ([{"CPU": 1.0}, {"CPU": 4.0}, {}], "auto", {}, Crew(5, cpus=1, gpus=0)),
        ([{"CPU": 16.0}], "auto", {"STYLE_RAY_ACTORS": "2"}, Crew(2, cpus=8, gpus=0)),
        ([{"CPU": 2.0}], "auto", {"STYLE_RAY_ACTORS": "9"}, Crew(9, cpus=1, gpus=0)),
    ],
)
def test_a_process_for_each_gpu_or_pair_of_cores(
    machines: list[dict[str, float]], device: str, environ: dict[str, str], crew: Crew
) -> None:
    luggage = Luggage(b"", "", device=device)
    dead = [{"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}]
    assert ray_engine._crew(nodes(*machines) + dead, luggage, environ) == crew


@pytest.mark.parametrize(
    ("device", "environ", "what"),
    [
        ("cuda", {}, "no GPU"),
        ("auto", {"STYLE_RAY_ACTORS": "0"}, "STYLE_RAY_ACTORS=0"),
        ("auto", {"STYLE_RAY_ACTORS": "two"}, "STYLE_RAY_ACTORS=two"),
    ],
)
def test_a_crew_that_cannot_be_is_refused(device: str, environ: dict[str, str], what: str) -> None:
    with pytest.raises(UsageError, match=what) as refused:
        ray_engine._crew(nodes({"CPU": 4.0}), Luggage(b"", "", device=device), environ)
    assert refused.value.fix


class Listener:
    """A reporter that cannot travel, as no console can."""

    def __init__(self) -> None:
        self._unpicklable = (n for n in range(1))

    def note(self, text: str) -> None:
        raise AssertionError(text)

    warn = note

    def task(self, label: str, total: int) -> Any:
        raise AssertionError(label)


@needs_ray
def test_a_session_travels_without_its_model_and_opens_as_it_was_planned(
    tmp_path: Path,
) -> None:
    folder = tiny.save_folder(tmp_path / "model")
    recipe = Recipe.model_validate({"backbone": {"id": str(folder)}, "device": {"batch": 4}})
    session = Session.open(recipe, Listener())
    # As on a machine with a GPU; here, auto comes to float32.
    session.context = replace(session.context, dtype=torch.bfloat16)
    assert session.backbone is not None
    packed = ray_worker.pack(lambda: opened(session), session.context.reporter)
    assert len(packed.start) < 10_000, "no weights"
    assert (packed.device, packed.dtype, packed.batch) == ("auto", "bfloat16", 4)

    relay = ray_worker.Relay()
    there = ray_worker.unpack(packed, relay)().session  # type: ignore[attr-defined]
    assert there.recipe == recipe
    assert there.fingerprint == session.fingerprint
    assert there.context == RunContext(session.context.device, session.context.dtype, relay)
    assert "backbone" not in vars(there)

    weights = next(folder.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(WeightsError, match="other weights"):
        ray_worker.unpack(packed, relay)


def opened(session: Session) -> Maker:
    maker = OneByOne(lambda _: {})
    maker.session = session  # type: ignore[attr-defined]
    return maker


class Handle:
    """Of an actor that counts no more than one try."""

    class begin:  # noqa: N801
        @staticmethod
        def remote(_: object) -> int:
            return 1


@needs_ray
@pytest.mark.parametrize(
    ("wrong", "what"), [({"folder": "nowhere"}, "folder"), ({"version": "0.0"}, "0.0")]
)
def test_a_machine_unlike_the_others_is_told_of(
    wrong: dict[str, str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "get", lambda value: value)
    packed = ray_worker.pack(lambda: OneByOne(lambda _: {}), Listener())
    worker = ray_worker.Worker(replace(packed, **wrong), Handle())
    (row,) = worker._rows([(5, jobs(1)[0])])
    assert row.status == "fatal"
    assert isinstance(row.error, UsageError)
    assert what in row.error.what
    assert row.error.fix


def test_a_file_that_only_another_machine_sees_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "APPEARS_SECONDS", 0.3)
    monkeypatch.chdir(tmp_path)
    (job,) = jobs(1)
    done = ray_worker.Row(0, "done", 2.5, details={"psnr": 30.0})
    with pytest.raises(StyleError, match="not seen here") as ended:
        ray_engine._settled(job, done)
    assert ended.value.exit_status == 1, "2 would say that nothing was done"
    job.output.write_bytes(b"")
    assert ray_engine._settled(job, done) == Result(job, "done", 2.5, details={"psnr": 30.0})
