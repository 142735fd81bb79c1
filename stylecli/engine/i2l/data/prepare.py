"""`style i2l-data` as data: what set is asked for, checked before anything is made."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from stylecli.engine.context import Reporter
from stylecli.engine.extras import drawing_icons
from stylecli.engine.i2l.data.building import Build
from stylecli.engine.i2l.data.imports import Imported
from stylecli.engine.i2l.data.imports import Wanted as Pictures
from stylecli.engine.i2l.data.upscale import LANCZOS
from stylecli.errors import InputError, UsageError

if TYPE_CHECKING:
    from stylecli.engine.i2l.data.making import Source

STYLES, PER_STYLE, PX, HELD_OUT = 2000, 24, 64, (200, 100, 36)
HOLDOUT = 1000
SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class OfIcons:
    """What a set of icons alone can be asked; None is the default."""

    styles: int | None = None
    held_out: tuple[int, int, int] | None = None
    per_style: int | None = None
    size: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class OfRows:
    """What lists and tables alone can be asked; None is the default."""

    holdout: int | None = None
    upscale_to: int | None = None
    upscaler: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One command line.

    Attributes:
        sources: Lists and tables, folders of them, globs, or ``-`` for names on standard input.
        stdin: Reads what ``-`` stands for.
    """

    sources: Sequence[str]
    icons: Path | None
    output: Path
    of_icons: OfIcons
    of_rows: OfRows
    workers: int
    stdin: Callable[[], str]
    overwrite: bool = False
    wait: bool = False


def prepare(asked: Asked, reporter: Reporter) -> Build:
    """Look through the words of everything; no picture is read or made, and nothing is written.

    Raises:
        InputError: A source that is missing or that holds what no set can be made of.
        OutputDiffersError: The output holds another set.
        UsageError: Options that do not go together, or a package that is missing.
    """
    if (asked.icons is None) == (not asked.sources):
        raise UsageError(
            "give either --icons or lists and tables",
            fix="`style i2l-data --help` shows both",
        )
    foreign = asked.of_rows if asked.icons is not None else asked.of_icons
    for option in fields(foreign):
        if getattr(foreign, option.name) is not None:
            name = "--" + option.name.replace("_", "-")
            kind = "lists and tables" if asked.icons is not None else "--icons"
            raise UsageError(f"{name} belongs to {kind}", fix="leave it out")
    build = Build(
        source=_of_rows(asked) if asked.icons is None else _of_icons(asked, asked.icons),
        folder=asked.output,
        workers=asked.workers,
        reporter=reporter,
        overwrite=asked.overwrite,
        wait=asked.wait,
    )
    build.check()
    return build


def _of_icons(asked: Asked, folder: Path) -> Source:
    with drawing_icons():
        from stylecli.engine.i2l.data import icons
        from stylecli.engine.i2l.data.styles import Counts
    wish = asked.of_icons
    return icons.Icons(
        icons.Wanted(
            icons=folder,
            counts=Counts(
                STYLES if wish.styles is None else wish.styles, *(wish.held_out or HELD_OUT)
            ),
            per_style=wish.per_style or PER_STYLE,
            px=wish.size or PX,
            seed=wish.seed or 0,
        )
    )


def _of_rows(asked: Asked) -> Source:
    wish = asked.of_rows
    if wish.upscaler is not None and wish.upscale_to is None:
        raise UsageError("--upscaler without --upscale-to", fix="add --upscale-to 1024")
    files = expand(asked.sources, asked.stdin)
    for file in files:
        if file.resolve().is_relative_to(asked.output.resolve()):
            raise UsageError(
                f"{file} lies inside the output {asked.output}", fix="choose another --output"
            )
    return Imported(
        Pictures(
            files=files,
            holdout=HOLDOUT if wish.holdout is None else wish.holdout,
            short_px=wish.upscale_to,
            upscaler=wish.upscaler or LANCZOS,
        )
    )


def expand(sources: Sequence[str], stdin: Callable[[], str]) -> list[Path]:
    """Files of rows behind the arguments, in order, folders and globs sorted, each once.

    Raises:
        InputError: An argument that matches nothing.
    """
    found: dict[Path, None] = {}
    for source in sources:
        if source == "-":
            names = [name for name in stdin().splitlines() if name]
            if not names:
                raise InputError(
                    "the list on standard input is empty", fix="pipe file names into it"
                )
            found |= dict.fromkeys(map(Path, names))
            continue
        path = Path(source).expanduser()
        matches = [path]
        if path.is_dir():
            matches = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        elif not path.exists() and glob.has_magic(source):
            # Not Path.glob: a quoted pattern may start at the root.
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
        if not matches:
            raise InputError(
                f"{source}: no .jsonl list and no .parquet table", fix="check the name"
            )
        found |= dict.fromkeys(matches)
    return list(found)
