"""`style analyze …`: looks inside the model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from stylecli.cli import carrying
from stylecli.cli.bundles import Outputs, Seeded
from stylecli.cli.console import console
from stylecli.cli.options import ContentArg, NulOpt, examples, given, given_path
from stylecli.cli.unattended import Running

KindOpt = Annotated[
    Literal["pca", "similarity"],
    typer.Option(
        "--kind",
        metavar="pca|similarity",
        help="Features in colours (default), or a table.",
        show_default=False,
    ),
]
DomainOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--domain",
        metavar="PICTURES=LORA",
        parser=given,
        help="Pictures of that LoRA's own domain; repeatable.",
    ),
]
LoraOpt = Annotated[
    list[Path] | None,
    typer.Option(
        "--lora",
        "-l",
        metavar="LORA",
        parser=given_path,
        help="One more LoRA to see every picture with; repeatable.",
    ),
]
StyleOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--style", "-s", metavar="IMG", parser=given, help="A picture to learn one from; likewise."
    ),
]
ManifestOpt = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        parser=given_path,
        help="Rows of content, lora or style, domain: in or out.",
    ),
]
TimestepOpt = Annotated[
    list[int] | None,
    typer.Option(
        "--t",
        metavar="T",
        help="Timestep, 0 to 999; repeatable; default: 540.",
    ),
]
LayersOpt = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="N,N-N",
        parser=given,
        help="Decoder layers; default: all, for similarity 2,5,7.",
    ),
]
TapOpt = Annotated[
    Literal["residual", "output", "layer"],
    typer.Option(
        "--tap",
        metavar="residual|output|layer",
        help="Before (default) or after a shortcut, or last.",
        show_default=False,
    ),
]
PromptOpt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="The same for every model; default: the empty one.",
    ),
]


@examples(
    "style analyze features photo.jpg --lora ink.safetensors --layers 4-11 -o features.png",
    "style analyze features photos/ --kind similarity --domain icons/=ink.safetensors -o table/",
)
def features(
    *,
    content: ContentArg = None,
    lora: LoraOpt = None,
    style: StyleOpt = None,
    domain: DomainOpt = None,
    manifest: ManifestOpt = None,
    kind: KindOpt = "pca",
    timestep: TimestepOpt = None,
    layers: LayersOpt = None,
    tap: TapOpt = "residual",
    prompt: PromptOpt = None,
    outputs: Outputs,
    settings: Seeded,
    running: Running,
    nul: NulOpt = False,
) -> None:
    """Show what LoRAs do to the features of their model. Run it again to resume."""
    resolved = settings.resolved({"sampling.prompt": prompt})
    submission = running.submission(outputs)
    from stylecli.engine.analysis import features as work
    from stylecli.engine.analysis.asked import Asked

    analysis = work.prepare(
        running.recipe(resolved),
        Asked(
            kind=kind,
            contents=content or (),
            stdin=sys.stdin.read,
            nul=nul,
            domains=domain or (),
            loras=lora or (),
            styles=style or (),
            manifest=manifest,
            timesteps=timestep or (540,),
            layers=layers,
            tap=tap,
        ),
        running.destination(outputs),
        console,
        allow_download=running.allow_download,
    )
    carrying.carry_out(analysis.prepared, resolved, dry_run=running.dry_run, submission=submission)
    if running.dry_run or submission is not None or analysis.report is None:
        return
    found = analysis.conclude()
    for order in found:
        row = {"metric": order.metric, "holds": order.holds, "is_clear": order.is_clear}
        console.result({**row, "sentence": order.sentence()}, text=order.sentence())
    for file in (analysis.report.page, analysis.report.table) if found else ():
        console.result({"output": str(file)})
