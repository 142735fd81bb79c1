"""`style route-data` as data: what set is asked for, checked before anything is made."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stylecli.backbone import registry
from stylecli.engine import inputs
from stylecli.engine.context import Reporter
from stylecli.engine.extras import drawing_icons
from stylecli.engine.route.data import items
from stylecli.engine.route.data.building import Build
from stylecli.engine.route.data.coco import Grounded, Instances
from stylecli.engine.route.data.making import Hand, slug
from stylecli.engine.route.data.photographs import Listing, Photographs
from stylecli.engine.route.data.relabelled import Relabelled
from stylecli.engine.route.data.stylists import ByEditor, ByFilter, Restyler
from stylecli.engine.session import Session
from stylecli.errors import InputError, UsageError, did_you_mean
from stylecli.methods.regionroute.styles import PAPER, Style
from stylecli.recipe.schema import Recipe
from stylecli.tensors.filters import FILTERS

if TYPE_CHECKING:
    from stylecli.engine.route.data.making import Source

How = Literal["editor", "filter", "drawing"]
PX, MIN_PX = 96, 32
LISTS = (".json", ".jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One command line.

    Attributes:
        sources: Lists of COCO's or TokenCompose's, folders of relabelled pairs, or ``-`` for names
            on standard input.
        icons: The folder of npm's packages; scenes are drawn of them.
        pictures: Where the lists' pictures are.
        styles: Ids, phrases or other names; none are the paper's four.
        stylist: Who restyles; None is whoever suits a style.
        px: Side of scenes.
        exclude: A set whose pictures must not be used.
        tries: Of an editor, for each picture.
        has_model: Somebody named a model or a device.
        stdin: Reads what ``-`` stands for.
    """

    sources: Sequence[str]
    icons: Path | None
    output: Path
    recipe: Recipe
    pictures: Path | None = None
    styles: Sequence[str] = ()
    stylist: How | None = None
    px: int | None = None
    exclude: Path | None = None
    tries: int | None = None
    has_model: bool = False
    allow_download: bool = False
    stdin: Callable[[], str] = lambda: ""
    overwrite: bool = False
    wait: bool = False


def prepare(asked: Asked, reporter: Reporter) -> Build:
    """Choose pictures and objects; nothing is restyled, and nothing is written.

    Raises:
        InputError: A source that is missing, holds something else, or has too few objects.
        OutputDiffersError: The output holds another set.
        RecipeError: A setting that this source has no use for.
        UsageError: Options that do not go together, a style that nobody here can make, or a
            package that is missing.
        WeightsError: The editor's weights are not on this machine.
    """
    if (asked.icons is None) == (not asked.sources):
        raise UsageError(
            "give either --icons or lists of photographs",
            fix="`style route-data --help` shows both",
        )
    foreign = (
        {"--size": asked.px, "--stylist drawing": asked.stylist == "drawing" or None}
        if asked.icons is None
        else {"--pictures": asked.pictures, "--exclude": asked.exclude,
              "route.data.min_side_px": _said_min_side(asked.recipe)}
    )  # fmt: skip
    for name, value in foreign.items():
        if value is not None:
            kind = "--icons" if asked.icons is None else "photographs"
            raise UsageError(f"{name} is for {kind}", fix="leave it out")
    styles = _styles(asked)
    ways = [_way(style, asked) for style in styles]
    _refuse_idle(asked, ways)
    source: Source
    hands: dict[str, Hand] = {"filter": Restyler(ByFilter())}
    if asked.icons is None:
        source = _photographs(asked)
    else:
        with drawing_icons():
            from stylecli.engine.route.data import scenes
        drawn = [style.id for style, way in zip(styles, ways, strict=True) if way == "drawing"]
        source = scenes.Scenes(
            scenes.Wanted(
                icons=asked.icons,
                styles=styles,
                hands=drawn,
                data=asked.recipe.route.data,
                px=asked.px or PX,
                seed=asked.recipe.sampling.seed,
            )
        )
        hands["drawing"] = scenes.ByHand(source)
    if "editor" in ways:
        hands["editor"] = _editor(asked, reporter)
    build = Build(
        source=source,
        hands={style: hands[way] for style, way in zip(styles, ways, strict=True)},
        data=asked.recipe.route.data,
        folder=asked.output,
        reporter=reporter,
        overwrite=asked.overwrite,
        wait=asked.wait,
    )
    build.claim.check()
    return build


def listing(source: Path, pictures: Path | None = None) -> Listing:
    """A source of photographs, told by what it is: a list of COCO's, of phrases, or pairs.

    Raises:
        InputError: It is none of these.
    """
    if source.is_dir():
        return Relabelled(source)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder", fix="check the name")
    if source.suffix.lower() == ".jsonl":
        return Grounded(source, pictures)
    if source.suffix.lower() == ".json":
        return Instances(source, pictures)
    raise InputError(
        f"{source}: is no list of photographs",
        fix="give COCO's instances (.json), phrases with masks (.jsonl), or a folder of pairs",
    )


def _photographs(asked: Asked) -> Photographs:
    listings = [listing(source, asked.pictures) for source in _expand(asked)]
    if asked.pictures is not None:
        if not asked.pictures.is_dir():
            raise InputError(f"--pictures {asked.pictures}: no such folder", fix="check the name")
        if all(isinstance(one, Relabelled) for one in listings):
            raise UsageError("--pictures is for lists; pairs name their own", fix="leave it out")
    excluded: list[str] = []
    if asked.exclude is not None:
        excluded = [one for ids in items.excluded(asked.exclude).values() for one in ids]
    return Photographs(
        listings, asked.recipe.route.data, asked.recipe.sampling.seed, excluded=excluded
    )


def _editor(asked: Asked, reporter: Reporter) -> Restyler:
    session = Session.open(
        asked.recipe,
        reporter,
        allow_download=asked.allow_download,
        kinds=registry.EDITING,
    )
    return Restyler(
        ByEditor(
            lambda: session.editor,
            {
                "model": session.fingerprint,
                **session.precision,
                "text_length": asked.recipe.route.text_length,
            },
            asked.recipe.route.apply,
            tries=asked.tries or 1,
        )
    )


def _expand(asked: Asked) -> list[Path]:
    """The sources, in order, each once.

    Raises:
        InputError: One that matches nothing.
    """
    found: dict[Path, None] = {}
    for source in asked.sources:
        names = inputs.named(asked.stdin()) if source == "-" else [source]
        if not names:
            raise InputError("the list on standard input is empty", fix="pipe names into it")
        for name in names:
            path = Path(name).expanduser()
            matches = [path]
            if not path.exists() and glob.has_magic(name):
                # Not Path.glob: a quoted pattern may start at the root.
                matches = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
                matches = [one for one in matches if one.is_dir() or one.suffix.lower() in LISTS]
            if not matches:
                raise InputError(f"{name}: matches nothing", fix="check the name")
            found |= dict.fromkeys(matches)
    return list(found)


def _styles(asked: Asked) -> list[Style]:
    """What was named, each once; where an editor restyles, any words are a style.

    Raises:
        UsageError: Nobody can make one, or the files of two would be called alike.
    """
    known = [*PAPER, *(_families() if asked.icons is not None else ())]
    by_name = {_plain(name): style for style in known for name in (*style.names, style.text)}
    found: dict[str, Style] = {}
    for name in asked.styles or [style.phrase for style in PAPER]:
        style = by_name.get(_plain(name))
        if style is None and _default(asked) == "editor" and _plain(name):
            style = Style(_style_id(name), name.strip())
        if style is None:
            raise UsageError(
                f"--style-name {name!r}: nobody here draws in that style",
                fix=f"{did_you_mean(_plain(name), by_name)}known: "
                f"{', '.join(style.text for style in known)}; --stylist editor takes any words",
            )
        first = found.setdefault(style.id, style)
        if _plain(first.phrase) != _plain(style.phrase):
            raise UsageError(
                f"--style-name {first.phrase!r} and {name!r} would both be {style.id} in names of "
                "files",
                fix="call one of them otherwise, in letters a-z or digits",
            )
    return list(found.values())


def _style_id(name: str) -> str:
    """What a style of any words is called in names of files, also of its expert's.

    Raises:
        UsageError: Nothing is left of it there.
    """
    # What a wide character stands for may be an underscore.
    found = slug(_plain(name), "").replace("-", "_").strip("_").casefold()
    if not found:
        raise UsageError(
            f"--style-name {name!r} has nothing in it to name files by",
            fix="say it in letters a-z or digits",
        )
    return found


def _families() -> list[Style]:
    with drawing_icons():
        from stylecli.engine.route.data.scenes import family_styles
    return family_styles()


def _way(style: Style, asked: Asked) -> How:
    """Who makes a style.

    Raises:
        UsageError: Who was named cannot.
    """
    is_rule, is_paper = style.id in FILTERS, style in PAPER
    if asked.stylist == "filter" and not is_rule:
        raise UsageError(
            f"--stylist filter has no rule for {style.text}",
            fix=f"it knows {', '.join(one.text for one in PAPER if one.id in FILTERS)}",
        )
    if asked.stylist == "drawing" and is_paper:
        raise UsageError(
            f"--stylist drawing is for families of icons, and {style.text} is none",
            fix="--style-name 'black and white' is one; leave --stylist out to have both",
        )
    if asked.stylist is not None:
        return asked.stylist
    if asked.icons is None:
        return "editor"
    return "filter" if is_rule else "drawing"


def _default(asked: Asked) -> How:
    return asked.stylist or ("editor" if asked.icons is None else "filter")


def _refuse_idle(asked: Asked, ways: Sequence[How]) -> None:
    """Settings of a model where none takes part."""
    if "editor" in ways:
        return
    said = {
        "--tries": asked.tries is not None,
        "--backbone, --device or --dtype": asked.has_model,
        "--allow-download": asked.allow_download,
    }
    for name, is_said in said.items():
        if is_said:
            raise UsageError(
                f"{name} is for an editor, and no model takes part here",
                fix="leave it out, or add --stylist editor",
            )


def _said_min_side(recipe: Recipe) -> int | None:
    """What somebody set it to; scenes are smaller than photographs, and drawn to be seen."""
    data = recipe.route.data
    return data.min_side_px if "min_side_px" in data.model_fields_set else None


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("-", " ").replace("_", " ").split())
