"""What a file says of how it was made, checked, and its inputs found again."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from stylecli.artifacts import files, store
from stylecli.artifacts.locate import SEARCHED_FILES, Locator
from stylecli.engine.places import Asked
from stylecli.engine.plan import Role
from stylecli.engine.provenance import SCHEMA_VERSION
from stylecli.errors import InputError

# Of one name, on the file systems there are.
MAX_NAME_BYTES = 255


class Named(BaseModel):
    """An input as files and journals name it."""

    role: Role
    name: str
    sha256: str


class Model(BaseModel):
    """The diffusion model that was used."""

    id: str
    fingerprint: str


class Facts(BaseModel):
    """What of a provenance decides a file; the rest is for people."""

    command: str
    key: str
    recipe: dict[str, Any]
    inputs: list[Named]
    model: Model | None = None
    figure: dict[str, Any] | None = None
    prompt: str = ""
    captions: list[str] = Field(default_factory=list)
    asked: Asked = Asked()
    every: bool = False
    region: dict[str, Any] | None = None
    fuse: Literal["tokens", "delta", "factors"] = "tokens"
    groups: list[int] = Field(default_factory=list)
    neutral: bool = False
    experts: list[dict[str, Any]] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Staged:
    """An input under its recorded name, in a folder of its own."""

    role: Role
    path: Path
    sha256: str


def read(
    path: Path, said: Mapping[str, Any], row: Mapping[str, Any] | None, commands: Collection[str]
) -> Facts:
    """The facts of a provenance.

    Args:
        path: The file, for messages.
        said: What it says itself.
        row: What the journal says of it: a JPEG leaves a long list of inputs to it.
        commands: Those whose files can be made again.

    Raises:
        InputError: Written by another version, by a command that is not known, or not whole.
    """
    if said.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path}: its provenance is of schema {said.get('schema_version')!r}, "
            f"and {SCHEMA_VERSION} is known here",
            fix="use the version of stylecli that made it; `style show` prints what it says",
        )
    if said.get("command") not in commands:
        raise InputError(
            f"{path} was made by {said.get('command')!r}, which cannot be made again",
            fix=f"known: {', '.join(commands)}",
        )
    if "inputs_omitted" in said:
        listed = (row or {}).get("inputs")
        omitted = said["inputs_omitted"]
        if not isinstance(omitted, dict) or store.digest(listed) != omitted.get("sha256"):
            raise InputError(
                f"{path} leaves its list of inputs to the journal, which has none of it",
                fix="put its runs.jsonl beside it",
            )
        said = {**said, "inputs": listed}
    try:
        facts = Facts.model_validate_json(files.to_json(said))
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(
            f"{path}: its provenance has no usable {place!r}", fix="`style show` prints what it has"
        ) from error
    for name in [item.name for item in facts.inputs]:
        # Somebody may have written it by hand; nothing is put outside the folder made for it.
        is_plain = name not in ("", ".", "..") and Path(name).name == name and "\0" not in name
        if not is_plain or len(name.encode(errors="surrogateescape")) > MAX_NAME_BYTES:
            raise InputError(f"{path}: {name!r} is no file's name", fix="give a file `style` made")
    return facts


def stage(path: Path, facts: Facts, locator: Locator, folder: Path) -> list[Staged]:
    """Find every input and put it under its recorded name, which is part of what is written.

    Captions are put beside their pictures, and no other text is.

    Raises:
        InputError: Some are nowhere; all of them are named.
    """
    found: list[tuple[Named, Path | None]] = [
        (item, locator.find(item.name, item.sha256)) for item in facts.inputs if _is_file(item)
    ]
    if missing := [item for item, at in found if at is None]:
        lines = [f"{path} was made from files that were not found:"]
        lines += [f"{item.role} {item.name}, SHA-256 {item.sha256}" for item in missing]
        raise InputError(
            "\n".join(lines),
            fix="--inputs FOLDER, or FILE, says where they are; a folder of more than "
            f"{SEARCHED_FILES} files is searched only if it is named so",
        )
    staged: list[Staged] = []
    for number, (item, at) in enumerate(found):
        before = staged[-1] if staged else None
        beside = before is not None and item.role == "caption" and before.role == "style"
        place = before.path.parent if before is not None and beside else folder / str(number)
        place.mkdir(parents=True, exist_ok=True)
        target = place / item.name
        if at is not None:
            link(target, at)
        staged.append(Staged(item.role, target, item.sha256))
    for style, caption in zip(staged, facts.captions, strict=False):
        style.path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return staged


def _is_file(item: Named) -> bool:
    return item.role != "prompt"


def link(at: Path, target: Path) -> None:
    """Another name for a file or folder; a copy where the system has no links."""
    try:
        at.symlink_to(target.absolute())
    except OSError:
        (shutil.copytree if target.is_dir() else shutil.copyfile)(target, at)
