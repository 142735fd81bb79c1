"""`style invert` and `style train-lora` as data: what will be done, and a way to do it.

Each function checks everything that can be checked without a model and returns a `Prepared`;
nothing is loaded or written until its `run` is iterated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from stylecli.engine import lora, makers, plan
from stylecli.engine.context import Reporter
from stylecli.engine.inputs import expand
from stylecli.engine.painting import readable
from stylecli.engine.plan import Input, Wanted
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.run import Maker
from stylecli.engine.session import Session
from stylecli.errors import UsageError
from stylecli.recipe.schema import Lora, Recipe

TRAJECTORY_NAME = "{content}.safetensors"


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
    wanted = [Wanted([Input.of_content(row.content)], row.output) for row in rows]
    session = Session.open(recipe, reporter, allow_download=allow_download)
    planned = plan.build(
        "invert",
        wanted,
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
        is_file=destination.is_file(len(wanted), from_manifest=contents.manifest is not None),
        suffixes=(".safetensors",),
        sheet="verify" if verify else None,
    )
    counts = {"inversion": recipe.inversion.steps * (1 + recipe.inversion.refine_iters)}
    return Prepared(
        plan=plan.shard(planned, destination.part),
        session=session,
        destination=destination,
        rows=counts | ({"reconstruction": recipe.sampling.steps} if verify else {}),
        start=lambda: makers.Inverter(session.backbone, recipe, session.context).keep,
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
    pictures = [Input.of("style", readable(path)) for path in expand(styles)]
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
        [Wanted(pictures)],
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

    def start() -> Maker:
        if destination.overwrite:
            makers.remove_state(destination.path)
        return partial(
            makers.train_lora,
            backbone=session.backbone,
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
