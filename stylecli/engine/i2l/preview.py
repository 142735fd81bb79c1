"""Pictures beside predicted LoRAs: by `style generate`; of transformers, which it has not, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stylecli.artifacts import images, store
from stylecli.backbone import lora_algebra, lora_layouts, registry, row_loras
from stylecli.backbone.denoisers import Branch
from stylecli.backbone.registry import Kind
from stylecli.backbone.row_loras import Factors, Pairs
from stylecli.engine import asking, painting, plan
from stylecli.engine.context import Reporter
from stylecli.engine.draw_maker import size
from stylecli.engine.generate import Wish, Words, generate
from stylecli.engine.i2l import neutral
from stylecli.engine.painting import Painting, Part
from stylecli.engine.plan import Input, Job, Wanted
from stylecli.engine.provenance import Model, provenance, recorded
from stylecli.engine.request import Destination, Prepared
from stylecli.engine.runs.known import Known, pending
from stylecli.engine.runs.making import OneByOne
from stylecli.engine.session import Session
from stylecli.recipe.schema import Recipe
from stylecli.tensors.seeds import derive

ENDING = ".preview.png"
TRANSFORMERS: Sequence[Kind] = ("z-image", "flux2", "hidream")
# Of sampling, what decides a picture that a transformer draws.
_SAMPLING = {"steps", "size", "width", "height"}


def previews(
    prepared: Prepared,
    recipe: Recipe,
    prompt: str,
    reporter: Reporter,
    *,
    allow_download: bool = False,
) -> Prepared | None:
    """A picture beside every LoRA that a command has made by now.

    Args:
        prepared: The command, carried out.
        recipe: How they are drawn.
        prompt: What is drawn.

    Returns:
        None where there is no LoRA.

    Raises:
        UsageError: A LoRA that does not fit the recipe's backbone.
        WeightsError: The backbone is not on this machine.
    """
    jobs = prepared.plan.jobs
    left = {job.output for job in pending(jobs, Known.of(prepared.plan.folder))[0]}
    made = [job.output for job in jobs if job.output not in left and job.output.exists()]
    if not made:
        return None
    wishes = [Wish(prompt, lora=path, output=path.with_name(path.stem + ENDING)) for path in made]
    # Beside the LoRAs, whatever these are called.
    own = replace(prepared.destination, output=f"{prepared.plan.folder}/", name=None)
    if registry.find(recipe.backbone.id).kind == "unet":
        words = Words(listed=wishes)
        return generate(recipe, words, own, reporter, allow_download=allow_download)
    return _by_transformer(recipe, wishes, own, reporter, allow_download=allow_download)


def _by_transformer(
    recipe: Recipe,
    wishes: Sequence[Wish],
    destination: Destination,
    reporter: Reporter,
    *,
    allow_download: bool,
) -> Prepared:
    session = Session.open(recipe, reporter, allow_download=allow_download, kinds=TRANSFORMERS)
    looks = asking.looks_of([], [wish.lora for wish in wishes if wish.lora is not None])
    paintings = [painting.in_one_look(look, recipe.sampling) for look in looks]
    for doubt in asking.doubts(paintings, recipe.sampling):
        reporter.warn(doubt)
    planned = plan.build(
        "i2l-preview",
        [
            Wanted([Input.of_prompt(wish.prompt), *one.inputs()], wish.output, one.settings())
            for wish, one in zip(wishes, paintings, strict=True)
        ],
        decisive={
            "model": session.fingerprint,
            **session.precision,
            "sampling": recipe.sampling.model_dump(include=_SAMPLING),
        },
        seed=recipe.sampling.seed,
        output=destination.path,
        name=ENDING,
        is_file=False,
        suffixes=store.PICTURE_SUFFIXES,
        strip=destination.strip,
    )
    drawings = {
        job.key: _Drawing(wish.prompt, one)
        for job, wish, one in zip(planned.jobs, wishes, paintings, strict=True)
    }
    artist = _Artist(session, drawings, allow_download=allow_download)
    return Prepared(
        plan=planned,
        session=session,
        destination=destination,
        rows={},
        start=lambda: OneByOne(artist.draw),
    )


@dataclass(frozen=True, slots=True)
class _Drawing:
    """Words, and the LoRAs of both sides."""

    prompt: str
    painting: Painting


class _Artist:
    """Draws with a transformer, the LoRAs beside its weights."""

    def __init__(
        self, session: Session, drawings: Mapping[str, _Drawing], *, allow_download: bool
    ) -> None:
        self._session = session
        self._drawings = drawings
        self._allow_download = allow_download

    def draw(self, job: Job) -> Mapping[str, Any]:
        """Draw one picture and write it.

        Raises:
            UsageError: Its LoRA does not fit the model.
            ItemError: The picture cannot be written.
        """
        drawing, session = self._drawings[job.key], self._session
        denoiser, recipe = session.denoiser, session.recipe
        (area,) = drawing.painting.areas
        (stretch,) = area.stretches
        sides = [stretch.parts, stretch.parts if stretch.negative is None else stretch.negative]
        factors = Factors.stacked([self._sum(side) for side in sides], device=denoiser.device)

        def applied(branch: Branch) -> AbstractContextManager[None]:
            return row_loras.applied(denoiser.model, factors, [int(branch == "neg")])

        multiple = denoiser.multiple_px
        height, width = (-(-side // multiple) * multiple for side in size(recipe))
        with session.context.reporter.task(f"preview {job.output.name}", 1) as task:
            # Nothing is learned, but rows with LoRAs of their own are written into their outputs.
            with torch.no_grad():
                drawn = denoiser.sample(
                    denoiser.encode_prompt([drawing.prompt]),
                    denoiser.encode_prompt([area.negative or denoiser.negative_prompt]),
                    seeds=[derive(job.seed, "noise")],
                    steps=recipe.sampling.steps,
                    guidance=area.guidance,
                    applied=applied,
                    size=(height, width),
                )
            task.advance()
        made_by = provenance(
            job,
            self._recorded(drawing),
            Model(
                session.source.name,
                session.fingerprint,
                session.context.device,
                session.context.dtype,
            ),
            prompt=drawing.prompt,
            prompts=[drawing.prompt],
        )
        store.save_image(job.output, images.to_pixels(drawn[0].float()), made_by)
        return {"prompt": drawing.prompt, "height": height, "width": width}

    def _sum(self, parts: Sequence[Part]) -> Pairs:
        if not parts:
            return {}
        found = [(lora_layouts.read(self._file(part)).pairs, part.weight) for part in parts]
        return lora_algebra.delta(found)

    def _file(self, part: Part) -> Path:
        if part.look.role != "neutral":
            return part.look.path
        session = self._session
        return neutral.file_of(
            part.look,
            session.recipe.i2l.encoder,
            session.context,
            backbone=session.folder,
            allow_download=self._allow_download,
        )

    def _recorded(self, drawing: _Drawing) -> dict[str, Any]:
        recipe = asking.settled(self._session.recipe, drawing.painting)
        return recorded(
            recipe,
            1,
            self._session.device,
            include={
                "backbone": True,
                "device": True,
                "sampling": _SAMPLING
                | {"guidance", "negative", "negative_lora", "weight", "accelerator", "seed"},
            },
        )
