"""`style transfer` and `style invert`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylecli.cli import carrying
from stylecli.cli.bundles import Inputs, Outputs, Seeded, Settings
from stylecli.cli.options import (
    OUTPUT,
    SETTINGS,
    BatchOpt,
    FitOpt,
    GuidanceOpt,
    NegativeLoraOpt,
    PromptOpt,
    StepsOpt,
    examples,
    given,
    given_path,
)
from stylecli.cli.unattended import Running
from stylecli.errors import UsageError

if TYPE_CHECKING:
    from stylecli.engine.context import Reporter
    from stylecli.engine.request import Prepared
    from stylecli.recipe.schema import Recipe

# What methods that are told no words have no use for.
IDLE = {
    "styleid": ("--guidance", "--prompt"),
    "attn-distill": ("--guidance", "--prompt", "--steps"),
}
StyleOpt = Annotated[
    list[str] | None,
    typer.Option("--style", "-s", metavar="IMG", parser=given, help="A style picture; repeatable."),
]
LoraOpt = Annotated[
    list[Path] | None,
    typer.Option(
        "--lora",
        "-l",
        metavar="LORA",
        parser=given_path,
        help="A style learnt before; with --style, one more result; repeatable.",
    ),
]
MethodOpt = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="METHOD",
        parser=given,
        help="diffstyler, or without learning: styleid, attn-distill.",
    ),
]
PromptFromStyleOpt = Annotated[
    bool,
    typer.Option(
        "--prompt-from-style",
        help="Add words that CLIP finds nearest to the style.",
        rich_help_panel=SETTINGS,
    ),
]
CompareOpt = Annotated[
    bool,
    typer.Option("--compare", help="Also write content | style | result.", rich_help_panel=OUTPUT),
]
SweepOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="KEY=A,B,..",
        parser=given,
        help="A grid over features, attention, …; twice: a table.",
        rich_help_panel=OUTPUT,
    ),
]
AblateOpt = Annotated[
    str | None,
    typer.Option(
        "--ablate",
        metavar="FIGURE",
        parser=given,
        help="A paper's ablation as a grid: aaai, v1 or adaptive.",
        rich_help_panel=OUTPUT,
    ),
]


@examples(
    "style transfer photo.jpg --style painting.jpg -o out.png --compare",
    "style transfer photos/ --lora ink.safetensors -o out/ --name '{content}-ink.png'",
)
def transfer(
    outputs: Outputs,
    inputs: Inputs,
    settings: Seeded,
    running: Running,
    style: StyleOpt = None,
    lora: LoraOpt = None,
    method: MethodOpt = None,
    guidance: GuidanceOpt = None,
    negative_lora: NegativeLoraOpt = None,
    steps: StepsOpt = None,
    batch: BatchOpt = None,
    fit: FitOpt = None,
    prompt: PromptOpt = None,
    prompt_from_style: PromptFromStyleOpt = False,
    compare: CompareOpt = False,
    sweep: SweepOpt = None,
    ablate: AblateOpt = None,
) -> None:
    """Restyle pictures, keeping their layout. Run it again to resume."""
    resolved = settings.resolved(
        {
            "sampling.method": method,
            "sampling.guidance": guidance,
            "sampling.negative_lora": negative_lora,
            "sampling.steps": steps,
            "device.batch": batch,
            "sampling.prompt": prompt,
            "sampling.prompt_from_style": prompt_from_style or None,
        }
    )
    _refuse_idle(
        resolved.recipe.sampling.method,
        {"--guidance": guidance, "--prompt": prompt, "--steps": steps},
    )
    submission = running.submission(outputs)
    from stylecli.engine import figures, restyle

    contents = inputs.contents()

    def prepare(recipe: Recipe, reporter: Reporter) -> Prepared:
        return restyle.transfer(
            recipe,
            contents,
            running.destination(outputs),
            reporter,
            styles=style or [],
            loras=lora or [],
            compare=compare,
            figure=figures.chosen(recipe, sweep or [], ablate),
            allow_download=running.allow_download,
        )

    carrying.fit_and_carry_out(resolved, fit, running, prepare, submission)


def _refuse_idle(method: str, flags: Mapping[str, object]) -> None:
    """See that no flag was given that the method has no use for.

    Raises:
        UsageError: One was.
    """
    for flag in IDLE.get(method, ()):
        if flags[flag] is not None:
            raise UsageError(
                f"{flag} does nothing with the method {method}",
                fix="--set distill.iterations=N"
                if flag == "--steps"
                else f"leave out {flag}, or --method diffstyler",
            )


VerifyOpt = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Sample back and report PSNR; writes NAME.verify.png.",
        rich_help_panel=OUTPUT,
    ),
]
RefineOpt = Annotated[
    int | None,
    typer.Option(
        "--refine",
        metavar="R",
        help="Fixed-point passes per level; 1 or 3.",
        rich_help_panel=SETTINGS,
    ),
]


@examples(
    "style invert photo.jpg -o trajectories/ --verify",
    "style invert photos/ -o trajectories/ --refine 3",
)
def invert(
    outputs: Outputs,
    inputs: Inputs,
    settings: Settings,
    running: Running,
    refine: RefineOpt = None,
    steps: StepsOpt = None,
    batch: BatchOpt = None,
    fit: FitOpt = None,
    verify: VerifyOpt = False,
) -> None:
    """Walk pictures to noise (DDIM) and keep the trajectories. Run it again to resume."""
    resolved = settings.resolved(
        {"inversion.refine_iters": refine, "sampling.steps": steps, "device.batch": batch}
    )
    submission = running.submission(outputs)
    from stylecli.engine import commands

    contents = inputs.contents()

    def prepare(recipe: Recipe, reporter: Reporter) -> Prepared:
        return commands.invert(
            recipe,
            contents,
            running.destination(outputs),
            reporter,
            verify=verify,
            allow_download=running.allow_download,
        )

    carrying.fit_and_carry_out(resolved, fit, running, prepare, submission)
