"""Inversions kept by content: the same picture under the same settings is inverted once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stylecli.artifacts import cache, images, store
from stylecli.backbone.finite import see_finite
from stylecli.backbone.inversion import invert, null_prediction
from stylecli.backbone.levels import Levels, Timesteps
from stylecli.backbone.model import Backbone
from stylecli.engine.context import Reporter
from stylecli.errors import WeightsError
from stylecli.recipe.schema import Inversion

SCHEMA_VERSION = 3
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class View:
    """A picture as it is to be inverted.

    Attributes:
        image: In [0, 1], already at the model's size.
        picture_sha256: Digest of the picture's own pixels.
        geometry: How `image` came from the picture.
        name: Of the picture, for people.
        changes: What its colours were changed to, as JSON has it.
    """

    image: Float[Tensor, "1 3 h w"]
    picture_sha256: str
    geometry: images.Geometry
    name: str
    changes: object = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A trajectory as its file has it: tensors by name, and the header."""

    tensors: dict[str, Tensor]
    header: dict[str, str]

    @property
    def latents(self) -> Float[Tensor, "levels 1 c h w"]:
        return self.tensors["latents"][:, None]


def identity(
    backbone: Backbone,
    view: View,
    inversion: Inversion,
    keep: Levels,
    rows: int = 1,
    timesteps: Timesteps = None,
) -> dict[str, object]:
    """All that decides a trajectory's values; written into its header, and its key."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": backbone.fingerprint,
        **backbone.precision,
        "device": backbone.device.type,
        "scheduler": dict(backbone.schedule.config),
        "scaling_factor": backbone.scaling_factor,
        "picture_sha256": view.picture_sha256,
        "changes": view.changes,
        "geometry": view.geometry.as_dict(),
        "inversion": inversion.model_dump(),
        "timesteps": list(keep.timesteps),
        "prompt": "",
        # Batches of other sizes may differ in the last bit, and a result is to be made again.
        **({"rows": rows} if rows > 1 else {}),
        **({"tuned": dict(backbone.tuned)} if backbone.tuned else {}),
        # Of levels between those that are kept, where they do not lie in the model's own way.
        **(
            {"spread": timesteps}
            if isinstance(timesteps, str) and inversion.steps != len(keep)
            else {}
        ),
    }


def find_or_invert(
    backbone: Backbone,
    views: Sequence[View],
    inversion: Inversion,
    keep: Levels,
    *,
    timesteps: Timesteps = None,
    rows: int = 1,
    reporter: Reporter,
) -> list[Kept]:
    """The trajectories of some pictures of one size: those the cache has not are made together.

    Args:
        backbone: Does the inverting.
        views: At most `rows` of them.
        inversion: The settings.
        keep: Levels to store.
        timesteps: How they are spread, which is how those between them are.
        rows: The model always sees so many at a time, so that equal pictures give equal bits.
        reporter: Told of progress.

    Raises:
        ItemError: The model returned NaN or infinity.
        WeightsError: Its weights hold them.
    """
    wanted = [identity(backbone, view, inversion, keep, rows, timesteps) for view in views]
    files = [cache.cached(cache.TRAJECTORIES, store.digest(one), ".safetensors") for one in wanted]
    found = [
        _read(path, one, keep) if path.exists() else None
        for path, one in zip(files, wanted, strict=True)
    ]
    # The same picture may be there twice.
    missing = {path: i for i, path in enumerate(files) if found[i] is None}
    if missing:
        chosen = [views[i] for i in missing.values()]
        levels = backbone.schedule.around(keep, inversion.steps, timesteps)
        made = _inverted(backbone, chosen, inversion, levels, keep, rows, reporter)
        for latents, (path, i) in zip(made, missing.items(), strict=True):
            kept = _as_kept(latents, wanted[i], keep)
            cache.keep(
                path, partial(store.save_tensors, path, kept.tensors, kept.header), reporter.warn
            )
            found = [kept if files[j] == path else one for j, one in enumerate(found)]
    return [one for one in found if one is not None]


def _inverted(
    backbone: Backbone,
    views: Sequence[View],
    inversion: Inversion,
    levels: Levels,
    keep: Levels,
    rows: int,
    reporter: Reporter,
) -> list[Float[Tensor, "levels c h w"]]:
    pictures = [view.image for view in filled(views, rows)]
    with reporter.task(f"invert {together([view.name for view in views])}", len(levels)) as task:
        trajectory = invert(
            backbone.encode_image(torch.cat(pictures)),
            null_prediction(backbone, len(pictures)),
            backbone.schedule,
            levels,
            keep=keep,
            pairing=inversion.pairing,
            refine_iters=inversion.refine_iters,
            on_step=_ticker(task.advance),
            on_warning=reporter.warn,
        )
    see_finite(trajectory.latents, backbone, what="inversion gave")
    return [trajectory.latents[:, i].cpu().contiguous() for i in range(len(views))]


def filled(items: Sequence[Item], rows: int) -> list[Item]:
    """As many as a batch takes, the last one over and over.

    >>> filled("ab", 4), filled("abc", 2)
    (['a', 'b', 'b', 'b'], ['a', 'b', 'c'])
    """
    return [*items, *[items[-1]] * (rows - len(items))]


def together(names: Sequence[str]) -> str:
    """Some pictures that are made at once, for people.

    >>> together(["a.png"]), together(["a.png", "b.png", "c.png"])
    ('a.png', 'a.png and 2 more')
    """
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a trajectory file, as they stand.

    Raises:
        WeightsError: Not a trajectory, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            header = dict(stream.metadata() or {})
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} cannot be read: {str(error).partition(chr(10))[0]}", fix="invert it again"
        ) from error
    if "trajectory" not in header or "latents" not in tensors:
        raise WeightsError(f"{path} is not a trajectory", fix="make one with `style invert`")
    return tensors, header


def _sha256(latents: Tensor) -> str:
    return hashlib.sha256(latents.view(torch.uint8).numpy().tobytes()).hexdigest()


def _ticker(advance: Callable[[int], None]) -> Callable[[], None]:
    return lambda: advance(1)


def _as_kept(
    latents: Float[Tensor, "levels c h w"], wanted: dict[str, object], keep: Levels
) -> Kept:
    return Kept(
        {
            "latents": latents,
            "timesteps": torch.tensor(keep.timesteps),
            "alphas": torch.tensor(keep.alphas, dtype=torch.float64),
        },
        {
            "format": "pt",
            "trajectory": json.dumps(wanted, sort_keys=True),
            "sha256": _sha256(latents),
        },
    )


def _read(path: Path, wanted: dict[str, object], keep: Levels) -> Kept | None:
    """None when damaged or made from something else."""
    try:
        tensors, header = read_file(path)
        found = json.loads(header["trajectory"])
    except (WeightsError, json.JSONDecodeError):
        return None
    latents = tensors["latents"]
    if found != json.loads(json.dumps(wanted)) or len(latents) != len(keep) + 1:
        return None
    if header.get("sha256") != _sha256(latents):
        return None
    cache.touch(path)
    return Kept(tensors, header)
