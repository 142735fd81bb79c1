"""Which outputs are scored, and against what: manifests, folders of ours, folders of others."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from stylecli.artifacts import journal, store
from stylecli.artifacts.locate import IMAGE_SUFFIXES
from stylecli.engine import inputs
from stylecli.engine.plan import below
from stylecli.errors import InputError, UsageError, did_you_mean
from stylecli.recipe.scoring import Evaluate

FILES = ("output", "content", "style", "mask", "target")
WORDS = (
    *("prompt", "region_text", "style_text", "style_content", "negative_style", "style_family"),
    "content_group",
)
COLUMNS = ("id", "method", *FILES, *WORDS)
# Ours, and what a widespread family of repositories writes.
PATTERNS = (
    r"(?P<content>.+)__(?P<style>.+)",
    r"(?P<content>.+)_stylized_(?P<style>.+)",
)
SHOWN_PAIRS = 5
ANCHOR_NAMES = frozenset(get_args(get_args(Evaluate.model_fields["anchors"].annotation)[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One output of one method.

    Attributes:
        id: Equal across methods for the same task.
        place: Where it was named, for messages.
    """

    id: str
    method: str
    output: Path
    place: str
    content: Path | None = None
    style: tuple[Path, ...] = ()
    mask: Path | None = None
    target: Path | None = None
    prompt: str = ""
    region_text: str = ""
    style_text: str = ""
    style_content: str = ""
    negative_style: str = ""
    style_family: str = ""
    content_group: str = ""

    def has(self, column: str) -> bool:
        """Whether the manifest gave it."""
        return bool(getattr(self, column))


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
    items = _from_manifest(asked.manifest) if asked.manifest else []
    contents, styles = inputs.expand(asked.contents), inputs.expand(asked.styles)
    for index, folder in enumerate(folders):
        method = asked.methods[index] if asked.methods else folder.resolve().name
        if journal.files(folder):
            items += _from_run(folder, method, contents, styles)
        elif settings.pair == "lexicographic":
            items += _in_order(folder, method, contents, styles)
        else:
            items += _by_name(folder, method, contents, styles, settings.pattern)
    if not items:
        raise InputError("no results were named", fix="give folders of results, or --manifest FILE")
    items = _limited(items, settings.limit)
    _check(items)
    return items


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


def _from_manifest(path: Path) -> list[Item]:
    found = []
    # A hundred thousand rows name the same few methods, contents and styles.
    words: dict[str, str] = {}
    files: dict[str, Path] = {}
    styles: dict[tuple[str, ...], tuple[Path, ...]] = {}

    def file(name: str) -> Path:
        return files.get(name) or files.setdefault(name, path.parent / name)

    for number, row in inputs.lines(path, COLUMNS):
        place = f"{path}:{number}"
        given = {key: value for key, value in row.items() if value not in (None, "", [])}
        for column in ("method", "output"):
            if column not in given:
                raise InputError(f"{place}  no {column!r}", fix=f"columns: {', '.join(COLUMNS)}")
        values: dict[str, Any] = {
            key: words.setdefault(str(value), str(value))
            for key, value in given.items()
            if key not in ("id", *FILES)
        }
        if "id" in given:
            values["id"] = str(given["id"])
        try:
            "".join(str(value) for value in given.values()).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{place}  holds half a character: {error.reason}", fix="write it as UTF-8"
            ) from error
        for column in FILES:
            if column in given:
                names = _names(given[column])
                if column == "style":
                    key = tuple(names)
                    values[column] = styles.setdefault(key, tuple(map(file, names)))
                else:
                    name = names[0]
                    values[column] = path.parent / name if column == "output" else file(name)
        if "id" not in values:
            content = [values["content"]] if "content" in values else []
            stems = [path.stem for path in (*content, *values.get("style", ()))]
            values["id"] = "__".join(stems) or values["output"].stem
        found.append(Item(**values, place=place))
    return found


def _names(value: object) -> list[str]:
    """CSV has no lists; ``a|b`` is one."""
    return [str(v) for v in value] if isinstance(value, list) else str(value).split("|")


def _from_run(
    folder: Path, method: str, contents: Sequence[Path], styles: Sequence[Path]
) -> list[Item]:
    """Outputs of ours, paired by the hashes of the files that made them.

    Raises:
        InputError: Nothing is finished, or contents or styles were named and none of them is one.
    """
    by_hash = {store.file_sha256(path): path for path in (*contents, *styles)}
    found = []
    for row in journal.latest(folder).values():
        output = folder / str(row.get("output", ""))
        is_picture = output.suffix.lower() in IMAGE_SUFFIXES
        if row.get("status") != "done" or not is_picture or not output.is_file():
            continue
        roles: dict[str, list[Path]] = {"content": [], "style": []}
        names = []
        for entry in row.get("inputs", ()):
            names.append(Path(str(entry.get("name"))).stem)
            if entry.get("role") in roles and entry.get("sha256") in by_hash:
                roles[entry["role"]].append(by_hash[entry["sha256"]])
        # A LoRA does not say which pictures it was learned from; one --style can be meant only so.
        is_of_lora = not any(entry.get("role") == "style" for entry in row.get("inputs", ()))
        chosen = list(styles) if is_of_lora and len(styles) == 1 else roles["style"]
        found.append(
            Item(
                id="__".join(names),
                method=method,
                output=output,
                content=next(iter(roles["content"]), None),
                style=tuple(chosen),
                place=str(output),
            )
        )
    if not found:
        raise InputError(f"{folder} holds no finished results", fix="check its runs.jsonl")
    for role, named in (("content", contents), ("style", styles)):
        if named and not any(item.has(role) for item in found):
            raise InputError(
                f"none of the {len(named)} files of --{role} made a result in {folder}",
                fix=f"give the {role} files as they were then, or --manifest FILE",
            )
    return sorted(_apart(found, folder), key=lambda item: item.output)


def _apart(items: Sequence[Item], folder: Path) -> list[Item]:
    """With ids of their own for contents of equal names from several folders of a tree."""
    count = Counter(item.id for item in items)
    return [
        item
        if count[item.id] == 1
        else replace(item, id=(Path(below(folder, item.output)).parent / item.id).as_posix())
        for item in items
    ]


def _by_name(
    folder: Path,
    method: str,
    contents: Sequence[Path],
    styles: Sequence[Path],
    pattern: str | None,
) -> list[Item]:
    """Outputs of others, whose names say what they are of."""
    stems = (_by_stem(contents, "content"), _by_stem(styles, "style"))
    found = []
    for output in inputs.expand([str(folder)]):
        matched = [_match(p, output.stem, stems) for p in ([pattern] if pattern else PATTERNS)]
        content, style = max(matched, key=lambda pair: sum(map(bool, pair)))
        lacking = [
            role
            for role, named, match in (("content", contents, content), ("style", styles, style))
            if named and match is None
        ]
        if lacking:
            raise InputError(
                f"{output}: its name fits no {' and no '.join(lacking)}",
                fix="--set evaluate.pattern='(?P<content>.+)-(?P<style>.+)', evaluate.pair="
                "lexicographic, or --manifest FILE",
            )
        found.append(
            Item(
                # As a folder of ours has it, so that the two can be compared.
                id=f"{content.stem}__{style.stem}" if content and style else output.stem,
                method=method,
                output=output,
                content=content,
                style=(style,) if style else (),
                place=str(output),
            )
        )
    return found


def _by_stem(paths: Sequence[Path], role: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(path.stem, path)
        if other != path:
            raise InputError(
                f"two of --{role} have one name: {other} and {path}",
                fix="rename one, or give --manifest FILE",
            )
    return found


def _match(
    pattern: str, stem: str, known: tuple[Mapping[str, Path], Mapping[str, Path]]
) -> tuple[Path | None, Path | None]:
    try:
        match = re.fullmatch(pattern, stem)
        if not re.compile(pattern).groupindex.keys() & {"content", "style"}:
            raise re.error("it has no group called content or style")
    except re.error as error:
        raise UsageError(
            f"evaluate.pattern {pattern!r} is no regular expression: {error}",
            fix="such as '(?P<content>.+)__(?P<style>.+)'",
        ) from error
    groups = match.groupdict() if match else {}
    content, style = groups.get("content", ""), groups.get("style", "")
    # Where there is no style in the name, the whole of it may be the content's.
    return known[0].get(content or "", known[0].get(stem)), known[1].get(style or "")


def _in_order(
    folder: Path, method: str, contents: Sequence[Path], styles: Sequence[Path]
) -> list[Item]:
    """Both sorted and paired off, as older evaluation scripts did."""
    outputs = inputs.expand([str(folder)])
    for role, files in (("contents", contents), ("styles", styles)):
        if files and len(files) != len(outputs):
            raise InputError(
                f"{folder} holds {len(outputs)} outputs, and there are {len(files)} {role}",
                fix="lexicographic pairing needs equal numbers",
            )
    sorted_contents = sorted(contents, key=lambda path: path.name)
    sorted_styles = sorted(styles, key=lambda path: path.name)
    return [
        Item(
            id=output.stem,
            method=method,
            output=output,
            content=sorted_contents[i] if contents else None,
            style=(sorted_styles[i],) if styles else (),
            place=str(output),
        )
        for i, output in enumerate(sorted(outputs, key=lambda path: path.name))
    ]


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
