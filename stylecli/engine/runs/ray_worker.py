"""One process of a Ray cluster: what it brings along, how it makes jobs, what it tells of them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Literal

from stylecli import __version__
from stylecli.backbone import registry
from stylecli.engine.context import Reporter, Task
from stylecli.engine.plan import Job
from stylecli.engine.runs import local
from stylecli.engine.runs.making import Maker, Result
from stylecli.engine.session import Session
from stylecli.errors import StyleError, UsageError, WeightsError
from stylecli.recipe.schema import Recipe

# So many deaths over the same jobs are no accident.
TRIES = 3
# Jobs that are handed over together, with their places in the run.
Chunk = Sequence[tuple[int, Job]]
REPORTER = "reporter"


@dataclass(frozen=True, slots=True)
class Row:
    """What is told of one job.

    Attributes:
        index: The job's place in the run.
        status: ``lost`` is given up, because those that had it before died; ``fatal`` is what
            would fail every job.
        said: For the user: ``note`` or ``warn``, and the words.
    """

    index: int
    status: Literal["done", "failed", "lost", "fatal"]
    seconds: float = 0.0
    error: StyleError | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    said: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Luggage:
    """What a process has to have before its first job.

    Attributes:
        start: Pickled, without the model and without the console.
        folder: Where relative names start.
        device: As the recipe has it; ``cpu`` where the work needs no model.
        planned_on: What that came to where the run was planned.
        dtype: Is part of every key, so a GPU elsewhere must not change it.
        batch: Jobs that the model makes together.
    """

    start: bytes
    folder: str
    version: str = __version__
    device: str = "cpu"
    planned_on: str = "cpu"
    dtype: str = "float32"
    batch: int = 1


def pack(start: Callable[[], Maker], reporter: Reporter) -> Luggage:
    """Make `start` fit to travel; the model is not loaded here for it."""
    from ray import cloudpickle

    sessions: list[Session] = []

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def persistent_id(self, value: object) -> str | None:
            return REPORTER if value is reporter else None

        def reducer_override(self, value: Any) -> Any:
            if not isinstance(value, Session):
                return super().reducer_override(value)
            sessions.append(value)
            return _reopened, (value.recipe, _dtype(value), value.fingerprint, reporter)

    stream = BytesIO()
    Pickler(stream).dump(start)
    folder = os.getcwd()  # noqa: PTH109 - a link's own name, which other machines know too
    if not sessions:
        return Luggage(stream.getvalue(), folder)
    session = sessions[0]
    return Luggage(
        stream.getvalue(),
        folder,
        device=session.recipe.device.name,
        planned_on=session.context.device.type,
        dtype=_dtype(session),
        batch=session.recipe.device.batch,
    )


def unpack(luggage: Luggage, reporter: Reporter) -> Callable[[], Maker]:
    """The `start` that was packed, telling `reporter`.

    Raises:
        UsageError: This machine cannot compute as was planned.
        WeightsError: It has no such weights, or others.
    """

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, name: str) -> Reporter:
            return reporter

    start: Callable[[], Maker] = Unpickler(BytesIO(luggage.start)).load()
    return start


def _dtype(session: Session) -> str:
    return str(session.context.dtype).removeprefix("torch.")


def _reopened(recipe: Recipe, dtype: str, fingerprint: str, reporter: Reporter) -> Session:
    """The session of a run, with the device and the weights of this machine."""
    device = recipe.device
    # Ray shows a process its own GPU and no other, so whichever it is, it is the first.
    name = "cuda" if device.name.startswith("cuda") else device.name
    device = device.model_copy(update={"name": name, "dtype": dtype})
    kind = registry.find(recipe.backbone.id).kind
    opened = recipe.model_copy(update={"device": device})
    session = Session.open(opened, reporter, kinds=(kind,))
    if session.fingerprint != fingerprint:
        raise WeightsError(
            f"{recipe.backbone.id}: a machine of the cluster has other weights of that name",
            fix="put the same files on every machine, or in a folder that all of them see",
        )
    session.recipe, session.device = recipe, recipe.device
    return session


class Relay:
    """Keeps what is said to the user until a row takes it along."""

    def __init__(self) -> None:
        self._said: list[tuple[str, str]] = []

    def note(self, text: str) -> None:
        self._said.append(("note", text))

    def warn(self, text: str) -> None:
        self._said.append(("warn", text))

    def task(self, label: str, total: int) -> AbstractContextManager[Task]:
        """Nothing: progress is counted where the rows arrive."""
        return nullcontext(_Uncounted())

    def taken(self) -> list[tuple[str, str]]:
        said, self._said = self._said, []
        return said


class _Uncounted:
    def advance(self, n: int = 1) -> None:
        """Nobody looks."""


class Worker:
    """Makes chunks of jobs, one after another, with what it loaded for the first."""

    def __init__(self, luggage: Luggage, tries: Any) -> None:
        self._luggage = luggage
        self._tries = tries
        self._relay = Relay()
        self._maker: Maker | None = None

    def __call__(self, batch: Any) -> Iterator[dict[str, list[bytes]]]:
        """Rows in the order of the jobs.

        Ray counts what it got of a process that dies, and drops as many of the next one's: any
        other order would lose one row and bring another twice.
        """
        import ray

        for packed in batch.column("chunk").to_pylist():
            chunk: Chunk = pickle.loads(packed)  # noqa: S301 - from the process that started this
            indexes = tuple(index for index, _ in chunk)
            if ray.get(self._tries.begin.remote(indexes)) > TRIES:
                rows: Iterable[Row] = [Row(index, "lost") for index in indexes]
            else:
                rows = self._rows(chunk)
            for row in rows:
                yield {"row": [pickle.dumps(row)]}

    def _rows(self, chunk: Chunk) -> Iterator[Row]:
        jobs = [job for _, job in chunk]
        try:
            results = in_order(jobs, local.work(jobs, self._started, self._relay))
            for (index, _), result in zip(chunk, results, strict=True):
                status: Literal["done", "failed"] = "done" if result.status == "done" else "failed"
                yield Row(
                    index, status, result.seconds, result.error, result.details, self._relay.taken()
                )
        except StyleError as error:
            yield Row(chunk[0][0], "fatal", error=error, said=self._relay.taken())
        except Exception as error:
            yield Row(chunk[0][0], "fatal", error=local.unforeseen(error))

    def _started(self) -> Maker:
        if self._maker is None:
            self._settle_in()
            self._maker = unpack(self._luggage, self._relay)()
        return self._maker

    def _settle_in(self) -> None:
        """Raises UsageError where this machine is not as the one where the run was planned."""
        if self._luggage.version != __version__:
            raise UsageError(
                f"a machine of the cluster has stylecli {__version__}, and the run is of "
                f"{self._luggage.version}",
                fix="install the same version on every machine",
            )
        try:
            os.chdir(self._luggage.folder)
        except OSError as error:
            raise UsageError(
                f"a machine of the cluster does not see this folder: {error.strerror}",
                fix="work in a folder that every machine sees under the same name",
            ) from error


def in_order(jobs: Sequence[Job], results: Iterable[Result]) -> Iterator[Result]:
    """Results in the order of their jobs, each as early as that allows."""
    early: dict[object, Result] = {}
    waiting = list(reversed(jobs))
    for result in results:
        early[result.job.output] = result
        while waiting and waiting[-1].output in early:
            yield early.pop(waiting.pop().output)
