"""What a run will do, decided before any weight is loaded: jobs with keys, seeds and outputs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from stylecli.artifacts import store
from stylecli.errors import InputError, UsageError
from stylecli.tensors.seeds import derive

Role = Literal["content", "style", "caption", "lora", "mask", "prompt"]
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
            if path.is_dir():
                files = sorted(file for file in path.iterdir() if file.is_file())
                sha256 = store.digest([[file.name, store.file_sha256(file)] for file in files])
            else:
                sha256 = store.file_sha256(path)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read: {error.strerror}", fix="check the name and its permissions"
            ) from error
        return cls(role, path, sha256)

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
    """

    inputs: Sequence[Input]
    output: Path | None = None
    settings: object = None


@dataclass(frozen=True, slots=True)
class Job:
    """One file to make.

    Attributes:
        key: Digest of everything that decides its bytes.
        seed: Of this item alone, so order, shards and restarts do not matter.
        sheet: A picture for people, to be made beside the output: a comparison or a check.
    """

    key: str
    command: str
    inputs: tuple[Input, ...]
    output: Path
    seed: int
    sheet: Path | None = None

    @property
    def content(self) -> Input:
        """What is restyled or inverted."""
        return next(item for item in self.inputs if item.role == "content")


@dataclass(frozen=True, slots=True)
class Plan:
    """All jobs of a run; `folder` is where its journal lives."""

    jobs: tuple[Job, ...]
    folder: Path


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
) -> Plan:
    """Jobs with keys, seeds and places.

    Args:
        command: Its name becomes part of every key.
        wanted: What goes into each.
        decisive: Settings and fingerprints that decide the bytes of a result.
        seed: Of the run.
        output: The file of a single job, else a folder.
        name: Template of file names in the folder: ``{content}``, ``{style}``, ``{key}``.
        is_file: `output` is a file.
        suffixes: What an output's name may end in; empty is anything.
        sheet: Each job also makes a picture for people; this goes before its suffix.

    Raises:
        UsageError: Two jobs would write one file, an output is also an input or of a kind that
            cannot be written, or the template is wrong.
    """
    jobs = []
    for one in wanted:
        digests = [[item.role, item.sha256] for item in one.inputs]
        key = store.digest(
            {
                "command": command,
                "method_version": METHOD_VERSION,
                "inputs": digests,
                "seed": seed,
                **({} if one.settings is None else {"settings": one.settings}),
                **decisive,
            }
        )
        job = Job(key, command, tuple(one.inputs), output, derive(seed, digests))
        if one.output is not None:
            job = replace(job, output=one.output)
        elif not is_file:
            job = replace(job, output=output / file_name(name, job))
        if suffixes and job.output.suffix.lower() not in suffixes:
            raise UsageError(
                f"{job.output}: cannot write {job.output.suffix or 'a name without suffix'}",
                fix=f"use {', '.join(suffixes)}; a folder's name ends in a slash",
            )
        if sheet is not None:
            job = replace(job, sheet=sheet_path(job.output, sheet))
        jobs.append(job)
    _refuse_collisions(jobs)
    return Plan(tuple(jobs), output.parent if is_file else output)


def file_name(template: str, job: Job) -> str:
    """Fill a name template; long stems are cut so that no file system complains.

    Raises:
        UsageError: An unknown field, or a name that leaves the folder.
    """
    named: dict[str, dict[str, None]] = {}
    for item in job.inputs:
        if item.role in FIELDS:
            named.setdefault(FIELDS[item.role], {})[item.path.stem] = None
    stems = {field: "+".join(names)[:MAX_NAME] for field, names in named.items()}
    stems["key"] = job.key[:12]
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
        digest = hashlib.sha256(job.output.name.encode()).hexdigest()
        return int(digest, 16) % count == index - 1

    return replace(plan, jobs=tuple(job for job in plan.jobs if belongs(job)))


def parse_shard(text: str) -> tuple[int, int]:
    """``2/8`` -> ``(2, 8)``; counting starts at 1.

    Raises:
        UsageError: Anything else.
    """
    index, slash, count = text.partition("/")
    if slash and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count):
        return int(index), int(count)
    raise UsageError(f"--shard {text!r} is not i/n", fix="use 1/8 to 8/8")


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    seen: dict[Path, Job] = {}
    inputs = {item.path.resolve() for job in jobs for item in job.inputs}
    for job in jobs:
        for file in (job.output, job.sheet):
            if file is None:
                continue
            target = file.resolve()
            if target in seen:
                raise UsageError(
                    f"{job.inputs[0].path} and {seen[target].inputs[0].path} would both write "
                    f"{file}",
                    fix="use --name with {content}, {style} or {key}",
                )
            if target in inputs:
                raise UsageError(
                    f"{file} is one of the inputs", fix="write to another file or folder"
                )
            seen[target] = job
