"""What files and journals say of themselves: no folder of this machine, no user, no time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

from stylecli import __version__
from stylecli.artifacts import cache
from stylecli.backbone.lora import PEFT_WEIGHTS
from stylecli.engine.plan import Input, Job
from stylecli.errors import StyleError
from stylecli.masks.hub import shown
from stylecli.methods.stylegallery.overrides import names_file
from stylecli.recipe import timeline
from stylecli.recipe.schema import Device, Recipe

SCHEMA_VERSION = 1
# Sections that `style gallery` alone reads, and what of its recipe its files tell of.
OF_GALLERY = ("dfcc", "matching", "gallery")
GALLERY: Mapping[str, Any] = {
    **dict.fromkeys(("backbone", "device", "masks", *OF_GALLERY), True),
    "sampling": {"size", "seed", "composite"},
}
# What the files of `style route-apply` tell of the recipe.
ROUTE: Mapping[str, Any] = {
    **dict.fromkeys(("backbone", "device"), True),
    "route": {
        "text_length": True,
        "loss": {"layers", "gamma", "kappa"},
        "apply": True,
    },
    "sampling": {"seed"},
}
# Where a setting names a file of the user's, and where a network: of a section, its keys.
_FILES = {"gallery": ("mask", "ref_masks", "accelerator")}
NETWORKS = {
    "masks": ("model", "segmenter"),
    "dfcc": ("depth", "segmenter"),
    "matching": ("semantics_model",),
}
# A reference's name, in the name of its painted regions.
STYLE_FIELD = "{style}"
# The folders of an absolute path; not of a URL, and not of one that is relative.
_FOLDERS = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:)?[/\\](?:[^\s:'\"/\\]+[/\\])+")


def recorded(
    recipe: Recipe, rows: int, device: Device, *, include: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings that a file tells of.

    Args:
        rows: Pictures that the model really saw together.
        device: The settings that were in force, which may be lower than the recipe's.
        include: What the command reads; default: all that makers of pictures from LoRAs do.
    """
    exclude = {"evaluate", "i2l", "route", *OF_GALLERY} if include is None else None
    sections = recipe.model_dump(include=include and dict(include), exclude=exclude)
    sections["device"] = device.model_dump() | {"batch": rows}
    # Neither changes what is made; only where rows have LoRAs of their own, looks do its last bits.
    del sections["device"]["source_cache"], sections["device"]["looks"]
    return sections


class Used(Protocol):
    """A model that made a file, as far as the file tells of it: a `Backbone`, or a `Model`."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True, slots=True)
class Model:
    """What files tell of a model, where nobody loads it."""

    name: str
    fingerprint: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32


def provenance(
    job: Job, recipe: Mapping[str, Any], backbone: Used, **facts: object
) -> dict[str, Any] | None:
    """What a file says about itself. No folder, no user name, no time: equal runs, equal bytes.

    Args:
        facts: More that this kind of file has to say.

    Returns:
        None for a job whose files are to say nothing.
    """
    if job.strip:
        return None
    backbone_id = Path(backbone.name).name
    sections = dict(recipe)
    if "backbone" in sections:
        sections["backbone"] = {**sections["backbone"], "id": backbone_id}
    if "sampling" in sections:
        sections["sampling"] = _without_places(sections["sampling"])
    # What was computed on, not what was asked for: *auto* is another device elsewhere.
    sections["device"] = {
        **sections.get("device", {}),
        "name": backbone.device.type,
        "dtype": str(backbone.dtype).removeprefix("torch."),
    }
    for section, keys in NETWORKS.items():
        if section in sections:
            models = {key: sections[section][key] for key in keys}
            known = {key: name and shown(name) for key, name in models.items()}
            sections[section] = {**sections[section], **known}
    for section, keys in _FILES.items():
        if section in sections:
            files = {key: sections[section][key] for key in keys}
            known = {key: name and _plain_name(name) for key, name in files.items()}
            match = [
                Path(entry).name if names_file(entry) else entry
                for entry in sections[section]["match"]
            ]
            sections[section] = {**sections[section], **known, "match": match}
    return {
        "schema_version": SCHEMA_VERSION,
        "command": job.command,
        "key": job.key,
        "recipe": sections,
        "seed": job.seed,
        "versions": _versions(),
        "model": {"id": backbone_id, "fingerprint": backbone.fingerprint},
        "inputs": [named(item) for item in job.inputs],
        **facts,
    }


def _plain_name(name: str) -> str:
    """A file's name; after the field, where only folders tell the masks of references apart."""
    plain = Path(name).name
    return f"{STYLE_FIELD}/{plain}" if STYLE_FIELD in name and STYLE_FIELD not in plain else plain


def _without_places(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The section with its LoRAs and masks by the names of their files alone."""

    def entries(schedule: Any) -> Any:
        return schedule and [
            {
                **entry,
                "loras": [part | {"lora": Path(part["lora"]).name} for part in entry["loras"]],
            }
            for entry in schedule
        ]

    shown_ = dict(sampling)
    for key in ("accelerator", "negative_lora"):
        if sampling.get(key):
            shown_[key] = Path(sampling[key]).name
    if "schedule" in sampling:
        shown_["schedule"] = entries(sampling["schedule"])
    if "regions" in sampling:
        shown_["regions"] = [
            region | {"mask": _mask_name(region["mask"]), "schedule": entries(region["schedule"])}
            for region in sampling["regions"]
        ]
    return shown_


def _mask_name(mask: str) -> str:
    return mask if mask.startswith(timeline.WORDS) else Path(mask).name


def _versions() -> dict[str, str]:
    # Not by importing them: a LoRA that is predicted needs none of them, and they take seconds.
    libraries = {name: version(name) for name in ("diffusers", "transformers", "peft")}
    return {"stylecli": __version__, "torch": torch.__version__, **libraries}


def named(item: Input) -> dict[str, str]:
    return {"role": item.role, "name": item.path.name, "sha256": item.sha256}


def carrier(output: Path) -> Path:
    """The file of an output that holds its provenance: a PEFT LoRA is a folder."""
    return output / PEFT_WEIGHTS if output.is_dir() else output


def without_folders(text: str, files: Iterable[Path] = ()) -> str:
    """A message with no folder of this machine in it.

    Args:
        text: What was said.
        files: Known to be named in it, perhaps relative or with spaces.

    >>> without_folders("/home/me/a.png and my dir/b.png: damaged", [Path("my dir/b.png")])
    'a.png and b.png: damaged'
    """
    for file in sorted(files, key=lambda file: len(str(file)), reverse=True):
        text = text.replace(str(file), file.name)
    # These may hold spaces, at which a folder seems to end.
    for find in (cache.cache_dir, Path.cwd, Path.home):
        with suppress(OSError, RuntimeError, StyleError):  # a process of nobody has none
            if len(find().parts) > 1:
                text = text.replace(f"{find()}{os.sep}", "")
    return _FOLDERS.sub("", text)
