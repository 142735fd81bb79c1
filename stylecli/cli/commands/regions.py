"""`style mask-transfer` and `style switch`: which LoRA where, and which LoRA when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stylecli.cli import carrying
from stylecli.cli.bundles import Inputs, Outputs, Seeded
from stylecli.cli.options import (
    SETTINGS,
    BatchOpt,
    FitOpt,
    GuidanceOpt,
    NegativeLoraOpt,
    PromptOpt,
    RegionOpt,
    ScheduleOpt,
    SheetOpt,
    StepsOpt,
    examples,
)
from stylecli.cli.unattended import Running

if TYPE_CHECKING:
    from stylecli.engine.context import Reporter
    from stylecli.engine.request import Prepared
    from stylecli.recipe.schema import Recipe

FeatherOpt = Annotated[
    float | None,
    typer.Option(
        "--feather",
        metavar="PX",
        help="Soften the masks, in px of the model's size.",
        rich_help_panel=SETTINGS,
    ),
]
OverlapOpt = Annotated[
    str | None,
    typer.Option(
        "--overlap",
        metavar="HOW",
        help="over (later on top), normalise or error.",
        rich_help_panel=SETTINGS,
    ),
]
BackgroundOpt = Annotated[
    str | None,
    typer.Option(
        "--background",
        metavar="HOW",
        help="source: the content itself; denoise: repainted.",
        rich_help_panel=SETTINGS,
    ),
]
NoCompositeOpt = Annotated[
    bool,
    typer.Option(
        "--no-composite",
        help="The decoded picture; else only regions are pasted.",
        rich_help_panel=SETTINGS,
    ),
]


@examples(
    "style mask-transfer photo.jpg --region deer.png=oil.safetensors -o out.png --sheet",
    "style mask-transfer photo.jpg --region 'text:sky=ink.png@a sky in ink' -o out.png",
)
def mask_transfer(
    outputs: Outputs,
    inputs: Inputs,
    settings: Seeded,
    running: Running,
    region: RegionOpt = None,
    guidance: GuidanceOpt = None,
    negative_lora: NegativeLoraOpt = None,
    steps: StepsOpt = None,
    batch: BatchOpt = None,
    fit: FitOpt = None,
    feather: FeatherOpt = None,
    overlap: OverlapOpt = None,
    background: BackgroundOpt = None,
    no_composite: NoCompositeOpt = False,
    sheet: SheetOpt = False,
) -> None:
    """Restyle regions of pictures, each in its own LoRA; all other pixels stay as they are."""
    resolved = settings.resolved(
        {
            "sampling.guidance": guidance,
            "sampling.negative_lora": negative_lora,
            "sampling.steps": steps,
            "device.batch": batch,
            "sampling.regions": region or None,
            "sampling.overlap": overlap,
            "sampling.background": background,
            "sampling.composite": "none" if no_composite else None,
            "masks.feather_px": feather,
        }
    )
    submission = running.submission(outputs)
    from stylecli.engine import restyle

    contents = inputs.contents()

    def prepare(recipe: Recipe, reporter: Reporter) -> Prepared:
        return restyle.mask_transfer(
            recipe,
            contents,
            running.destination(outputs),
            reporter,
            compare=sheet,
            allow_download=running.allow_download,
        )

    carrying.fit_and_carry_out(resolved, fit, running, prepare, submission)


@examples(
    "style switch photo.jpg --schedule 'oil.safetensors:0-30,ink.safetensors:30-50' -o out.png",
    "style switch photos/ --schedule 'a.safetensors:0%-40%,base:40%-60%,b.png:60%-' -o out/",
)
def switch(
    outputs: Outputs,
    inputs: Inputs,
    settings: Seeded,
    running: Running,
    schedule: ScheduleOpt = None,
    guidance: GuidanceOpt = None,
    negative_lora: NegativeLoraOpt = None,
    steps: StepsOpt = None,
    batch: BatchOpt = None,
    fit: FitOpt = None,
    prompt: PromptOpt = None,
    sheet: SheetOpt = False,
) -> None:
    """Restyle pictures with different LoRAs at different sampling steps."""
    resolved = settings.resolved(
        {
            "sampling.guidance": guidance,
            "sampling.negative_lora": negative_lora,
            "sampling.steps": steps,
            "device.batch": batch,
            "sampling.prompt": prompt,
            "sampling.schedule": schedule,
        }
    )
    submission = running.submission(outputs)
    from stylecli.engine import restyle

    contents = inputs.contents()

    def prepare(recipe: Recipe, reporter: Reporter) -> Prepared:
        return restyle.switch(
            recipe,
            contents,
            running.destination(outputs),
            reporter,
            compare=sheet,
            allow_download=running.allow_download,
        )

    carrying.fit_and_carry_out(resolved, fit, running, prepare, submission)
