"""What a run will do, decided before any weight is loaded: jobs with keys, seeds and outputs."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from stylecli.artifacts import store
from stylecli.engine import collisions
from stylecli.errors import InputError, UsageError
from stylecli.tensors.seeds import derive

Role = Literal[
    "content",
    "style",
    "caption",
    "lora",
    "accelerator",
    "negative",
    "neutral",
    "predictor",
    "dataset",
    "mask",
    "prompt",
    "report",
]
# Raised when a change of ours makes other pictures from the same inputs.
METHOD_VERSION = 2
MAX_NAME = 80
# What the name of an output may be made of.
FIELDS: Mapping[Role, str] = {
    "content": "content",
    "style": "style",
    "lora": "style",
    "prompt": "prompt",
}
# In place of the digest of a file that cannot be read.
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Input:
    """One thing a job is made of: a file, or words."""

    role: Role
    path: Path
    sha256: str

    @classmethod
    def of(cls, role: Role, path: Path) -> Input:
        """A file, or a LoRA folder, with its digest.

        Raises:
            InputError: It cannot be read.
        """
        try:
            if role != "content" and path.is_dir():
                return cls(role, path, store.folder_sha256(path))
            # A pipe would be read without end.
            if path.exists() and not path.is_file():
                raise InputError(f"{path} is no file", fix="give a file")
            return cls(role, path, store.file_sha256(path))
        except OSError as error:
            raise InputError(
                f"{path} cannot be read: {error.strerror}", fix="check the name and its permissions"
            ) from error

    @classmethod
    def of_content(cls, path: Path) -> Input:
        """A content: one that cannot be read is an item that fails, not a run that is refused."""
        try:
            return cls.of("content", path)
        except InputError:
            return cls("content", path, UNREADABLE)

    @classmethod
    def of_mask(cls, path: Path) -> Input:
        """The mask of one content: like that content, it fails its own item and no other."""
        try:
            return cls.of("mask", path)
        except InputError:
            return cls("mask", path, UNREADABLE)

    @classmethod
    def of_prompt(cls, text: str, number: int | None = None) -> Input:
        """Words, and which of several pictures of them."""
        words = "-".join(re.findall(r"\w+", text.lower()))[: MAX_NAME - 8] or "empty"
        name = words if number is None else f"{words}-{number}"
        return cls("prompt", Path(name), store.digest([text, number or 1]))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job to be: what goes in.

    Attributes:
        output: The place a manifest names for it.
        settings: What decides its bytes besides the settings of all; JSON.
        folder: Of the content, below the one that was named.
        decisive: In place of what the plan says for all, where this one has it otherwise.
    """

    inputs: Sequence[Input]
    output: Path | None = None
    settings: object = None
    folder: str = ""
    decisive: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """One file to make.

    Attributes:
        key: Digest of everything that decides its bytes.
        seed: Of this item alone, so order, shards and restarts do not matter.
        sheet: A picture for people, to be made beside the output: a comparison or a check.
        beside: More that is made there; each says what made it, as the sheet does.
        strip: Its files do not say what made them.
        redo: What is there of it is its own, and may be replaced.
    """

    key: str
    command: str
    inputs: tuple[Input, ...]
    output: Path
    seed: int
    sheet: Path | None = None
    strip: bool = False
    redo: bool = False
    beside: tuple[Path, ...] = ()

    @property
    def content(self) -> Input:
        """What is restyled or inverted."""
        return next(item for item in self.inputs if item.role == "content")


@dataclass(frozen=True, slots=True)
class Plan:
    """All jobs of a run.

    Attributes:
        folder: Where its journal lives.
        is_file: There is one output, and it was named itself.
    """

    jobs: tuple[Job, ...]
    folder: Path
    is_file: bool = False


def build(
    command: str,
    wanted: Sequence[Wanted],
    *,
    decisive: Mapping[str, object],
    seed: int,
    output: Path,
    name: str,
    is_file: bool,
    suffixes: Sequence[str] = (),
    sheet: str | None = None,
    beside: Sequence[str] = (),
    strip: bool = False,
) -> Plan:
    """Jobs with keys, seeds and places.

    Args:
        command: Its name becomes part of every key.
        wanted: What goes into each.
        decisive: Settings and fingerprints that decide the bytes of a result.
        seed: Of the run.
        output: The file of a single job, else a folder.
        name: Template of file names in the folder: ``{folder}``, ``{content}``, ``{ext}``,
            ``{style}``, ``{key}``.
        is_file: `output` is a file.
        suffixes: What an output's name may end in; empty is anything.
        sheet: Each job also makes a picture for people; this goes before its suffix.
        beside: And files that take these in their suffix's place.
        strip: Files do not say what made them.

    Raises:
        UsageError: Two jobs would write one file, an output is also an input or of a kind that
            cannot be written, or the template is wrong.
    """
    jobs = []
    common = {"command": command, "method_version": METHOD_VERSION, "seed": seed, **decisive}
    key_of = store.digester(common)
    for one in wanted:
        digests = [[item.role, item.sha256] for item in one.inputs]
        own = {} if one.settings is None else {"settings": one.settings}
        key = key_of({"inputs": digests, **own, **one.decisive})
        # The same noise whatever it is guided away from, so that pictures can be compared.
        drawn_from = [digest for digest in digests if digest[0] != "negative"]
        job = Job(key, command, tuple(one.inputs), output, derive(seed, drawn_from), strip=strip)
        if one.output is not None:
            job = replace(job, output=one.output)
        elif not is_file:
            job = replace(job, output=output / file_name(name, job, one.folder))
        if suffixes and job.output.suffix.lower() not in suffixes:
            raise UsageError(
                f"{job.output}: cannot write {job.output.suffix or 'a name without suffix'}",
                fix=f"use {', '.join(suffixes)}; a folder's name ends in a slash",
            )
        if sheet is not None:
            job = replace(job, sheet=sheet_path(job.output, sheet))
        more = tuple(job.output.with_name(job.output.stem + suffix) for suffix in beside)
        jobs.append(replace(job, beside=more) if more else job)
    collisions.refuse(jobs)
    return Plan(tuple(jobs), output.parent if is_file else output, is_file)


def file_name(template: str, job: Job, folder: str = "") -> str:
    """Fill a name template; long stems are cut so that no file system complains.

    Raises:
        UsageError: An unknown field, or a name that leaves the folder.
    """
    named: dict[str, dict[str, None]] = {}
    for item in job.inputs:
        if item.role in FIELDS:
            named.setdefault(FIELDS[item.role], {})[item.path.stem] = None
    stems = {field: _cut("+".join(names)) for field, names in named.items()}
    stems |= {"key": job.key[:12], "folder": folder or "."}
    for content in (item for item in job.inputs if item.role == "content"):
        stems["ext"] = content.path.suffix[1:]
    try:
        filled = template.format(**stems)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UsageError(
            f"--name {template!r}: unknown field {error}",
            fix=f"fields: {', '.join('{' + field + '}' for field in sorted(stems))}",
        ) from error
    if _leaves(Path(filled)) or not Path(filled).name:
        raise UsageError(f"--name {template!r} leaves the output folder", fix="use plain names")
    return filled


def _cut(stem: str) -> str:
    """A stem of at most `MAX_NAME` bytes, of which a character can take four."""
    return os.fsencode(stem)[:MAX_NAME].decode(sys.getfilesystemencoding(), errors="ignore")


def inside(folder: Path, name: Path) -> Path:
    """A place in a folder.

    Raises:
        UsageError: The name leads out of it.
    """
    if _leaves(name):
        raise UsageError(
            f"output {str(name)!r} of a manifest leaves the output folder", fix="name a place in it"
        )
    return folder / name


def _leaves(name: Path) -> bool:
    return name.is_absolute() or ".." in name.parts


# What a picture for people is called beside the output of each command.
SHEETS: Mapping[str, str] = {
    "transfer": "compare",
    "mask-transfer": "sheet",
    "switch": "sheet",
    "invert": "verify",
    "masks": "overlay",
    "gallery": "regions",
    "route-apply": "attention",
}


def sheet_path(output: Path, kind: str) -> Path:
    """Where the picture for people goes that belongs to an output.

    >>> [sheet_path(Path(name), "x").name for name in ("out.jpg", "cat.safetensors")]
    ['out.x.jpg', 'cat.x.png']
    """
    suffix = output.suffix if output.suffix.lower() in store.PICTURE_SUFFIXES else ".png"
    return output.with_name(f"{output.stem}.{kind}{suffix}")


def shard(plan: Plan, part: tuple[int, int] | None) -> Plan:
    """The jobs of shard ``i`` of ``n``, chosen by the output's name so that runs agree untold."""
    if part is None:
        return plan
    index, count = part

    def belongs(job: Job) -> bool:
        name = below(plan.folder, job.output)
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
        return int(digest, 16) % count == index - 1

    return replace(plan, jobs=tuple(job for job in plan.jobs if belongs(job)))


def below(folder: Path, file: Path) -> str:
    """A file's name as the journal of a folder has it."""
    return (file.relative_to(folder) if file.is_relative_to(folder) else Path(file.name)).as_posix()
