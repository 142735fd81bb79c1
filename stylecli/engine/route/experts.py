"""A folder of experts: one LoRA of each style, and the index that says which is for what.

    experts/experts.json   experts/pixel_art.safetensors   experts/cyberpunk.safetensors …

Each is there whole or not at all. A LoRA gets its name last, once the index names it by its digest,
so one that is there is in the index; a run that is killed in between leaves an entry without its
file, which is refused when that expert is asked for, and trained again. Adding a style changes no
other byte.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from stylecli.artifacts import files, store
from stylecli.backbone.registry import ASSETS, Source
from stylecli.errors import InputError, UsageError, WeightsError, did_you_mean
from stylecli.methods.regionroute.styles import Style, plain

INDEX = "experts.json"
FORMAT, VERSION = "style-experts", 1
SUFFIX = ".safetensors"
# What a style is called where it names a file.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
MAKE = "style route-train DATASET -o EXPERTS makes such a folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """One entry of the index.

    Attributes:
        id: Of its style, and of its adapter.
        phrase: What stands for the style in instructions.
        aliases: What people may write in its place.
        file: Name of its LoRA, beside the index; `add` fills it in.
        sha256: Of that file; likewise.
        target_set: The layers it changes, as `Editor.layers` knows them.
        base: ``name`` and ``fingerprint`` of the model it was trained on.
        text_length: Tokens of every prompt then, and so from then on.
        training: Facts of how it was made, for people and programs: JSON.
        where: Of a shared adapter that says where; none has one.
    """

    id: str
    phrase: str
    aliases: tuple[str, ...] = ()
    file: str = ""
    sha256: str = ""
    rank: int
    alpha: float
    target_set: str
    base: Mapping[str, str]
    text_length: int
    training: Mapping[str, Any] = field(default_factory=dict)
    where: None = None

    @property
    def style(self) -> Style:
        return Style(self.id, self.phrase, self.aliases)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Expert:
        """What `to_json` wrote.

        Raises:
            TypeError: A value is missing, unknown, or of another type.
            ValueError: One that no expert has.
        """
        own = dict(said)
        if not isinstance(own.get("aliases", []), list | tuple):
            raise TypeError(f"aliases is {own['aliases']!r}")
        found = cls(**(own | {"aliases": tuple(own.get("aliases", ()))}))
        for name, kind in _KINDS.items():
            if not isinstance(getattr(found, name), kind):
                raise TypeError(f"{name} is {getattr(found, name)!r}")
        if not all(isinstance(one, str) for one in (*found.aliases, *found.base.values())):
            raise TypeError("aliases and base are text")
        if found.rank < 1 or found.text_length < 1 or not 0 < found.alpha < math.inf:
            raise ValueError(
                f"rank {found.rank}, alpha {found.alpha}, text_length {found.text_length}"
            )
        if found.where is not None:
            raise ValueError("it needs a shared adapter, which this version knows nothing of")
        if not (_ID.fullmatch(found.id) and found.phrase.strip()):
            raise ValueError(f"{found.id!r} with the phrase {found.phrase!r} names no style")
        if not all(map(plain, found.style.names)):
            raise ValueError("an alias is empty")
        if not (found.file.endswith(SUFFIX) and _ID.fullmatch(found.file)):
            raise ValueError(f"{found.file!r} is no file beside the index")
        if not {"name", "fingerprint"} <= set(found.base):
            raise ValueError("base has name and fingerprint")
        return found


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("id", "phrase", "file", "sha256", "target_set"), str),
    **dict.fromkeys(("rank", "text_length"), int),
    **dict.fromkeys(("base", "training"), dict),
    "alpha": (int, float),
}


@dataclass(frozen=True)
class Experts:
    """A folder of experts that was read."""

    folder: Path
    experts: tuple[Expert, ...]

    @property
    def styles(self) -> tuple[Style, ...]:
        return tuple(one.style for one in self.experts)

    def of(self, id: str) -> Expert:  # noqa: A002 - as the index has it
        """The expert of a style.

        Raises:
            UsageError: None is of that style.
        """
        for one in self.experts:
            if one.id == id:
                return one
        known = [one.id for one in self.experts]
        raise UsageError(
            f"{self.folder} has no expert for {id}",
            fix=f"{did_you_mean(id, known)}it has {', '.join(known) or 'none'}",
        )

    def file(self, id: str) -> Path:  # noqa: A002 - as above
        """The LoRA of a style, which is the one that the index means.

        Raises:
            UsageError: None is of that style.
            WeightsError: The file is missing, or another one.
        """
        expert = self.of(id)
        path = self.folder / expert.file
        try:
            digest = store.file_sha256(path)
        except OSError as error:
            raise WeightsError(
                f"{path} cannot be read: {error.strerror or error}",
                fix=f"copy {expert.file} beside {INDEX}, or train {id} again",
            ) from error
        if digest != expert.sha256:
            raise WeightsError(
                f"{path} has SHA-256 {digest[:12]}…, and {INDEX} says {expert.sha256[:12]}…",
                fix=f"copy the folder again, or train {id} again",
            )
        return path


def shipped() -> Path:
    """The experts that come with the package, for the backbone that does."""
    return ASSETS / "experts" / "pocket"


def shipped_for(source: Source) -> Path | None:
    """Where the experts of a model are that comes with some, whether they are there or not."""
    return shipped() if source.delta is not None else None


def read(path: Path) -> Experts:
    """The experts of a folder; no LoRA is opened.

    Args:
        path: The folder, or its index.

    Raises:
        InputError: Nothing is there, or something else.
        WeightsError: The index is damaged, or two of its styles go by one name.
    """
    index = path if path.name == INDEX else path / INDEX
    if path.is_file() and path != index:
        inside = path.parent / INDEX
        raise InputError(
            f"{path} is a file, and experts are a folder with {INDEX}",
            fix=f"--experts {path.parent}" if inside.is_file() else MAKE,
        )
    try:
        data = index.read_bytes()
    except FileNotFoundError as error:
        what = f"has no {INDEX}" if path.is_dir() else "is not there"
        raise InputError(f"{path} {what}", fix=MAKE) from error
    except OSError as error:
        raise InputError(
            f"{index} cannot be read: {error.strerror or error}",
            fix="check the name and its permissions",
        ) from error
    try:
        found = _entries(json.loads(data))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise WeightsError(
            f"{index} is no index of experts: {error}", fix="copy the folder again, or train again"
        ) from error
    return Experts(index.parent, found)


def add(
    folder: Path, expert: Expert, tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> Path:
    """Write an expert, or write it anew; shards that share the folder wait for one another.

    Args:
        folder: Is made where it is not there.
        expert: Its `file` and `sha256` are filled in.
        tensors: The LoRA, by the keys it is to have.
        header: Of the file.

    Returns:
        The file.

    Raises:
        UsageError: Its style goes by a name that another one has; nothing was written.
        WeightsError: The index that is there is damaged; nothing was written.
        ItemError: A number is none, or a file cannot be written; what was there is still there.
    """
    path = folder / f"{expert.id}{SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Held from reading to writing, or of two that are added at once one would be lost.
        with FileLock(folder / f".{INDEX}.lock"):
            _add(path, expert, tensors, header)
    except OSError as error:
        raise files.unwritable(path, error) from error
    return path


def is_indexed(file: Path) -> bool:
    """Whether an expert's file is the one that the index beside it means.

    Raises:
        WeightsError: The index is damaged.
        OSError: The file cannot be read.
    """
    known = _known(file.parent)
    digests = {one.sha256 for one in known if one.file == file.name}
    return bool(digests) and store.file_sha256(file) in digests


def refuse_namesakes(folder: Path, styles: Sequence[Style]) -> None:
    """See, before anything is learned, that experts of these styles can go into a folder.

    Args:
        folder: May not be there yet.

    Raises:
        UsageError: One cannot be told from another's, or cannot name a file.
        WeightsError: The index that is there is damaged.
    """
    own = {style.id for style in styles}
    others = [one.style for one in _known(folder) if one.id not in own]
    try:
        _refuse_namesakes([*others, *styles])
        for style in styles:
            if not _ID.fullmatch(style.id):
                raise ValueError(f"{style.id!r} names no file")
    except ValueError as error:
        raise UsageError(f"{folder}: {error}", fix="give the style another name") from error


def _add(
    path: Path, expert: Expert, tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> None:
    known = _known(path.parent)
    try:
        _refuse_namesakes([*(one for one in known if one.id != expert.id), expert])
        Expert.from_json(expert.to_json() | {"file": path.name})
    except (TypeError, ValueError) as error:
        raise UsageError(f"{expert.id}: {error}", fix="give the style another name") from error
    # Under its own name it would count as done, whether the index knows of it or not.
    unnamed = path.with_name(f".{expert.id}.new{SUFFIX}")
    try:
        store.save_tensors(unnamed, tensors, header)
        written = replace(expert, file=path.name, sha256=store.file_sha256(unnamed))
        after = [written if one.id == expert.id else one for one in known]
        if written not in after:
            after.append(written)
        files.write_atomic(path.parent / INDEX, _as_text(after).encode())
        unnamed.replace(path)
    finally:
        unnamed.unlink(missing_ok=True)


def _known(folder: Path) -> tuple[Expert, ...]:
    """Those of a folder that may have none yet."""
    return read(folder).experts if (folder / INDEX).exists() else ()


def _entries(said: object) -> tuple[Expert, ...]:
    if not isinstance(said, Mapping) or not {"format", "version", "experts"} <= said.keys():
        raise ValueError("it has no format, version and experts")
    if said["format"] != FORMAT or said["version"] != VERSION:
        raise ValueError(f"it is of format {said['format']!r}, version {said['version']!r}")
    found = tuple(Expert.from_json(one) for one in said["experts"])
    _refuse_namesakes(found)
    return found


def _refuse_namesakes(experts: Sequence[Expert | Style]) -> None:
    """See that every name means one style.

    Raises:
        ValueError: Two go by one.
    """
    owner: dict[str, str] = {}
    for one in experts:
        names = {plain(name) for name in (one.id, one.phrase, *one.aliases)}
        for name in sorted(names):
            if name in owner:
                raise ValueError(f"{owner[name]} and {one.id} both go by {name!r}")
            owner[name] = one.id


def _as_text(experts: Sequence[Expert]) -> str:
    """A line for each, so that what changed shows line by line."""
    lines = ",\n".join(f"  {files.to_json(one.to_json())}" for one in experts)
    return f'{{"format": "{FORMAT}", "version": {VERSION}, "experts": [\n{lines}\n]}}\n'
