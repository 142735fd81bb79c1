"""Commands as data: what will be done, what it needs, and a way to do it.

Each function checks everything that can be checked without a model and returns a `Prepared`;
nothing is loaded or written until its `run` is iterated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stylecli.artifacts.journal import Journal
from stylecli.backbone.model import Backbone
from stylecli.engine import inputs, lora, makers, plan
from stylecli.engine.context import Reporter, RunContext
from stylecli.engine.estimate import Cost, estimate
from stylecli.engine.plan import Input, Plan
from stylecli.engine.run import Maker, Result, execute, pending
from stylecli.engine.session import Session
from stylecli.errors import InputError, UsageError
from stylecli.recipe.schema import Lora, Recipe

PICTURE_NAME = "{content}__{style}.png"
TRAJECTORY_NAME = "{content}.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where results go, and how to treat what is there."""

    output: Path
    name: str | None = None
    shard: str | None = None
    overwrite: bool = False
    wait: bool = False

    @property
    def part(self) -> tuple[int, int] | None:
        """``i/n`` as numbers.

        Raises:
            UsageError: Not of that form.
        """
        return plan.parse_shard(self.shard) if self.shard is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What the user named as contents."""

    arguments: Sequence[str] = ()
    manifest: Path | None = None
    stdin: Callable[[], str] | None = None
    nul: bool = False

    def rows(self) -> list[inputs.Row]:
        """One row per content.

        Raises:
            InputError: Nothing was named, or something that does not exist.
        """
        rows = [
            inputs.Row(path)
            for path in inputs.expand(self.arguments, stdin=self.stdin, nul=self.nul)
        ]
        if self.manifest is not None:
            rows += inputs.manifest(self.manifest)
        if not rows:
            raise InputError(
                "no content was named", fix="give pictures, folders, globs, - or --manifest"
            )
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A command that was checked and not yet carried out.

    Attributes:
        rows: UNet rows per item, by name: the cost, before anything is cached.
    """

    plan: Plan
    session: Session
    destination: Destination
    rows: Mapping[str, int]
    start: Callable[[Backbone], Maker]

    def todo(self) -> int:
        """How many jobs are left to do."""
        return len(pending(self.plan.jobs, overwrite=self.destination.overwrite)[0])

    def estimate(self) -> Cost:
        """Time and memory if nothing were cached."""
        recipe = self.session.recipe
        crop = recipe.lora.crop_px if recipe.lora.crop == "random" else recipe.lora.resolution
        return estimate(
            self.session.folder,
            self.session.context.device,
            self.session.context.dtype,
            self.rows,
            items=self.todo(),
            size_px=recipe.sampling.size,
            train_px=crop,
        )

    def run(self) -> Iterator[Result]:
        """Do the work, yielding a result per job.

        Raises:
            LockedError: Another run holds the folder.
            WeightsError: The model cannot be loaded.
        """
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(self.plan.folder, self.destination.part, wait=self.destination.wait)
        with journal:
            yield from execute(
                self.plan.jobs,
                lambda: self.start(self.session.backbone),
                journal,
                self.session.context.reporter,
                overwrite=self.destination.overwrite,
            )


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
    rows = contents.rows()
    looks = [Input.of("style", path) for path in inputs.expand(styles)]
    looks += [Input.of("lora", _existing_lora(path)) for path in loras]
    if not looks and not all(row.style or row.lora for row in rows):
        raise UsageError("no style was named", fix="give --style PICTURE or --lora FILE")
    if recipe.sampling.start == "adain" and any(look.role == "lora" for look in looks):
        raise UsageError(
            "sampling.start adain needs a style picture, and --lora has none",
            fix="use --style, or --set sampling.start=inversion",
        )
    groups: list[tuple[list[Input], Path | None]] = []
    for row in rows:
        content = Input.of("content", row.content)
        own = [Input.of("style", row.style)] if row.style else []
        own += [Input.of("lora", _existing_lora(row.lora))] if row.lora else []
        wanted = destination.output / row.output if row.output else None
        groups += [([content, look], wanted) for look in own or looks]
    # Jobs of one look together: its LoRA is loaded, or learned, once.
    groups.sort(key=lambda group: (group[0][1].role, group[0][1].sha256))
    session = Session.open(recipe, reporter, allow_download=allow_download)
    decisive = recipe.model_dump(exclude={"description", "device", "backbone"})
    planned = plan.build(
        "transfer",
        groups,
        decisive={
            "model": session.fingerprint,
            "dtype": str(session.context.dtype),
            "recipe": decisive,
        },
        seed=recipe.sampling.seed,
        output=destination.output,
        name=destination.name or PICTURE_NAME,
        is_file=_is_file(destination, len(groups), contents),
    )
    guided = 1 if recipe.sampling.guidance == 1 else 2
    return Prepared(
        plan=plan.shard(planned, destination.part),
        session=session,
        destination=destination,
        rows={
            **({"training": recipe.lora.steps * recipe.lora.batch} if styles else {}),
            "inversion": recipe.inversion.steps * (1 + recipe.inversion.refine_iters),
            "source, at most": recipe.sampling.steps,
            "stylised": recipe.sampling.steps * guided,
        },
        start=lambda backbone: partial(
            makers.Stylist(backbone, recipe, session.context).make, compare=compare
        ),
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
    groups: list[tuple[list[Input], Path | None]] = [
        (
            [Input.of("content", row.content)],
            destination.output / row.output if row.output else None,
        )
        for row in contents.rows()
    ]
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
        output=destination.output,
        name=destination.name or TRAJECTORY_NAME,
        is_file=_is_file(destination, len(groups), contents),
    )
    rows = {"inversion": recipe.inversion.steps * (1 + recipe.inversion.refine_iters)}
    return Prepared(
        plan=plan.shard(planned, destination.part),
        session=session,
        destination=destination,
        rows=rows | ({"reconstruction": recipe.sampling.steps} if verify else {}),
        start=lambda backbone: partial(
            makers.Inverter(backbone, recipe, session.context).keep, verify=verify
        ),
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
    pictures = [Input.of("style", path) for path in inputs.expand(styles)]
    settings = recipe.lora
    if settings.format != "peft" and destination.output.suffix != ".safetensors":
        raise UsageError(
            f"--output {destination.output} is not a .safetensors file",
            fix=f"use -o {destination.output.with_suffix('.safetensors')}, or --format peft",
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
        output=destination.output,
        name="",
        is_file=True,
    )

    def start(backbone: Backbone) -> Maker:
        if destination.overwrite:
            makers.remove_state(destination.output)
        return partial(_train, backbone, recipe, session.context)

    return Prepared(
        plan=planned,
        session=session,
        destination=destination,
        rows={"training": settings.steps * settings.batch},
        start=start,
    )


def _train(
    backbone: Backbone, recipe: Recipe, context: RunContext, job: plan.Job
) -> Mapping[str, object]:
    return makers.train_lora(job, backbone, recipe, context, settings=recipe.lora)


def _is_file(destination: Destination, jobs: int, contents: Contents) -> bool:
    """Whether `output` names the one file there is to make, rather than a folder."""
    output = destination.output
    looks_like_file = bool(output.suffix) and not output.is_dir()
    if looks_like_file and (jobs > 1 or destination.name):
        raise UsageError(
            f"--output {output} is a file, but there are {jobs} results",
            fix=f"use a folder: -o {output.with_suffix('')}/",
        )
    return looks_like_file and contents.manifest is None


def _existing_lora(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"LoRA {path} does not exist", fix="check the name")
    return path
