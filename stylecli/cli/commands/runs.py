"""`style show` and `style rerun`: what made a file, and the file made again."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylecli.cli.console import LISTED_FAILURES, console
from stylecli.cli.options import BackboneOpt, DeviceOpt, NulOpt, examples, given, given_path
from stylecli.errors import NotReproducedError, StyleError, UsageError

if TYPE_CHECKING:
    from stylecli.engine.again.origins import Origin
    from stylecli.engine.again.rerun import Again

FilesArg = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE",
        parser=given,
        help="Pictures, LoRAs, trajectories, masks' JSON; folders, globs, or - for a list.",
    ),
]
InputsOpt = Annotated[
    list[Path] | None,
    typer.Option(
        "--inputs",
        "-i",
        metavar="PLACE",
        parser=given_path,
        help="A folder or file to find inputs in, beside the usual places; repeatable.",
    ),
]
KeepOpt = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        parser=given,
        help="Keep the new file; a folder for many. Nothing is replaced.",
        rich_help_panel="Output",
    ),
]


@examples("style show out.png", "style show results/ --json")
def show(file: FilesArg, nul: NulOpt = False) -> None:
    """Print what made files: command, settings, seed, versions, model, inputs."""
    from stylecli.engine.again.origins import Origins, files_named

    origins = Origins()
    paths = files_named(file, origins, stdin=sys.stdin.read, nul=nul)
    for path in paths:
        try:
            origin = origins.of(path)
        except StyleError as error:
            _failed(path, error, alone=len(paths) == 1)
            continue
        row = {"file": str(path), "status": "done", "source": origin.source}
        console.result(row | {"provenance": dict(origin.facts)}, text=_page(path, origin))


def _page(path: Path, origin: Origin) -> str:
    """Readable YAML, one document a file."""
    import yaml

    says = "the file itself" if origin.source == "file" else "the journal beside it"
    body = yaml.safe_dump(dict(origin.facts), sort_keys=False, allow_unicode=True, width=100)
    return f"--- # {path}, as {says} says\n{body.rstrip()}"


@examples(
    "style rerun out.png",
    "style rerun results/ --inputs photos/ --inputs styles/ -o again/",
)
def rerun(
    file: FilesArg,
    inputs: InputsOpt = None,
    output: KeepOpt = None,
    nul: NulOpt = False,
    backbone: BackboneOpt = None,
    device: DeviceOpt = None,
) -> None:
    """Make files again from what they say of themselves, and compare them byte for byte.

    Inputs are found by what they hold: in --inputs, beside the file, and in the current folder.
    """
    from stylecli.engine.again import rerun as work
    from stylecli.engine.again.origins import Origins, files_named
    from stylecli.engine.again.readings import Machine

    for place in inputs or []:
        if not place.exists():
            raise UsageError(f"--inputs {place} does not exist", fix="check the name")
    origins = Origins()
    paths = files_named(file, origins, stdin=sys.stdin.read, nul=nul)
    kept = list(_kept(output, paths))
    locator = work.locator_for(paths, inputs or [])
    differing = []
    for path, keep in zip(paths, kept, strict=True):
        try:
            again = work.rerun(
                path, origins, locator, Machine(backbone, device), console, keep=keep
            )
        except StyleError as error:
            _failed(path, error, alone=len(paths) == 1)
            continue
        _report(again)
        if again.differences:
            differing.append(path.name)
    if differing:
        raise NotReproducedError(
            f"{differing[0]} came out different"
            if len(paths) == 1
            else f"{len(differing)} of {len(paths)} files came out different: {_some(differing)}",
            fix="the table says in what; the same versions, model and device give the same bytes",
        )


def _some(names: list[str]) -> str:
    """Names, and how many more there are where the line would be long."""
    rest = len(names) - LISTED_FAILURES
    return ", ".join(names[:LISTED_FAILURES]) + (f" and {rest} more" if rest > 0 else "")


def _kept(output: str | None, paths: list[Path]) -> Iterator[Path | None]:
    """Where each new file goes.

    Raises:
        UsageError: One file for several, or two of one name in a folder.
    """
    if output is None:
        yield from (None for _ in paths)
        return
    target = Path(output).expanduser()
    if not (output.endswith("/") or target.is_dir()):
        if len(paths) > 1:
            raise UsageError(
                f"--output {output} is a file, but there are {len(paths)} results",
                fix=f"a slash makes it a folder: -o {output}/",
            )
        yield target
        return
    names = Counter(path.name for path in paths)
    for path in paths:
        if names[path.name] > 1:
            raise UsageError(
                f"several files are called {path.name}, which -o {output} has room for once",
                fix="rerun them one by one",
            )
        yield target / path.name


def _failed(path: Path, error: StyleError, *, alone: bool) -> None:
    """A failure of one file among many; of the only one it is the command's.

    Raises:
        StyleError: The same, where nothing else is left to do.
    """
    if alone:
        raise error
    console.result(
        {"file": str(path), "output": str(path), "status": "failed", "error": error.as_row()}
    )


def _report(again: Again) -> None:
    status = "differs" if again.differences else "same"
    row = {
        "file": str(again.file),
        "status": status,
        "output": None if again.kept is None else str(again.kept),
        "differences": [one.as_row() for one in again.differences],
    }
    if not again.differences:
        console.result(row, text=f"{again.file}  the same bytes")
        return
    cells = [("what", "was", "is now")]
    cells += [(one.what, one.was, one.now) for one in again.differences]
    widths = [max(len(cell[column]) for cell in cells) for column in (0, 1)]
    lines = [f"  {what:<{widths[0]}}  {was:<{widths[1]}}  {now}" for what, was, now in cells]
    console.result(row, text="\n".join([f"{again.file}  differs", *lines]))
