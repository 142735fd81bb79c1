"""A file's provenance turned back into the job that made it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stylecli.artifacts import files
from stylecli.backbone import registry
from stylecli.engine.again.calls import COMMANDS, Call
from stylecli.engine.again.facts import Facts, Staged, link
from stylecli.engine.context import Reporter
from stylecli.engine.painting import NEUTRAL, NONE, SAME
from stylecli.engine.plan import SHEETS
from stylecli.engine.provenance import NETWORKS, STYLE_FIELD
from stylecli.engine.request import Prepared
from stylecli.errors import InputError, UsageError
from stylecli.masks.hub import shown
from stylecli.methods.stylegallery.overrides import names_file
from stylecli.recipe import timeline
from stylecli.recipe.schema import Recipe

# What the recipe of a command names by file.
OF_SCHEDULE, OF_REGIONS = {"switch", "generate"}, {"mask-transfer", "generate"}
ACCELERATED = {"transfer", *OF_SCHEDULE, *OF_REGIONS}
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?|mps")
# Ways to read names that several inputs share; more are not tried.
MAX_READINGS = 64


@dataclass(frozen=True, slots=True)
class Machine:
    """Where to make it again; None is as the file says."""

    backbone: str | None = None
    device: str | None = None


def prepare(
    path: Path,
    facts: Facts,
    staged: Sequence[Staged],
    folder: Path,
    machine: Machine,
    reporter: Reporter,
) -> Prepared:
    """The one job that makes the file again, below a folder.

    Where several inputs have one name, the reading is taken that gives the recorded key.

    Raises:
        InputError: The model's folder is not known, or the recipe has settings that are not.
        UsageError: There is no such device.
        StyleError: As the command itself.
    """
    if machine.device is not None and not _DEVICE.fullmatch(machine.device):
        raise UsageError(
            f"--device {machine.device!r} is unknown", fix="use auto, cpu, cuda, cuda:N or mps"
        )
    before, _, kind = path.stem.rpartition(".")
    is_sheet = bool(before) and kind == SHEETS.get(facts.command)
    name = before + path.suffix if is_sheet else path.name
    made = folder / "made"
    made.mkdir()
    readings: list[Prepared] = []
    for recipe in _recipes(path, facts, staged, machine, folder):
        call = Call(
            facts=facts,
            recipe=recipe,
            staged=staged,
            output=made / name,
            sheet=is_sheet,
            reporter=reporter,
        )
        for prepared in COMMANDS[facts.command](call):
            jobs = tuple(job for job in prepared.plan.jobs if job.key == facts.key)
            if jobs:
                return replace(prepared, plan=replace(prepared.plan, jobs=jobs))
            readings.append(prepared)
    return readings[0]


def _recipes(
    path: Path, facts: Facts, staged: Sequence[Staged], machine: Machine, folder: Path
) -> Iterator[Recipe]:
    """The recorded recipe with places instead of names, in every way the names can be read."""
    sections = {**facts.recipe, "backbone": _section(facts, "backbone")}
    sections["backbone"]["id"] = _backbone(path, facts, machine, folder)
    if machine.device is not None:
        sections["device"] = device = {**_section(facts, "device"), "name": machine.device}
        if machine.device == "cpu" and device.get("dtype") == "float16":
            device["dtype"] = "auto"  # what no CPU computes in
    recipe = _validated(path, sections)
    for section, keys in NETWORKS.items():
        for key in keys:
            name = getattr(getattr(recipe, section), key)
            if name is not None and shown(name) != name:
                raise InputError(
                    f"{path}: {section}.{key} {name!r} names a folder", fix="give a hub id"
                )
    sections = recipe.model_dump(mode="json")
    slots = list(_slots(facts.command, sections))
    stem = next((item.path.stem for item in staged if item.role == "content"), "")
    options = [_options(path, key, holder[key], staged, stem) for holder, key in slots]
    if facts.command == "gallery" and (template := sections["gallery"]["ref_masks"]) is not None:
        sections["gallery"]["ref_masks"] = _together(template, staged, folder)
    for chosen in itertools.islice(itertools.product(*options), MAX_READINGS):
        for (holder, key), place in zip(slots, chosen, strict=True):
            holder[key] = place
        yield _validated(path, sections)


def _section(facts: Facts, name: str) -> dict[str, Any]:
    found = facts.recipe.get(name)
    return dict(found) if isinstance(found, Mapping) else {}


def _validated(path: Path, sections: Mapping[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate_json(files.to_json(sections))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: its recipe is none of this version: {key or 'recipe'}: {first['msg']}",
            fix="use the version of stylecli that `style show` names",
        ) from error


def _slots(command: str, sections: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Where sections name files that the command reads, in the order of its inputs."""
    if command == "gallery":
        own = sections["gallery"]
        yield from ((own, key) for key in ("mask", "accelerator") if own[key] is not None)
        wishes = enumerate(own["match"])
        yield from ((own["match"], place) for place, wish in wishes if names_file(wish))
        return
    sampling = sections["sampling"]
    schedules = [sampling["schedule"]] if command in OF_SCHEDULE and sampling["schedule"] else []
    regions = sampling["regions"] if command in OF_REGIONS else []
    for schedule in [*schedules, *(region["schedule"] for region in regions)]:
        spans = [(entry["start"], entry["end"]) for entry in schedule]
        for interval in timeline.resolve(spans, sampling["steps"]):
            yield from ((part, "lora") for part in schedule[interval.entry]["loras"])
    if command in ACCELERATED and sampling["accelerator"] is not None:
        yield sampling, "accelerator"
    if command in ACCELERATED and sampling["negative_lora"] not in (None, NEUTRAL, SAME, NONE):
        yield sampling, "negative_lora"
    for region in regions:
        if not region["mask"].startswith(timeline.WORDS):
            yield region, "mask"


def _together(template: str, staged: Sequence[Staged], folder: Path) -> str:
    """Masks of references in one folder, as their common name wants them.

    Each stands after its reference.
    """
    place = folder / "ref-masks"
    for style, mask in itertools.pairwise(staged):
        if style.role == "style" and mask.role == "mask":
            own = place / template.replace(STYLE_FIELD, style.path.stem)
            own.parent.mkdir(parents=True, exist_ok=True)
            # References of one name have one mask.
            if not own.exists():
                link(own, mask.path)
    return str(place / template)


def _options(path: Path, key: object, name: str, staged: Sequence[Staged], stem: str) -> list[str]:
    """Places of the inputs that a name may mean."""
    roles: set[object] = {"lora", "style", "mask"}
    if key in ("accelerator", "mask"):
        roles = {key}
    elif key == "negative_lora":
        roles = {"negative"}
    elif isinstance(key, int):
        roles = {"report"}
    wanted = name.replace("{content}", stem)
    # The field stays in the name, because the new file will name its mask by it too.
    found = [
        str(item.path.with_name(name))
        for item in staged
        if item.role in roles and item.path.name == wanted
    ]
    if not found:
        raise InputError(
            f"{path}: its recipe names {name}, which is not among its inputs",
            fix="`style show` prints both",
        )
    return found


def _backbone(path: Path, facts: Facts, machine: Machine, folder: Path) -> str:
    """What to load, under the recorded name, which is part of what is written."""
    known = str(_section(facts, "backbone").get("id") or (facts.model.id if facts.model else ""))
    if machine.backbone is not None:
        given = Path(machine.backbone).expanduser()
        if machine.backbone in registry.SOURCES or not given.is_dir() or given.name == known:
            return machine.backbone
        alias = folder / "model" / Path(known).name
        alias.parent.mkdir(parents=True, exist_ok=True)
        link(alias, given)
        return str(alias)
    is_named = known in registry.SOURCES or registry.is_hub_id(known)
    if is_named or (Path(known).name == known and Path(known).is_dir()):
        return known
    raise InputError(
        f"{path} was made with the model folder {Path(known).name!r}, which is not here",
        fix="--backbone FOLDER says where it is",
    )
