"""Whether a model has what settings ask of it; its configs alone are read."""

from __future__ import annotations

import json
from typing import Any

from stylecli.backbone import hollow, registry
from stylecli.backbone.layers import self_attention
from stylecli.backbone.levels import Schedule
from stylecli.backbone.loading import scheduler_config
from stylecli.backbone.model import Backbone
from stylecli.backbone.schedule import NoiseSchedule
from stylecli.engine.session import Session
from stylecli.errors import RecipeError
from stylecli.methods.stylegallery.visits import visits
from stylecli.recipe.schema import Injection, Recipe
from stylecli.recipe.strict import AttentionLayers


def check_steps(session: Session, recipe: Recipe) -> None:
    """See that a model has the steps and layers of a recipe.

    Args:
        session: Of the model, which is not loaded.
        recipe: Of one item; the session's own, but for what a row may change.

    Raises:
        RecipeError: More steps than it was trained with, an inversion that passes some by, or
            layers that it does not have.
        WeightsError: Its scheduler does what DDIM does not.
    """
    schedule = _schedule(session)
    if schedule is None:
        return
    sampling, own = recipe.sampling, session.recipe.sampling
    if session.source.kind in registry.FLOWS and sampling.size != own.size:
        raise RecipeError(
            f"sampling.size {sampling.size} for some: levels of {session.source.name} depend on "
            f"it, and are those of {own.size} px for the whole run",
            fix="make pictures of another size in a run of their own",
        )
    levels = schedule.levels(sampling.steps, sampling.timesteps)
    schedule.around(levels, recipe.inversion.steps, sampling.timesteps)
    if sampling.method == "diffstyler":
        _check_injection(session, recipe.injection)
    if sampling.method == "attn-distill":
        schedule.levels(recipe.distill.iterations)
        _check_layers(session, recipe.distill.layers, "distill")
    elif sampling.method == "styleid":
        _check_layers(session, recipe.styleid.layers, "styleid")


def check_gallery(session: Session, recipe: Recipe) -> None:
    """The same for the levels, timesteps and layers of `style gallery`.

    Raises:
        RecipeError: More levels than it was trained with, nothing to sample from, or a block or
            layer that it does not have.
        WeightsError: As `check_steps`.
    """
    schedule = _schedule(session)
    if schedule is not None:
        steps = recipe.dfcc.steps
        visits(schedule, recipe.gallery, schedule.levels(steps) if steps else None)
    _check_layers(session, recipe.gallery.layers, "gallery")
    blocks = len(_unet_config(session).get("up_block_types", ()))
    if blocks and recipe.dfcc.block >= blocks:
        raise RecipeError(
            f"dfcc.block {recipe.dfcc.block}: this model's decoder has {blocks} blocks",
            fix=f"--set dfcc.block=N, from 0 to {blocks - 1}",
        )


def _check_injection(session: Session, injection: Injection) -> None:
    """See that what is named one by one is there."""
    named = injection.feature_layers, injection.attn_layers, injection.attn_cross
    is_crossed = session.source.kind in registry.FLOWS and injection.attn_cross != "none"
    if is_crossed or not all(isinstance(one, str) for one in named):
        _hollow(session).exchange(injection)


def _check_layers(session: Session, which: AttentionLayers, section: str) -> None:
    """See that layers given by number are there; of UNets, which alone are asked for them."""
    if not isinstance(which, str) and _unet_config(session):
        self_attention(_hollow(session).unet, which, section=section)


def _hollow(session: Session) -> Backbone:
    """The model without weights."""
    return hollow.backbone(
        session.source.kind,
        session.folder,
        dtype=session.context.dtype,
        size_px=session.recipe.sampling.size,
    )


def _unet_config(session: Session) -> dict[str, Any]:
    """Empty where there is none, of which loading will tell."""
    file = session.folder / "unet" / "config.json"
    found: dict[str, Any] = json.loads(file.read_bytes()) if file.is_file() else {}
    return found


def _schedule(session: Session) -> Schedule | None:
    file = session.folder / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return None  # loading says what is missing
    if session.source.kind in registry.FLOWS:
        from stylecli.backbone import flow_model

        return flow_model.schedule(session.source, session.folder, session.recipe.sampling.size)
    return NoiseSchedule.from_config(scheduler_config(session.folder))
