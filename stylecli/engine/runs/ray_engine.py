"""Carry out jobs on a Ray cluster: its processes load the model once and write the files.

What travels are jobs and rows, never pictures, so every machine has to see the same folders. Ray
gives the work of a process that died to another; that each job is told of once, and that one which
kills whoever makes it is given up, is seen to here.
"""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stylecli.engine.context import Reporter
from stylecli.engine.plan import Job
from stylecli.engine.runs import ray_cluster, ray_worker
from stylecli.engine.runs.making import Maker, Result
from stylecli.engine.runs.ray_worker import Chunk, Luggage, Row
from stylecli.errors import ItemError, StyleError, UsageError

# Jobs handed over together: few enough that a process that dies loses little.
CHUNK = 16
# Chunks for each process, at least, so that none waits long for the last.
SHARE = 4
# A network folder may go on saying for as long that a file is missing.
APPEARS_SECONDS = 60.0
# Variables that processes on other machines have to know.
TOLD = {
    "DIFFUSERS_VERBOSITY",
    "DO_NOT_TRACK",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_VERBOSITY",
}
ACTORS = "STYLE_RAY_ACTORS"


def work(
    todo: Sequence[Job], start: Callable[[], Maker], reporter: Reporter
) -> Generator[Result, None, None]:
    """A result for every job, as it is written; left early, what was started here is stopped.

    Raises:
        UsageError: Ray is not installed, or its cluster does not answer.
        StyleError: What would fail every job, such as missing weights, or a folder that the cluster
            does not see.
    """
    ray = ray_cluster.imported(os.environ)
    luggage = ray_worker.pack(start, reporter)
    with ray_cluster.joined(ray, os.environ):
        crew = _crew(ray.nodes(), luggage, os.environ)
        if crew.gpus and luggage.planned_on == "cpu":
            reporter.note(
                f"planned where there is no GPU, so the cluster's compute in {luggage.dtype}; "
                "--dtype changes it"
            )
        with reporter.task("items", len(todo)) as task:
            for result in _results(ray, todo, luggage, crew, reporter):
                task.advance()
                yield result


@dataclass(frozen=True, slots=True)
class Crew:
    """How many processes there are to be, and what each takes of its machine."""

    size: int
    cpus: int
    gpus: int


def _crew(nodes: Sequence[Mapping[str, Any]], luggage: Luggage, environ: Mapping[str, str]) -> Crew:
    """A process for each GPU; without, one for two CPUs of a machine.

    Raises:
        UsageError: A GPU was asked for and there is none, or the number in the environment is none.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in alive)
    if luggage.device.startswith("cuda") and not gpus:
        raise UsageError("the Ray cluster has no GPU", fix="use --device auto or cpu")
    asked = environ.get(ACTORS, "")
    if asked and not (asked.isascii() and asked.isdigit() and int(asked) > 0):
        raise UsageError(f"{ACTORS}={asked} is not a number above 0", fix="such as 4")
    if gpus and luggage.device.startswith(("auto", "cuda")):
        return Crew(min(int(asked or gpus), gpus), cpus=1, gpus=1)
    cores = [int(node.get("CPU", 0)) for node in alive if node.get("CPU", 0) >= 1] or [1]
    if asked:
        return Crew(int(asked), cpus=max(1, min(sum(cores) // int(asked), *cores)), gpus=0)
    cpus = min(2, *cores)
    return Crew(sum(core // cpus for core in cores), cpus=cpus, gpus=0)


def _results(
    ray: Any, todo: Sequence[Job], luggage: Luggage, crew: Crew, reporter: Reporter
) -> Iterator[Result]:
    """Hand out chunks, then one by one what got lost with others: the culprit is among them."""
    left = dict(enumerate(todo))
    heard: set[tuple[str, str]] = set()
    for size in (_chunk_size(len(todo), crew, luggage.batch), 1):
        lost = 0
        for row in _rows(ray, _chunks(left, size), luggage, crew):
            for kind, words in set(row.said) - heard:
                (reporter.warn if kind == "warn" else reporter.note)(words)
            heard.update(row.said)
            if row.status == "fatal" and row.error is not None:
                raise row.error
            lost += row.status == "lost"
            if lost >= ray_worker.TRIES * size and len(left) == len(todo):
                raise StyleError(
                    "processes of the Ray cluster die before they have made anything",
                    fix="they may lack memory; Ray's logs on their machine say more",
                )
            if row.status in ("done", "failed") and row.index in left:
                yield _settled(left.pop(row.index), row)
        if not left:
            return
    for job in left.values():
        name = job.inputs[0].path.name
        error = ItemError(
            f"{name}: {ray_worker.TRIES} processes died while they made it",
            fix="it may need more memory than their machine has",
        )
        yield Result(job, "failed", error=error)


def _chunk_size(jobs: int, crew: Crew, batch: int) -> int:
    """Whole batches, and not so many that processes wait for the last.

    >>> [_chunk_size(jobs, Crew(4, cpus=1, gpus=1), batch=4) for jobs in (1, 90, 9000)]
    [4, 8, 16]
    """
    fair = min(math.ceil(jobs / (crew.size * SHARE)), CHUNK)
    return math.ceil(fair / batch) * batch


def _chunks(left: Mapping[int, Job], size: int) -> list[Chunk]:
    jobs = list(left.items())
    return [jobs[at : at + size] for at in range(0, len(jobs), size)]


def _rows(ray: Any, chunks: Sequence[Chunk], luggage: Luggage, crew: Crew) -> Iterator[Row]:
    """What becomes of each job of some chunks.

    Raises:
        StyleError: Ray cannot go on, such as where a machine lacks this program.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    # Less than a row, so that each row is told of at once.
    context.target_max_block_size = 1
    known = {
        name: text for name, text in os.environ.items() if name.startswith("STYLE_") or name in TOLD
    }
    packed = [{"chunk": pickle.dumps(chunk)} for chunk in chunks]
    rows = ray.data.from_items(packed, override_num_blocks=len(packed)).map_batches(
        ray_worker.Worker,
        fn_constructor_args=(luggage, _counter(ray)),
        batch_size=1,
        batch_format="pyarrow",
        # One, because chunks that wait at a process die with it.
        compute=ray.data.ActorPoolStrategy(
            size=min(crew.size, len(packed)), max_tasks_in_flight_per_actor=1
        ),
        num_cpus=crew.cpus,
        num_gpus=crew.gpus,
        runtime_env={"env_vars": known},
    )
    try:
        for row in rows.iter_rows():
            yield pickle.loads(row["row"])  # noqa: S301 - from processes that were started here
    except ray.exceptions.RayError as error:
        said = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise StyleError(
            f"the Ray cluster gave up: {said[0].strip()}",
            fix="install the same stylecli and Ray on every machine; its logs say more",
        ) from error


def _counter(ray: Any) -> Any:
    """Counts how often each chunk was begun, outside of the processes that may die of it."""

    # In here, it travels as it is; named in a module, it would import torch where it arrives.
    class Tries:
        def __init__(self) -> None:
            self._begun: dict[tuple[int, ...], int] = {}

        def begin(self, chunk: tuple[int, ...]) -> int:
            self._begun[chunk] = self._begun.get(chunk, 0) + 1
            return self._begun[chunk]

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Tries).remote()


def _settled(job: Job, row: Row) -> Result:
    """A job's result, once its file is seen here.

    Raises:
        StyleError: It was written where this machine does not see it.
    """
    if row.status == "failed":
        return Result(job, "failed", row.seconds, row.error, row.details)
    deadline = time.monotonic() + APPEARS_SECONDS
    while not job.output.exists():
        if time.monotonic() > deadline:
            raise StyleError(
                f"{job.output} was written on another machine and is not seen here",
                fix="use an --output that every machine of the cluster sees",
            )
        time.sleep(0.2)
    return Result(job, "done", row.seconds, details=row.details)
