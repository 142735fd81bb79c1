"""Every option that more than one command has, described once; and the examples of a help page.

``--json``, ``-q`` and ``--debug`` are not among a command's parameters: `stylecli.cli.app` adds
them to every command. Options that set a recipe key default to None: "as the recipe says".
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

SETTINGS = "Settings"
OUTPUT = "Output"
RUN = "Run"
# Where a command has --help-all, that alone shows this panel.
RARE = "More"

F = TypeVar("F", bound=Callable[..., None])


def _recipes(incomplete: str) -> list[str]:
    from stylecli.recipe.load import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


def given(text: str) -> str:
    """Text that is not empty: mostly a shell variable that was not set."""
    if not text:
        raise typer.BadParameter("it is empty")
    return text


def given_path(text: str) -> Path:
    """A path that is not empty, which would mean the current folder."""
    return Path(given(text))


def _gigabytes(text: str) -> float:
    """An amount of memory; not NaN, nor without end."""
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if not 0 < amount < math.inf:
        raise typer.BadParameter(f"{text!r} is no amount of memory in GB, such as 8 or 11.5")
    return amount


def _output(text: str) -> str:
    if text == "-":
        raise typer.BadParameter("results are files; ./- if one is to have that name")
    return given(text)


def _pattern(text: str) -> str:
    """A name template whose braces come in pairs; its fields are checked once they are known."""
    try:
        list(string.Formatter().parse(text))
    except ValueError as error:
        raise typer.BadParameter(
            f"a brace in {text!r} has no partner; write {{{{ or }}}} for a brace in a name"
        ) from error
    return given(text)


ContentArg = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONTENT",
        parser=given,
        help="Pictures, folders, globs, or - for a list on standard input.",
    ),
]
ManifestOpt = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        parser=given_path,
        help="Rows of content, style, lora, output, …; .jsonl or .csv.",
        rich_help_panel=RUN,
    ),
]
NulOpt = Annotated[
    bool,
    typer.Option("-0", help="The list on standard input is NUL-separated.", rich_help_panel=RARE),
]
GuidanceOpt = Annotated[
    float | None,
    typer.Option(
        "--guidance", metavar="G", help="Guidance scale; 1 is off.", rich_help_panel=SETTINGS
    ),
]
StepsOpt = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        help="Sampling steps; shares of them scale along.",
        rich_help_panel=SETTINGS,
    ),
]
PromptOpt = Annotated[
    str | None,
    typer.Option(
        "--prompt", metavar="TEXT", help="Default: the LoRAs' captions.", rich_help_panel=SETTINGS
    ),
]
RegionOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="MASK=LORA[@PROMPT]",
        parser=given,
        help="MASK is a picture or text:WORDS; LORA may be a schedule, or a style picture; "
        "repeatable, later ones on top.",
    ),
]
NegativeLoraOpt = Annotated[
    str | None,
    typer.Option(
        "--negative-lora",
        metavar="WHICH",
        parser=given,
        help="For the negative prompt: neutral, same, none, or a LoRA.",
        rich_help_panel=RARE,
    ),
]
ScheduleOpt = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        metavar="LORA:A-B,…",
        parser=given,
        help="Which LoRA from step A up to B, or shares of all: a:0-30,b*0.8+c:60%-.",
    ),
]
SheetOpt = Annotated[
    bool,
    typer.Option(
        "--sheet",
        help="Also write a sheet of all parts with figures; costs more runs.",
        rich_help_panel=OUTPUT,
    ),
]
RecipeOpt = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="NAME|FILE",
        parser=given,
        help="A name from `style recipes list`, or a YAML file.",
        rich_help_panel=SETTINGS,
        autocompletion=_recipes,
    ),
]
SetOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting of the recipe; repeatable.",
        rich_help_panel=SETTINGS,
    ),
]
BackboneOpt = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME|DIR",
        parser=given,
        help="A name from `style models list`, or a folder.",
        rich_help_panel=SETTINGS,
    ),
]
ForceResumeOpt = Annotated[
    bool,
    typer.Option(
        "--force-resume",
        help="Go on from a checkpoint of other settings or data.",
        rich_help_panel=SETTINGS,
    ),
]
DeviceOpt = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:N or mps.",
        rich_help_panel=SETTINGS,
    ),
]
DtypeOpt = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="TYPE",
        help="auto, float32, bfloat16 or float16.",
        rich_help_panel=SETTINGS,
    ),
]
SeedOpt = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        help="Seed of the run; every item derives its own.",
        rich_help_panel=SETTINGS,
    ),
]
OutputOpt = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        parser=_output,
        help="A file for one result, a folder for many.",
        rich_help_panel=OUTPUT,
    ),
]
FolderOpt = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        parser=given_path,
        help="Folder to write to.",
        rich_help_panel=OUTPUT,
    ),
]
NameOpt = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="PATTERN",
        parser=_pattern,
        help="Names, of {folder}, {content}, {ext}, {style}, {key}.",
        rich_help_panel=OUTPUT,
    ),
]
OverwriteOpt = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace outputs that were made from something else.",
        rich_help_panel=OUTPUT,
    ),
]
StripOpt = Annotated[
    bool,
    typer.Option(
        "--strip-metadata",
        help="Leave out of files what made them; see runs.jsonl.",
        rich_help_panel=OUTPUT,
    ),
]
BatchOpt = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="N",
        help="Items the model makes together, as the memory allows.",
        rich_help_panel=SETTINGS,
    ),
]
FitOpt = Annotated[
    float | None,
    typer.Option(
        "--fit",
        metavar="GB",
        parser=_gigabytes,
        help="Choose batch, tiles and the like: the fastest that fits.",
        rich_help_panel=SETTINGS,
    ),
]
DryRunOpt = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        "-n",
        help="Show the recipe and the plan, and do nothing.",
        rich_help_panel=RUN,
    ),
]
WaitOpt = Annotated[
    bool,
    typer.Option(
        "--wait",
        help="Queue behind another run on the same output.",
        rich_help_panel=RUN,
    ),
]
AllowDownloadOpt = Annotated[
    bool,
    typer.Option(
        "--allow-download",
        help="Fetch missing weights; never done otherwise.",
        rich_help_panel=RUN,
    ),
]
WeightsDirOpt = Annotated[
    Path | None,
    typer.Option(
        "--weights-dir",
        metavar="DIR",
        parser=given_path,
        help="Where weights of metrics lie, as FAMILY/FILE.",
        rich_help_panel=SETTINGS,
    ),
]
JsonOpt = Annotated[
    bool,
    typer.Option("--json", help="One JSON object a line, the last a summary.", rich_help_panel=RUN),
]
QuietOpt = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress and no notes.", rich_help_panel=RUN),
]
DebugOpt = Annotated[
    bool,
    typer.Option("--debug", help="Show tracebacks and library warnings.", rich_help_panel=RARE),
]


def sides(size: str | None) -> tuple[int | None, int | None]:
    """``256x128`` -> width and height; ``256`` is a square."""
    if size is None:
        return None, None
    width, cross, height = size.lower().partition("x")
    if not width.isdecimal() or (cross and not height.isdecimal()):
        raise typer.BadParameter(f"--size {size!r} is not WxH, such as 256x128")
    return int(width), int(height or width)


def examples(*lines: str) -> Callable[[F], F]:
    """Close a command's help page with commands to copy; tests run every one of them."""

    def attach(command: F) -> F:
        command.__dict__["examples"] = lines
        return command

    return attach
