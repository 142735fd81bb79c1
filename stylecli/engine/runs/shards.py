"""Which part of the work is this process's: ``i/n`` as typed, or as the scheduler says it.

A launcher (torchrun, `accelerate launch`) starts several processes for one command: either each has
a part of its own, or all do one part together, and the first of them speaks for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from stylecli.errors import UsageError

AUTO = "auto"
# What says which part of a job array this is, and so nothing about the processes of one part.
ARRAYS = {"SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"}


def parse(text: str, environ: Mapping[str, str]) -> tuple[int, int]:
    """``2/8`` -> ``(2, 8)``; counting starts at 1.

    Args:
        text: ``i/n``, or ``auto``.
        environ: What ``auto`` reads: of a Slurm array, an indexed Kubernetes job (with
            ``STYLE_SHARDS`` saying of how many), or torchrun and accelerate.

    Raises:
        UsageError: Anything else, or nothing here says which part this is.
    """
    if text == AUTO:
        return _scheduled(environ)
    index, slash, count = text.partition("/")
    if slash and _is_number(index) and _is_number(count) and 1 <= int(index) <= int(count):
        return int(index), int(count)
    raise UsageError(f"--shard {text!r} is not i/n", fix="use 1/8 to 8/8, or auto")


def launched(environ: Mapping[str, str]) -> int:
    """How many processes the launcher started; 1 without a launcher."""
    told = [environ.get(name, "") for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")]
    return int(told[-1]) if all(map(_is_number, told)) else 1


def together(shard: str | None, environ: Mapping[str, str]) -> int:
    """How many processes do this process's part of the work; 1 where it has one of its own.

    Args:
        shard: As typed; outside of a job array ``auto`` gives every process a part of its own.
        environ: Where launchers and schedulers say who is who.
    """
    is_apart = shard == AUTO and not ARRAYS & environ.keys()
    return 1 if is_apart else launched(environ)


def follows(shard: str | None, environ: Mapping[str, str]) -> bool:
    """Whether another process speaks for the part of the work that this one helps with."""
    return together(shard, environ) > 1 and int(environ["RANK"]) != 0


def _scheduled(environ: Mapping[str, str]) -> tuple[int, int]:
    if "SLURM_ARRAY_TASK_ID" in environ:
        return _slurm(environ)
    if "JOB_COMPLETION_INDEX" in environ:
        # Kubernetes tells a pod its index and not how many there are.
        count = environ.get("STYLE_SHARDS") or environ.get("JOB_COMPLETIONS")
        if not count:
            raise UsageError(
                "--shard auto: Kubernetes says JOB_COMPLETION_INDEX and not of how many",
                fix="set STYLE_SHARDS in the pod to the job's spec.completions",
            )
        return _checked(environ["JOB_COMPLETION_INDEX"], count, "JOB_COMPLETION_INDEX")
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _checked(environ["RANK"], environ["WORLD_SIZE"], "RANK")
    raise UsageError(
        "--shard auto: neither Slurm, Kubernetes nor torchrun says which part this is",
        fix="run it in a job array, or give --shard i/n",
    )


def _slurm(environ: Mapping[str, str]) -> tuple[int, int]:
    first = environ.get("SLURM_ARRAY_TASK_MIN", "0")
    last = environ.get("SLURM_ARRAY_TASK_MAX", "")
    count = environ.get("SLURM_ARRAY_TASK_COUNT", "")
    numbers = (environ["SLURM_ARRAY_TASK_ID"], first, count)
    if not all(map(_is_number, numbers)):
        raise UsageError(
            "--shard auto: SLURM_ARRAY_TASK_ID, _MIN and _COUNT are not all numbers",
            fix="submit it as an array, or give --shard i/n",
        )
    if _is_number(last) and int(last) - int(first) + 1 != int(count):
        # Tasks 3 and 7 of eight would be taken for the only two, and do everything.
        raise UsageError(
            f"--shard auto: the array runs from {first} to {last} in {count} tasks, with gaps",
            fix="submit all of it; what is done is skipped. Or give --shard i/n",
        )
    return _checked(str(int(numbers[0]) - int(first)), count, "SLURM_ARRAY_TASK_ID")


def _checked(index: str, count: str, name: str) -> tuple[int, int]:
    """From an index that starts at 0."""
    if _is_number(index) and _is_number(count) and int(index) < int(count):
        return int(index) + 1, int(count)
    raise UsageError(
        f"--shard auto: {name} is {index!r} of {count!r}", fix="give --shard i/n instead"
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
