"""What `style train-lora` is asked for: a LoRA of all pictures, of each, or of each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylecli.engine import inputs, plan
from stylecli.engine.painting import readable
from stylecli.engine.plan import UNREADABLE, Input, Job, Wanted
from stylecli.engine.request import Destination
from stylecli.engine.training import lora
from stylecli.errors import InputError, UsageError
from stylecli.recipe import rows
from stylecli.recipe.schema import Lora, Recipe

COLUMNS = ("style", "output", "prompt")
# Settings that decide nothing of what is learned.
HARMLESS = {"save_every", "gradient_checkpointing"}


@dataclass(frozen=True, slots=True)
class Lesson:
    """One LoRA to be.

    Attributes:
        output: The place a manifest names for it.
        folder: Of its picture, below the folder that was named.
    """

    pictures: tuple[Path, ...]
    settings: Lora
    output: Path | None = None
    folder: str = ""

    def wanted(self, *, is_one_of_many: bool) -> Wanted:
        """The same for a plan; of many, one that cannot be read fails when it is made.

        Raises:
            InputError: A picture or caption of the only lesson cannot be read.
        """
        prompt = self.settings.prompt
        read = _if_readable if is_one_of_many else _readable
        captions = [_caption(path, prompt, is_one_of_many) for path in self.pictures]
        settings = {"lora": self.settings.model_dump(exclude=HARMLESS), "captions": captions}
        return Wanted([read(path) for path in self.pictures], self.output, settings, self.folder)


@dataclass(frozen=True, slots=True)
class Styles:
    """What the user named as styles.

    Attributes:
        each: Every picture is a style of its own.
    """

    arguments: Sequence[str] = ()
    manifest: Path | None = None
    each: bool = False

    @property
    def is_many(self) -> bool:
        return self.each or self.manifest is not None

    def lessons(self, recipe: Recipe, destination: Destination) -> list[Lesson]:
        """One per LoRA.

        Raises:
            InputError: Nothing was named, something that does not exist, or a row that is none.
            RecipeError: A row's settings do not fit.
            UsageError: A manifest beside pictures that are one style, or whose output leaves the
                folder.
        """
        found = []
        if self.manifest is not None:
            found += list(_of_rows(self.manifest, recipe, destination))
        if self.arguments:
            if self.manifest is not None and not self.each:
                raise UsageError(
                    "pictures beside --manifest may be one style or many",
                    fix="add --each for a LoRA of each, or make them a row of the manifest",
                )
            pictures = inputs.contents(self.arguments)
            if self.each:
                found += [
                    Lesson((row.content,), recipe.lora, folder=row.folder) for row in pictures
                ]
            else:
                found.append(Lesson(tuple(row.content for row in pictures), recipe.lora))
        if not found:
            raise InputError("no style was named", fix="give pictures, folders or --manifest")
        return found


def _of_rows(manifest: Path, recipe: Recipe, destination: Destination) -> Iterator[Lesson]:
    for number, entry in inputs.table(manifest, COLUMNS, is_key=lambda column: "." in column):
        place = f"{manifest}:{number}"
        changes = inputs.changes(entry, COLUMNS)
        if entry.get("prompt"):
            changes = (*changes, ("lora.prompt", str(entry["prompt"])))
        settings = rows.changed(recipe, changes, place, ("lora",)).lora
        named = _named(entry.get("style"), manifest.parent, place)
        output = Path(str(entry["output"])) if entry.get("output") else None
        if output is None and destination.name is None and len(named) == 1 and named[0].is_dir():
            # The names of all its pictures would be no name.
            output = Path(named[0].resolve().name + suffix(settings))
        try:
            pictures = inputs.expand([str(path) for path in named])
        except InputError as error:
            raise InputError(f"{place}  {error.what}", fix=error.fix) from error
        inside = None if output is None else plan.inside(destination.path, output)
        yield Lesson(tuple(pictures), settings, inside)


def suffix(settings: Lora) -> str:
    """Of the name of a LoRA: in PEFT's layout it is a folder."""
    return "" if settings.format == "peft" else ".safetensors"


def refuse_wrong_kind(job: Job, lesson: Lesson) -> None:
    """See that a folder is to be written to a folder's name, and a file to a file's.

    Raises:
        UsageError: The other way round.
    """
    output = job.output
    is_folder = lesson.settings.format == "peft"
    if is_folder != (output.suffix == ".safetensors"):
        return
    if is_folder:
        what, fix = "not a folder's name", f"such as {output.stem}/, or --format diffusers"
    else:
        what = "not a .safetensors file"
        fix = f"such as {output.stem or 'style'}.safetensors, or --format peft"
        fix += "; --each makes one of every picture" if len(lesson.pictures) > 1 else ""
    raise UsageError(f"--output {output} is {what}", fix=fix)


def _named(style: Any, folder: Path, place: str) -> list[Path]:
    names = style if isinstance(style, list) else [style]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(
            f"{place}  style is not a file, a folder or a list of them",
            fix=f"columns: {', '.join(COLUMNS)}, and lora.* for the row alone",
        )
    return [folder / name for name in names]


def _readable(path: Path) -> Input:
    return Input.of("style", readable(path))


def _if_readable(path: Path) -> Input:
    try:
        return Input.of("style", path)
    except InputError:
        return Input("style", path, UNREADABLE)


def _caption(path: Path, prompt: str, is_one_of_many: bool) -> str:
    try:
        return lora.caption(path, prompt)
    except InputError:
        if not is_one_of_many:
            raise
        return UNREADABLE
