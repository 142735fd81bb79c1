"""Contents as the model sees them, their inversions, and what `style invert` makes of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.artifacts import cache, files, images, store
from stylecli.backbone.inversion import Trajectory, null_prediction, reconstruct
from stylecli.backbone.levels import Levels
from stylecli.backbone.model import Backbone
from stylecli.engine import trajectories
from stylecli.engine.context import RunContext
from stylecli.engine.plan import UNREADABLE, Input, Job
from stylecli.engine.provenance import provenance, recorded
from stylecli.engine.session import Session
from stylecli.engine.trajectories import Kept, View, filled
from stylecli.errors import ImageError
from stylecli.evaluation.metrics import psnr
from stylecli.recipe.schema import Device, Recipe


def read_content(item: Input, alpha: images.Alpha = "white") -> images.Picture:
    """A content's picture.

    Raises:
        ImageError: It cannot be read, or could not be when the run was planned.
    """
    read = images.read(item.path, alpha=alpha)
    # After decoding, or what was decoded might be something else than what will be recorded.
    if item.sha256 == UNREADABLE or store.file_sha256(item.path) != item.sha256:
        raise ImageError(f"{item.path}: changed during the run", fix="run it again")
    return read


@dataclass(frozen=True, slots=True)
class Canvas:
    """A content as the model is to see it.

    Attributes:
        name: Of its file.
        sha256: Of its pixels.
        image: At the model's size, with `geometry` telling how it got there.
        picture: As its file has it; None where nobody will ask, for it may be large.
    """

    name: str
    sha256: str
    geometry: images.Geometry
    image: Float[Tensor, "1 3 h w"]
    picture: images.Picture | None

    def view(self, image: Tensor | None = None, changes: object = None) -> View:
        """What is to be inverted: the canvas's own image, or the same in other colours."""
        shown = self.image if image is None else image
        return View(shown, self.sha256, self.geometry, self.name, changes)


class Inverter:
    """Opens pictures at a model's size and inverts them, through the cache."""

    def __init__(self, backbone: Backbone, context: RunContext) -> None:
        self.backbone = backbone
        self.context = context
        cache.ensure_writable()

    def open(
        self,
        item: Input,
        recipe: Recipe,
        *,
        whole: bool = True,
        fit: images.Fit = "scale",
        alpha: images.Alpha = "white",
    ) -> Canvas:
        """Read a picture.

        Args:
            whole: Keep it as its file has it, too.
            fit: See `images.Geometry`.
            alpha: See `images.read`.

        Raises:
            ImageError: It cannot be read.
        """
        read = read_content(item, alpha)
        picture = images.to_tensor(read.pixels)
        geometry = self.geometry((picture.shape[-2], picture.shape[-1]), recipe, fit)
        image = geometry.apply(picture)
        return Canvas(read.path.name, read.sha256, geometry, image, read if whole else None)

    def geometry(
        self, size: tuple[int, int], recipe: Recipe, fit: images.Fit = "scale"
    ) -> images.Geometry:
        """How a picture of this height and width comes to the model's size."""
        return images.Geometry.plan(
            *size, short_side=recipe.sampling.size, multiple=self.backbone.multiple_px, fit=fit
        )

    def keep(self, views: Sequence[View], recipe: Recipe, rows: int = 1) -> list[Kept]:
        """The trajectories of pictures of one size, as their files have them.

        Args:
            rows: How many the model sees at a time.

        Raises:
            ItemError: The model returned NaN or infinity.
        """
        return trajectories.find_or_invert(
            self.backbone,
            views,
            recipe.inversion,
            self.levels(recipe),
            timesteps=recipe.sampling.timesteps,
            rows=rows,
            reporter=self.context.reporter,
        )

    def identities(self, views: Sequence[View], recipe: Recipe, rows: int = 1) -> list[object]:
        """What decides the values of pictures' trajectories."""
        levels, timesteps = self.levels(recipe), recipe.sampling.timesteps
        return [
            trajectories.identity(self.backbone, view, recipe.inversion, levels, rows, timesteps)
            for view in filled(views, rows)
        ]

    def invert(self, views: Sequence[View], recipe: Recipe, rows: int = 1) -> Trajectory:
        """The same as one batch, filled up to `rows` with the last of them."""
        kept = self.keep(views, recipe, rows)
        latents = torch.cat([one.latents for one in filled(kept, rows)], dim=1).to(
            self.backbone.device
        )
        return Trajectory(self.levels(recipe), latents)

    def levels(self, recipe: Recipe) -> Levels:
        """What is sampled, and kept of an inversion."""
        sampling = recipe.sampling
        return self.backbone.schedule.levels(sampling.steps, sampling.timesteps)


@dataclass(frozen=True, slots=True)
class Inverted:
    """What `style invert` writes of one picture.

    Attributes:
        panels: Original | autoencoder | inverted and sampled back.
        rows: How many the model saw at a time.
        device: The settings that were in force.
    """

    kept: Kept
    rows: int
    device: Device
    panels: UInt8[Tensor, "h w 3"] | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)


class InvertMaker:
    """Inverts pictures in batches and writes their trajectories."""

    def __init__(self, inverter: Inverter, session: Session) -> None:
        self.batch = session.recipe.device.batch
        self._inverter = inverter
        self._session = session
        self._recipe = session.recipe

    def load(self, job: Job) -> Canvas:
        return self._inverter.open(job.content, self._recipe, whole=False)

    def bucket(self, job: Job, loaded: Canvas) -> Hashable:
        return loaded.geometry.padded

    def make(self, group: Sequence[tuple[Job, Canvas]]) -> list[Inverted]:
        rows = self.batch
        kept = self._inverter.keep([canvas.view() for _, canvas in group], self._recipe, rows)
        return [
            Inverted(one, rows, self._session.device)
            if job.sheet is None
            else self._verified(canvas, one, rows)
            for (job, canvas), one in zip(group, kept, strict=True)
        ]

    def save(self, job: Job, made: Inverted) -> Mapping[str, Any]:
        """Write the trajectory; its sheet first, because the file says that the item is done."""
        backbone = self._inverter.backbone
        recipe = recorded(self._recipe, made.rows, made.device)
        made_by = provenance(job, recipe, backbone)
        if job.sheet is not None and made.panels is not None:
            store.save_image(job.sheet, made.panels, made_by)
        said = {} if made_by is None else {store.KEY: files.to_json(made_by)}
        store.save_tensors(job.output, made.kept.tensors, made.kept.header | said)
        return made.figures

    def shrink(self) -> str | None:
        return self._session.step_down()

    def _verified(self, canvas: Canvas, kept: Kept, rows: int) -> Inverted:
        """With what sampling back loses; against the autoencoder's, and against the picture."""
        backbone = self._inverter.backbone
        levels = self._inverter.levels(self._recipe)
        trajectory = Trajectory(levels, kept.latents.to(backbone.device))
        replayed = reconstruct(trajectory, null_prediction(backbone, 1), backbone.schedule)
        clean, geometry = trajectory.latents[0], canvas.geometry
        ceiling = geometry.undo(backbone.decode(clean)).cpu()
        result = geometry.undo(backbone.decode(replayed)).cpu()
        original = geometry.undo(canvas.image)
        panels = torch.cat([original[0], ceiling[0], result[0]], dim=-1)
        figures = {
            "latent_rms": round(float((replayed - clean).norm() / clean.norm()), 5),
            "psnr_vae": round(psnr(ceiling, original), 2),
            "psnr_reconstruction": round(psnr(result, original), 2),
            "psnr_against_vae": round(psnr(result, ceiling), 2),
        }
        return Inverted(kept, rows, self._session.device, images.to_pixels(panels), figures)
