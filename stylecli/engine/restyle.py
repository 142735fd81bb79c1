"""`style transfer`, `mask-transfer` and `switch` as data: one painting for every content.

Each checks everything that can be checked without a model and returns a `Prepared`; nothing is
loaded or written until its `run` is iterated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from stylecli.artifacts import store
from stylecli.backbone import registry
from stylecli.engine import asking, figure_sheet, method, painting, plan, sheets, suiting
from stylecli.engine.by_example import ByExample
from stylecli.engine.context import Reporter
from stylecli.engine.grids import Figure
from stylecli.engine.inputs import Row, at
from stylecli.engine.paint_maker import Draw, PaintMaker
from stylecli.engine.painter import AnyPainter, Painter
from stylecli.engine.painting import Painting
from stylecli.engine.plan import Input, Wanted
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.runs.making import Maker, OneByOne
from stylecli.engine.session import Session
from stylecli.engine.tasks import Task, in_order, side_by_side
from stylecli.errors import UsageError
from stylecli.recipe.rows import changed as changed_by_row
from stylecli.recipe.schema import Recipe

PICTURE_NAME = "{content}__{style}.png"
FIGURE_NAME = "{{content}}__{{style}}.{figure}.png"
# Commands that say which steps they understood.
SCHEDULED = ("mask-transfer", "switch")


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
    looks = asking.looks_of(styles, loras)
    if not looks and not all(row.style or row.lora for row in rows):
        raise UsageError("no style was named", fix="give --style PICTURE or --lora FILE")
    tasks = []
    # The same objects for all rows that are alike, of which there may be 100,000.
    usual = [painting.in_one_look(look, recipe.sampling) for look in looks]
    for row in rows:
        with at(row.place):
            own = asking.looks_of(
                [str(row.style)] if row.style else [], [row.lora] if row.lora else []
            )
        content, changed = Input.of_content(row.content), _of_row(recipe, row, figure)
        paintings = usual
        if own or changed is not recipe:
            paintings = [painting.in_one_look(one, changed.sampling) for one in own or looks]
        tasks += [Task(content, one, changed, row.output, row.folder) for one in paintings]
    tasks = in_order(tasks, recipe.device)
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
    tasks = _tasks(
        recipe,
        contents.rows(destination.path),
        lambda own, row: painting.of_regions(own, row.content),
    )
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
    tasks = _tasks(
        recipe,
        contents.rows(destination.path),
        lambda own, _: painting.over_time(own.sampling.schedule or (), own.sampling),
    )
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
    recipes = (
        [cell.recipe for cell in figure.cells]
        if figure
        else list({id(task.recipe): task.recipe for task in tasks}.values())
    )
    method.refuse_unfit(command, recipe, roles)
    if any(one.sampling.start == "adain" for one in recipes) and "lora" in roles:
        raise UsageError(
            "sampling.start adain needs a style picture, and a LoRA has none",
            fix="use --style, or --set sampling.start=inversion",
        )
    for one in recipes:
        asking.refuse_wordless(one, roles)
    for doubt in asking.doubts((task.painting for task in tasks), recipe.sampling):
        reporter.warn(doubt)
    session = Session.open(
        recipe,
        reporter,
        allow_download=allow_download,
        kinds=registry.PAINTING if method.learns(recipe.sampling) else registry.UNETS,
    )
    for one in recipes:
        suiting.check_steps(session, one)
    planned = plan.build(
        command,
        [
            Wanted(
                [task.content, *task.painting.inputs()],
                task.output,
                asking.settings_of(task, figure),
                task.folder,
                # As a run with these settings for all would have it.
                {}
                if task.recipe is recipe
                else {"recipe": asking.decisive(task.recipe, with_masks=task.painting.has_masks)},
            )
            for task in tasks
        ],
        decisive={
            "model": session.fingerprint,
            **session.precision,
            "recipe": asking.decisive(
                recipe, with_masks=any(task.painting.has_masks for task in tasks)
            ),
            **asking.finder_of(session, tasks, allow_download=allow_download),
        },
        seed=recipe.sampling.seed,
        output=destination.path,
        name=destination.name
        or (FIGURE_NAME.format(figure=figure.name) if figure else PICTURE_NAME),
        is_file=destination.is_file(len(tasks), from_manifest=contents.manifest is not None),
        suffixes=store.PICTURE_SUFFIXES,
        sheet=sheet,
        strip=destination.strip,
    )
    by_key = {job.key: task for job, task in zip(planned.jobs, tasks, strict=True)}
    looks = side_by_side(tasks, recipe.device)
    planned = plan.shard(planned, destination.part)

    def start() -> Maker:
        paintings = [by_key[job.key].painting for job in planned.jobs]
        painter = _painter(session, paintings, allow_download=allow_download)
        if figure is not None:
            return OneByOne(lambda job: figure_sheet.make(painter, job, figure), session.step_down)
        return PaintMaker(painter, by_key, draw, looks)

    areas = max((len(task.painting.areas) for task in tasks), default=1)
    return Prepared(
        plan=planned,
        session=session,
        destination=destination,
        rows=asking.rows_of(recipe, recipes, roles, areas, with_sheet=sheet == "sheet"),
        notes=asking.timetable(recipe, tasks[0].painting) if command in SCHEDULED else (),
        start=start,
    )


def _painter(
    session: Session, paintings: Sequence[Painting], *, allow_download: bool
) -> AnyPainter:
    """The painter of the recipe's method; a LoRA that does not fit is refused at once."""
    if not method.learns(session.recipe.sampling):
        return ByExample(session)
    painter = Painter(session, allow_download=allow_download)
    painter.try_on(paintings)
    return painter


def _of_row(recipe: Recipe, row: Row, figure: Figure | None = None) -> Recipe:
    """The recipe with what a manifest says of one content.

    Raises:
        RecipeError: A key that a row may not change, or a value that does not fit.
        UsageError: A figure sets those keys itself.
    """
    if row.changes and figure is not None:
        raise UsageError(
            f"{row.place}  {row.changes[0][0]}: a figure's cells have settings of their own",
            fix="leave out --sweep and --ablate, or the column",
        )
    sections = method.ROW_SECTIONS[recipe.sampling.method]
    return changed_by_row(recipe, row.changes, row.place, sections)


def _tasks(
    recipe: Recipe, rows: Sequence[Row], painted: Callable[[Recipe, Row], Painting]
) -> list[Task]:
    """A task for every row, whose looks come from its recipe."""
    tasks = []
    for row in _plain(rows):
        own = _of_row(recipe, row)
        content = Input.of_content(row.content)
        tasks.append(Task(content, painted(own, row), own, row.output, row.folder))
    return tasks


def _plain(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows of a command whose looks come from elsewhere.

    Raises:
        UsageError: A manifest has a column for them.
    """
    for row in rows:
        if row.style or row.lora:
            raise UsageError(
                f"{row.place}  names a style, which this command takes from elsewhere",
                fix="keep the columns content and output, and recipe keys",
            )
    return rows
