"""`style transfer`, `mask-transfer` and `switch` as data: one painting for every content.

Each checks everything that can be checked without a model and returns a `Prepared`; nothing is
loaded or written until its `run` is iterated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylecli.artifacts import store
from stylecli.engine import figure_sheet, painting, plan, sheets
from stylecli.engine.context import Reporter
from stylecli.engine.grids import Figure
from stylecli.engine.inputs import Row, expand
from stylecli.engine.mask_backends import Finder
from stylecli.engine.painter import Painted, Painter
from stylecli.engine.painting import Area, Painting
from stylecli.engine.plan import Input, Job, Wanted
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.run import Maker, provenance
from stylecli.engine.session import Session
from stylecli.errors import UsageError
from stylecli.recipe.schema import Recipe

PICTURE_NAME = "{content}__{style}.png"
FIGURE_NAME = "{{content}}__{{style}}.{figure}.png"
# Settings that speak of regions, and change nothing where there are none.
OF_REGIONS = {"regions", "background", "background_prompt", "pin_until", "overlap", "composite"}
# Commands that say which steps they understood.
SCHEDULED = ("mask-transfer", "switch")
# Draws the sheet of one job from what was painted.
Draw = Callable[[Painter, Job, Painting, Painted], sheets.Sheet]


@dataclass(frozen=True, slots=True)
class Task:
    """One content and what becomes of it."""

    content: Input
    painting: Painting
    output: Path | None = None


def transfer(
    recipe: Recipe,
    contents: Contents,
    destination: Destination,
    reporter: Reporter,
    *,
    styles: Sequence[str] = (),
    loras: Sequence[Path] = (),
    compare: bool = False,
    figure: Figure | None = None,
    allow_download: bool = False,
) -> Prepared:
    """Every content in every look; with a figure, its grid of each in place of one picture.

    Raises:
        UsageError: No look, a look that cannot be used, a comparison of what is a figure, or
            outputs that collide.
        InputError: Inputs that do not exist.
        WeightsError: The backbone is not on this machine.
    """
    if compare and figure is not None:
        raise UsageError(
            "--compare is for single pictures, and a figure shows content and style itself",
            fix="leave out --compare",
        )
    rows = contents.rows(destination.path)
    looks = looks_of(styles, loras)
    if not looks and not all(row.style or row.lora for row in rows):
        raise UsageError("no style was named", fix="give --style PICTURE or --lora FILE")
    tasks = []
    for row in rows:
        own = looks_of([str(row.style)] if row.style else [], [row.lora] if row.lora else [])
        tasks += [
            Task(
                Input.of_content(row.content),
                painting.in_one_look(look, recipe.sampling),
                row.output,
            )
            for look in own or looks
        ]
    # Jobs of one look together: its LoRA is loaded, or learned, once.
    tasks.sort(key=lambda task: [(p.look.role, p.look.sha256) for p in task.painting.parts])
    return prepare(
        "transfer",
        recipe,
        tasks,
        contents,
        destination,
        reporter,
        sheet="compare" if compare else None,
        draw=sheets.compared,
        figure=figure,
        allow_download=allow_download,
    )


def looks_of(styles: Sequence[str], loras: Sequence[Path]) -> list[list[Input]]:
    """Style pictures with their captions, then LoRAs.

    Raises:
        InputError: One does not exist or cannot be read.
    """
    looks = [painting.style(painting.readable(path)) for path in expand(styles)]
    return looks + [[Input.of("lora", painting.existing_lora(path))] for path in loras]


def mask_transfer(
    recipe: Recipe,
    contents: Contents,
    destination: Destination,
    reporter: Reporter,
    *,
    compare: bool = False,
    allow_download: bool = False,
) -> Prepared:
    """Every content with the regions of the recipe painted, the rest left alone (eq. 7 and 8).

    Raises:
        UsageError: No region, or outputs that collide.
        InputError: Inputs that do not exist.
        WeightsError: The backbone is not on this machine.
    """
    if not recipe.sampling.regions:
        raise UsageError("no region was named", fix="such as --region deer.png=oil.safetensors")
    tasks = [
        Task(Input.of_content(row.content), painting.of_regions(recipe, row.content), row.output)
        for row in _plain(contents.rows(destination.path), contents)
    ]
    return prepare(
        "mask-transfer",
        recipe,
        tasks,
        contents,
        destination,
        reporter,
        sheet="sheet" if compare else None,
        draw=sheets.of_regions,
        allow_download=allow_download,
    )


def switch(
    recipe: Recipe,
    contents: Contents,
    destination: Destination,
    reporter: Reporter,
    *,
    compare: bool = False,
    allow_download: bool = False,
) -> Prepared:
    """Every content under the recipe's schedule (eq. 9).

    Raises:
        UsageError: No schedule, or outputs that collide.
        InputError: Inputs that do not exist.
        WeightsError: The backbone is not on this machine.
    """
    if recipe.sampling.schedule is None:
        raise UsageError(
            "no schedule was given", fix="such as --schedule a.safetensors:0-30,b.safetensors:30-50"
        )
    scheduled = painting.over_time(recipe.sampling.schedule, recipe.sampling)
    tasks = [
        Task(Input.of_content(row.content), scheduled, row.output)
        for row in _plain(contents.rows(destination.path), contents)
    ]
    return prepare(
        "switch",
        recipe,
        tasks,
        contents,
        destination,
        reporter,
        sheet="sheet" if compare else None,
        draw=sheets.of_orders,
        allow_download=allow_download,
    )


def timetable(recipe: Recipe, painted: Painting) -> list[str]:
    """A line for every stretch of a painting's schedules, as they were understood.

    Regions with one look for all steps need no table, nor does a whole picture without a schedule.
    """
    sampling = recipe.sampling
    masked = [area for area in painted.areas if area.mask is not None]
    lines = []
    if sampling.schedule is not None:
        for area in painted.areas:
            lines += _table(area, sampling.steps, "") if area.mask is None else []
    for region, area in zip(sampling.regions, masked, strict=False):
        if len(area.stretches) > 1:
            lines += _table(area, sampling.steps, f"{region.mask}: ")
    return lines


def _table(area: Area, steps: int, whose: str) -> list[str]:
    return [
        f"{whose}steps {s.start:>3} to {s.stop - 1:>3} ({s.start / steps:.0%} to "
        f"{s.stop / steps:.0%})  "
        + (" + ".join(f"{p.look.path.name} x {p.weight:g}" for p in s.parts) or "base model")
        for s in area.stretches
    ]


def refuse_wordless(recipe: Recipe, roles: set[plan.Role]) -> None:
    """Words are found from pictures.

    Raises:
        UsageError: They are asked for, and no style is a picture.
    """
    if recipe.sampling.prompt_from_style and "style" not in roles:
        raise UsageError(
            "words are found from a style picture, and none is named",
            fix="use --style, or --prompt",
        )


def prepare(
    command: str,
    recipe: Recipe,
    tasks: Sequence[Task],
    contents: Contents,
    destination: Destination,
    reporter: Reporter,
    *,
    sheet: str | None,
    draw: Draw,
    figure: Figure | None = None,
    allow_download: bool,
) -> Prepared:
    """Jobs for paintings, or for figures of them.

    Raises:
        UsageError: A start that needs pictures where a LoRA is named, or outputs that collide.
        WeightsError: The backbone is not on this machine.
    """
    roles = {part.look.role for task in tasks for part in task.painting.parts}
    recipes = [cell.recipe for cell in figure.cells] if figure else [recipe]
    if any(one.sampling.start == "adain" for one in recipes) and "lora" in roles:
        raise UsageError(
            "sampling.start adain needs a style picture, and a LoRA has none",
            fix="use --style, or --set sampling.start=inversion",
        )
    refuse_wordless(recipe, roles)
    session = Session.open(recipe, reporter, allow_download=allow_download)
    planned = plan.build(
        command,
        [
            Wanted([task.content, *task.painting.inputs()], task.output, settings_of(task, figure))
            for task in tasks
        ],
        decisive={
            "model": session.fingerprint,
            "dtype": str(session.context.dtype),
            "recipe": decisive(recipe, with_masks=any(task.painting.has_masks for task in tasks)),
            **finder_of(session, tasks, allow_download=allow_download),
        },
        seed=recipe.sampling.seed,
        output=destination.path,
        name=destination.name
        or (FIGURE_NAME.format(figure=figure.name) if figure else PICTURE_NAME),
        is_file=destination.is_file(len(tasks), from_manifest=contents.manifest is not None),
        suffixes=store.PICTURE_SUFFIXES,
        sheet=sheet,
    )
    paintings = {job.key: task.painting for job, task in zip(planned.jobs, tasks, strict=True)}
    planned = plan.shard(planned, destination.part)

    def start() -> Maker:
        painter = Painter(session, allow_download=allow_download)
        # One that does not fit the model is refused before any item is made with another.
        painter.try_on(paintings[job.key] for job in planned.jobs)
        if figure is not None:
            return lambda job: figure_sheet.make(painter, job, figure)
        return lambda job: make(painter, job, paintings[job.key], draw)

    areas = max((len(task.painting.areas) for task in tasks), default=1)
    return Prepared(
        plan=planned,
        session=session,
        destination=destination,
        rows=rows_of(recipe, recipes, roles, areas, with_sheet=sheet == "sheet"),
        notes=timetable(recipe, tasks[0].painting) if command in SCHEDULED else (),
        start=start,
    )


def finder_of(session: Session, tasks: Sequence[Task], *, allow_download: bool) -> dict[str, Any]:
    """What decides the masks of areas that words name; nothing where there are none.

    Raises:
        UsageError: No such backend.
    """
    areas = (area for task in tasks for area in task.painting.areas)
    if not any(isinstance(area.mask, str) for area in areas):
        return {}
    return {"finder": Finder(session, allow_download=allow_download).identity()}


def settings_of(task: Task, figure: Figure | None) -> object:
    """What decides the bytes of one task's file besides the recipe."""
    settings = task.painting.settings()
    return settings if figure is None else [settings, figure.settings()]


def decisive(recipe: Recipe, *, with_masks: bool) -> dict[str, Any]:
    """The settings that decide a picture's bytes; files are counted by their digests elsewhere."""
    sampling = {"schedule", "regions", "width", "height"} | (set() if with_masks else OF_REGIONS)
    left_out: dict[str, Any] = {
        "description": True,
        "device": True,
        "backbone": True,
        "evaluate": True,
        "injection": {"preset"},
        "sampling": sampling,
    }
    # Who finds counts where words are looked for, by the bytes of the weights: see `finder_of`.
    left_out["masks"] = {"backend", "model", "segmenter"} if with_masks else True
    if not recipe.sampling.prompt_from_style:
        left_out["words"] = True
    return recipe.model_dump(exclude=left_out)


def rows_of(
    recipe: Recipe,
    recipes: Sequence[Recipe],
    roles: set[plan.Role],
    areas: int,
    *,
    with_sheet: bool = False,
) -> dict[str, int]:
    """UNet rows per item before anything is cached.

    Args:
        recipes: Of every picture that is painted for one item.
        areas: Of each of them.
        with_sheet: Every look is also painted everywhere, and every region alone or every schedule
            the other way round.
    """
    paintings = [one.sampling for one in recipes] * (2 * areas + 1 if with_sheet else 1)
    areas += recipe.sampling.background == "denoise" and bool(recipe.sampling.regions)
    return {
        **({"training": recipe.lora.steps * recipe.lora.batch} if "style" in roles else {}),
        "inversion": recipe.inversion.steps * (1 + recipe.inversion.refine_iters),
        "source, at most": sum(one.steps for one in paintings),
        "stylised": sum(one.steps * (1 if one.guidance == 1 else 2) for one in paintings) * areas,
    }


def make(painter: Painter, job: Job, painted: Painting, draw: Draw) -> Mapping[str, Any]:
    """Paint one job and write it; its sheet first, because the picture says that the item is done.

    Raises:
        ItemError: The picture cannot be read, or the model gave nothing that can be seen.
    """
    result = painter.paint(job.content, painted)
    made_by = provenance(job, painter.recipe.model_dump(exclude={"evaluate"}), painter.backbone)
    made_by |= {"prompts": result.details["prompts"]}
    figures: Mapping[str, Any] = {}
    if job.sheet is not None:
        sheet = draw(painter, job, painted, result)
        store.save_image(job.sheet, sheet.pixels, made_by)
        figures = sheet.figures
    store.save_image(job.output, result.pixels, made_by)
    return {**result.details, **figures}


def _plain(rows: Sequence[Row], contents: Contents) -> Sequence[Row]:
    if any(row.style or row.lora for row in rows):
        raise UsageError(
            f"{contents.manifest} names styles, which this command takes from elsewhere",
            fix="keep the columns content and output",
        )
    return rows
