"""Processes that train together: real ones, which meet over a socket as under a launcher."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylecli.engine import context
from stylecli.engine.context import resolve
from stylecli.engine.runs import processes
from stylecli.engine.runs.processes import ALONE, Team, joined
from stylecli.engine.training import draws
from stylecli.engine.training.lora import Fitted, fit, style_pictures
from stylecli.errors import ItemError, StyleError, UsageError
from stylecli.recipe.schema import Device, Lora
from tests import tiny
from tests.cli.conftest import draw
from tests.engine.training.test_lora import Watcher
from tests.small import folder

SETTINGS = Lora(rank=4, steps=4, lr=1e-2, resolution=32, save_every=2, dtype="float32", batch=2)
# Forks processes from one that has imported what takes seconds, and has never computed.
LAUNCHER = multiprocessing.get_context("forkserver")
LAUNCHER.set_forkserver_preload(
    [
        "tests.engine.runs.test_processes",
        "diffusers.models.autoencoders.autoencoder_kl",
        "diffusers.models.unets.unet_2d_condition",
        "diffusers.training_utils",
        "transformers.models.clip.modeling_clip",
        "transformers.models.clip.tokenization_clip",
        "peft.tuners.lora",
        "accelerate.utils",
    ]
)


def environment(place: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    own = {"RANK": place, "LOCAL_RANK": place, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return {name: str(value) for name, value in own.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def child(work: Callable[[Team], Any], told: Mapping[str, str], answer: Any) -> None:
    os.environ |= told
    try:
        with joined(os.environ) as team:
            found = work(team)
    except BaseException as error:
        found = error
    answer.send_bytes(pickle.dumps(found))


def together(work: Callable[[Team], Any], size: int = 2) -> list[Any]:
    """What the work returned or raised in each process; None of one that died."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes = [LAUNCHER.Pipe(duplex=False) for _ in range(size)]
    started = [
        LAUNCHER.Process(target=child, args=(work, environment(place, size, port), pipe[1]))
        for place, pipe in enumerate(pipes)
    ]
    for process in started:
        process.start()
    found = []
    for process, (reader, writer) in zip(started, pipes, strict=True):
        writer.close()
        try:
            found.append(pickle.loads(reader.recv_bytes()) if reader.poll(400) else "hangs")
        except EOFError:
            found.append(None)
        reader.close()
        process.join(200)
        process.kill()
    return found


@pytest.fixture(autouse=True)
def _sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to the server is a socket too, of this machine alone."""
    monkeypatch.undo()


# Learning together


def learn(
    team: Team,
    model: Path,
    pictures: list[Path],
    settings: Lora = SETTINGS,
    stop_in: int = -1,
) -> Fitted:
    """Fit; the process `stop_in` is interrupted in its third step."""

    def stop(done: int) -> None:
        if done == 3 and team.place == stop_in:
            raise KeyboardInterrupt

    draws.EVAL_PAIRS = 3
    torch.set_num_threads(1)
    with team.same_fate():
        return fit(
            tiny.backbone(model),
            style_pictures(pictures, "a picture in sss style"),
            settings,
            seed=0,
            state_file=pictures[0].with_suffix(".state"),
            reporter=Watcher(stop),
            team=team,
        )


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    return drawn(tmp_path)


def drawn(place: Path) -> list[Path]:
    return [draw(place / f"{i}.png", seed=i, size=(40, 32)) for i in range(3)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """What one process learns, uninterrupted."""
    pictures = drawn(tmp_path_factory.mktemp("whole"))
    fitted: Fitted = together(partial(learn, model=folder(), pictures=pictures), size=1)[0]
    return fitted


def differences(ours: Fitted, theirs: Fitted) -> float:
    assert ours.tensors.keys() == theirs.tensors.keys()
    return max(float((v - theirs.tensors[k]).abs().max()) for k, v in ours.tensors.items())


@pytest.mark.slow
def test_two_processes_learn_what_one_does_to_the_bit(pictures: list[Path], whole: Fitted) -> None:
    """With two rows a step their sum has one order only. Both end with the same LoRA."""
    for fitted in together(partial(learn, model=folder(), pictures=pictures)):
        assert differences(fitted, whole) == 0
        assert fitted.header == whole.header
        assert (fitted.loss_before, fitted.loss_after) == (whole.loss_before, whole.loss_after)


@pytest.mark.slow
def test_any_number_of_processes_differ_by_the_order_of_a_sum(pictures: list[Path]) -> None:
    """Five rows for three: none is left out and none counts twice."""
    settings = SETTINGS.model_copy(update={"batch": 5, "steps": 2})
    work = partial(learn, model=folder(), pictures=pictures, settings=settings)
    alone = together(work, size=1)[0]
    first, *others = together(work, size=3)
    assert all(differences(other, first) == 0 for other in others)
    assert differences(first, alone) < 1e-5


@pytest.mark.slow
def test_an_interruption_of_one_ends_all_and_any_number_may_go_on(
    pictures: list[Path], whole: Fitted
) -> None:
    work = partial(learn, model=folder(), pictures=pictures)
    ended = together(partial(work, stop_in=1))
    assert [type(error) for error in ended] == [KeyboardInterrupt] * 2
    assert pictures[0].with_suffix(".state").exists()
    assert differences(together(work, size=1)[0], whole) == 0


@pytest.mark.slow
def test_processes_that_see_different_states_refuse_to_go_on(
    pictures: list[Path], tmp_path: Path
) -> None:
    together(partial(learn, model=folder(), pictures=pictures, stop_in=0))
    found = together(partial(elsewhere, model=folder(), pictures=pictures, place=tmp_path / "b"))
    for error in found:
        assert isinstance(error, UsageError)
        assert "different states" in error.what
        assert "--output" in error.fix


def elsewhere(team: Team, model: Path, pictures: list[Path], place: Path) -> Fitted:
    """The second process is on a machine that has the pictures, and not the folder of states."""
    if not team.leads:
        place.mkdir()
        pictures = [Path(file.rename(place / file.name)) for file in pictures]
    else:
        while not (place / pictures[-1].name).exists():
            time.sleep(0.01)
        for file in pictures:
            file.write_bytes((place / file.name).read_bytes())
    return learn(team, model, pictures)


# One fate


def fail(team: Team, error: BaseException, where: int) -> list[object]:
    """Fail in one process, then go on together."""
    caught: BaseException | None = None
    try:
        with team.same_fate():
            if team.place == where:
                raise error
            team.add_up([torch.ones(2)])
    except BaseException as shared:
        caught = shared
    ones = torch.ones(2)
    with team.same_fate():
        team.add_up([ones])
    return [caught, ones.tolist()]


class OddError(Exception):
    """Cannot be sent: what it is made of is not what it is made from."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd")


@pytest.mark.slow
@pytest.mark.parametrize("where", [0, 1])
def test_what_one_process_raises_all_raise_and_then_go_on(where: int) -> None:
    error = ItemError("the picture is torn", fix="mend it")
    for caught, total in together(partial(fail, error=error, where=where)):
        assert type(caught) is ItemError
        assert (caught.what, caught.fix) == (error.what, error.fix)
        assert total == [2, 2]


def odd(team: Team) -> list[object]:
    return [str(each) for each in fail(team, OddError(1, 2), 1)]


@pytest.mark.slow
def test_an_error_that_cannot_be_sent_arrives_as_what_it_said() -> None:
    assert together(odd) == [["OddError: odd", "[2.0, 2.0]"], ["odd", "[2.0, 2.0]"]]


def die(team: Team) -> None:
    """The second process ends without a word; the first still tries to say how to end."""
    try:
        with team.same_fate():
            if not team.leads:
                os._exit(9)
            team.add_up([torch.ones(1000)])
    finally:
        team.dismiss(1)


@pytest.mark.slow
def test_a_process_that_dies_does_not_leave_the_others_waiting() -> None:
    began = time.monotonic()
    leader, follower = together(die)
    # The others would wait a month for it.
    assert time.monotonic() - began < 300
    assert type(leader) is StyleError
    assert "another process of this run has ended" in leader.what
    assert leader.fix
    assert follower is None


def obey(team: Team) -> object:
    """Three jobs; the second fails everywhere, and the run goes on."""
    if team.leads:
        for job in ("a", "b", "c"):
            team.order(job)
            try:
                share(team, job, [])
            except ItemError:
                continue
        return team.dismiss(3)
    done: list[str] = []
    status = team.follow(lambda job: share(team, job, done))
    return done, status


def share(team: Team, job: str, done: list[str]) -> None:
    with team.same_fate():
        if job == "b" and team.place == 1:
            raise ItemError("torn")
        team.add_up([torch.ones(1)])
    done.append(job)


@pytest.mark.slow
def test_followers_do_what_they_are_told_and_end_as_they_are_told() -> None:
    assert together(obey, size=3) == [None, (["a", "c"], 3), (["a", "c"], 3)]


# Alone, and among launchers


def test_a_process_alone_asks_nobody() -> None:
    ones = torch.ones(3)
    ALONE.add_up([ones])
    ALONE.must_agree("anything", "a")
    ALONE.order("a")
    ALONE.dismiss(0)
    assert ones.tolist() == [1, 1, 1]
    with pytest.raises(KeyError), ALONE.same_fate():
        raise KeyError
    assert "accelerate.state" not in sys.modules or not torch.distributed.is_initialized()


@given(st.lists(st.integers()), st.integers(1, 9))
def test_every_row_is_somebodys_and_nobody_is_idle(rows: list[int], size: int) -> None:
    shares = [Team(place, size).share(rows) for place in range(size)]
    assert sorted(row for share in shares for row in share) == sorted(rows)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_only_a_launcher_makes_a_team() -> None:
    told = environment(1, 4, 1)
    with joined(told, shard="auto") as team:
        assert team is ALONE
    with joined({"RANK": "1", "WORLD_SIZE": "4"}) as team:
        assert team is ALONE


def test_a_launcher_that_started_one_process_instead_of_several_is_told_of() -> None:
    asked = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}
    assert "torchrun" in processes.doubt(asked)
    assert not processes.doubt({"ACCELERATE_USE_CPU": "False"})
    assert not processes.doubt(asked | environment(0, 2, 1))


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def chosen(name: str) -> str:
        return str(resolve(Device(name=name), Watcher()).device)

    assert chosen("auto") == "cuda"
    monkeypatch.setattr(context.os, "environ", environment(1, 2, 1))
    assert [chosen(name) for name in ("auto", "cuda", "cuda:0", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cuda:0",
        "cpu",
    ]
    monkeypatch.setattr(context.os, "environ", environment(1, 3, 1))
    with pytest.raises(UsageError, match=r"3 processes .* 2 GPUs") as caught:
        chosen("auto")
    assert "start 2" in caught.value.fix
    assert chosen("cuda:0") == "cuda:0"
