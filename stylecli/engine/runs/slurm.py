"""A command as a Slurm job array: the script, and handing it over.

Tasks are numbered 1 to N without gaps, which is what ``--shard auto`` (`engine.runs.shards`) reads
back from Slurm's environment.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from stylecli.artifacts.files import write_atomic
from stylecli.errors import UsageError

SCRIPT = "submit.sbatch"
# Beside the outputs; Slurm discards what a task says when its folder is not there.
LOGS = "slurm-logs"
# What belongs to the submission and not to a task; those in the second set have a value.
FLAGS = frozenset({"--dry-run"})
# Flags of one letter may be typed as one word, at whose end may be an option with its value.
_CLUSTER = re.compile(r"-([0nq]+)(.*)", re.DOTALL)
# What is read from standard input.
STDIN = frozenset({"-", "--prompts=-"})
OPTIONS = frozenset({"--submit", "--tasks", "--sbatch"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
# Slurm reads a comment's arguments as a shell would, with the backslash as its only escape.
_SPECIAL = re.compile(r"([\\\"'#\s])")


def script(
    argv: Sequence[str], *, tasks: int, options: Sequence[str], name: str, folder: Path
) -> str:
    """A file for ``sbatch`` in which each task does its part of a command.

    Args:
        argv: What was typed after ``style``.
        tasks: How many share the work.
        options: Lines of ``#SBATCH``; the two dashes may be left out. They win over what is here.
        name: Of the job.
        folder: Of the outputs, as it was typed; logs go below it.

    Raises:
        UsageError: A line that would be two, an empty one, no task, or a command that names its own
            part or reads from a terminal that tasks do not have.
    """
    if tasks < 1:
        raise UsageError(f"--tasks {tasks} is not above 0", fix="such as --tasks 8")
    logs = f"{folder / LOGS}/".replace("%", "%%") + "%A_%a.log"
    lines = [
        _option(f"--job-name={_escaped(name)}"),
        _option(f"--array=1-{tasks}"),
        _option(f"--output={_escaped(logs)}"),
        *(_option(option.strip()) for option in options),
    ]
    # Not `style`, which need not be on the path of a task.
    command = shlex.join([sys.executable, "-m", "stylecli", *_of_a_task(argv)])
    return "\n".join(
        [
            "#!/bin/bash",
            "# Submit it in the folder where the command was typed, where its names are right:",
            f"#   sbatch {_one_line(shlex.quote(str(folder / SCRIPT)), '--output')}",
            "# Submitting it again makes what is missing and nothing else.",
            *lines,
            "set -euo pipefail",
            # In place of the shell, so that Slurm's signals reach it and it ends its items well.
            f"exec {command}",
            "",
        ]
    )


def submit(text: str, folder: Path) -> str:
    """Write a script beside the outputs, hand it to Slurm and return the job's id.

    Raises:
        UsageError: There is no ``sbatch`` here, or it refused; the script is written all the same.
        ItemError: The folder cannot be written.
    """
    file = folder / SCRIPT
    write_atomic(file, text.encode(errors="surrogateescape"))
    (folder / LOGS).mkdir(exist_ok=True)
    by_hand = f"sbatch {shlex.quote(str(file))}"
    program = shutil.which("sbatch")
    if program is None:
        raise UsageError(
            f"no sbatch on this machine; {file} is written",
            fix=f"on a machine that has it, in this folder: {by_hand}",
        )
    done = subprocess.run(  # noqa: S603 - a program and a file, and no shell between
        [program, "--parsable", str(file.absolute())], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise UsageError(
            f"sbatch refused {file}: {said[-1].strip()}",
            fix=f"change --sbatch or --tasks, or edit the file and type: {by_hand}",
        )
    # The name of the cluster may follow.
    return done.stdout.strip().partition(";")[0]


def _of_a_task(argv: Sequence[str]) -> list[str]:
    """The same command for one task."""
    options, dashes, rest = _split(argv)
    kept = list(_without_submission(options))
    if any(word == "--shard" or word.startswith("--shard=") for word in kept):
        raise UsageError("--shard and --submit both divide the work", fix="leave out --shard")
    if not STDIN.isdisjoint(kept) or "-" in rest:
        raise UsageError(
            "the tasks of an array have no stdin to read a list from",
            fix="write it to a file: --manifest jobs.csv",
        )
    return [*kept, "--shard", "auto", *dashes, *rest]


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """What may be options, the ``--`` that ends them, and what follows it."""
    end = argv.index("--") if "--" in argv else len(argv)
    return argv[:end], argv[end : end + 1], argv[end + 1 :]


def _without_submission(argv: Sequence[str]) -> Iterator[str]:
    words = iter(argv)
    for word in words:
        if word in OPTIONS:
            next(words, None)
        elif cluster := _CLUSTER.fullmatch(word):
            if kept := cluster[1].replace("n", "") + cluster[2]:
                yield f"-{kept}"
        elif word not in FLAGS and word.partition("=")[0] not in OPTIONS:
            yield word


def _option(text: str) -> str:
    if not _one_line(text, "--sbatch").strip("-"):
        raise UsageError("--sbatch is empty", fix="such as --sbatch gres=gpu:1")
    return f"#SBATCH {text if text.startswith('-') else f'--{text}'}"


def _one_line(text: str, what: str) -> str:
    if _CONTROL.search(text):
        raise UsageError(
            f"{what} {text!r} holds a line break or another control character",
            fix="give one line; repeat the option for more",
        )
    return text


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
