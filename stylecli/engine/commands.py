"""Commands as data: what will be done, what it needs, and a way to do it.

Each function checks everything that can be checked without a model and returns a `Prepared`;
nothing is loaded or written until its `run` is iterated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from stylecli.artifacts import images, store
from stylecli.backbone.model import Backbone
from stylecli.engine import lora, makers, plan
from stylecli.engine.context import Reporter
from stylecli.engine.inputs import expand
from stylecli.engine.plan import Input
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.run import Maker
from stylecli.engine.session import Session
from stylecli.errors import ImageError, InputError, UsageError
from stylecli.recipe.schema import Lora, Recipe

PICTURE_NAME = "{content}__{style}.png"
TRAJECTORY_NAME = "{content}.safetensors"


def transfer(
    recipe: Recipe,
    contents: Contents,
    destination: Destination,
    reporter: Reporter,
    *,
    styles: Sequence[str] = (),
    loras: Sequence[Path] = (),
    compare: bool = False,
    allow_download: bool = False,
) -> Prepared:
    """Every content in every look.

    Raises:
        UsageError: No look, a look that cannot be used, or outputs that collide.
        InputError: Inputs that do not exist.
        WeightsError: The backbone is not on this machine.
    """
    rows = contents.rows(destination.path)
    looks = [_style(path) for path in _readable(expand(styles))]
    looks += [[Input.of("lora", _existing_lora(path))] for path in loras]
    if not looks and not all(row.style or row.lora for row in rows):
        raise UsageError("no style was named", fix="give --style PICTURE or --lora FILE")
    groups: list[tuple[list[Input], Path | None]] = []
    for row in rows:
        content = Input.of_content(row.content)
        own = [_style(row.style)] if row.style else []
        own += [[Input.of("lora", _existing_lora(row.lora))]] if row.lora else []
        groups += [([content, *look], row.output) for look in own or looks]
    # Jobs of one look together: its LoRA is loaded, or learned, once.
    groups.sort(key=lambda group: (group[0][1].role, group[0][1].sha256))
    roles = {group[0][1].role for group in groups}
    if recipe.sampling.start == "adain" and "lora" in roles:
        raise UsageError(
            "sampling.start adain needs a style picture, and a LoRA has none",
            fix="use --style, or --set sampling.start=inversion",
        )
    session = Session.open(recipe, reporter, allow_download=allow_download)
    decisive = recipe.model_dump(exclude={"description", "device", "backbone", "evaluate"})
    planned = plan.build(
        "transfer",
        groups,
        decisive={
            "model": session.fingerprint,
            "dtype": str(session.context.dtype),
            "recipe": decisive,
        },
        seed=recipe.sampling.seed,
        output=destination.path,
        name=destination.name or PICTURE_NAME,
        is_file=destination.is_file(len(groups), from_manifest=contents.manifest is not None),
        suffixes=store.PICTURE_SUFFIXES,
        sheet="compare" if compare else None,
    )
    planned = plan.shard(planned, destination.part)

    def start(backbone: Backbone) -> Maker:
        stylist = makers.Stylist(backbone, recipe, session.context)
        # One that does not fit the model is refused before any item is made with another.
        stylist.try_on(job.look for job in planned.jobs if job.look.role == "lora")
        return stylist.make

    guided = 1 if recipe.sampling.guidance == 1 else 2
    return Prepared(
        plan=planned,
        session=session,
        destination=destination,
        rows={
            **({"training": recipe.lora.steps * recipe.lora.batch} if "style" in roles else {}),
            "inversion": recipe.inversion.steps * (1 + recipe.inversion.refine_iters),
            "source, at most": recipe.sampling.steps,
            "stylised": recipe.sampling.steps * guided,
        },
        start=start,
    )


def invert(
    recipe: Recipe,
    contents: Contents,
    destination: Destination,
    reporter: Reporter,
    *,
    verify: bool = False,
    allow_download: bool = False,
) -> Prepared:
    """Every content's trajectory.

    Raises:
        InputError: Inputs that do not exist.
        UsageError: Outputs that collide.
        WeightsError: The backbone is not on this machine.
    """
    rows = contents.rows(destination.path)
    if any(row.style or row.lora for row in rows):
        raise UsageError(
            f"{contents.manifest} names styles, which an inversion does not use",
            fix="keep the columns content and output",
        )
    groups = [([Input.of_content(row.content)], row.output) for row in rows]
    session = Session.open(recipe, reporter, allow_download=allow_download)
    planned = plan.build(
        "invert",
        groups,
        decisive={
            "model": session.fingerprint,
            "dtype": str(session.context.dtype),
            "inversion": recipe.inversion.model_dump(),
            "size": recipe.sampling.size,
            "steps": recipe.sampling.steps,
        },
        seed=recipe.sampling.seed,
        output=destination.path,
        name=destination.name or TRAJECTORY_NAME,
        is_file=destination.is_file(len(groups), from_manifest=contents.manifest is not None),
        suffixes=(".safetensors",),
        sheet="verify" if verify else None,
    )
    counts = {"inversion": recipe.inversion.steps * (1 + recipe.inversion.refine_iters)}
    return Prepared(
        plan=plan.shard(planned, destination.part),
        session=session,
        destination=destination,
        rows=counts | ({"reconstruction": recipe.sampling.steps} if verify else {}),
        start=lambda backbone: makers.Inverter(backbone, recipe, session.context).keep,
    )


def train_lora(
    recipe: Recipe,
    styles: Sequence[str],
    destination: Destination,
    reporter: Reporter,
    *,
    allow_download: bool = False,
) -> Prepared:
    """One LoRA of all the pictures named.

    Raises:
        InputError: Inputs that do not exist.
        UsageError: The output's name does not fit the format.
        WeightsError: The backbone is not on this machine.
    """
    pictures = [Input.of("style", path) for path in _readable(expand(styles))]
    settings = recipe.lora
    is_folder = settings.format == "peft"
    if is_folder == (destination.path.suffix == ".safetensors"):
        raise UsageError(
            f"--output {destination.output} is "
            + ("not a folder's name" if is_folder else "not a .safetensors file"),
            fix=f"such as -o {destination.path.stem}/, or --format diffusers"
            if is_folder
            else f"such as -o {destination.path.stem or 'style'}.safetensors, or --format peft",
        )
    if len(pictures) > 1 and settings.steps <= Lora().steps:
        reporter.note(
            f"{settings.steps} steps suit one picture; for {len(pictures)} consider "
            f"--set lora.steps={min(2000, settings.steps * len(pictures))}"
        )
    session = Session.open(recipe, reporter, allow_download=allow_download)
    captions = [p.caption for p in lora.style_pictures([i.path for i in pictures], settings.prompt)]
    planned = plan.build(
        "train-lora",
        [(pictures, None)],
        decisive={
            "model": session.fingerprint,
            "dtype": str(session.context.dtype),
            "lora": settings.model_dump(exclude={"save_every", "gradient_checkpointing"}),
            "captions": captions,
        },
        seed=recipe.sampling.seed,
        output=destination.path,
        name="",
        is_file=True,
    )

    def start(backbone: Backbone) -> Maker:
        if destination.overwrite:
            makers.remove_state(destination.path)
        return partial(
            makers.train_lora,
            backbone=backbone,
            recipe=recipe,
            context=session.context,
            settings=settings,
        )

    return Prepared(
        plan=planned,
        session=session,
        destination=destination,
        rows={"training": settings.steps * settings.batch},
        start=start,
    )


def _style(path: Path) -> list[Input]:
    """A style picture and the caption beside it, which decides the LoRA as much."""
    caption = lora.caption_file(path)
    return [Input.of("style", path), *([Input.of("caption", caption)] if caption else [])]


def _readable(pictures: Sequence[Path]) -> Sequence[Path]:
    """The same, after looking: a style that cannot be read would fail every item.

    Raises:
        InputError: One cannot be read.
    """
    for path in pictures:
        try:
            images.read(path)
        except ImageError as error:
            raise InputError(error.what, fix=error.fix) from error
    return pictures


def _existing_lora(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"LoRA {path} does not exist", fix="check the name")
    return path
