"""Who is told of a run beside the two streams, known before the command line is checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stylecli import __version__
from stylecli.cli import notify, unattended
from stylecli.cli.console import Listener, console
from stylecli.cli.events import EventLog
from stylecli.cli.notify import Notifier
from stylecli.cli.pages import HELP_NAMES, Group, Leaf
from stylecli.engine.runs import shards
from stylecli.errors import UsageError


def glimpse(program: Any, arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The command and its options, as far as they can be read from a line that may be wrong."""
    names: list[str] = []
    command, rest = program, list(arguments)
    while isinstance(command, Group) and any(not word.startswith("-") for word in rest):
        at = next(at for at, word in enumerate(rest) if not word.startswith("-"))
        names.append(rest[at])
        command, rest = command.commands.get(rest[at]), rest[at + 1 :]
    if not isinstance(command, Leaf):
        return " ".join(names), {}
    context = command.make_context(
        names[-1],
        rest,
        resilient_parsing=True,
        ignore_unknown_options=True,
        allow_extra_args=True,
        # Click keeps the first help option that it makes for a command.
        help_option_names=HELP_NAMES,
    )
    return " ".join(names), context.params


def begin(command: str, glimpsed: Mapping[str, Any]) -> None:
    """Let programs listen before anything else can go wrong.

    Args:
        command: As `glimpse` found it, like `glimpsed`.

    Raises:
        UsageError: A file of theirs cannot be written; the others listen all the same.
    """
    refused: UsageError | None = None
    for listener in _listeners(command, glimpsed):
        try:
            console.listen(listener())
        except UsageError as error:
            refused = refused or error
    console.tell("start", {"command": command, "version": __version__})
    if refused is not None:
        raise refused


def _listeners(command: str, glimpsed: Mapping[str, Any]) -> Iterator[Callable[[], Listener]]:
    if shards.follows(glimpsed.get("shard"), os.environ):
        return
    # The log first: it is closed last, and hears of trouble that the others have.
    if file := glimpsed.get("log_json"):
        yield partial(EventLog, file, console.warn)
    if line := glimpsed.get("notify"):
        yield partial(Notifier, notify.words(line), console.warn)
    # A run that only shows or submits the work is not one of those that are counted.
    is_work = not (glimpsed.get("dry_run") or glimpsed.get("submit"))
    if is_work and (file := glimpsed.get("prometheus")):
        from stylecli.cli.prometheus import Textfile  # brings in its library

        yield partial(Textfile, *_series(command, file, glimpsed), console.warn)


def _series(command: str, file: Path, glimpsed: Mapping[str, Any]) -> tuple[Path, dict[str, str]]:
    """Where the figures go and what tells them from those of other runs; parts have a file each."""
    # A name that is not valid UTF-8 has no place in the file.
    output = os.fsencode(glimpsed.get("output") or "").decode(errors="replace")
    labels = {"command": command, "output": output}
    shard = glimpsed.get("shard")
    if (part := unattended.part(shard)) is not None:
        index, count = part
        file = file.with_name(f"{file.stem}-{index}-of-{count}{file.suffix}")
        shard = f"{index}/{count}"
    return file, labels | ({"shard": shard} if shard else {})
