"""`style route-apply`: other styles for objects of pictures, in words and without masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylecli.cli import carrying
from stylecli.cli.bundles import Inputs, Outputs, Seeded
from stylecli.cli.options import (
    OUTPUT,
    SETTINGS,
    BatchOpt,
    GuidanceOpt,
    StepsOpt,
    examples,
    given,
    given_path,
)
from stylecli.cli.unattended import Running

if TYPE_CHECKING:
    from stylecli.engine.context import Reporter
    from stylecli.engine.request import Prepared
    from stylecli.recipe.schema import Recipe

InstructionOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--instruction",
        "-i",
        metavar="TEXT",
        parser=given,
        help="What to do: object and style, or several; repeatable.",
    ),
]
ObjectOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--object",
        metavar="WORDS",
        parser=given,
        help="Instead: what is to change; repeatable, each with",
    ),
]
StyleNameOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--style-name",
        metavar="STYLE",
        parser=given,
        help="its style, as the experts call it.",
    ),
]
ExpertsOpt = Annotated[
    Path | None,
    typer.Option(
        "--experts",
        metavar="DIR",
        parser=given_path,
        help="From `style route-train`; default: those that come with pocket.",
    ),
]
ImageGuidanceOpt = Annotated[
    float | None,
    typer.Option(
        "--image-guidance",
        metavar="G",
        help="How much the picture counts (not FLUX); 1 is off.",
        rich_help_panel=SETTINGS,
    ),
]
SoftRouteOpt = Annotated[
    bool,
    typer.Option(
        "--soft-route",
        help="A style that no expert knows is mixed from the nearest.",
        rich_help_panel=SETTINGS,
    ),
]
ProtectOpt = Annotated[
    bool,
    typer.Option(
        "--protect-background",
        help="Keep the pixels that the style's words did not look at.",
        rich_help_panel=SETTINGS,
    ),
]
ProfileOpt = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        parser=given,
        help="sound, paper, or reference: as the authors' code.",
        rich_help_panel=SETTINGS,
    ),
]
ExplainOpt = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="Also write OUT.attention.png and .npz: what the words saw.",
        rich_help_panel=OUTPUT,
    ),
]


@examples(
    "style route-apply photo.jpg --instruction 'make the cat in pixel-art style' -o out.png",
    "style route-apply photos/ --object house --style-name line-art --explain -o out/",
)
def route_apply(
    outputs: Outputs,
    inputs: Inputs,
    settings: Seeded,
    running: Running,
    instruction: InstructionOpt = None,
    object: ObjectOpt = None,  # noqa: A002 - as it is typed
    style_name: StyleNameOpt = None,
    experts: ExpertsOpt = None,
    soft_route: SoftRouteOpt = False,
    protect_background: ProtectOpt = False,
    profile: ProfileOpt = None,
    steps: StepsOpt = None,
    guidance: GuidanceOpt = None,
    image_guidance: ImageGuidanceOpt = None,
    batch: BatchOpt = None,
    explain: ExplainOpt = False,
) -> None:
    """Restyle objects as you say, without masks, one edit after another. Run it again to resume."""
    resolved = settings.resolved(
        {
            "route.profile": profile,
            "route.apply.instruction": instruction or None,
            "route.apply.object": object or None,
            "route.apply.style_name": style_name or None,
            "route.apply.soft_route": soft_route or None,
            "route.apply.protect_background": protect_background or None,
            "route.apply.steps": steps,
            "route.apply.guidance": guidance,
            "route.apply.image_guidance": image_guidance,
            "device.batch": batch,
        }
    )
    submission = running.submission(outputs)
    from stylecli.engine.route.applying import prepare as engine

    contents = inputs.contents()

    def prepare(recipe: Recipe, reporter: Reporter) -> Prepared:
        return engine.route_apply(
            recipe,
            contents,
            running.destination(outputs),
            reporter,
            experts=experts,
            explain=explain,
            allow_download=running.allow_download,
        )

    carrying.fit_and_carry_out(resolved, None, running, prepare, submission)
