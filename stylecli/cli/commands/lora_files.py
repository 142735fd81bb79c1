"""`style lora info`, `style lora mix` and `style lora convert`: LoRA files, without a model."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stylecli.cli.bundles import Output
from stylecli.cli.console import console
from stylecli.cli.options import OUTPUT, SETTINGS, WaitOpt, examples, given_path
from stylecli.errors import StyleError, UsageError

if TYPE_CHECKING:
    from stylecli.engine.lora_files.work import Work
    from stylecli.engine.request import Destination


Layout = Literal["diffusers", "kohya", "peft", "comfy"]
FilesArg = Annotated[
    list[Path],
    typer.Argument(metavar="LORA", parser=given_path, help="LoRA files, or PEFT folders."),
]
ManyArg = Annotated[
    list[Path],
    typer.Argument(
        metavar="LORA", parser=given_path, help="LoRA files, PEFT folders, folders or globs."
    ),
]
SourcesArg = Annotated[
    list[Path],
    typer.Argument(
        metavar="SRC",
        parser=given_path,
        help="LoRA files, folders or globs; with --map, a predictor of others.",
    ),
]
FormatOpt = Annotated[
    Layout,
    typer.Option(
        "--format",
        metavar="F",
        help="diffusers, kohya, comfy (files) or peft (a folder).",
        rich_help_panel=OUTPUT,
    ),
]
WeightsOpt = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="W,W",
        help="How much of each; default: equal parts of 1.",
        rich_help_panel=SETTINGS,
    ),
]
PointsOpt = Annotated[
    str | None,
    typer.Option(
        "--t",
        metavar="T,T",
        help="Between two, from 0 to 1: a file for each, in a folder.",
        rich_help_panel=SETTINGS,
    ),
]
ModeOpt = Annotated[
    Literal["delta", "factors"],
    typer.Option(
        "--mode",
        metavar="M",
        help="delta: their sum, exactly. factors: approximate, at the same rank.",
        rich_help_panel=SETTINGS,
    ),
]
RankOpt = Annotated[
    int | None,
    typer.Option(
        "--rank",
        metavar="R",
        min=1,
        help="Compress to this rank, as well as it can be done.",
        rich_help_panel=SETTINGS,
    ),
]

MapOpt = Annotated[
    Path | None,
    typer.Option(
        "--map",
        metavar="FILE",
        parser=given_path,
        help="SRC is a predictor; which of its tensors is which of ours, in YAML.",
        rich_help_panel=SETTINGS,
    ),
]
GoldenOpt = Annotated[
    Path | None,
    typer.Option(
        "--golden",
        metavar="FILE",
        parser=given_path,
        help="References, and the LoRA that the original makes of them.",
        rich_help_panel=SETTINGS,
    ),
]


@examples("style lora info style.safetensors", "style lora info loras/*.safetensors --json")
def info(file: ManyArg) -> None:
    """Print what LoRA files are: layout, rank, layers, norms, what made them, for what backbone."""
    from stylecli.engine.lora_files.about import about
    from stylecli.engine.lora_files.named import named

    paths = named(file)
    for path in paths:
        try:
            found = about(path)
        except StyleError as error:
            if len(paths) == 1:
                raise
            row = {"file": str(path), "output": str(path), "status": "failed"}
            console.result(row | {"error": error.as_row()})
            continue
        console.result(found.row() | {"status": "done"}, text=found.page())


@examples(
    "style lora mix a.safetensors b.safetensors -o both.safetensors --weights 0.7,0.3",
    "style lora mix a.safetensors b.safetensors -o between/ --t 0,0.25,0.5,0.75,1",
)
def mix(
    lora: FilesArg,
    output: Output,
    weights: WeightsOpt = None,
    points: PointsOpt = None,
    mode: ModeOpt = "delta",
    rank: RankOpt = None,
    layout: FormatOpt = "diffusers",
    wait: WaitOpt = False,
) -> None:
    """Make one LoRA of several, or LoRAs on the way from one to another."""
    from stylecli.engine.lora_files import work

    mixing = work.Mixing(
        weights=_numbers("--weights", weights), points=_numbers("--t", points), mode=mode, rank=rank
    )
    destination = _destination(output, wait)
    _carry_out(work.mix(lora, mixing, destination, console, layout=layout))


@examples(
    "style lora convert style.safetensors --format kohya -o for-comfy.safetensors",
    "style lora convert v2.safetensors --map map.yaml --golden gold.safetensors -o p.safetensors",
)
def convert(
    source: SourcesArg,
    output: Output,
    layout: FormatOpt = "diffusers",
    map_file: MapOpt = None,
    golden: GoldenOpt = None,
    wait: WaitOpt = False,
) -> None:
    """Write LoRAs in another layout, or the i2L predictor of others as one of ours."""
    from stylecli.engine.lora_files import predictors, work
    from stylecli.engine.lora_files.named import named

    destination = _destination(output, wait)
    if map_file is None:
        if golden is not None:
            raise UsageError("--golden checks what --map makes", fix="give --map too")
        check = predictors.refuse_predictor
        converting = work.convert(named(source), destination, console, layout=layout, check=check)
        _carry_out(converting)
        return
    if len(source) > 1:
        raise UsageError(f"--map is for one predictor, not {len(source)} files", fix="give one")
    _carry_out(
        predictors.convert_predictor(source[0], map_file, destination, console, golden=golden)
    )


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise UsageError(
            f"{option} {text!r} is no list of numbers", fix=f"such as {option}=0.3,0.7"
        )
    return found


def _destination(output: Output, wait: bool) -> Destination:
    from stylecli.engine.request import Destination

    return Destination(
        output=output.output, overwrite=output.overwrite, strip=output.strip, wait=wait
    )


def _carry_out(work: Work) -> None:
    # Closed at once where it is left, so that the journal hears of the end.
    with closing(work.run()) as results:
        for result in results:
            failed = result.status == "failed"
            console.result(result.row(), text=None if failed else str(result.job.output))
