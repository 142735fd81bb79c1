"""Which settings and data decide what an expert becomes, and by what digest they go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stylecli.artifacts import store
from stylecli.engine.route.data.items import Dataset
from stylecli.engine.session import Session
from stylecli.methods.regionroute.styles import Style
from stylecli.recipe.route import Route

# Of making sets and of using experts; and what decides when something is looked at or kept, what
# it is called or how much memory it takes: nothing of what is learned.
INDIFFERENT: Mapping[str, Any] = {
    "profile": True,
    "apply": True,
    "validation": True,
    "train": {"styles", "checkpointing", "save_every", "keep"},
}
# Of the section `data`, what is read by training.
OF_DATA = {"resolution"}


def target_set(settings: Route) -> str:
    """The layers that learn."""
    return "attn" if settings.lora.targets == "auto" else settings.lora.targets


def decisive(settings: Route) -> dict[str, Any]:
    """The settings by which an expert differs from another.

    >>> decisive(Route())["train"].keys() & {"save_every", "keep"}
    set()
    """
    return settings.model_dump(exclude={**INDIFFERENT, "data": True}) | {
        "data": settings.data.model_dump(include=OF_DATA)
    }


def digest(dataset: Dataset, style: Style) -> str:
    """Of what a training reads of a set: its own style's pairs, whatever others are in it."""
    return store.digest(
        [
            [style.id, style.phrase],
            [
                [one.id, one.split, one.prompt, list(one.size), dict(one.sha256)]
                + [[list(edit.style_span), edit.mask.name] for edit in one.edits]
                for one in dataset.samples
                if one.style_id == style.id
            ],
        ]
    )


def identity(session: Session) -> str:
    """Of all that decides what a step learns, besides the data."""
    settings = session.recipe.route
    said = decisive(settings)
    # It is how tensors are written, not what they are.
    del said["lora"]["dtype"]
    if settings.train.schedule == "constant":
        # Nothing of a step depends on how many will follow.
        del said["train"]["steps"]
    return store.digest(
        {
            "settings": said,
            "model": session.fingerprint,
            **session.precision,
            "seed": session.recipe.sampling.seed,
        }
    )
