"""`style route-apply` as data: every content with some of its objects in other styles, in words.

Checks everything that can be checked without a model and returns a `Prepared`; nothing is loaded or
written until its `run` is iterated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylecli.artifacts import store
from stylecli.backbone import registry
from stylecli.engine import plan
from stylecli.engine.context import Reporter
from stylecli.engine.inputs import Row, at
from stylecli.engine.plan import Input, Wanted
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.route import experts as expert_files
from stylecli.engine.route.applying import explain as explaining
from stylecli.engine.route.applying.maker import RouteMaker, Task
from stylecli.engine.route.applying.wishes import Edit, edits, unknown
from stylecli.engine.route.experts import INDEX, MAKE, Expert, Experts
from stylecli.engine.runs.making import Maker
from stylecli.engine.session import Session
from stylecli.errors import InputError, UsageError
from stylecli.recipe.route import Apply, Loss
from stylecli.recipe.rows import changed as changed_by_row
from stylecli.recipe.schema import Recipe

COMMAND = "route-apply"
# Names in a warning.
SHOWN = 3
PICTURE_NAME = "{content}__{style}.png"
# Of the recipe, what a row of a manifest may change for its content alone.
ROW_SECTIONS = ("route",)
ROW_KEYS = "route.apply."
# Of the settings, what is counted as the edits that come of it.
_WORDS = {"instruction", "object", "style_name", "soft_route", "top", "mix_tau"}
_LAYERS = Loss().layers


def route_apply(
    recipe: Recipe,
    contents: Contents,
    destination: Destination,
    reporter: Reporter,
    *,
    experts: Path | Experts | None = None,
    explain: bool = False,
    allow_download: bool = False,
) -> Prepared:
    """Every content edited as instructions say, one edit after another.

    Args:
        recipe: Its `route.apply` says what to do; a manifest's row may say it for its content.
        contents: Pictures.
        destination: Where results go.
        reporter: Told what people should know.
        experts: Their folder; default: those that come with the backbone.
        explain: Also write what the words of styles looked at.
        allow_download: Fetch weights that are missing.

    Raises:
        UsageError: Nothing to do, a style that no expert knows, experts of another backbone, or
            outputs that collide.
        InputError: Inputs or experts that do not exist.
        WeightsError: The backbone or an expert is not on this machine, or is damaged.
    """
    source = registry.editing(registry.find(recipe.backbone.id))
    known = experts if isinstance(experts, Experts) else _experts(experts, source)
    session_recipe = recipe
    asked = _Asked(recipe, known)
    tasks = [asked.task(row) for row in _plain(contents.rows(destination.path))]
    asked.refuse_idle()
    _warn_of_unknown(tasks, source, reporter)
    used = asked.used()
    length = _text_length(recipe, used, known, reporter)
    if length is not None:
        route = recipe.route.model_copy(update={"text_length": length})
        session_recipe = recipe.model_copy(update={"route": route})
    session = Session.open(
        session_recipe, reporter, allow_download=allow_download, kinds=registry.EDITING
    )
    for expert in used:
        _refuse_other_base(expert, known, session)
    planned = plan.build(
        COMMAND,
        [
            Wanted(
                [task.content, *task.loras],
                task.output,
                [_settings(edit) for edit in task.edits],
                task.folder,
                # As a run with these settings for all would have it.
                {} if task.recipe is recipe else {"recipe": _decisive(task.recipe, explain)},
            )
            for task in tasks
        ],
        decisive={
            "model": session.fingerprint,
            **session.precision,
            "text_length": length,
            "recipe": _decisive(recipe, explain),
        },
        seed=recipe.sampling.seed,
        output=destination.path,
        name=destination.name or PICTURE_NAME,
        is_file=destination.is_file(len(tasks), from_manifest=contents.manifest is not None),
        suffixes=store.PICTURE_SUFFIXES,
        sheet=plan.SHEETS[COMMAND] if explain else None,
        beside=[explaining.SUFFIX] * explain,
        strip=destination.strip,
    )
    by_key = {job.key: task for job, task in zip(planned.jobs, tasks, strict=True)}

    def start() -> Maker:
        return RouteMaker(session, known, by_key)

    return Prepared(
        plan=plan.shard(planned, destination.part),
        session=session,
        destination=destination,
        rows={},
        notes=_notes(tasks),
        start=start,
    )


class _Asked:
    """What is asked of each content; equal wishes are read once, for there may be 100,000."""

    def __init__(self, recipe: Recipe, experts: Experts) -> None:
        self._recipe = recipe
        self._experts = experts
        self._known: dict[tuple[tuple[str, str], ...], tuple[Recipe, tuple[Edit, ...]]] = {}
        self._loras: dict[str, Input] = {}

    def task(self, row: Row) -> Task:
        if row.changes not in self._known:
            with at(row.place):
                own = changed_by_row(self._recipe, row.changes, row.place, ROW_SECTIONS)
                self._known[row.changes] = own, edits(own.route.apply, self._experts.styles)
        own, wishes = self._known[row.changes]
        ids = list(dict.fromkeys(one for edit in wishes for one in edit.experts))
        return Task(
            content=Input.of_content(row.content),
            edits=wishes,
            experts=tuple(self._experts.of(one) for one in ids),
            loras=tuple(self._lora(one) for one in ids),
            recipe=own,
            output=row.output,
            folder=row.folder,
        )

    def used(self) -> list[Expert]:
        return [self._experts.of(one) for one in self._loras]

    def refuse_idle(self) -> None:
        """See that what is said of mixes is of use.

        Raises:
            UsageError: Every style is known.
        """
        soft = [own for own, _ in self._known.values() if own.route.apply.soft_route]
        if soft and not any(edit.mix for _, wishes in self._known.values() for edit in wishes):
            raise UsageError(
                "--soft-route is for styles that no expert knows, and all of these are known",
                fix="leave out --soft-route",
            )

    def _lora(self, style_id: str) -> Input:
        if style_id not in self._loras:
            self._loras[style_id] = Input.of("lora", self._experts.file(style_id))
        return self._loras[style_id]


def _experts(folder: Path | None, source: registry.Source) -> Experts:
    """Those that were named, or those that come with a model.

    Raises:
        InputError: There are none.
        WeightsError: Their index is damaged.
    """
    if folder is not None:
        return expert_files.read(folder)
    shipped = expert_files.shipped_for(source)
    if shipped is None:
        raise InputError(f"no experts come with {source.name}", fix=f"--experts FOLDER; {MAKE}")
    if not (shipped / INDEX).is_file():
        raise InputError(
            f"the experts of {source.name} are missing from this installation: {shipped}",
            fix=f"reinstall the package, or --experts FOLDER; {MAKE}",
        )
    return expert_files.read(shipped)


def _plain(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows of a command whose styles are words.

    Raises:
        UsageError: A manifest names pictures or LoRAs, or settings that count for all.
    """
    for row in rows:
        other = [key for key, _ in row.changes if not key.startswith(ROW_KEYS)]
        named = "style" if row.style else "lora" if row.lora else other[0] if other else None
        if named is not None:
            raise UsageError(
                f"{row.place}  {named} is a column that this command has no use for",
                fix="keep content, output, instruction, object and style_name, and keys of "
                f"{ROW_KEYS}*",
            )
    return rows


def _warn_of_unknown(tasks: Sequence[Task], source: registry.Source, reporter: Reporter) -> None:
    things = registry.things(source)
    every = dict.fromkeys(edit for task in tasks for edit in task.edits)
    if things and (strange := unknown(every, things)):
        said = ", ".join(repr(one) for one in strange[:SHOWN])
        reporter.warn(
            f"{source.name} was never taught what {said} is, and may change something else; "
            f"it knows {', '.join(sorted(things))}"
        )


def _text_length(
    recipe: Recipe, used: Sequence[Expert], experts: Experts, reporter: Reporter
) -> int | None:
    """Tokens of every instruction: what the experts learned with.

    Raises:
        UsageError: They differ.
    """
    lengths = {expert.text_length: expert for expert in used}
    if len(lengths) > 1:
        said = " and ".join(f"{one.id} with {length}" for length, one in lengths.items())
        raise UsageError(
            f"{experts.folder}: {said} tokens of text learned, and they are read as one",
            fix="ask for their styles in two runs",
        )
    length = next(iter(lengths), None)
    if recipe.route.text_length not in (None, length):
        # A recipe is for all experts; these were trained by another, and work with that alone.
        reporter.note(
            f"instructions are read as {length} tokens, as the experts of {experts.folder} learned "
            f"them; route.text_length {recipe.route.text_length} is for training"
        )
    return length


def _refuse_other_base(expert: Expert, experts: Experts, session: Session) -> None:
    """See that an expert was trained on the very model that it will change.

    Raises:
        UsageError: It was not.
    """
    if expert.base["fingerprint"] == session.fingerprint:
        return
    name, own = Path(expert.base["name"]).name, Path(session.source.name).name
    other = f"on {name}, not on {own}" if name != own else f"on other weights than this {own}'s"
    raise UsageError(
        f"{experts.folder / expert.file} was trained {other}",
        fix=f"--backbone {name}, or --experts of this one" if name != own else MAKE,
    )


def _decisive(recipe: Recipe, explain: bool) -> dict[str, Any]:
    """The settings that decide the bytes of a picture, and of what explains it, besides edits."""
    apply: Apply = recipe.route.apply
    loss = recipe.route.loss
    found = apply.model_dump(mode="json", exclude=_WORDS)
    if apply.protect_background:
        found |= loss.model_dump(mode="json", include={"layers", "gamma", "kappa"})
    elif explain and loss.layers != _LAYERS:
        # The usual ones are left unsaid: what explains a picture may be asked for once it is there.
        found["layers"] = loss.layers
    return found


def _settings(edit: Edit) -> dict[str, Any]:
    """What decides one edit."""
    return {
        "prompt": edit.prompt,
        "span": list(edit.span),
        "experts": list(edit.experts),
        "mix": None if edit.mix is None else list(edit.mix),
    }


def _notes(tasks: Sequence[Task]) -> list[str]:
    """What was understood, of the first content; other rows may have words of their own."""
    found = []
    for number, edit in enumerate(tasks[0].edits, start=1):
        who = f"the nearest of {', '.join(edit.experts)}" if edit.mix else edit.experts[0]
        count = f"{number}. " if len(tasks[0].edits) > 1 else ""
        found.append(f"edit  {count}{edit.prompt} (expert: {who})")
    others = len({task.edits for task in tasks}) - 1
    return found + [f"and {others} more, of other rows"] * (others > 0)
