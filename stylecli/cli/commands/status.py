"""`style status`: how far runs are, without disturbing them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylecli.cli.console import console
from stylecli.cli.options import examples, given_path
from stylecli.engine.runs.pace import duration, rate
from stylecli.errors import ItemError

if TYPE_CHECKING:
    from stylecli.engine.runs.status import Part, Status

ENDS = {0: "all done", 3: "some failed", 130: "interrupted", 143: "terminated"}


@examples("style status out/", "style status out/ --json")
def status(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="OUT", parser=given_path, help="Where runs wrote, or write."),
    ],
) -> None:
    """Show what is done, failed and left in folders of results, while runs go on or after."""
    from stylecli.engine.runs import status as engine

    failed = 0
    for folder in engine.folders(places):
        found = engine.read(folder)
        failed += found.failed
        console.result(_row(found), text="\n".join(_lines(found)))
    if failed:
        raise ItemError(
            f"{failed} item{'s' if failed > 1 else ''} failed",
            fix="the command that made the others, again, retries them",
        )


def _row(found: Status) -> dict[str, Any]:
    return {
        "folder": str(found.folder),
        "done": found.done,
        "failed": found.failed,
        "left": found.left,
        "items_per_minute": _rounded(found.per_minute),
        "seconds_left": _rounded(found.seconds_left),
        "failures": [{"output": one.output, "what": one.what} for one in found.failures],
        "runs": [
            {
                "command": part.command,
                "shard": None if part.shard is None else list(part.shard),
                "is_running": part.is_running,
                "items": part.items,
                "left": part.left,
                "started": part.started,
                "ended": part.ended,
                "exit_status": part.exit_status,
                "items_per_minute": _rounded(part.per_minute),
                "seconds_left": _rounded(part.seconds_left),
            }
            for part in found.parts
        ],
    }


def _lines(found: Status) -> list[str]:
    counts = f"{found.done} done, {found.failed} failed, {found.left} left"
    lines = [f"{found.folder}  {counts}{_pace(found)}"]
    lines += [f"  {_told(part)}" for part in found.parts]
    lines += [f"  failed  {one.output}: {one.what}" for one in found.failures]
    if found.failed > len(found.failures):
        lines.append(f"  failed  and {found.failed - len(found.failures)} before")
    return lines


def _told(part: Part) -> str:
    name = part.command if part.shard is None else f"{part.command} {part.shard[0]}/{part.shard[1]}"
    if part.is_running:
        return f"{name}  running, {part.left} of {part.items} left{_pace(part)}"
    if part.is_running is None:
        return f"{name}  running or killed, {part.left} of {part.items} left"
    how = "killed"
    if part.exit_status is not None:
        how = ENDS.get(part.exit_status, f"exit status {part.exit_status}")
    at = (part.ended or "").replace("T", " ")[:16]
    return f"{name}  ended {at} UTC, {how}, {part.left} of {part.items} left"


def _pace(of: Status | Part) -> str:
    pace = "" if of.per_minute is None else f", {rate(of.per_minute)}"
    return pace if of.seconds_left is None else f"{pace}, about {duration(of.seconds_left)} to go"


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)
