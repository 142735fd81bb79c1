"""`style i2l-predict` as data: LoRAs of references, in one pass of a predictor each.

Checks everything that can be checked without a model and returns a `Prepared`. The backbone that
the LoRAs are for is never loaded, and need not be on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from stylecli.backbone import lora_layouts, registry
from stylecli.backbone.denoisers import layer_sets
from stylecli.backbone.loading import fingerprint
from stylecli.engine import collisions, plan
from stylecli.engine.context import Reporter, resolve
from stylecli.engine.i2l import finding
from stylecli.engine.i2l.forward import Forward
from stylecli.engine.i2l.maker import DECISIVE, Order, PredictMaker
from stylecli.engine.i2l.neutral import prefix
from stylecli.engine.i2l.references import Asked, References
from stylecli.engine.plan import Input, Plan, Wanted
from stylecli.engine.request import Destination, Prepared
from stylecli.engine.runs.making import Maker
from stylecli.engine.session import Session
from stylecli.engine.training.lessons import Lesson, refuse_wrong_kind, suffix
from stylecli.errors import UsageError
from stylecli.methods.i2l import foreign
from stylecli.methods.i2l.files import Config
from stylecli.recipe.i2l import I2L, MAX_REFERENCES
from stylecli.recipe.schema import Backbone, Lora, Recipe

DOUBT = "its LoRAs fit, and may not show the style"


@dataclass(eq=False)
class PredictorSession(Session):
    """The machine, and a backbone whose weights nobody needs."""

    config: Config

    @cached_property
    def fingerprint(self) -> str:
        return self.config.fingerprint or ""


def predict(
    recipe: Recipe,
    asked: References,
    destination: Destination,
    reporter: Reporter,
    *,
    predictor: Path | None = None,
    neutral_out: Path | None = None,
    accept_unverified: bool = False,
    allow_download: bool = False,
) -> Prepared:
    """A LoRA of all the references named, of each of them, or one for every row of a manifest.

    Args:
        recipe: Its backbone is the one that the LoRAs are for.
        asked: The references.
        destination: Where the LoRAs go.
        reporter: Told what is doubtful.
        predictor: Its file; default: the usual one of the backbone.
        neutral_out: Where the neutral LoRA goes as well, if it is one LoRA that is made.
        accept_unverified: Use a predictor that was converted and never compared.
        allow_download: Fetch an encoder that is missing.

    Raises:
        InputError: Inputs that do not exist.
        UsageError: A predictor of another backbone, too many references, outputs that collide, or
            settings that its LoRAs cannot have.
        ForeignPredictorError: Others made the predictor; or it was converted, and never compared.
        WeightsError: The predictor is not on this machine, or damaged.
    """
    settings = recipe.i2l
    layout = Lora(format=settings.format)
    wishes = list(asked.asked(destination, suffix(layout)))
    file = finding.usual(recipe.backbone.id) if predictor is None else predictor
    config = finding.config_of(file)
    foreign.refuse_unverified(file, config.training, accepted=accept_unverified)
    folder = _refuse_unfit(config, file, recipe.backbone, reporter)
    _refuse_settings(settings, config)
    source = Input.of("predictor", file)
    finding.remember(file, source.sha256)
    if neutral_out is not None and len(wishes) > 1:
        raise UsageError(
            f"--neutral-out is one file, and {len(wishes)} LoRAs are made",
            fix="leave it out, or predict one LoRA",
        )
    for wish in wishes:
        _refuse_too_many(wish)
    orders = [Order(_sorted(wish.groups), asked.fuse) for wish in wishes]
    _warn_of_many(orders, config, reporter)
    context = resolve(recipe.device, reporter)
    backbone = registry.SOURCES.get(config.backbone) or registry.Source(
        name=config.backbone, licence=""
    )
    session = PredictorSession(recipe, context, backbone, folder or file.parent, config)
    planned = plan.build(
        "i2l-predict",
        [
            Wanted(
                [*(item for group in order.groups for item in group), source],
                wish.output,
                [len(group) for group in order.groups],
                wish.folder,
            )
            for wish, order in zip(wishes, orders, strict=True)
        ],
        decisive={
            "i2l": settings.model_dump(include=DECISIVE),
            "fuse": asked.fuse,
            "encoder": settings.encoder.dtype,
            "dtype": str(context.dtype),
        },
        # Nothing is left to chance.
        seed=0,
        output=destination.path,
        name=destination.name or f"{{folder}}/{{style}}{suffix(layout)}",
        is_file=not asked.is_many
        or destination.is_file(len(wishes), from_manifest=asked.manifest is not None),
        strip=destination.strip,
    )
    for job, order in zip(planned.jobs, orders, strict=True):
        paths = tuple(item.path for group in order.groups for item in group)
        refuse_wrong_kind(job, Lesson(paths, layout))
    if neutral_out is not None:
        planned = _with_neutral(planned, neutral_out, layout)
    by_key = {job.key: order for job, order in zip(planned.jobs, orders, strict=True)}

    def start() -> Maker:
        where = folder
        if where is None and config.encoder.id == "vae-patch":
            where = registry.snapshot(
                backbone, revision=config.revision, allow_download=allow_download
            )
        forward = Forward.load(
            file, settings.encoder, context, backbone=where, allow_download=allow_download
        )
        return PredictMaker(session, forward, source.sha256, by_key)

    return Prepared(
        plan=plan.shard(planned, destination.part),
        session=session,
        destination=destination,
        rows={},
        notes=[f"predictor {file.name} for {config.backbone}"],
        start=start,
    )


def _sorted(groups: Sequence[Sequence[Input]]) -> tuple[tuple[Input, ...], ...]:
    """The same whatever the order they were named in, so that the same LoRA comes of them."""
    ordered = (
        tuple(sorted(group, key=lambda item: (item.sha256, str(item.path)))) for group in groups
    )
    return tuple(sorted(ordered, key=lambda group: [item.sha256 for item in group]))


def _refuse_too_many(wish: Asked) -> None:
    for group in wish.groups:
        if len(group) > MAX_REFERENCES:
            raise UsageError(
                f"{wish.place}{'  ' * bool(wish.place)}{len(group)} references: a predictor sees "
                f"{MAX_REFERENCES} at most",
                fix="choose the ones that say most, or --each for a LoRA of each",
            )


def _warn_of_many(orders: Sequence[Order], config: Config, reporter: Reporter) -> None:
    trained = config.training.get("max_references")
    most = max((len(group) for order in orders for group in order.groups), default=0)
    if isinstance(trained, int) and most > trained:
        reporter.warn(
            f"{most} references of one style, and the predictor was trained with {trained} at most"
        )


def _with_neutral(planned: Plan, path: Path, layout: Lora) -> Plan:
    (job,) = planned.jobs
    refuse_wrong_kind(replace(job, output=path), Lesson((), layout))
    changed = (replace(job, beside=(path,)),)
    collisions.refuse(changed)
    return replace(planned, jobs=changed)


def _refuse_settings(settings: I2L, config: Config) -> None:
    """See that a backbone's LoRAs can be what is asked for.

    Raises:
        UsageError: It has no refiners, or the layout no names for its layers.
    """
    if settings.exclude_refiners and config.kind != "z-image":
        raise UsageError(
            f"--exclude-refiners leaves out layers that {config.backbone} does not have",
            fix="leave it out; only Z-Image has refiners",
        )
    lora_layouts.refuse_unnamed(prefix(config), settings.format)


def _refuse_unfit(config: Config, file: Path, wanted: Backbone, reporter: Reporter) -> Path | None:
    """See that a predictor is for a backbone; the folder of that, where it was named.

    Raises:
        UsageError: It is for another one.
    """
    backbone = wanted.id
    own = Path(backbone).expanduser()
    if backbone in registry.SOURCES or not own.is_dir():
        if backbone != config.backbone:
            raise _other(config, file, backbone)
        known = registry.SOURCES.get(backbone)
        revision = wanted.revision or (known and known.revision)
        if revision and config.revision and revision != config.revision:
            reporter.warn(
                f"{file.name} was trained for revision {config.revision[:12]} of {backbone}, not "
                f"for {revision[:12]}: {DOUBT}"
            )
        return None
    if fingerprint(own) == config.fingerprint:
        return own
    kind = registry.find(backbone).kind
    is_fit = kind == config.kind and layer_sets.layers_in(kind, own, config.layer_set) == (
        config.layers
    )
    if not is_fit:
        raise _other(config, file, own.name)
    reporter.warn(f"{file.name} was trained for other weights than {own.name}'s: {DOUBT}")
    return own


def _other(config: Config, file: Path, backbone: str) -> UsageError:
    return UsageError(
        f"{file.name} predicts LoRAs for {config.backbone}, not for {backbone}",
        fix=f"--backbone {config.backbone}, or another --predictor",
    )
