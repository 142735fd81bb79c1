"""Which outputs are scored, and against what: manifests, folders of ours, folders of others."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from stylecli.engine import inputs
from stylecli.engine.scoring import manifests, pairing
from stylecli.engine.scoring.item import Item
from stylecli.errors import InputError, UsageError, did_you_mean
from stylecli.recipe.scoring import Evaluate

SHOWN_PAIRS = 5
ANCHOR_NAMES = frozenset(get_args(get_args(Evaluate.model_fields["anchors"].annotation)[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user named.

    Attributes:
        results: Folders of outputs.
        contents: Files, folders or globs that hold the contents of those.
        methods: A name for each folder; default: the folder's own.
    """

    results: Sequence[str] = ()
    manifest: Path | None = None
    contents: Sequence[str] = ()
    styles: Sequence[str] = ()
    methods: Sequence[str] = ()


def collect(asked: Asked, settings: Evaluate) -> list[Item]:
    """All items, in the order of the manifest and then of the folders' names.

    Raises:
        InputError: Nothing was named, a file does not exist, names do not pair, or an item of a
            method is there twice.
        UsageError: Options that do not fit together.
    """
    if (asked.contents or asked.styles) and not asked.results:
        raise UsageError(
            "--content and --style are for folders of results, and none was named",
            fix="a manifest names its own",
        )
    folders = [folder for name in asked.results for folder in _folders(name)]
    if asked.methods and len(asked.methods) != len(folders):
        raise UsageError(
            f"{len(asked.methods)} names for {len(folders)} folders",
            fix="one --method for each folder",
        )
    names = asked.methods or [folder.resolve().name for folder in folders]
    items: list[Item] = []
    if asked.manifest and folders and not manifests.names_methods(asked.manifest):
        items = _of_tasks(asked, names, folders)
    else:
        if asked.manifest:
            items += manifests.items_of(asked.manifest)
        contents, styles = inputs.expand(asked.contents), inputs.expand(asked.styles)
        for method, folder in zip(names, folders, strict=True):
            items += pairing.paired(folder, method, contents, styles, settings)
    if not items:
        raise InputError("no results were named", fix="give folders of results, or --manifest FILE")
    items = _limited(items, settings.limit)
    _check(items)
    return items


def _of_tasks(asked: Asked, names: Sequence[str], folders: Sequence[Path]) -> list[Item]:
    """What folders of results made of the tasks of a manifest.

    Raises:
        InputError: A row is none.
        UsageError: Contents or styles are named beside it, or two folders have one name.
    """
    assert asked.manifest is not None  # noqa: S101  the one caller looked
    if asked.contents or asked.styles:
        raise UsageError(
            f"{asked.manifest} says what the results are of", fix="leave out --content and --style"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(
            f"two folders of results are called {twice!r}", fix="--method NAME for each folder"
        )
    return manifests.items_of(asked.manifest, dict(zip(names, folders, strict=True)))


def _folders(name: str) -> list[Path]:
    """A folder, or those that a quoted glob names."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return [folder]
    names = glob.glob(str(folder)) if glob.has_magic(name) else []  # noqa: PTH207  may be absolute
    found = sorted(path for path in map(Path, names) if path.is_dir())
    if not found:
        raise InputError(f"{name} is not a folder of results", fix="or give --manifest FILE")
    return found


def pairs_in_words(items: Sequence[Item]) -> str:
    """The first few pairs, for a user to check an order that nothing else can check."""
    lines = [
        f"{item.output.name} <- {item.content.name if item.content else '?'}"
        for item in items[:SHOWN_PAIRS]
    ]
    return "paired by order: " + ", ".join(lines)


def _limited(items: Sequence[Item], limit: int | None) -> list[Item]:
    """All rows of the first so many ids: methods stay comparable."""
    if limit is None:
        return list(items)
    ids = list(dict.fromkeys(item.id for item in items))[:limit]
    kept = set(ids)
    return [item for item in items if item.id in kept]


def _check(items: Sequence[Item]) -> None:
    first: dict[tuple[str, str], Item] = {}
    tasks: dict[str, Item] = {}
    there: set[str] = set()
    for item in items:
        if item.method in ANCHOR_NAMES:
            raise InputError(
                f"{item.place}  a method cannot be called {item.method!r}: it is one of the copies",
                fix="--method NAME, or another name in the manifest",
            )
        task = tasks.setdefault(item.id, item)
        if (task.content, task.style) != (item.content, item.style):
            raise InputError(
                f"{item.place}  the item {item.id!r} of {item.method!r} has another content or "
                f"style than that of {task.method!r} at {task.place}",
                fix="equal ids are equal tasks: give it another id",
            )
        other = first.setdefault((item.method, item.id), item)
        if other is not item:
            raise InputError(
                f"{item.place}  method {item.method!r} has the item {item.id!r} twice; first at "
                f"{other.place}",
                fix="give each an id of its own",
            )
        named = [item.output, item.content, *item.style, item.mask, item.target]
        for path in named:
            if path is None or (name := str(path)) in there:
                continue
            if not _is_file(path):
                raise InputError(f"{item.place}  {path} does not exist", fix="check the name")
            there.add(name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name no file system can hold
        return False


def unpaired(items: Sequence[Item], role: str) -> list[str]:
    """Outputs of which a content or style was looked for and not found."""
    return [item.output.name for item in items if not item.has(role)]


def require(items: Sequence[Item], column: str, metric: str) -> None:
    """Refuse before the work what a metric that was asked for cannot do without.

    Raises:
        InputError: No item has the column.
    """
    if not any(item.has(column) for item in items):
        remedy = {
            "content": "give --content DIR, or a manifest with that column",
            "style": "give --style DIR, or a manifest with that column",
        }
        raise InputError(
            f"{metric} needs {column!r}, and no item has it",
            fix=remedy.get(column, f"give --manifest FILE with the column {column}"),
        )


def choose_method(items: Sequence[Item], name: str) -> str:
    """A method that is there.

    Raises:
        UsageError: It is not; the nearest is suggested.
    """
    methods = list(dict.fromkeys(item.method for item in items))
    if name in methods:
        return name
    hint = did_you_mean(name, methods)
    raise UsageError(f"no method is called {name!r}", fix=f"{hint}known: {', '.join(methods)}")
