"""What is asked of a painting: its looks and its steps, what decides its bytes, what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from stylecli.engine import method, painting, plan
from stylecli.engine.grids import Figure
from stylecli.engine.i2l import neutral
from stylecli.engine.inputs import expand
from stylecli.engine.mask_backends import Finder
from stylecli.engine.painting import Area, Painting
from stylecli.engine.plan import Input
from stylecli.engine.session import Session
from stylecli.engine.tasks import Task
from stylecli.errors import UsageError
from stylecli.recipe.schema import Recipe, Sampling

# Settings that speak of regions, and change nothing where there are none.
OF_REGIONS = {"regions", "background", "background_prompt", "pin_until", "overlap", "composite"}


def looks_of(styles: Sequence[str], loras: Sequence[Path]) -> list[list[Input]]:
    """Style pictures with their captions, then LoRAs.

    Raises:
        InputError: One does not exist or cannot be read.
    """
    looks = [painting.style(painting.readable(path)) for path in expand(styles)]
    return looks + [[Input.of("lora", painting.existing_lora(path))] for path in loras]


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


def doubts(paintings: Iterable[Painting], sampling: Sampling) -> list[str]:
    """What to tell of predictors that are not here, and would have been asked for neutral LoRAs."""
    return [
        f"{look.path.name}: the predictor that made it is not here ({sha256[:12]}), so negative "
        f"prompts are seen under the same LoRA; {neutral.PLACES}"
        for sha256, look in _without_predictors(paintings, sampling).items()
    ]


def settled(recipe: Recipe, painted: Painting) -> Recipe:
    """The recipe as a file is to tell of it, whatever predictors there are where it is read."""
    if not _without_predictors([painted], recipe.sampling):
        return recipe
    sampling = recipe.sampling.model_copy(update={"negative_lora": painting.SAME})
    return recipe.model_copy(update={"sampling": sampling})


def _without_predictors(paintings: Iterable[Painting], sampling: Sampling) -> dict[str, Input]:
    """Where nothing was said of the negative prompt: predictors whose absence made it ``same``.

    Returns:
        By their digests, each with the first LoRA that it made.
    """
    if sampling.negative_lora is not None:
        return {}
    return neutral.missing(
        part.look
        for painted in paintings
        for area in painted.areas
        if area.guidance != 1
        for stretch in area.stretches
        if stretch.negative is None
        for part in stretch.parts
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
    settings = _asked(task.painting)
    return settings if figure is None else [settings, figure.settings()]


@lru_cache(maxsize=64)
def _asked(painted: Painting) -> list[dict[str, Any]]:
    return painted.settings()


def decisive(recipe: Recipe, *, with_masks: bool) -> dict[str, Any]:
    """The settings that decide a picture's bytes; files are counted by their digests elsewhere."""
    if not method.learns(recipe.sampling):
        return method.decisive(recipe)
    sampling = {"method", "schedule", "regions", "width", "height"}
    if not with_masks:
        sampling |= OF_REGIONS
    # Results older than these settings keep their keys where they are not used.
    sampling |= {"accelerator", "negative_lora"}
    if recipe.sampling.accelerator is None:
        sampling.add("accelerator_weight")
    if recipe.sampling.timesteps is None:
        sampling.add("timesteps")
    left_out: dict[str, Any] = {
        "description": True,
        "device": True,
        "backbone": True,
        "evaluate": True,
        "styleid": True,
        "distill": True,
        "dfcc": True,
        "matching": True,
        "gallery": True,
        "i2l": True,
        "route": True,
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
    if not method.learns(recipe.sampling):
        return method.rows(recipes)
    paintings = [one.sampling for one in recipes] * (2 * areas + 1 if with_sheet else 1)
    areas += recipe.sampling.background == "denoise" and bool(recipe.sampling.regions)
    return {
        **({"training": recipe.lora.steps * recipe.lora.batch} if "style" in roles else {}),
        "inversion": recipe.inversion.steps * (1 + recipe.inversion.refine_iters),
        "source, at most": sum(one.steps for one in paintings),
        "stylised": sum(one.steps * (1 if one.guidance == 1 else 2) for one in paintings) * areas,
    }
