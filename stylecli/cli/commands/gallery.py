"""`style gallery`: any number of references, each region of a picture after the region it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stylecli.cli import carrying
from stylecli.cli.bundles import Inputs, Outputs, Seeded
from stylecli.cli.options import OUTPUT, RARE, SETTINGS, BatchOpt, FitOpt, examples, given
from stylecli.cli.unattended import Running

if TYPE_CHECKING:
    from stylecli.engine.context import Reporter
    from stylecli.engine.request import Prepared
    from stylecli.recipe.schema import Recipe

MATCHING = "Who takes style from where"

RefsOpt = Annotated[
    list[str],
    typer.Option(
        "--refs",
        metavar="DIR|IMG",
        parser=given,
        help="References: pictures, folders, globs; repeatable.",
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
RefreshOpt = Annotated[
    int | None,
    typer.Option(
        "--refresh",
        metavar="N",
        help="Look at references every N timesteps; 4 is faster.",
        rich_help_panel=RARE,
    ),
]
MatchOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--match",
        metavar="REGION=REF:N",
        parser=given,
        help="sky=ref3:2+5, 4=keep, or an edited regions.json; repeatable.",
        rich_help_panel=MATCHING,
    ),
]
OnlyOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="REGION",
        parser=given,
        help="Restyle this region and keep the others; repeatable.",
        rich_help_panel=MATCHING,
    ),
]
StrengthOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--strength",
        metavar="REGION=X",
        parser=given,
        help="How much a region's style counts: sky=0.5; repeatable.",
        rich_help_panel=RARE,
    ),
]
ExcludeOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="REF:N",
        parser=given,
        help="A reference, or a region of it, that none takes; repeatable.",
        rich_help_panel=RARE,
    ),
]
MaskOpt = Annotated[
    str | None,
    typer.Option(
        "--mask",
        metavar="IMG",
        parser=given,
        help="Regions painted in colours; {content} in its name.",
        rich_help_panel=MATCHING,
    ),
]
RefMasksOpt = Annotated[
    str | None,
    typer.Option(
        "--ref-masks",
        metavar="IMG",
        parser=given,
        help="The same for references; {style} in its name.",
        rich_help_panel=RARE,
    ),
]
ExplainOpt = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="Also write OUT.regions.png and .json: who took what.",
        rich_help_panel=OUTPUT,
    ),
]
DumpOpt = Annotated[
    str | None,
    typer.Option(
        "--dump",
        metavar="FILE|DIR/",
        parser=given,
        help="Also write labels, losses, gradients: t.safetensors, or a folder.",
        rich_help_panel=RARE,
    ),
]


@examples(
    "style gallery photo.jpg --refs paintings/ -o out.png --explain",
    "style gallery photos/ --refs a.jpg --refs b.jpg --match 'sky=ref2:1' -o out/",
)
def gallery(
    outputs: Outputs,
    inputs: Inputs,
    settings: Seeded,
    running: Running,
    refs: RefsOpt,
    profile: ProfileOpt = None,
    refresh: RefreshOpt = None,
    batch: BatchOpt = None,
    fit: FitOpt = None,
    match: MatchOpt = None,
    only: OnlyOpt = None,
    strength: StrengthOpt = None,
    exclude: ExcludeOpt = None,
    mask: MaskOpt = None,
    ref_masks: RefMasksOpt = None,
    explain: ExplainOpt = False,
    dump: DumpOpt = None,
) -> None:
    """Restyle each region of a picture after the region of a reference that fits it."""
    resolved = settings.resolved(
        {
            "gallery.profile": profile,
            "gallery.refresh": refresh,
            "device.batch": batch,
            "gallery.match": match or None,
            "gallery.only": only or None,
            "gallery.strength": strength or None,
            "gallery.exclude": exclude or None,
            "gallery.mask": mask,
            "gallery.ref_masks": ref_masks,
        }
    )
    submission = running.submission(outputs)
    from stylecli.engine.gallery import prepare as gallery_engine

    contents = inputs.contents()

    def prepare(recipe: Recipe, reporter: Reporter) -> Prepared:
        return gallery_engine.gallery(
            recipe,
            contents,
            running.destination(outputs),
            reporter,
            refs=refs,
            explain=explain,
            dump=dump,
            allow_download=running.allow_download,
        )

    carrying.fit_and_carry_out(resolved, fit, running, prepare, submission)
