"""`style i2l-train` as data: what will be learned from what, checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from stylecli.artifacts import store
from stylecli.backbone import registry
from stylecli.backbone.denoisers import layers_in
from stylecli.engine import plan
from stylecli.engine.context import Reporter
from stylecli.engine.i2l import predictors
from stylecli.engine.i2l.data import items
from stylecli.engine.i2l.data.items import TRAIN, Dataset
from stylecli.engine.i2l.data.tuples import Tuples
from stylecli.engine.i2l.training import pupil
from stylecli.engine.i2l.training.maker import PredictorMaker, Start, held_out
from stylecli.engine.plan import Input, Wanted
from stylecli.engine.request import Destination, Prepared
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.session import Session
from stylecli.engine.training import refusals
from stylecli.errors import UsageError
from stylecli.methods.i2l.presets import resolve
from stylecli.recipe.i2l import Train
from stylecli.recipe.schema import Recipe


def i2l_train(
    recipe: Recipe,
    dataset: Path,
    destination: Destination,
    reporter: Reporter,
    *,
    init: Path | None = None,
    force_resume: bool = False,
    team: Team = ALONE,
    allow_download: bool = False,
) -> Prepared:
    """A predictor from a set of pictures.

    Args:
        dataset: What `style i2l-data` made.
        init: A predictor to go on from, with a fresh optimiser.
        force_resume: Go on from a checkpoint of other settings or data.

    Raises:
        InputError: No such set, or nothing to learn in it.
        UsageError: The output is no file, or more processes than styles a step.
        RecipeError: Settings that do not fit the model.
        WeightsError: The backbone is not on this machine, or `init` is no predictor.
    """
    _refuse_folder(destination)
    settings = recipe.i2l
    _refuse_idle(settings.train, team)
    refusals.refuse_engine(destination, "one predictor")
    data = items.read(dataset, holdout_count=settings.data.holdout)
    seed = recipe.sampling.seed
    tuples = Tuples(
        data.split(TRAIN), settings.data, seed, targets=settings.train.targets_per_style
    )
    session = Session.open(recipe, reporter, allow_download=allow_download, kinds=registry.DRAWING)
    refusals.refuse_float16(session, "a predictor")
    listed = dataset if dataset.suffix == ".jsonl" else dataset / items.NAME
    inputs = [Input("dataset", listed, data.digest)]
    layer_set = resolve(settings, recipe.backbone.id).layer_set
    if init is not None:
        layer_set = predictors.read_config(init).layer_set
        inputs.append(Input.of("predictor", init))
    layers = layers_in(session.source.kind, session.folder, layer_set)
    planned = plan.build(
        "i2l-train",
        [Wanted(inputs)],
        decisive={
            "model": session.fingerprint,
            **session.precision,
            "i2l": pupil.decisive(settings),
            # What comes of another beginning is not what these settings alone would give.
            **({"forced": True} if force_resume else {}),
        },
        seed=seed,
        output=destination.path,
        name="",
        is_file=True,
        suffixes=(".safetensors",),
        strip=destination.strip,
    )
    team.must_agree("inputs or settings", store.digest([job.key for job in planned.jobs]))
    start = Start(init, afresh=destination.overwrite, force=force_resume)
    maker = PredictorMaker(session, data, start, team=team, allow_download=allow_download)
    return Prepared(
        plan=plan.shard(planned, destination.part),
        session=session,
        destination=destination,
        rows={},
        start=lambda: maker,
        notes=_notes(
            data,
            tuples,
            settings.train,
            len(layers),
            layer_set,
            can_examine=held_out(data, settings, seed) is not None,
        ),
    )


def _notes(
    data: Dataset,
    tuples: Tuples,
    train: Train,
    layers: int,
    layer_set: str,
    *,
    can_examine: bool,
) -> list[str]:
    learned, kept = data.split(TRAIN), data.held_out()
    rows = train.global_batch * train.targets_per_style
    epochs = train.steps / tuples.steps(train.global_batch)
    notes = [
        f"{len(learned) - tuples.skipped} pictures of {len(learned.styles)} styles, "
        f"{len(kept)} held out; LoRAs of {layers} layers ({layer_set})",
        f"{train.steps} steps of {rows} targets: {epochs:.3g} times through the set",
    ]
    skipped = {**data.skipped, "alone in its style": tuples.skipped}
    if any(skipped.values()):
        why = ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count)
        notes.append(f"pictures left out: {why}")
    if not can_examine:
        notes.append("too little is held out to compare styles: nothing will tell if it learns")
    return notes


def _refuse_folder(destination: Destination) -> None:
    if not destination.is_file(1, from_manifest=False):
        raise UsageError(
            f"--output {destination.output} is a folder, and there is one predictor",
            fix=f"name its file: -o {destination.output.rstrip('/')}/predictor.safetensors",
        )


def _refuse_idle(train: Train, team: Team) -> None:
    """See that every process has a style of every step."""
    if train.global_batch < team.size:
        raise UsageError(
            f"i2l.train.global_batch {train.global_batch} leaves some of {team.size} processes "
            "without work",
            fix=f"--set i2l.train.global_batch={team.size}",
        )
