"""`style generate` as data: pictures from words, by the sampler that everything else uses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylecli.artifacts import images, store
from stylecli.engine import asking, inputs, method, painting, plan, regions
from stylecli.engine.context import Reporter
from stylecli.engine.draw_maker import Drawing, DrawMaker, size
from stylecli.engine.painter import Painter
from stylecli.engine.painting import Painting
from stylecli.engine.plan import Input, Wanted
from stylecli.engine.request import Destination, Prepared
from stylecli.engine.runs.making import Maker
from stylecli.engine.session import Session
from stylecli.errors import InputError, UsageError
from stylecli.recipe.rows import changed
from stylecli.recipe.schema import Recipe

PICTURE_NAME = "{prompt}.png"
STYLED_NAME = "{prompt}__{style}.png"
COLUMNS = ("prompt", "style", "lora", "output")
# Of the recipe, what a row of a manifest may change for its words alone.
ROW_SECTIONS = ("sampling",)
# Settings of sampling that speak of a content, or are counted elsewhere.
OF_CONTENTS = {
    "start",
    "prompt",
    "size",
    "background",
    "background_prompt",
    "pin_until",
    "composite",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """Words, and what a manifest says of them; what is None comes from the command line."""

    prompt: str
    style: Path | None = None
    lora: Path | None = None
    output: Path | None = None
    changes: tuple[tuple[str, str], ...] = ()
    place: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """What the user asked for in words.

    Attributes:
        count: Pictures of each.
        manifest: Rows of prompt, style, lora, output and recipe keys.
        listed: What another command asks for.
    """

    prompts: Sequence[str] = ()
    count: int = 1
    manifest: Path | None = None
    listed: Sequence[Wish] = ()

    @classmethod
    def of(
        cls,
        prompts: Sequence[str],
        file: str | None,
        stdin: str,
        count: int,
        manifest: Path | None = None,
    ) -> Words:
        """Prompts as given, then those of a file, one a line.

        Args:
            file: ``-`` is `stdin`.

        Raises:
            InputError: The file cannot be read.
        """
        if file is None:
            return cls(tuple(prompts), count, manifest)
        try:
            text = stdin if file == "-" else Path(file).expanduser().read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise InputError(f"{file} cannot be read: {reason}", fix="one prompt a line") from error
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if not lines:
            raise InputError(f"{file} holds no prompt", fix="one a line")
        return cls((*prompts, *lines), count, manifest)

    def wishes(self, output: Path, default: str | None) -> list[Wish]:
        """One for each of the words, equal ones once, then the rows of the manifest.

        Args:
            output: What a manifest names is a place in it.
            default: The recipe's prompt, where nothing else was said.

        Raises:
            UsageError: No words, or an output that leaves the folder.
            InputError: The manifest cannot be read.
        """
        found = [*(Wish(prompt) for prompt in dict.fromkeys(self.prompts)), *self.listed]
        if self.manifest is not None:
            found += _rows(self.manifest, output)
        if not found and default:
            found = [Wish(default)]
        if not found:
            raise UsageError("no prompt was given", fix="such as --prompt 'a red heart'")
        return found


def _rows(path: Path, output: Path) -> list[Wish]:
    found = []
    for number, entry in inputs.table(path, COLUMNS, is_key=lambda column: "." in column):
        place = f"{path}:{number}"
        if not entry.get("prompt"):
            raise InputError(f"{place}  no 'prompt'", fix=f"columns: {', '.join(COLUMNS)}")
        looks = {key: path.parent / str(entry[key]) for key in ("style", "lora") if entry.get(key)}
        named = entry.get("output")
        found.append(
            Wish(
                str(entry["prompt"]),
                **looks,
                output=plan.inside(output, Path(str(named))) if named else None,
                changes=inputs.changes(entry, COLUMNS),
                place=place,
            )
        )
    return found


def generate(
    recipe: Recipe,
    words: Words,
    destination: Destination,
    reporter: Reporter,
    *,
    styles: Sequence[str] = (),
    loras: Sequence[Path] = (),
    allow_download: bool = False,
) -> Prepared:
    """Every prompt in every look; regions of the recipe lie on top.

    Raises:
        UsageError: No prompt, LoRAs beside a schedule, a region that needs a photograph, or outputs
            that collide.
        InputError: Inputs that do not exist.
        WeightsError: The backbone is not on this machine.
    """
    method.refuse_unfit("generate", recipe, set())
    wishes = words.wishes(destination.path, recipe.sampling.prompt)
    looks = asking.looks_of(styles, loras)
    session = Session.open(recipe, reporter, allow_download=allow_download)
    wanted, drawings = [], []
    for wish in wishes:
        own_recipe = changed(recipe, wish.changes, wish.place, ROW_SECTIONS)
        sampling = own_recipe.sampling.model_copy(update={"prompt": wish.prompt})
        worded = own_recipe.model_copy(update={"sampling": sampling})
        with inputs.at(wish.place):
            own = asking.looks_of(
                [str(wish.style)] if wish.style else [], [wish.lora] if wish.lora else []
            )
        for look in own or looks or [[]]:
            if look and sampling.schedule is not None:
                raise UsageError(
                    "a schedule names its own LoRAs",
                    fix="leave out --style and --lora, or the schedule",
                )
            drawing = Drawing(_painting(worded, look), worded)
            asking.refuse_wordless(worded, {part.look.role for part in drawing.painting.parts})
            _refuse_other_shapes(drawing.painting, size(worded))
            own_settings = {}
            if own_recipe is not recipe:
                with_masks = drawing.painting.has_masks
                own_settings = {"recipe": _decisive(own_recipe, with_masks=with_masks)}
            for number in range(1, words.count + 1):
                said = Input.of_prompt(wish.prompt, number if words.count > 1 else None)
                drawings.append(drawing)
                wanted.append(
                    Wanted(
                        [said, *drawing.painting.inputs()],
                        wish.output,
                        drawing.painting.settings(),
                        decisive=own_settings,
                    )
                )
    first = drawings[0].painting
    for doubt in asking.doubts((one.painting for one in drawings), recipe.sampling):
        reporter.warn(doubt)
    planned = plan.build(
        "generate",
        wanted,
        decisive={
            "model": session.fingerprint,
            **session.precision,
            "recipe": _decisive(recipe, with_masks=first.has_masks),
        },
        seed=recipe.sampling.seed,
        output=destination.path,
        name=destination.name
        or (STYLED_NAME if any(p.look.role in plan.FIELDS for p in first.parts) else PICTURE_NAME),
        is_file=destination.is_file(len(wanted), from_manifest=words.manifest is not None),
        suffixes=store.PICTURE_SUFFIXES,
        strip=destination.strip,
    )
    by_key = {job.key: drawing for job, drawing in zip(planned.jobs, drawings, strict=True)}
    planned = plan.shard(planned, destination.part)

    def start() -> Maker:
        painter = Painter(session, allow_download=allow_download)
        painter.try_on(by_key[job.key].painting for job in planned.jobs)
        return DrawMaker(painter, by_key)

    guided = 1 if recipe.sampling.guidance == 1 else 2
    training = recipe.lora.steps * recipe.lora.batch
    needs_training = any(
        part.look.role == "style" for drawing in drawings for part in drawing.painting.parts
    )
    return Prepared(
        plan=planned,
        session=session,
        destination=destination,
        rows={
            **({"training": training} if needs_training else {}),
            "sampled": recipe.sampling.steps * guided * len(first.areas),
        },
        notes=asking.timetable(recipe, first),
        size_px=round(math.sqrt(math.prod(size(recipe)))),
        start=start,
    )


def _painting(recipe: Recipe, look: Sequence[Input]) -> Painting:
    """The whole picture in a look, a schedule or the base model, and the regions on it."""
    sampling = recipe.sampling
    if sampling.schedule is not None:
        whole = painting.over_time(sampling.schedule, sampling)
    else:
        whole = painting.in_one_look(look, sampling)
    on_top = painting.of_regions(recipe, None).areas
    return Painting((*whole.areas, *on_top))


def _decisive(recipe: Recipe, *, with_masks: bool) -> dict[str, Any]:
    """A picture from words has no content, so nothing is inverted or injected."""
    sections = asking.decisive(recipe, with_masks=with_masks)
    kept = {key: value for key, value in sections.items() if key not in ("inversion", "injection")}
    sampling = {k: v for k, v in kept["sampling"].items() if k not in OF_CONTENTS}
    return kept | {"sampling": sampling, "size": size(recipe)}


def _refuse_other_shapes(drawing: Painting, wanted: tuple[int, int]) -> None:
    height, width = wanted
    for area in drawing.areas:
        if isinstance(area.mask, Input):
            tall, wide = images.size_of(area.mask.path)
            if abs(tall * width / (wide * height) - 1) > regions.MAX_ASPECT_ERROR:
                raise UsageError(
                    f"mask {area.mask.path} is {wide}x{tall}, of another shape than "
                    f"{width}x{height}",
                    fix=f"such as --size {wide}x{tall}",
                )
