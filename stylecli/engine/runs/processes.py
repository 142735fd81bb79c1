"""Several processes that train one LoRA together: each does its share, all end alike.

`accelerate launch` and torchrun start one command several times. The first of these processes
leads: it alone locks, writes and prints. The others follow: they hear which job is next, do their
share of it, and end with the exit status they are told. What fails in one of them fails in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from stylecli.engine.runs import shards
from stylecli.errors import StyleError, UsageError

# A follower may wait as long as its leader queues for a lock; launchers end it when that one dies.
PATIENCE = timedelta(days=30)

T = TypeVar("T")


class Team:
    """The processes of one launcher, seen from one of them; by default a process alone.

    Everything that is said takes all of them. Inside `same_fate` whatever one process raises ends
    the block in every other, at the next thing it says.
    """

    def __init__(self, place: int = 0, size: int = 1) -> None:
        self.place = place
        self.size = size
        # Raised here because another process raised it: everybody knows of it.
        self._shared: BaseException | None = None
        # Cut off in the middle of a word, a process can say nothing that would be understood.
        self._is_talking = False

    @property
    def leads(self) -> bool:
        return self.place == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the items; the parts of all are the whole."""
        return items[self.place :: self.size]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their sums over all processes, in one message.

        Raises:
            StyleError: Another process has ended; or its own error, where it raised one.
        """
        if self.size == 1:
            return
        from accelerate.utils import reduce

        flat = torch.cat([tensor.flatten() for tensor in tensors])
        self._agree(None)
        total: Tensor = self._say(partial(reduce, flat, "sum"))
        parts = total.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def must_agree(self, what: str, value: str) -> None:
        """Make sure that all work on the same.

        Raises:
            UsageError: A process has another value.
        """
        if self.size == 1:
            return
        from accelerate.utils import gather_object

        self._agree(None)
        values: list[str] = self._say(partial(gather_object, [value]))
        if len(set(values)) > 1:
            raise UsageError(
                f"the {self.size} processes see different {what}",
                fix="inputs, recipe and --output must be the same files on every machine",
            )

    @contextmanager
    def same_fate(self) -> Iterator[None]:
        """What one process raises in this block, all raise; none leaves it before all have."""
        try:
            yield
        except BaseException as error:
            if self.size > 1 and error is not self._shared and not self._is_talking:
                # A process that has ended need not be told why this one does.
                with suppress(StyleError):
                    self._agree(error)
            raise
        if self.size > 1:
            self._agree(None)

    def order(self, job: str) -> None:
        """For the one that leads: name the job that all work on next.

        Raises:
            StyleError: Another process has ended.
        """
        self._order(job)

    def dismiss(self, exit_status: int) -> None:
        """For the one that leads: tell the others how to end; those that have need not be told."""
        if not self._is_talking:
            with suppress(StyleError):
                self._order(exit_status)

    def follow(self, work: Callable[[str], object]) -> int:
        """For the others: do one's share of every job, until told the exit status.

        Raises:
            StyleError: Another process has ended.
        """
        from accelerate.utils import broadcast_object_list

        while True:
            order: str | int = self._say(partial(broadcast_object_list, [""]))[0]
            if isinstance(order, int):
                return order
            try:
                work(order)
            except Exception:
                # The one that leads has the same error, and decides what it means.
                if self._is_talking:
                    raise

    def _order(self, order: str | int) -> None:
        if self.size > 1:
            from accelerate.utils import broadcast_object_list

            self._say(partial(broadcast_object_list, [order]))

    def _agree(self, own: BaseException | None) -> None:
        """Learn whether all is well everywhere; raise what another process failed with."""
        from accelerate.utils import gather_object, reduce

        failed = torch.tensor([0.0 if own is None else 1.0])
        if not self._say(partial(reduce, failed, "sum")).item():
            return
        errors = self._say(partial(gather_object, [None if own is None else _portable(own)]))
        if own is None:
            shared: BaseException = next(error for error in errors if error is not None)
            self._shared = shared
            raise shared

    def _say(self, message: Callable[[], T]) -> T:
        self._is_talking = True
        try:
            answer = message()
        except RuntimeError as error:
            raise StyleError(
                "another process of this run has ended",
                fix="its own message is above; the same command goes on from the last state",
            ) from error
        self._is_talking = False
        return answer


ALONE = Team()


@contextmanager
def joined(environ: Mapping[str, str], *, shard: str | None = None) -> Iterator[Team]:
    """Meet the other processes of the launcher, where there is one.

    Args:
        environ: Where launchers say who is who.
        shard: As typed; ``auto`` may mean that every process works alone, on a part of its own.

    Raises:
        UsageError: They cannot be reached.
    """
    if shards.together(shard, environ) == 1:
        yield ALONE
        return
    from accelerate import PartialState

    has_gpus = torch.cuda.device_count() >= int(environ.get("LOCAL_WORLD_SIZE", 1))
    try:
        state = PartialState(
            cpu=not has_gpus,
            backend="cpu:gloo,cuda:nccl" if has_gpus else "gloo",
            timeout=PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"the {shards.launched(environ)} processes of this run do not find one another: "
            + str(error).partition("\n")[0],
            fix="start them all with accelerate launch or torchrun, on a free --main_process_port",
        ) from error
    yield Team(state.process_index, state.num_processes)
    # Not after a failure: it would wait for processes that are gone.
    state.destroy_process_group()


def doubt(environ: Mapping[str, str]) -> str:
    """What is to be said of a launcher that did not do what was asked of it."""
    if (
        "ACCELERATE_USE_CPU" in environ
        and "MASTER_ADDR" in environ
        and shards.launched(environ) == 1
    ):
        return (
            "accelerate launch starts a single process on CPUs; "
            "torchrun --nproc-per-node 2 -m stylecli train-lora … starts two"
        )
    return ""


def _portable(error: BaseException) -> BaseException:
    """The same error, or one that says as much, fit to be sent."""
    known = (StyleError, MemoryError, torch.OutOfMemoryError)
    if isinstance(error, known) or not isinstance(error, Exception):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
