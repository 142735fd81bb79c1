"""What is kept of a training that is cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from stylecli.engine.context import Reporter
from stylecli.engine.runs.local import is_out_of_memory
from stylecli.engine.training.state import Learner, Place
from stylecli.errors import ItemError, StyleError


@contextmanager
def kept(
    trainer: Learner, place: Place, save: Callable[[], None], reporter: Reporter
) -> Iterator[None]:
    """A step, cut off in which a training keeps what it had learned before.

    Args:
        save: Makes a checkpoint.
    """
    done = trainer.done
    try:
        yield
    except BaseException as error:
        # Cut off before anything was learned of the step, be it the first: what is looked at
        # before that takes as long as many steps.
        is_whole = not trainer.is_torn and trainer.done == done
        if _is_end(error) and is_whole and place.newest() != done:
            reporter.note(f"keeping what {done} steps have learned")
            with suppress(ItemError):  # older checkpoints are still there
                save()
        raise


def _is_end(error: BaseException) -> bool:
    """Whether it leaves tensors as they were: a signal, too little memory, or what users mend."""
    if not isinstance(error, Exception):  # a signal's
        return True
    return isinstance(error, StyleError) or is_out_of_memory(error)
