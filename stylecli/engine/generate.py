"""`style generate` as data: pictures from words, by the sampler that everything else uses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stylecli.artifacts import images, store
from stylecli.artifacts.images import Geometry
from stylecli.engine import painting, plan, regions, restyle
from stylecli.engine.context import Reporter
from stylecli.engine.painter import FLAT, Painter
from stylecli.engine.painting import Painting
from stylecli.engine.plan import Input, Job, Wanted
from stylecli.engine.request import Destination, Prepared
from stylecli.engine.run import Maker, provenance
from stylecli.engine.session import Session
from stylecli.errors import InputError, ItemError, UsageError
from stylecli.methods import diffstyler
from stylecli.methods.diffstyler import Background, Region
from stylecli.recipe.schema import Recipe
from stylecli.tensors.seeds import generator

PICTURE_NAME = "{prompt}.png"
STYLED_NAME = "{prompt}__{style}.png"
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
class Words:
    """What the user asked for in words.

    Attributes:
        count: Pictures of each.
    """

    prompts: Sequence[str] = ()
    count: int = 1

    @classmethod
    def of(cls, prompts: Sequence[str], file: str | None, stdin: str, count: int) -> Words:
        """Prompts as given, then those of a file, one a line.

        Args:
            file: ``-`` is `stdin`.

        Raises:
            InputError: The file cannot be read.
        """
        if file is None:
            return cls(tuple(prompts), count)
        try:
            text = stdin if file == "-" else Path(file).expanduser().read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise InputError(f"{file} cannot be read: {reason}", fix="one prompt a line") from error
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            raise InputError(f"{file} holds no prompt", fix="one a line")
        return cls((*prompts, *lines), count)


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
    prompts = list(words.prompts) or ([recipe.sampling.prompt] if recipe.sampling.prompt else [])
    if not prompts:
        raise UsageError("no prompt was given", fix="such as --prompt 'a red heart'")
    looks = restyle.looks_of(styles, loras)
    if looks and recipe.sampling.schedule is not None:
        raise UsageError(
            "a schedule names its own LoRAs", fix="leave out --style and --lora, or the schedule"
        )
    session = Session.open(recipe, reporter, allow_download=allow_download)
    wanted, drawings = [], []
    for prompt in dict.fromkeys(prompts):
        worded = recipe.model_copy(
            update={"sampling": recipe.sampling.model_copy(update={"prompt": prompt})}
        )
        for look in looks or [[]]:
            drawing = _drawing(worded, look)
            for number in range(1, words.count + 1):
                said = Input.of_prompt(prompt, number if words.count > 1 else None)
                drawings.append(drawing)
                wanted.append(Wanted([said, *drawing.inputs()], settings=drawing.settings()))
    roles = {part.look.role for drawing in drawings for part in drawing.parts}
    restyle.refuse_wordless(recipe, roles)
    _refuse_other_shapes(drawings[0], _size(recipe))
    has_masks = drawings[0].has_masks
    sampling = recipe.sampling
    planned = plan.build(
        "generate",
        wanted,
        decisive={
            "model": session.fingerprint,
            "dtype": str(session.context.dtype),
            "recipe": _decisive(recipe, with_masks=has_masks),
        },
        seed=sampling.seed,
        output=destination.path,
        name=destination.name or (STYLED_NAME if any(drawings[0].parts) else PICTURE_NAME),
        is_file=destination.is_file(len(wanted), from_manifest=False),
        suffixes=store.PICTURE_SUFFIXES,
    )
    by_key = {job.key: drawing for job, drawing in zip(planned.jobs, drawings, strict=True)}
    planned = plan.shard(planned, destination.part)

    def start() -> Maker:
        painter = Painter(session, allow_download=allow_download)
        painter.try_on(by_key[job.key] for job in planned.jobs)
        return lambda job: make(painter, job, by_key[job.key])

    guided = 1 if sampling.guidance == 1 else 2
    training = recipe.lora.steps * recipe.lora.batch
    return Prepared(
        plan=planned,
        session=session,
        destination=destination,
        rows={
            **({"training": training} if "style" in roles else {}),
            "sampled": sampling.steps * guided * len(drawings[0].areas),
        },
        notes=restyle.timetable(recipe, drawings[0]),
        size_px=round(math.sqrt(math.prod(_size(recipe)))),
        start=start,
    )


def make(painter: Painter, job: Job, drawing: Painting) -> Mapping[str, Any]:
    """Draw one job and write it.

    Raises:
        ItemError: A mask cannot be used, or the model gave nothing that can be seen.
    """
    backbone, sampling = painter.backbone, painter.recipe.sampling
    height, width = _size(painter.recipe)
    multiple = backbone.multiple_px
    padded = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
    geometry = Geometry((height, width), (height, width), padded)
    files = painter.wardrobe.fetch(drawing.parts)
    on_top = [area for area in drawing.areas if area.mask is not None]
    masks = regions.place(
        Painting(tuple(on_top)),
        geometry,
        backbone.latent_px,
        sampling,
        painter.recipe.masks,
        _found_nowhere,
        painter.context.reporter,
    )
    cells = [side // backbone.latent_px for side in geometry.padded]
    noise = torch.randn(
        1, backbone.unet.config.in_channels, *cells, generator=generator(job.seed, "noise")
    )
    whole = painter.looks(drawing.areas[0], files)
    background = None
    shown = [Region(looks=whole)]
    if masks.background is not None:
        shown = [
            Region(looks=painter.looks(area, files), share=share)
            for area, share in zip(on_top, masks.shares, strict=True)
        ]
        background = Background(share=masks.background, looks=whole)
    label = job.inputs[0].path.name
    with painter.context.reporter.task(f"generate {label}", sampling.steps) as task:
        latents = diffstyler.generate(
            backbone,
            painter.wardrobe.adapters,
            noise.to(backbone.device),
            backbone.schedule.levels(sampling.steps),
            shown,
            background=background,
            on_step=lambda: task.advance(1),
        )
    result = geometry.undo(backbone.decode(latents))[0].cpu()
    if float(result.std()) < FLAT:
        raise ItemError("the result is one flat colour", fix="use --dtype float32")
    sections = painter.recipe.model_dump(exclude={"evaluate"})
    said = whole[0].prompt
    # As it was typed, and what it came to; the seed tells which of several pictures of it.
    words = {"prompt": drawing.areas[0].prompt, "prompts": [said]}
    made_by = provenance(job, sections, backbone) | words
    store.save_image(job.output, images.to_pixels(result), made_by)
    return {"prompt": said, "height": result.shape[-2], "width": result.shape[-1]}


def _drawing(recipe: Recipe, look: Sequence[Input]) -> Painting:
    """The whole picture in a look, a schedule or the base model, and the regions on it."""
    sampling = recipe.sampling
    if sampling.schedule is not None:
        whole = painting.over_time(sampling.schedule, sampling)
    else:
        whole = painting.in_one_look(look, sampling)
    on_top = painting.of_regions(recipe, None).areas
    return Painting((*whole.areas, *on_top))


def _size(recipe: Recipe) -> tuple[int, int]:
    sampling = recipe.sampling
    return sampling.height or sampling.size, sampling.width or sampling.size


def _decisive(recipe: Recipe, *, with_masks: bool) -> dict[str, Any]:
    """A picture from words has no content, so nothing is inverted or injected."""
    sections = restyle.decisive(recipe, with_masks=with_masks)
    kept = {key: value for key, value in sections.items() if key not in ("inversion", "injection")}
    sampling = {k: v for k, v in kept["sampling"].items() if k not in OF_CONTENTS}
    return kept | {"sampling": sampling, "size": _size(recipe)}


def _refuse_other_shapes(drawing: Painting, size: tuple[int, int]) -> None:
    height, width = size
    for area in drawing.areas:
        if isinstance(area.mask, Input):
            tall, wide = images.size_of(area.mask.path)
            if abs(tall * width / (wide * height) - 1) > regions.MAX_ASPECT_ERROR:
                raise UsageError(
                    f"mask {area.mask.path} is {wide}x{tall}, of another shape than "
                    f"{width}x{height}",
                    fix=f"such as --size {wide}x{tall}",
                )


def _found_nowhere(words: str) -> Any:
    raise AssertionError(f"text:{words} was let through by painting.of_regions")
