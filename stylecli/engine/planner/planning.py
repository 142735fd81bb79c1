"""From a command that was prepared to a planner of its work."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch

from stylecli.backbone.registry import FLOWS, Kind
from stylecli.engine.plan import Job
from stylecli.engine.planner import memory
from stylecli.engine.planner.clock import Clock
from stylecli.engine.planner.costs import Planner
from stylecli.engine.planner.fit import (
    CHECKPOINTING,
    CHECKPOINTING_OF_GALLERY,
    Choice,
    choose,
)
from stylecli.engine.planner.passes import Passes
from stylecli.engine.planner.work import Work
from stylecli.engine.session import Session
from stylecli.recipe.schema import Injection, Lora
from stylecli.recipe.strict import Quantize

# Roles of inputs that are read as LoRAs of the model.
LORAS = ("lora", "accelerator")


def planner(
    session: Session,
    jobs: Sequence[Job],
    rows: Mapping[str, int],
    *,
    items: int,
    size_px: int | None,
) -> Planner:
    """Read the model's configs, and count what jobs are made of.

    Args:
        session: Its model is not loaded.
        jobs: All of the plan.
        rows: UNet rows of one item, by name.
        items: How many are left to do.
        size_px: Side of pictures that have no content.

    Raises:
        RecipeError: A layer that this model does not have.
        UsageError: A LoRA of another model.
        WeightsError: A LoRA cannot be read.
    """
    recipe, context = session.recipe, session.context
    # The one setting of LoRAs that passes are told of one by one.
    lora = recipe.lora.model_copy(update={"gradient_checkpointing": False})
    passes, libraries = _passes(
        session.folder,
        context.dtype,
        recipe.injection,
        lora,
        context.device.type,
        session.source.kind,
        recipe.sampling.size,
        recipe.backbone.quantize,
    )
    for lora_file in {one.path for job in jobs for one in job.inputs if one.role in LORAS}:
        passes.refuse_unfit(lora_file)
    work = Work.of(recipe, rows, jobs, items=items, size_px=size_px, multiple_px=passes.multiple_px)
    return Planner(passes, recipe, work, _clock(context.device), libraries=libraries)


def fitting(
    session: Session,
    jobs: Sequence[Job],
    rows: Mapping[str, int],
    *,
    items: int,
    size_px: int | None,
    gigabytes: float,
    kept: Collection[str],
) -> Choice:
    """The fastest device settings whose estimated peak fits.

    Raises:
        UsageError: Nothing fits.
        RecipeError: A layer that this model does not have.
    """
    found = planner(session, jobs, rows, items=items, size_px=size_px)
    recipe = session.recipe
    work = found.work
    found.measure(recipe.device, checkpointing=work.is_saving(recipe))
    return choose(
        found,
        recipe,
        gigabytes=gigabytes,
        items=items,
        learns=work.loras > 0 or work.is_gallery,
        can_wait=session.context.device.type == "cuda"
        and session.source.kind not in FLOWS
        and recipe.backbone.quantize == "none",
        kept=kept,
        checkpointing=CHECKPOINTING_OF_GALLERY if work.is_gallery else CHECKPOINTING,
    )


@cache
def _passes(
    folder: Path,
    dtype: torch.dtype,
    injection: Injection,
    lora: Lora,
    kind: str,
    model: Kind,
    size_px: int,
    quantize: Quantize,
) -> tuple[Passes, int]:
    """And what this process held once all libraries were there, before anything was walked."""
    passes = Passes(
        folder, dtype, injection, lora, kind, model=model, size_px=size_px, quantize=quantize
    )
    return passes, memory.libraries()


@cache
def _clock(device: torch.device) -> Clock:
    """One for all plans of a process, so that nothing is timed twice."""
    return Clock(device)
