"""`style lora mix` and `style lora convert` as data: what will be written, and a way to do it.

They keep the house rules for files without what other commands need for them: a recipe, a backbone
and a device. What there is already is skipped or in the way, every file says what made it, and the
journal beside it has a row.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from stylecli.artifacts import files, store
from stylecli.artifacts.journal import Journal
from stylecli.backbone import lora, lora_algebra, lora_layouts
from stylecli.backbone.lora_layouts import Lora
from stylecli.backbone.lora_names import Format
from stylecli.backbone.row_loras import Pairs
from stylecli.engine import plan
from stylecli.engine.context import Reporter
from stylecli.engine.i2l import header
from stylecli.engine.lora_files import saving, sums
from stylecli.engine.lora_files.about import backbone_of, fitting, provenance_of
from stylecli.engine.plan import Input, Job, Plan, Wanted
from stylecli.engine.provenance import Model, provenance
from stylecli.engine.request import Destination
from stylecli.engine.runs import local
from stylecli.engine.runs.making import OneByOne, Result
from stylecli.engine.runs.run import execute
from stylecli.engine.training.lora_maker import OF_LOADING
from stylecli.errors import ItemError, UsageError, WeightsError

Mode = Literal["delta", "factors"]
MIX, CONVERT = "lora mix", "lora convert"
# Of a file's name, in the name of a sum.
MAX_STEM = 36
# Said by the layout itself, or by whoever wrote the other file.
_OF_FILE = {"format", "ss_network_module", "ss_network_dim", "ss_network_alpha", store.KEY}


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Files to write, checked and not yet written."""

    plan: Plan
    destination: Destination
    reporter: Reporter
    make: Callable[[Job], Mapping[str, Any]]

    def run(self) -> Generator[Result, None, None]:
        """Write them, yielding a result per file.

        Raises:
            LockedError: Another run holds the folder.
            UsageError: The folder cannot be written.
        """
        jobs = self.plan.jobs
        file = jobs[0].output if self.plan.is_file and jobs else None
        with Journal(self.plan.folder, wait=self.destination.wait, file=file) as opened:
            yield from execute(
                jobs,
                lambda: OneByOne(self.make),
                opened,
                self.reporter,
                local.work,
                self.destination.handling,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """How LoRAs are summed.

    Attributes:
        weights: One a file; empty is the same for all, one together.
        points: From the first of two files, at 0, to the second, at 1: a LoRA for each.
        mode: Products summed, exactly, or factors, at the same rank.
        rank: Compress to it.
    """

    weights: tuple[float, ...] = ()
    points: tuple[float, ...] = ()
    mode: Mode = "delta"
    rank: int | None = None

    def settings(self, layout: Format, weights: Sequence[float]) -> dict[str, Any]:
        """What decides one file."""
        return {"weights": [*weights], "mode": self.mode, "rank": self.rank, "format": layout}

    def strengths(self, weights: Sequence[float]) -> Sequence[float]:
        """How strong each comes out: factors of both sides are weighed, so products twice."""
        return weights if self.mode == "delta" else [weight * sum(weights) for weight in weights]

    def all_weights(self, count: int) -> list[tuple[float, ...]]:
        """Of every LoRA to make.

        Raises:
            UsageError: More or fewer than there are files.
        """
        if self.points and self.weights:
            raise UsageError("--t and --weights both say how much", fix="leave one of them out")
        if self.points:
            if count != 2:
                raise UsageError(
                    f"--t goes from one LoRA to another, and {count} were given",
                    fix="give two, or use --weights",
                )
            return [(1 - point, point) for point in self.points]
        if self.weights and len(self.weights) != count:
            raise UsageError(
                f"--weights has {len(self.weights)} numbers for {count} LoRAs",
                fix="give one for each",
            )
        return [self.weights or (1 / count,) * count]


def mix(
    sources: Sequence[Path],
    mixing: Mixing,
    destination: Destination,
    reporter: Reporter,
    *,
    layout: Format = "diffusers",
) -> Work:
    """One LoRA of several, or one for every point between two.

    Raises:
        WeightsError: A file is missing or damaged.
        UsageError: They belong to different backbones, or outputs collide.
    """
    if len(sources) < 2:
        raise UsageError("one LoRA alone cannot be mixed", fix="give two or more")
    weights = mixing.all_weights(len(sources))
    inputs = [Input.of("lora", path) for path in sources]
    loras = [_read(path, reporter) for path in sources]
    said = [header.read(path) for path in sources]
    model = _one_model(sources, loras, reporter)
    if far := sorted({weight for own in weights for weight in lora_algebra.outside(own)}):
        reporter.warn(f"weight {far[0]:g} is far outside of 0 to 1: expect broken pictures")
    # Found out now, not after an hour of files.
    _combined(loras, weights[0], mixing)
    names = "__".join(path.stem[:MAX_STEM] for path in sources[:2])
    wanted = [
        Wanted(
            inputs,
            Path(f"{names}__t{own[1]:g}" if mixing.points else names),
            settings=mixing.settings(layout, own),
        )
        for own in weights
    ]
    planned = _planned(MIX, wanted, destination, layout)
    of_job = {job.key: own for job, own in zip(planned.jobs, weights, strict=True)}

    def make(job: Job) -> Mapping[str, Any]:
        own = of_job[job.key]
        pairs = _combined(loras, own, mixing)
        entries = sums.entries(loras, said, mixing.strengths(own), pairs)
        facts = {"mix": mixing.settings(layout, own)}
        return _write(job, pairs, loras, model, layout, entries, facts)

    return Work(planned, destination, reporter, make)


def convert(
    sources: Sequence[Path],
    destination: Destination,
    reporter: Reporter,
    *,
    layout: Format,
    check: Callable[[Path], None],
) -> Work:
    """The same LoRAs in another layout; alpha becomes part of the numbers.

    Of several, one that cannot be converted fails when its turn comes, and the others go on.

    Args:
        check: Raises `UsageError` for a file that is something else.

    Raises:
        InputError: A file is missing.
        WeightsError: The only one is damaged.
        UsageError: It is no LoRA or the layout has no names for it, or outputs collide.
    """
    wanted, refused = [], {}
    for path in sources:
        try:
            check(path)
            lora_layouts.refuse_unnamed(_read(path, reporter).prefix, layout)
        except (WeightsError, UsageError) as error:
            if len(sources) == 1:
                raise
            refused[path] = error
        source, name = Input.of("lora", path), Path(path.stem)
        wanted.append(Wanted([source], name, settings={"format": layout}))
    planned = _planned(CONVERT, wanted, destination, layout)

    def make(job: Job) -> Mapping[str, Any]:
        (source,) = job.inputs
        if (error := refused.get(source.path)) is not None:
            raise ItemError(error.what, fix=error.fix) from error
        own = lora_layouts.read(source.path)
        kept = {key: value for key, value in own.header.items() if key not in _OF_FILE}
        kept.pop(lora.METADATA, None)
        facts = {"convert": {"from": own.layout, "to": layout}}
        return _write(job, own.pairs, [own], _model([own]), layout, kept, facts)

    return Work(planned, destination, reporter, make)


def _planned(
    command: str,
    wanted: Sequence[Wanted],
    destination: Destination,
    layout: Format,
) -> Plan:
    """Of each that is wanted, `output` is the stem of its name in a folder."""
    ending = saving.suffix(layout)
    is_file = destination.is_file(len(wanted), from_manifest=False) or (
        layout == "peft" and len(wanted) == 1
    )
    planned = plan.build(
        command,
        [
            replace(one, output=None if is_file else destination.path / f"{one.output}{ending}")
            for one in wanted
        ],
        decisive={},
        seed=0,
        output=destination.path,
        name="{style}",
        is_file=is_file,
        strip=destination.strip,
    )
    for job in planned.jobs:
        saving.refuse_wrong_kind(job.output, layout)
    return planned


def _read(path: Path, reporter: Reporter) -> Lora:
    found = lora_layouts.read(path)
    if found.flaw:
        reporter.note(f"{path.name}: {found.flaw}; it is read as it is meant")
    if found.ignored:
        reporter.warn(
            f"{path.name}: {found.ignored} tensors of text encoders are left out; "
            "this program changes none"
        )
    return found


def _one_model(paths: Sequence[Path], loras: Sequence[Lora], reporter: Reporter) -> Model:
    """The backbone that all are for.

    Raises:
        UsageError: Not all are for one.
    """
    kinds = [(fitting(one.pairs), one.prefix) for one in loras]
    for path, kind in zip(paths, kinds, strict=True):
        if kind[1] != kinds[0][1] or (None not in (kind[0], kinds[0][0]) and kind != kinds[0]):
            raise UsageError(
                f"{paths[0].name} is a LoRA of {kinds[0][0] or kinds[0][1]} and {path.name} one of "
                f"{kind[0] or kind[1]}",
                fix="combine LoRAs of one backbone",
            )
    said = [backbone_of(one) for one in loras]
    for path, name in zip(paths, said, strict=True):
        if None not in (name, said[0]) and name != said[0]:
            reporter.warn(f"{paths[0].name} was made for {said[0]}, and {path.name} for {name}")
    return _model(loras)


def _model(loras: Sequence[Lora]) -> Model:
    models = [(provenance_of(one) or {}).get("model") or {} for one in loras]
    prints = {str(model.get("fingerprint", "")) for model in models}
    names = [backbone_of(one) or fitting(one.pairs) for one in loras]
    name = next((name for name in names if name), loras[0].prefix)
    return Model(Path(name).name, prints.pop() if len(prints) == 1 else "")


def _combined(loras: Sequence[Lora], weights: Sequence[float], mixing: Mixing) -> Pairs:
    parts = [(one.pairs, weight) for one, weight in zip(loras, weights, strict=True)]
    combine = lora_algebra.delta if mixing.mode == "delta" else lora_algebra.factors
    pairs = combine(parts)
    return pairs if mixing.rank is None else lora_algebra.compressed(pairs, mixing.rank)


def _write(
    job: Job,
    pairs: Pairs,
    loras: Sequence[Lora],
    model: Model,
    layout: Format,
    entries: Mapping[str, str],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    sources = [provenance_of(one) for one in loras]
    made_by = provenance(job, {}, model, sources=sources, **facts)
    if made_by is None:
        entries = {key: value for key, value in entries.items() if key in OF_LOADING}
    else:
        entries = {**entries, store.KEY: files.to_json(made_by)}
    dtypes = {one.dtype for one in loras}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    saving.save(
        job.output, pairs, prefix=loras[0].prefix, layout=layout, dtype=dtype, entries=entries
    )
    norms = lora_algebra.norms(pairs).values()
    return {
        "rank": max(len(a) for a, _ in pairs.values()),
        "layers": len(pairs),
        "norm": round(sum(norm * norm for norm in norms) ** 0.5, 4),
    }
