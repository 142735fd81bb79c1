"""`style analyze features` as data: what will be looked at, and a way to do it.

Everything that can be checked without a model is checked here; nothing is loaded or written until
the prepared run is iterated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylecli.artifacts import store
from stylecli.backbone.schedule import NoiseSchedule
from stylecli.engine import plan, suiting
from stylecli.engine.analysis.asked import DECISIVE, LAYERS, Asked, nearest, numbers
from stylecli.engine.analysis.cases import Assessor
from stylecli.engine.analysis.colours import Colourist
from stylecli.engine.analysis.observer import Observer, Places
from stylecli.engine.analysis.order import Order
from stylecli.engine.analysis.report import Report
from stylecli.engine.analysis.subjects import Subject, subjects
from stylecli.engine.context import Reporter
from stylecli.engine.plan import Job, Wanted
from stylecli.engine.request import Destination, Prepared
from stylecli.engine.runs.known import Known, pending
from stylecli.engine.runs.making import Maker, OneByOne
from stylecli.engine.session import Session
from stylecli.errors import UsageError, WeightsError
from stylecli.recipe.schema import Recipe

COMMAND = "analyze features"
NAMES = {"pca": "{folder}/{content}.features.png", "similarity": "{folder}/{content}.json"}
# Of the pictures' own files, beside the table.
CASES = "cases"


@dataclass(frozen=True, slots=True)
class Analysis:
    """An analysis that was checked and not yet carried out.

    Attributes:
        report: The table of all pictures; None for figures, which stand alone.
        jobs: Of all shards.
    """

    prepared: Prepared
    report: Report | None
    jobs: tuple[Job, ...]

    def conclude(self) -> list[Order]:
        """Write the table of the pictures that are done, by whichever run.

        Returns:
            What it says; nothing where no picture is done, and no table is written.

        Raises:
            ItemError: It cannot be written, or a picture's file is not whole.
        """
        _, settled = pending(self.jobs, Known.of(self.prepared.plan.folder))
        done = [one.job.output for one in settled if one.status == "skipped"]
        return self.report.write(done, len(self.jobs)) if self.report and done else []


def prepare(
    recipe: Recipe,
    asked: Asked,
    destination: Destination,
    reporter: Reporter,
    *,
    allow_download: bool = False,
) -> Analysis:
    """A figure, or the cosines, of every picture.

    Raises:
        InputError: Inputs that do not exist.
        UsageError: No LoRA, a timestep or layer that the model does not have, or outputs that
            collide.
        OutputDiffersError: A file is in the table's place that is no table.
        WeightsError: The backbone is not on this machine.
    """
    # What is compiled cannot be looked into.
    device = recipe.device.model_copy(update={"compile": "none"})
    recipe = recipe.model_copy(update={"device": device})
    wanted = subjects(asked, recipe.sampling.weight, destination.path)
    session = Session.open(recipe, reporter, allow_download=allow_download)
    suiting.check_steps(session, recipe)
    places = _places(session, asked, recipe)
    for level in places.levels:
        reporter.note(f"{level}; the latent is the base model's inversion")
    is_file = destination.is_file(len(wanted), from_manifest=asked.manifest is not None)
    if is_file and asked.kind == "similarity":
        raise UsageError(
            f"--output {destination.output} is a file, but similarity fills a folder",
            fix=f"a slash makes it a folder: -o {destination.path.with_suffix('')}/",
        )
    learns = {look.part.look.role for one in wanted for look in one.looks} & {"style"}
    planned = plan.build(
        COMMAND,
        [_wanted(one, asked) for one in wanted],
        decisive={
            "model": session.fingerprint,
            **session.precision,
            "kind": asked.kind,
            "levels": [[level.asked, level.timestep] for level in places.levels],
            "layers": list(places.layers),
            "tap": places.tap,
            "prompt": places.prompt,
            "settings": {
                section: getattr(recipe, section).model_dump(mode="json", include=set(keys))
                for section, keys in DECISIVE.items()
                if section != "device"
            },
            **({"lora": recipe.lora.model_dump(mode="json")} if learns else {}),
        },
        seed=recipe.sampling.seed,
        output=destination.path,
        name=destination.name or NAMES[asked.kind],
        is_file=is_file,
        suffixes=store.PICTURE_SUFFIXES if asked.kind == "pca" else (".json",),
        strip=destination.strip,
    )
    by_key = {job.key: one for job, one in zip(planned.jobs, wanted, strict=True)}
    report = _report(asked, recipe, destination, planned.jobs)
    if report is not None and not destination.overwrite:
        report.refuse_foreign()

    def start() -> Maker:
        observer = Observer(session, places)
        observer.try_on(look.part for one in wanted for look in one.looks)
        if asked.kind == "pca":
            return OneByOne(
                Colourist(observer, asked, by_key, destination.overwrite).make, session.step_down
            )
        return OneByOne(Assessor(observer, by_key).make, session.step_down)

    models = max(len(one.looks) for one in wanted) + 1
    prepared = Prepared(
        plan=plan.shard(planned, destination.part),
        session=session,
        destination=destination,
        rows={
            "inversion": recipe.inversion.steps * (1 + recipe.inversion.refine_iters),
            "features, at most": models * len(places.levels),
            **({"training": recipe.lora.steps * recipe.lora.batch} if learns else {}),
        },
        start=start,
    )
    return Analysis(prepared, report, planned.jobs)


def _wanted(subject: Subject, asked: Asked) -> Wanted:
    files = [item for look in subject.looks for item in look.files]
    folder = subject.folder
    if asked.kind == "similarity":
        # The same thing drawn in two looks mostly has one name.
        folder = "/".join(part for part in (CASES, subject.home, folder) if part not in ("", "."))
    return Wanted(
        [subject.content, *dict.fromkeys(files)],
        settings=[[*look.key, look.domain] for look in subject.looks],
        folder=folder,
    )


def _places(session: Session, asked: Asked, recipe: Recipe) -> Places:
    """Where to look, by the model's configs alone.

    Raises:
        UsageError: It has no such timestep or layer.
        WeightsError: A config is missing.
    """
    schedule = NoiseSchedule.from_config(_config(session, "scheduler/scheduler_config.json"))
    last = len(schedule.alphas_cumprod) - 1
    for timestep in asked.timesteps:
        if not 0 <= timestep <= last:
            raise UsageError(f"--t {timestep} is out of range", fix=f"allowed: 0 to {last}")
    unet = _config(session, "unet/config.json")
    blocks, per_block = unet["up_block_types"], unet.get("layers_per_block", 2)
    counts = per_block if isinstance(per_block, list) else [per_block] * len(blocks)
    layers = numbers(asked.layers or LAYERS[asked.kind], sum(count + 1 for count in counts))
    levels = schedule.levels(recipe.sampling.steps, recipe.sampling.timesteps)
    return Places(
        levels=tuple(nearest(levels, asked.timesteps)),
        layers=layers,
        tap=asked.tap,
        prompt=recipe.sampling.prompt or "",
    )


def _config(session: Session, name: str) -> dict[str, Any]:
    file = session.folder / name
    try:
        found: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{session.folder.name}: {name} cannot be read",
            fix="give a complete diffusers folder",
        ) from error
    return found


def _report(
    asked: Asked, recipe: Recipe, destination: Destination, jobs: Sequence[Job]
) -> Report | None:
    if asked.kind != "similarity":
        return None
    name = f"{Path(destination.output).name}/"
    return Report(
        folder=destination.path,
        key=store.digest(sorted(job.key for job in jobs)),
        command=None if destination.strip else asked.line(recipe, asked.contents, name),
        seed=recipe.sampling.seed,
    )
