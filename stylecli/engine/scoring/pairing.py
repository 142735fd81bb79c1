"""Folders of outputs, each paired with the content and the style that made it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stylecli.artifacts import journal, store
from stylecli.artifacts.locate import IMAGE_SUFFIXES
from stylecli.engine import inputs
from stylecli.engine.plan import below
from stylecli.engine.scoring.item import Item
from stylecli.errors import InputError, UsageError
from stylecli.recipe.scoring import Evaluate

# Ours, and what a widespread family of repositories writes.
PATTERNS = (
    r"(?P<content>.+)__(?P<style>.+)",
    r"(?P<content>.+)_stylized_(?P<style>.+)",
)


def paired(
    folder: Path,
    method: str,
    contents: Sequence[Path],
    styles: Sequence[Path],
    settings: Evaluate,
) -> list[Item]:
    """The items of a folder: ours by what made them, others by their names or their order.

    Raises:
        InputError: Nothing is finished, names do not pair, or numbers differ.
        UsageError: The pattern is none.
    """
    if journal.files(folder):
        return _from_run(folder, method, contents, styles)
    if settings.pair == "lexicographic":
        return _in_order(folder, method, contents, styles)
    return _by_name(folder, method, contents, styles, settings.pattern)


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
