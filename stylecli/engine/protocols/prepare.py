"""`style eval-data` as data: which protocol, of which sources, checked before it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylecli.engine.context import Reporter
from stylecli.engine.i2l.data.rows import open_rows
from stylecli.engine.protocols.folder import Folder
from stylecli.engine.protocols.grids import Families, Grid
from stylecli.engine.protocols.megastyle import MegaStyle
from stylecli.engine.protocols.regions import RULES, Regions
from stylecli.engine.protocols.tasks import Source
from stylecli.engine.route.data import items
from stylecli.engine.route.data.prepare import listing
from stylecli.engine.route.data.relabelled import Relabelled
from stylecli.errors import InputError, UsageError, did_you_mean
from stylecli.methods.regionroute.styles import PAPER, Style

# Protocol -> what its sources are, in words, and how many (0: one or more).
PROTOCOLS: Mapping[str, tuple[str, int]] = {
    "coco": ("lists of COCO's or TokenCompose's", 0),
    "voc": ("folders of NAME_im and NAME_gt", 0),
    "big": ("folders of NAME_im and NAME_gt", 0),
    "styles": ("a folder of contents and a folder of styles", 2),
    "families": ("a folder of contents and a folder with one for each family", 2),
    "megastyle": (".jsonl or .parquet files of pictures, captions and styles", 0),
}
REGIONS = tuple(RULES)
ITEMS, REFERENCES = 1000, 4
# Option -> the protocols that have a use for it.
USED: Mapping[str, tuple[str, ...]] = {
    "--pictures": ("coco",),
    "--exclude": REGIONS,
    "--style-name": REGIONS,
    "--images": (*REGIONS, "families", "megastyle"),
    "--references": ("megastyle",),
    "--seed": (*REGIONS, "families", "megastyle"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One command line.

    Attributes:
        pictures: Where a list's pictures are.
        exclude: Sets that methods have learned from.
        styles: Ids or phrases; none are the paper's four.
        images: Photographs, contents of each family, or items.
        references: Of each item.
    """

    protocol: str
    sources: Sequence[Path]
    output: Path
    pictures: Path | None = None
    exclude: Sequence[Path] = ()
    styles: Sequence[str] = ()
    images: int | None = None
    references: int | None = None
    seed: int | None = None
    overwrite: bool = False


def prepare(asked: Asked, reporter: Reporter) -> tuple[Source, Folder]:
    """Open the sources, and look at the folder.

    Raises:
        InputError: A source that is missing, or holds something else.
        OutputDiffersError: The folder holds other tasks.
        UsageError: An unknown protocol or style, or an option or a number of sources that does not
            fit it.
    """
    _check(asked)
    for path in asked.sources:
        if path.resolve() == asked.output.resolve():
            raise UsageError(
                f"--output {asked.output} is one of the sources", fix="choose another folder"
            )
    seed = asked.seed or 0
    source: Source
    if asked.protocol in REGIONS:
        source = _regions(asked, seed, reporter)
    elif asked.protocol == "styles":
        contents, styles = asked.sources
        source = Grid(contents, styles, asked.output)
    elif asked.protocol == "families":
        contents, families = asked.sources
        source = Families(contents, families, asked.output, images=asked.images, seed=seed)
    else:
        source = MegaStyle(
            [open_rows(file) for file in asked.sources],
            asked.output,
            count=asked.images or ITEMS,
            references=asked.references or REFERENCES,
            seed=seed,
        )
    return source, Folder(asked.output, asked.protocol, source, overwrite=asked.overwrite)


def _check(asked: Asked) -> None:
    if asked.protocol not in PROTOCOLS:
        raise UsageError(
            f"no protocol is called {asked.protocol!r}",
            fix=f"{did_you_mean(asked.protocol, PROTOCOLS)}known: {', '.join(PROTOCOLS)}",
        )
    what, number = PROTOCOLS[asked.protocol]
    if not asked.sources or (number and len(asked.sources) != number):
        raise UsageError(
            f"{asked.protocol} takes {what}, and {len(asked.sources) or 'nothing'} was named",
            fix="`style eval-data --help` has examples",
        )
    said: Mapping[str, Any] = {
        "--pictures": asked.pictures,
        "--exclude": asked.exclude or None,
        "--style-name": asked.styles or None,
        "--images": asked.images,
        "--references": asked.references,
        "--seed": asked.seed,
    }
    for option, value in said.items():
        if value is not None and asked.protocol not in USED[option]:
            raise UsageError(
                f"{option} is for {', '.join(USED[option])}, not for {asked.protocol}",
                fix="leave it out",
            )


def _regions(asked: Asked, seed: int, reporter: Reporter) -> Regions:
    if asked.pictures is not None and not asked.pictures.is_dir():
        raise InputError(f"--pictures {asked.pictures}: no such folder", fix="check the name")
    listings = [listing(source, asked.pictures) for source in asked.sources]
    has_pairs = asked.protocol != "coco"
    for source, one in zip(asked.sources, listings, strict=True):
        if isinstance(one, Relabelled) != has_pairs:
            raise InputError(
                f"{source}: {asked.protocol} takes {PROTOCOLS[asked.protocol][0]}",
                fix="coco is for lists, voc and big are for folders of pairs",
            )
    if not has_pairs and not asked.exclude:
        reporter.note(
            "photographs that a method has learned from may be among these: --exclude SET, as made "
            "by `style route-data`, leaves them out"
        )
    folders = [path.parent if path.name == items.EXCLUDED else path for path in asked.exclude]
    excluded = {one for path in folders for ids in items.excluded(path).values() for one in ids}
    return Regions(
        listings,
        asked.output,
        data=RULES[asked.protocol],
        styles=_styles(asked.styles),
        seed=seed,
        excluded=excluded,
        images=asked.images,
    )


def _styles(names: Sequence[str]) -> list[Style]:
    known = {name.casefold(): style for style in PAPER for name in (*style.names, style.text)}
    found: dict[str, Style] = {}
    for name in names:
        words = name.strip()
        style = known.get(words.casefold()) or Style(_id(words), words)
        if found.setdefault(style.id, style).phrase != style.phrase:
            raise UsageError(
                f"--style-name {name!r}: two styles would both be {style.id} in names of files",
                fix="call one of them otherwise",
            )
    return list(found.values()) or list(PAPER)


def _id(words: str) -> str:
    found = "_".join("".join(c if c.isalnum() else " " for c in words.casefold()).split())
    if not found:
        raise UsageError(
            f"--style-name {words!r} has nothing in it to name files by",
            fix="say it in letters or digits",
        )
    return found
