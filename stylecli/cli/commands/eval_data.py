"""`style eval-data`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from stylecli.cli.console import console
from stylecli.cli.options import (
    DryRunOpt,
    FolderOpt,
    OverwriteOpt,
    examples,
    given,
    given_path,
)

CHOICE = "Which tasks"

ProtocolArg = Annotated[
    str,
    typer.Argument(
        metavar="PROTOCOL",
        parser=given,
        help="coco, voc, big (RegionRoute), styles (DiffStyler), families (StyleGallery) or "
        "megastyle (i2L).",
    ),
]
SourcesArg = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCE",
        parser=given_path,
        help="Lists (coco), pairs NAME_im, NAME_gt (voc, big), contents and styles (styles), "
        "contents and folders of references (families), .jsonl or .parquet (megastyle).",
    ),
]
PicturesOpt = Annotated[
    Path | None,
    typer.Option(
        "--pictures",
        metavar="DIR",
        parser=given_path,
        help="Where the lists' pictures are; default: near the list.",
        rich_help_panel=CHOICE,
    ),
]
ExcludeOpt = Annotated[
    list[Path] | None,
    typer.Option(
        "--exclude",
        metavar="SET",
        parser=given_path,
        help="Of route-data: no photograph that was learned from. Repeatable.",
        rich_help_panel=CHOICE,
    ),
]
StyleNameOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--style-name",
        metavar="STYLE",
        parser=given,
        help="Of objects, repeatable; default: the paper's four.",
        rich_help_panel=CHOICE,
    ),
]
ImagesOpt = Annotated[
    int | None,
    typer.Option(
        "--images",
        metavar="N",
        min=1,
        help="Photographs, or contents of each family, drawn by the seed; default: all. Items of "
        "megastyle; default: 1000.",
        rich_help_panel=CHOICE,
    ),
]
ReferencesOpt = Annotated[
    int | None,
    typer.Option(
        "--references",
        metavar="N",
        min=1,
        max=16,
        help="Of each item of megastyle; default: 4.",
        rich_help_panel=CHOICE,
    ),
]
SeedOpt = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        help="Another draw of photographs, objects, items; default: 0.",
        rich_help_panel=CHOICE,
    ),
]


@examples(
    "style eval-data voc VOC2012_relabelled/ -o voc/",
    "style eval-data families photos/ references/ --images 30 -o families/",
)
def eval_data(
    protocol: ProtocolArg,
    sources: SourcesArg,
    output: FolderOpt,
    pictures: PicturesOpt = None,
    exclude: ExcludeOpt = None,
    style_name: StyleNameOpt = None,
    images: ImagesOpt = None,
    references: ReferencesOpt = None,
    seed: SeedOpt = None,
    overwrite: OverwriteOpt = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Make a paper's tasks of its data: a script that runs a method, rows that score results."""
    from stylecli.engine.protocols.folder import SCRIPT, nothing
    from stylecli.engine.protocols.prepare import Asked, prepare
    from stylecli.engine.protocols.tasks import ROWS

    source, folder = prepare(
        Asked(
            protocol=protocol,
            sources=[path.expanduser() for path in sources],
            output=output.expanduser(),
            pictures=pictures,
            exclude=[path.expanduser() for path in exclude or ()],
            styles=style_name or (),
            images=images,
            references=references,
            seed=seed,
            overwrite=overwrite,
        ),
        console,
    )
    row = {"output": str(output), "protocol": protocol}
    if dry_run:
        count = source.count()
        if not count:
            raise nothing(source)
        left_out = dict(source.left_out)
        said = f"{count} tasks into {output}, nothing made"
        _note(left_out)
        console.result({**row, "dry_run": True, "tasks": count, "left_out": left_out}, text=said)
        return
    made = folder.write(console)
    _note(made.left_out)
    console.note(f"next: sh {output / SCRIPT} results/")
    console.note(
        f"then: style evaluate results/ --manifest {output / ROWS} --recipe {source.recipe} "
        "-o report/"
    )
    console.result(
        {**row, "status": "done", "tasks": made.tasks, "left_out": dict(made.left_out)},
        text=f"{output}  {made.tasks} tasks",
    )


def _note(left_out: Mapping[str, int]) -> None:
    for reason, count in left_out.items():
        console.note(f"{count} pictures left out {reason}")
