"""`style i2l-predict`: a LoRA of reference pictures in one pass, without training."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stylecli.cli import carrying
from stylecli.cli.bundles import Outputs, Seeded
from stylecli.cli.console import console
from stylecli.cli.options import (
    OUTPUT,
    RARE,
    RUN,
    SETTINGS,
    GuidanceOpt,
    StepsOpt,
    examples,
    given,
    given_path,
)
from stylecli.cli.unattended import Running
from stylecli.errors import UsageError

if TYPE_CHECKING:
    from stylecli.recipe.load import Resolved

RefsArg = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="REF",
        parser=given,
        help="Pictures of one style: files, folders, globs, or - for a list.",
    ),
]
PredictorOpt = Annotated[
    Path | None,
    typer.Option(
        "--predictor",
        metavar="FILE",
        parser=given_path,
        help="From `style i2l-train`; default: the backbone's own.",
        rich_help_panel=SETTINGS,
    ),
]
EachOpt = Annotated[
    bool, typer.Option("--each", help="One LoRA of every picture; -o is a folder then.")
]
FuseOpt = Annotated[
    Literal["tokens", "delta", "factors"],
    typer.Option(
        "--fuse",
        metavar="HOW",
        help="tokens: all in one pass; else every REF is a style, and LoRAs are averaged: delta, "
        "or approximately: factors.",
        show_default=False,
    ),
]
ManifestOpt = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        parser=given_path,
        help="One LoRA a row of id, refs, output; .jsonl or .csv.",
        rich_help_panel=RUN,
    ),
]
FormatOpt = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="F",
        help="diffusers, kohya, comfy (files) or peft (a folder).",
        rich_help_panel=OUTPUT,
    ),
]
FileTypeOpt = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="TYPE",
        help="Of the LoRA's numbers: float16, bfloat16 or float32.",
        rich_help_panel=OUTPUT,
    ),
]
ScaleOpt = Annotated[
    float | None,
    typer.Option("--scale", metavar="X", help="Multiply the LoRA by it.", rich_help_panel=SETTINGS),
]
CompressOpt = Annotated[
    int | None,
    typer.Option(
        "--compress-rank",
        metavar="R",
        help="Write the nearest LoRA of this rank.",
        rich_help_panel=RARE,
    ),
]
RefinersOpt = Annotated[
    bool,
    typer.Option(
        "--exclude-refiners",
        help="Leave Z-Image's refiners alone, which its ControlNets borrow.",
        rich_help_panel=RARE,
    ),
]
UnverifiedOpt = Annotated[
    bool,
    typer.Option(
        "--accept-unverified",
        help="Use a converted predictor that nobody compared with the original.",
        rich_help_panel=RARE,
    ),
]
NeutralOutOpt = Annotated[
    Path | None,
    typer.Option(
        "--neutral-out",
        metavar="FILE",
        parser=given_path,
        help="Also write what grey pictures give, for --negative-lora.",
        rich_help_panel=OUTPUT,
    ),
]
PreviewOpt = Annotated[
    str | None,
    typer.Option(
        "--preview",
        metavar="PROMPT",
        parser=given,
        help="Also draw this, as LORA.preview.png.",
        rich_help_panel=OUTPUT,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Predicting(Seeded):
    """Settings of work whose type is that of a file: the predictor itself computes in float32."""

    dtype: FileTypeOpt = None

    def _flags(self) -> dict[str, object]:
        flags = super()._flags()
        of_file = flags.pop("device.dtype")
        return {**flags, "i2l.dtype": of_file}

    def for_predictor(self, file: Path | None, flags: Mapping[str, object]) -> Resolved:
        """The recipe of this run; where nobody chose a backbone, the predictor says which it is.

        Raises:
            RecipeError: Every fault, each with its place.
            WeightsError: The file is no predictor.
            ForeignPredictorError: It is one that others made.
        """
        chosen = self.backbone or self.recipe or os.environ.get("STYLE_RECIPE")
        if file is not None and not chosen:
            from stylecli.engine.i2l import finding

            flags = {**flags, "backbone.id": finding.backbone_of(file)}
        return self.resolved(flags)


@examples(
    "style i2l-predict painting.jpg -o painting.safetensors --preview 'a house'",
    "style i2l-predict paintings/ --each -o loras/",
)
def i2l_predict(
    output: Outputs,
    settings: Predicting,
    running: Running,
    refs: RefsArg = None,
    predictor: PredictorOpt = None,
    each: EachOpt = False,
    fuse: FuseOpt = "tokens",
    manifest: ManifestOpt = None,
    layout: FormatOpt = None,
    scale: ScaleOpt = None,
    compress_rank: CompressOpt = None,
    exclude_refiners: RefinersOpt = False,
    accept_unverified: UnverifiedOpt = False,
    neutral_out: NeutralOutOpt = None,
    preview: PreviewOpt = None,
    guidance: GuidanceOpt = None,
    steps: StepsOpt = None,
) -> None:
    """Predict the LoRA of a style from pictures of it, in about a second, without training.

    The order of the pictures changes nothing. style generate --lora LORA draws with it.
    """
    if preview is not None and running.shard is not None:
        raise UsageError(
            "--preview draws when all LoRAs are there, --shard makes some of them",
            fix="leave out one of them; style generate --lora draws with any",
        )
    resolved = settings.for_predictor(
        predictor,
        {
            "i2l.format": layout,
            "i2l.scale": scale,
            "i2l.compress_rank": compress_rank,
            "i2l.exclude_refiners": exclude_refiners or None,
            "sampling.guidance": guidance,
            "sampling.steps": steps,
        },
    )
    submission = running.submission(output)
    from stylecli.engine.i2l import predict as engine
    from stylecli.engine.i2l.preview import previews
    from stylecli.engine.i2l.references import References

    recipe = running.recipe(resolved)
    prepared = engine.predict(
        recipe,
        References.of(
            refs or [],
            fuse=fuse,
            each=each,
            manifest=manifest,
            # Once, however often the list is asked for.
            stdin=cache(sys.stdin.read),
        ),
        running.destination(output),
        console,
        predictor=predictor,
        neutral_out=neutral_out,
        accept_unverified=accept_unverified,
        allow_download=running.allow_download,
    )
    carrying.carry_out(prepared, resolved, dry_run=running.dry_run, submission=submission)
    if preview is None or running.dry_run or submission is not None:
        return
    drawn = previews(prepared, recipe, preview, console, allow_download=running.allow_download)
    if drawn is not None:
        carrying.carry_out(drawn, replace(resolved, assumed=""), dry_run=False)
