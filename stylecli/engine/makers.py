"""What `style train-lora` and `style invert` make of one job: a LoRA, a trajectory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import cache, files, images, store
from stylecli.backbone import lora as lora_files
from stylecli.backbone.inversion import Trajectory, null_prediction, reconstruct
from stylecli.backbone.model import Backbone
from stylecli.engine import lora, trajectories
from stylecli.engine.context import RunContext
from stylecli.engine.plan import UNREADABLE, Input, Job
from stylecli.engine.run import provenance
from stylecli.errors import ImageError
from stylecli.evaluation.metrics import psnr
from stylecli.recipe.schema import Lora, Recipe


def train_lora(
    job: Job, backbone: Backbone, recipe: Recipe, context: RunContext, *, settings: Lora
) -> dict[str, Any]:
    """Fit a LoRA to all inputs of a job and write it; an interrupted fit goes on where it was."""
    pictures = lora.style_pictures([item.path for item in job.inputs], settings.prompt)
    output = job.output
    state_file = _state_file(output)
    fitted = lora.fit(
        backbone,
        pictures,
        settings,
        seed=recipe.sampling.seed,
        state_file=state_file,
        reporter=context.reporter,
    )
    figures = {
        "loss_before": round(fitted.loss_before, 6),
        "loss_after": round(fitted.loss_after, 6),
        "standard_error": round(fitted.standard_error, 6),
    }
    made_by = provenance(job, {"lora": settings.model_dump()}, backbone) | {"training": figures}
    header = dict(fitted.header) | {store.KEY: files.to_json(made_by)}
    if settings.format == "peft":
        output.mkdir(parents=True, exist_ok=True)
        config = json.dumps(dict(fitted.peft_config), indent=2, sort_keys=True).encode()
        files.write_atomic(output / lora_files.PEFT_CONFIG, config)
        output = output / lora_files.PEFT_WEIGHTS
    store.save_tensors(output, fitted.tensors, header)
    state_file.unlink(missing_ok=True)
    return figures


def read_content(item: Input) -> images.Picture:
    """A content's picture.

    Raises:
        ImageError: It cannot be read, or could not be when the run was planned.
    """
    read = images.read(item.path)
    if item.sha256 == UNREADABLE:
        raise ImageError(f"{item.path}: changed during the run", fix="run it again")
    return read


@dataclass(frozen=True, slots=True)
class Canvas:
    """A content as the model is to see it.

    Attributes:
        picture: As its file has it.
        image: At the model's size, with `geometry` telling how it got there.
    """

    picture: images.Picture
    geometry: images.Geometry
    image: Float[Tensor, "1 3 h w"]


class Inverter:
    """Inverts pictures, through the cache."""

    def __init__(self, backbone: Backbone, recipe: Recipe, context: RunContext) -> None:
        self.backbone = backbone
        self.recipe = recipe
        self.context = context
        cache.ensure_writable()
        self.levels = backbone.schedule.levels(recipe.sampling.steps)

    def open(self, item: Input) -> Canvas:
        """Read a picture.

        Raises:
            ImageError: It cannot be read.
        """
        read = read_content(item)
        picture = images.to_tensor(read.pixels)
        geometry = images.Geometry.plan(
            *picture.shape[-2:],
            short_side=self.recipe.sampling.size,
            multiple=self.backbone.multiple_px,
        )
        return Canvas(read, geometry, geometry.apply(picture))

    def invert(
        self, canvas: Canvas, image: Tensor | None = None, changes: object = None
    ) -> tuple[Trajectory, Path]:
        """The trajectory of a canvas, and its file.

        Args:
            image: In place of the canvas's own, which it is but for its colours.
            changes: What those were changed to; equal changes make equal images.
        """
        return trajectories.find_or_invert(
            self.backbone,
            canvas.image if image is None else image,
            canvas.picture.sha256,
            canvas.geometry,
            self.recipe.inversion,
            self.levels,
            changes=changes,
            reporter=self.context.reporter,
            label=canvas.picture.path.name,
        )

    def keep(self, job: Job) -> Mapping[str, Any]:
        """Copy a picture's trajectory to the job's output; with a sheet, show what it loses.

        The sheet is original | autoencoder | inverted and sampled back. `psnr_against_vae`, in dB,
        leaves out what the autoencoder alone loses.

        Raises:
            ItemError: The picture cannot be read, or the model returned NaN or infinity.
        """
        canvas = self.open(job.content)
        trajectory, file = self.invert(canvas)
        tensors, header = trajectories.read_file(file)
        made_by = provenance(job, self.recipe.model_dump(exclude={"evaluate"}), self.backbone)
        figures = {} if job.sheet is None else self._verify(job.sheet, canvas, trajectory, made_by)
        # Last, because its presence says that the item is done.
        store.save_tensors(job.output, tensors, header | {store.KEY: files.to_json(made_by)})
        return figures

    def _verify(
        self,
        sheet: Path,
        canvas: Canvas,
        trajectory: Trajectory,
        made_by: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        replayed = reconstruct(
            trajectory, null_prediction(self.backbone, 1), self.backbone.schedule
        )
        clean, geometry = trajectory.latents[0], canvas.geometry
        ceiling = geometry.undo(self.backbone.decode(clean)).cpu()
        result = geometry.undo(self.backbone.decode(replayed)).cpu()
        original = geometry.undo(canvas.image)
        panels = torch.cat([original[0], ceiling[0], result[0]], dim=-1)
        store.save_image(sheet, images.to_pixels(panels), made_by)
        return {
            "latent_rms": round(float((replayed - clean).norm() / clean.norm()), 5),
            "psnr_vae": round(psnr(ceiling, original), 2),
            "psnr_reconstruction": round(psnr(result, original), 2),
            "psnr_against_vae": round(psnr(result, ceiling), 2),
        }


def _state_file(output: Path) -> Path:
    return output.with_name(f".{output.name}.state.safetensors")


def remove_state(output: Path) -> None:
    """Forget an interrupted training, so that it starts again."""
    _state_file(output).unlink(missing_ok=True)
