"""From what was typed to what is done: the recipe of a run, and carrying out what was prepared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING

import typer

from stylecli.cli import dry_run as dry_run_page
from stylecli.cli.console import console
from stylecli.cli.progress import Silent
from stylecli.errors import ItemError, StyleError

if TYPE_CHECKING:
    from stylecli.cli.unattended import Running, Submission
    from stylecli.engine.context import Reporter
    from stylecli.engine.request import Prepared
    from stylecli.engine.runs.making import Result
    from stylecli.recipe.load import Resolved
    from stylecli.recipe.schema import Recipe


def settings(
    recipe: str | None,
    overrides: Sequence[str] | None,
    flags: Mapping[str, object] | None = None,
) -> Resolved:
    """The recipe a command runs with: file, environment, ``--set`` and the command's own flags.

    Args:
        recipe: What ``--recipe`` was given.
        overrides: What every ``--set`` was given.
        flags: Dotted key -> the value of a flag; None means the flag was not given.

    Raises:
        RecipeError: Every fault, each with its place.
    """
    from stylecli.recipe.load import load  # a tenth of a second, which --help need not wait for

    given = {key: value for key, value in (flags or {}).items() if value is not None}
    resolved = load(recipe, overrides=overrides or (), environ=os.environ, flags=given)
    for text in resolved.notes:
        console.warn(text)
    return resolved


class _Unheard:
    """A reporter of what will be said again."""

    def note(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""

    def task(self, label: str, total: int) -> AbstractContextManager[Silent]:
        """No progress."""
        return nullcontext(Silent())


def fitted(
    resolved: Resolved,
    gigabytes: float | None,
    running: Running,
    prepare: Callable[[Recipe, Reporter], Prepared],
) -> Resolved:
    """The recipe with what ``--fit`` chooses for it; without, as it is.

    Args:
        gigabytes: What ``--fit`` was given.
        prepare: Checks the command under a recipe; what it will do tells what it will take.

    Raises:
        UsageError: Nothing fits.
    """
    # Work that is submitted is carried out by this same command, at a machine that may have more.
    if gigabytes is None or running.submit is not None:
        return resolved
    prepared = prepare(resolved.recipe, _Unheard())
    choice = prepared.fitting(gigabytes, resolved.decided())
    return resolved.with_values(choice.values, f"--fit {gigabytes:g}")


def fit_and_carry_out(
    resolved: Resolved,
    gigabytes: float | None,
    running: Running,
    prepare: Callable[[Recipe, Reporter], Prepared],
    submission: Submission | None,
) -> None:
    """Choose what ``--fit`` leaves open, prepare under that, and `carry_out`.

    Raises:
        UsageError: Nothing fits.
    """
    with planned(running):
        resolved = fitted(resolved, gigabytes, running, prepare)
        prepared = prepare(running.recipe(resolved), console)
    carry_out(prepared, resolved, dry_run=running.dry_run, submission=submission)


@contextmanager
def planned(running: Running) -> Iterator[None]:
    """Inside, what is only shown needs no weights."""
    from stylecli.engine.session import planning

    with planning() if running.dry_run else nullcontext():
        yield


def carry_out(
    prepared: Prepared,
    resolved: Resolved,
    *,
    dry_run: bool,
    submission: Submission | None = None,
) -> None:
    """Do what was prepared and say what became of each item.

    Args:
        dry_run: Only show it.
        submission: Hand it to a scheduler instead.
    """
    if resolved.assumed:
        console.note(resolved.assumed)
    for line in prepared.notes:
        console.note(line)
    if console.is_heard:
        # Otherwise not worth a look at every output.
        items = len(prepared.plan.jobs)
        console.tell("plan", {"items": items, "todo": prepared.todo()})
    if submission is not None:
        submission.hand_on(dry_run=dry_run)
        return
    if dry_run:
        dry_run_page.show(console, resolved, prepared)
        return
    # Closed at once where it is left, so that the journal hears of the end.
    with closing(prepared.run()) as results:
        for result in results:
            console.result(result.row(), text=_line(result))
            if said := _verified(result):
                console.note(said)


def _verified(result: Result) -> str | None:
    """What sampling back lost of a picture that was inverted, where that was asked for."""
    found = result.details
    if "psnr_reconstruction" not in found:
        return None
    return (
        f"verified  {result.job.output.name}: {found['psnr_reconstruction']} dB of the picture, of "
        f"{found['psnr_vae']} dB that the autoencoder keeps"
    )


def carry_out_together(
    prepare: Callable[..., Prepared],
    resolved: Resolved,
    running: Running,
    submission: Submission | None,
) -> None:
    """`carry_out` by all processes of a launcher; those that do not lead are silent.

    Args:
        prepare: Checks the command; takes the team. What it starts is a `following.Helper`.

    Raises:
        typer.Exit: In a process that followed.
    """
    from stylecli.engine.runs import processes
    from stylecli.engine.training.following import follow

    with processes.joined(os.environ, shard=running.shard) as team:
        if not team.leads:
            console.set_mode(quiet=True, debug=console.debug)
            status = follow(prepare, team)
        else:
            with team.same_fate(), planned(running):
                prepared = prepare(team=team)
            try:
                carry_out(prepared, resolved, dry_run=running.dry_run, submission=submission)
            except StyleError as error:
                team.dismiss(error.exit_status)
                raise
            status = ItemError.exit_status if console.counts["failed"] else 0
            team.dismiss(status)
    if not team.leads:
        raise typer.Exit(status)


def _line(result: Result) -> str | None:
    return None if result.status == "failed" else str(result.job.output)
