"""Inversions kept by content: the same picture under the same settings is inverted once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stylecli.artifacts import cache, images, store
from stylecli.backbone.inversion import Trajectory, invert, null_prediction
from stylecli.backbone.model import Backbone
from stylecli.backbone.schedule import Levels
from stylecli.engine.context import Reporter
from stylecli.errors import ItemError, WeightsError
from stylecli.recipe.schema import Inversion

SCHEMA_VERSION = 3


def identity(
    backbone: Backbone,
    picture_sha256: str,
    geometry: images.Geometry,
    inversion: Inversion,
    keep: Levels,
    changes: object = None,
) -> dict[str, object]:
    """All that decides a trajectory's values; written into its header, and its key."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": backbone.fingerprint,
        "dtype": str(backbone.dtype),
        "device": backbone.device.type,
        "scheduler": dict(backbone.schedule.config),
        "scaling_factor": backbone.scaling_factor,
        "picture_sha256": picture_sha256,
        "changes": changes,
        "geometry": geometry.as_dict(),
        "inversion": inversion.model_dump(),
        "timesteps": list(keep.timesteps),
        "prompt": "",
    }


def find_or_invert(
    backbone: Backbone,
    image: Tensor,
    picture_sha256: str,
    geometry: images.Geometry,
    inversion: Inversion,
    keep: Levels,
    *,
    changes: object = None,
    reporter: Reporter,
    label: str,
) -> tuple[Trajectory, Path]:
    """The trajectory of one picture, and the cache's file that holds it.

    Args:
        backbone: Does the inverting.
        image: ``(1, 3, h, w)`` in [0, 1], already at the model's size.
        picture_sha256: Digest of the picture's pixels.
        geometry: How `image` came from the picture.
        inversion: The settings.
        keep: Levels to store.
        changes: What the picture's colours were changed to, as JSON has it.
        reporter: Told of progress.
        label: What is being inverted, for people.

    Raises:
        ItemError: The model returned NaN or infinity.
    """
    wanted = identity(backbone, picture_sha256, geometry, inversion, keep, changes)
    path = cache.cached("trajectories", store.digest(wanted), ".safetensors")
    if path.exists():
        found = _read(path, wanted, keep)
        if found is not None:
            return Trajectory(keep, found.to(backbone.device)), path
    levels = backbone.schedule.levels(inversion.steps)
    with reporter.task(f"invert {label}", len(levels)) as task:
        trajectory = invert(
            backbone.encode_image(image),
            null_prediction(backbone, len(image)),
            backbone.schedule,
            levels,
            keep=keep,
            pairing=inversion.pairing,
            refine_iters=inversion.refine_iters,
            on_step=_ticker(task.advance),
            on_warning=reporter.warn,
        )
    if not torch.isfinite(trajectory.latents).all():
        raise ItemError("inversion gave NaN or infinity", fix="use --dtype float32 or bfloat16")
    latents = trajectory.latents[:, 0].cpu().contiguous()
    try:
        store.save_tensors(
            path,
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
    except ItemError as error:
        raise ItemError(error.what, fix=cache.FIX) from error
    return trajectory, path


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


def _read(path: Path, wanted: dict[str, object], keep: Levels) -> Tensor | None:
    """Stored latents ``(levels, 1, c, h, w)``; None when damaged or made from something else."""
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
    return latents[:, None]
