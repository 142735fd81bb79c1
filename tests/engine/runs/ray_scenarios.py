"""Run by `test_ray_engine.py` in a process of its own: Ray needs sockets, which tests refuse.

``python ray_scenarios.py SCENARIO FOLDER`` prints one JSON value.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil

from stylecli.engine.plan import Input, Job
from stylecli.engine.runs import local, ray_cluster, ray_engine
from stylecli.engine.runs.making import Maker, Result
from stylecli.errors import ImageError, WeightsError


class Painter:
    """Slow, and open about which process it is."""

    batch = 2

    def load(self, job: Job) -> int:
        if job.content.path.name == "torn.png":
            raise ImageError("torn.png: damaged", fix="get it again")
        return job.seed

    def bucket(self, job: Job, loaded: int) -> int:
        return loaded % 2

    def make(self, group: Sequence[tuple[Job, int]]) -> Sequence[bytes]:
        if any(job.content.path.name == "deadly.png" for job, _ in group):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1 * len(group))
        return [bytes(seed * n % 251 for n in range(1000)) for _, seed in group]

    def save(self, job: Job, made: bytes) -> Mapping[str, Any]:
        job.output.write_bytes(made)
        return {"pid": os.getpid(), "node": os.environ.get("RAY_NODE_ID", "")}


class Listener:
    """A reporter that cannot travel, as no console can."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.counted = 0
        self._unpicklable = (n for n in range(1))

    def note(self, text: str) -> None:
        self.said.append(text)

    warn = note

    def task(self, label: str, total: int) -> Any:
        return nullcontext(self)

    def advance(self, n: int = 1) -> None:
        self.counted += n


def jobs(folder: str, names: Sequence[str]) -> list[Job]:
    Path(folder).mkdir()
    return [
        Job(
            f"key{n}", "transfer", (Input("content", Path(name), "0"),), Path(folder, f"{n}"), 7 * n
        )
        for n, name in enumerate(names)
    ]


def tell(results: Sequence[Result], listener: Listener, todo: Sequence[Job]) -> dict[str, Any]:
    files = {job.output.name: job.output.read_bytes().hex() for job in todo if job.output.exists()}
    return {
        "rows": sorted([r.job.output.name, r.status, r.error and r.error.code] for r in results),
        "errors": [r.error.as_row() for r in results if r.error],
        "counted": listener.counted,
        "said": listener.said,
        "files": files,
        "processes": len({r.details["pid"] for r in results if r.details}),
    }


def carry_out(
    todo: Sequence[Job], disturb: Callable[[list[Result]], None], start: Callable[[], Maker]
) -> dict[str, Any]:
    listener = Listener()

    def told() -> Maker:
        listener.note("started")
        return start()

    results: list[Result] = []
    for result in ray_engine.work(todo, told, listener):
        results.append(result)
        disturb(results)
    return tell(results, listener, todo)


def undisturbed(results: list[Result]) -> None:
    pass


def killed(folder: str) -> dict[str, Any]:
    """One process is killed after it has made a few; one picture cannot be read."""
    names = [f"{n}.png" for n in range(30)] + ["torn.png"]

    def kill(results: list[Result]) -> None:
        if len(results) == 4:
            os.kill(results[-1].details["pid"], signal.SIGKILL)

    here = jobs(f"{folder}/here", names)
    alone = Listener()
    expected = tell(list(local.work(here, Painter, alone)), alone, here)
    return {"local": expected, "ray": carry_out(jobs(f"{folder}/there", names), kill, Painter)}


def deadly(folder: str) -> dict[str, Any]:
    """One job kills whoever makes it."""
    names = [f"{n}.png" for n in range(5)]
    return carry_out(jobs(f"{folder}/there", [*names, "deadly.png"]), undisturbed, Painter)


def unplugged(folder: str, cluster: Any) -> dict[str, Any]:
    """A machine is gone for good."""

    def unplug(results: list[Result]) -> None:
        if len(results) == 4:
            (node,) = cluster.worker_nodes
            cluster.remove_node(node, allow_graceful=False)

    return carry_out(jobs(f"{folder}/there", [f"{n}.png" for n in range(20)]), unplug, Painter)


def refused(folder: str) -> dict[str, Any]:
    """No process can load the model."""

    def start() -> Maker:
        raise WeightsError("no such model", fix="pull it")

    try:
        return carry_out(jobs(f"{folder}/elsewhere", ["0.png", "1.png"]), undisturbed, start)
    except WeightsError as error:
        return error.as_row()


def stopped(folder: str) -> None:
    """Told to end while it works, on a cluster of its own."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)

    def interrupt(results: list[Result]) -> None:
        if len(results) == 1:
            family = psutil.Process().children(recursive=True)
            sys.stdout.write(json.dumps([process.pid for process in family]) + "\n")
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    carry_out(jobs(f"{folder}/there", [f"{n}.png" for n in range(200)]), interrupt, Painter)


STRANGER = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=20)))
"""


def guarded(folder: str) -> dict[str, Any]:
    """While it works, on a cluster of its own, others of this machine ask for its nodes."""
    answers: dict[str, str] = {}

    def ask(_: list[Result]) -> None:
        import ray

        address = ray.get_runtime_context().gcs_address
        known = {name: text for name, text in os.environ.items() if "RAY_AUTH" not in name}
        wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        for who, environ in (
            ("us", dict(os.environ)),
            ("stranger", known),
            ("liar", known | wrong),
        ):
            done = subprocess.run(
                [sys.executable, "-c", STRANGER, address],
                env=environ,
                capture_output=True,
                text=True,
                check=False,
            )
            answers[who] = done.stdout or done.stderr.splitlines()[-1]

    return carry_out(jobs(f"{folder}/there", ["0.png"]), ask, Painter) | {"answers": answers}


def main(scenario: str, folder: str) -> None:
    os.chdir(folder)
    if scenario == "stopped":
        stopped(".")
    elif scenario == "guarded":
        sys.stdout.write(json.dumps(guarded(".")) + "\n")
    else:
        sys.stdout.write(json.dumps(clustered(scenario)) + "\n")


def clustered(scenario: str) -> dict[str, Any]:
    """What comes of a scenario on two machines of one core each."""
    # As a command does: Ray reads how loud it is to be when it is imported.
    ray_cluster.imported(os.environ)
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": 80 * 2**20,
            "include_dashboard": False,
        },
    )
    cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        match scenario:
            case "killed":
                return killed(".")
            case "unplugged":
                return unplugged(".", cluster)
            case _:
                return {"deadly": deadly("."), "refused": refused(".")}
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
