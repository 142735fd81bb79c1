"""`style gallery` as data: every content in the styles of references, region by region.

Checks everything that can be checked without a model and returns a `Prepared`; nothing is loaded or
written until its `run` is iterated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stylecli.artifacts import store
from stylecli.engine import collisions, plan, suiting
from stylecli.engine.context import Reporter
from stylecli.engine.gallery import naming, pasting, wishes
from stylecli.engine.gallery.maker import DUMP_SUFFIX, GalleryMaker
from stylecli.engine.gallery.sight import Sight
from stylecli.engine.gallery.wishes import Task
from stylecli.engine.inputs import Row, at
from stylecli.engine.mask_backends import Finder
from stylecli.engine.plan import Input, Job, Plan, Wanted
from stylecli.engine.provenance import OF_GALLERY
from stylecli.engine.request import Contents, Destination, Prepared, Results
from stylecli.engine.runs.making import Maker
from stylecli.engine.session import Session
from stylecli.errors import UsageError
from stylecli.recipe.rows import changed as changed_by_row
from stylecli.recipe.schema import Recipe

PICTURE_NAME = "{content}.png"
REPORT = ".regions.json"
# Of the recipe, what a row of a manifest may change for its content alone.
ROW_KEYS = ("dfcc", "matching", "gallery")
ROW_SIZE = "sampling.size"
# What names files, which count by their digests, and what changes no picture.
_UNCOUNTED = {
    "profile",
    "preset",
    "gradient_checkpointing",
    "mask",
    "ref_masks",
    "accelerator",
    "match",
    "only",
    "exclude",
    "strength",
}


def gallery(
    recipe: Recipe,
    contents: Contents,
    destination: Destination,
    reporter: Reporter,
    *,
    refs: Sequence[str],
    explain: bool = False,
    dump: str | None = None,
    allow_download: bool = False,
) -> Prepared:
    """Every content, each of its regions in the style of the region it resembles most.

    Args:
        refs: Pictures, folders and globs; in this order they are ``ref1``, ``ref2`` and so on.
        explain: Also write which regions there are and where each took its style from.
        dump: Where labels, losses, gradients and latents go as well: a file for one content, a
            folder for many.

    Raises:
        UsageError: No reference, overrides that say nothing, or outputs that collide.
        InputError: Inputs that do not exist, or masks of nothing.
        WeightsError: The backbone, or a network that the recipe asks for, is not on this machine.
    """
    rows = _plain(contents.rows(destination.path))
    pictures, repeated = naming.pictures(refs, leave_out=Results(destination.path))
    if doubt := naming.spread(refs, [row.content for row in rows]):
        reporter.warn(doubt)
    session = Session.open(recipe, reporter, allow_download=allow_download)
    sight = Sight(session, allow_download=allow_download)
    listed = naming.Masked(pictures)
    # One of equal changes, because contents of one recipe are led together.
    known: dict[tuple[tuple[str, str], ...], _Asked] = {}
    tasks = []
    for row in rows:
        if row.changes not in known:
            own = _of_row(recipe, row)
            with at(row.place):
                suiting.check_gallery(session, own)
                known[row.changes] = _Asked(own, listed, sight)
        with at(row.place):
            tasks.append(known[row.changes].task(row))
    # The networks of a recipe that no row has may well be missing.
    usual = known.get(()) or known[rows[0].changes]
    finder = _finder(session, tasks, allow_download=allow_download)
    planned = plan.build(
        "gallery",
        [
            Wanted(
                task.inputs(),
                task.output,
                _settings(task) | (finder if task.wishes.words else {}),
                task.folder,
                # As a run with these settings for all would have it.
                {} if task.recipe is usual.recipe else _decisive(task.recipe, task.networks),
            )
            for task in tasks
        ],
        decisive={
            "model": session.fingerprint,
            **session.precision,
            **_decisive(usual.recipe, usual.networks),
        },
        seed=recipe.sampling.seed,
        output=destination.path,
        name=destination.name or PICTURE_NAME,
        is_file=destination.is_file(len(tasks), from_manifest=contents.manifest is not None),
        suffixes=store.PICTURE_SUFFIXES,
        sheet=plan.SHEETS["gallery"] if explain else None,
        beside=[REPORT] * explain,
        strip=destination.strip,
    )
    if dump is not None:
        planned = _with_dumps(planned, dump)
    by_key = {job.key: task for job, task in zip(planned.jobs, tasks, strict=True)}

    def start() -> Maker:
        return GalleryMaker(session, sight, by_key, allow_download=allow_download)

    return Prepared(
        plan=plan.shard(planned, destination.part),
        session=session,
        destination=destination,
        rows=_rows(tasks),
        notes=_notes(usual, sight, repeated),
        start=start,
    )


class _Asked:
    """What one recipe asks for, whatever the content."""

    def __init__(self, recipe: Recipe, listed: naming.Masked, sight: Sight) -> None:
        self.recipe = recipe
        self.networks = sight.identity(recipe)
        self.references = listed.by(recipe.gallery.ref_masks)
        self.wishes = wishes.read(recipe.gallery, self.references)
        self.accelerator = naming.accelerator(recipe)

    def task(self, row: Row) -> Task:
        return Task(
            content=Input.of_content(row.content),
            mask=naming.mask(self.recipe.gallery.mask, row.content),
            references=self.references,
            wishes=self.wishes,
            recipe=self.recipe,
            networks=self.networks,
            accelerator=self.accelerator,
            output=row.output,
            folder=row.folder,
        )


def _of_row(recipe: Recipe, row: Row) -> Recipe:
    """The recipe with what a manifest says of one content.

    Raises:
        RecipeError: A key that a row may not change, or a value that does not fit.
    """
    sections = list(ROW_KEYS)
    if any(key == ROW_SIZE for key, _ in row.changes):
        sections.append("sampling")
    return changed_by_row(recipe, row.changes, row.place, sections)


def _plain(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows of a command whose references are the same for all.

    Raises:
        UsageError: A manifest names styles, or settings of the sampler.
    """
    for row in rows:
        own = [key for key, _ in row.changes if key.startswith("sampling.") and key != ROW_SIZE]
        named = "style" if row.style else "lora" if row.lora else own[0] if own else None
        if named is not None:
            raise UsageError(
                f"{row.place}  {named} is a column that this command has no use for",
                fix=f"keep content and output, and keys of {', '.join(ROW_KEYS)} and {ROW_SIZE}",
            )
    return rows


def _decisive(recipe: Recipe, networks: Mapping[str, object]) -> dict[str, Any]:
    """The settings that decide a picture's bytes; files are counted by their digests elsewhere."""
    sections = recipe.model_dump(mode="json", include=set(OF_GALLERY))
    # Which networks there are counts, and not how they were named.
    for section, key in (("dfcc", "depth"), ("dfcc", "segmenter"), ("matching", "semantics")):
        del sections[section][key]
    del sections["matching"]["semantics_model"]
    for key in _UNCOUNTED:
        del sections["gallery"][key]
    return {
        "recipe": sections,
        "size": recipe.sampling.size,
        "is_pasted": pasting.may_keep(recipe),
        "networks": dict(networks),
    }


def _settings(task: Task) -> dict[str, Any]:
    """What decides one picture's bytes besides: whose masks are whose, and what is to match."""
    masks = [one.mask and one.mask.sha256 for one in task.references]
    return {
        "mask": task.mask and task.mask.sha256,
        "ref_masks": masks if any(masks) else [],
        **task.wishes.decisive,
    }


def _with_dumps(planned: Plan, dump: str) -> Plan:
    """The same jobs, each with a place for its dump.

    Raises:
        UsageError: One file for several, or a file that is something else as well.
    """
    jobs, path = planned.jobs, Path(dump).expanduser()
    is_file = path.suffix.lower() == DUMP_SUFFIX and not dump.endswith(("/", os.sep))
    if is_file and len(jobs) > 1:
        raise UsageError(
            f"--dump {dump} is a file, but there are {len(jobs)} contents",
            fix=f"a slash makes it a folder: --dump {path.with_suffix('')}/",
        )
    if not is_file and path.suffix and not dump.endswith(("/", os.sep)):
        raise UsageError(
            f"--dump {dump}: tensors go into {DUMP_SUFFIX} files",
            fix=f"--dump {path.with_suffix(DUMP_SUFFIX)}, or a folder: --dump {dump}/",
        )

    def place(job: Job) -> Path:
        own = Path(plan.below(planned.folder, job.output)).with_suffix(DUMP_SUFFIX)
        return path if is_file else path / own

    moved = tuple(replace(job, beside=(*job.beside, place(job))) for job in jobs)
    collisions.refuse(moved)
    return replace(planned, jobs=moved)


def _finder(session: Session, tasks: Sequence[Task], *, allow_download: bool) -> dict[str, Any]:
    """What decides the regions that words name; nothing where there are none.

    Raises:
        UsageError: No such backend.
    """
    if not any(task.wishes.words for task in tasks):
        return {}
    return {"finder": Finder(session, allow_download=allow_download).identity()}


def _rows(tasks: Sequence[Task]) -> dict[str, int]:
    """UNet rows per content before anything is cached; see `planner.phases` for the names.

    How many references are used is known once regions are matched: as many as clusters, at most.
    """
    recipe, references = tasks[0].recipe, tasks[0].references
    own, dfcc = recipe.gallery, recipe.dfcc
    used = min(len(references), dfcc.k or dfcc.k_max)
    moments = math.ceil(own.steps / own.refresh)
    updates = own.steps * own.iterations
    guided = {"sampled": own.steps} if own.mode == "guided" else {}
    return {
        "inversion": dfcc.steps + math.ceil(dfcc.steps * len(references) / len(tasks)),
        "content": moments,
        "references": moments * used,
        **guided,
        "updated": updates,
        "gradients": updates,
    }


def _notes(asked: _Asked, sight: Sight, repeated: Sequence[str]) -> list[str]:
    count = len(asked.references)
    plural = "s" * (count > 1)
    painted = sum(one.mask is not None for one in asked.references)
    seen = ", ".join(f"{what} by {name}" for what, name in sight.described(asked.recipe).items())
    return [
        f"{count} reference{plural}" + f", {painted} with painted regions" * bool(painted),
        *repeated,
        f"regions: {seen}",
    ]
