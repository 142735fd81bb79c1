"""What each command makes of one job: a LoRA, a trajectory, a stylised picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import cache, files, images, store
from stylecli.backbone import lora as lora_files
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.inversion import Trajectory, null_prediction, reconstruct
from stylecli.backbone.model import Backbone
from stylecli.engine import lora, trajectories
from stylecli.engine.context import RunContext
from stylecli.engine.plan import UNREADABLE, Input, Job
from stylecli.engine.run import provenance
from stylecli.errors import ImageError, ItemError, WeightsError
from stylecli.evaluation.metrics import psnr
from stylecli.methods import diffstyler
from stylecli.recipe.schema import Lora, Recipe
from stylecli.tensors.colour import Colours

# LoRAs kept in the model between jobs; more would only cost memory.
MAX_LOADED = 8
# A result with less spread than this, in [0, 1], holds nothing.
FLAT = 1e-3


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


class Inverter:
    """Inverts pictures, through the cache."""

    def __init__(self, backbone: Backbone, recipe: Recipe, context: RunContext) -> None:
        self.backbone = backbone
        self.recipe = recipe
        self.context = context
        cache.ensure_writable()
        self.levels = backbone.schedule.levels(recipe.sampling.steps)

    def invert(
        self, item: Input, colours: Colours | None = None
    ) -> tuple[Tensor, images.Geometry, Trajectory, Path]:
        """The picture at the model's size, how it got there, its trajectory and that one's file.

        Where colours are given, the trajectory is that of the picture in them.
        """
        if item.sha256 == UNREADABLE:
            images.read(item.path)  # says why
            raise ImageError(f"{item.path}: changed during the run", fix="run it again")
        read = images.read(item.path)
        picture = images.to_tensor(read.pixels)
        geometry = images.Geometry.plan(
            *picture.shape[-2:],
            short_side=self.recipe.sampling.size,
            multiple=self.backbone.multiple_px,
        )
        image = geometry.apply(picture)
        trajectory, file = trajectories.find_or_invert(
            self.backbone,
            colours.give(image) if colours else image,
            read.sha256,
            geometry,
            self.recipe.inversion,
            self.levels,
            colours=colours,
            reporter=self.context.reporter,
            label=item.path.name,
        )
        return image, geometry, trajectory, file

    def keep(self, job: Job) -> Mapping[str, Any]:
        """Copy a picture's trajectory to the job's output; with a sheet, show what it loses.

        The sheet is original | autoencoder | inverted and sampled back. `psnr_against_vae`, in dB,
        leaves out what the autoencoder alone loses.

        Raises:
            ItemError: The picture cannot be read, or the model returned NaN or infinity.
        """
        image, geometry, trajectory, file = self.invert(job.content)
        tensors, header = trajectories.read_file(file)
        made_by = provenance(job, self.recipe.model_dump(exclude={"evaluate"}), self.backbone)
        figures = (
            {}
            if job.sheet is None
            else self._verify(job.sheet, image, geometry, trajectory, made_by)
        )
        # Last, because its presence says that the item is done.
        store.save_tensors(job.output, tensors, header | {store.KEY: files.to_json(made_by)})
        return figures

    def _verify(
        self,
        sheet: Path,
        image: Tensor,
        geometry: images.Geometry,
        trajectory: Trajectory,
        made_by: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        replayed = reconstruct(
            trajectory, null_prediction(self.backbone, 1), self.backbone.schedule
        )
        clean = trajectory.latents[0]
        ceiling = geometry.undo(self.backbone.decode(clean)).cpu()
        result = geometry.undo(self.backbone.decode(replayed)).cpu()
        original = geometry.undo(image)
        panels = torch.cat([original[0], ceiling[0], result[0]], dim=-1)
        store.save_image(sheet, images.to_pixels(panels), made_by)
        return {
            "latent_rms": round(float((replayed - clean).norm() / clean.norm()), 5),
            "psnr_vae": round(psnr(ceiling, original), 2),
            "psnr_reconstruction": round(psnr(result, original), 2),
            "psnr_against_vae": round(psnr(result, ceiling), 2),
        }


class Stylist:
    """A loaded model with the LoRAs it has met, making one picture after another."""

    def __init__(self, backbone: Backbone, recipe: Recipe, context: RunContext) -> None:
        self.backbone = backbone
        self.recipe = recipe
        self.context = context
        self.inverter = Inverter(backbone, recipe, context)
        self.adapters = Adapters(backbone.unet)
        self._loaded: dict[str, lora_files.LoraFile] = {}

    def try_on(self, looks: Iterable[Input]) -> None:
        """Load each LoRA once.

        Raises:
            UsageError: One does not fit this model.
            WeightsError: One cannot be read.
        """
        for look in looks:
            self._lora(look)

    def make(self, job: Job) -> Mapping[str, Any]:
        """Restyle the content of a job and write the picture; a sheet is content | style | result.

        Raises:
            ItemError: The picture cannot be read, or the model gave nothing that can be seen.
        """
        sampling, reporter = self.recipe.sampling, self.context.reporter
        name, file = self._lora(job.look)
        colours = self._colours(job.look, file) if sampling.start == "palette" else None
        image, geometry, trajectory, _ = self.inverter.invert(job.content, colours)
        style_noise = None
        if sampling.start == "adain":
            style_noise = self.inverter.invert(job.look)[2].latents[-1]
        look = diffstyler.Look(
            weights={name: sampling.weight},
            prompt=sampling.prompt if sampling.prompt is not None else file.trigger or "",
            negative=sampling.negative,
            guidance=sampling.guidance,
            style_noise=style_noise,
        )
        with reporter.task(f"transfer {job.content.path.name}", sampling.steps) as task:
            latents = diffstyler.transfer(
                self.backbone,
                self.adapters,
                trajectory,
                look,
                self.recipe.injection,
                on_step=lambda: task.advance(1),
            )
        result = geometry.undo(self.backbone.decode(latents))[0].cpu()
        content = geometry.undo(image)[0]
        if float(result.std()) < FLAT <= float(content.std()):
            raise ItemError("the result is one flat colour", fix="use --dtype float32")
        made_by = provenance(job, self.recipe.model_dump(exclude={"evaluate"}), self.backbone)
        if job.sheet is not None:
            panels = _side_by_side(content, job.look, result)
            store.save_image(job.sheet, images.to_pixels(panels), made_by)
        store.save_image(job.output, images.to_pixels(result), made_by)
        return {"height": result.shape[-2], "width": result.shape[-1]}

    def _colours(self, look: Input, file: lora_files.LoraFile) -> Colours | None:
        if file.colours is None:
            self.context.reporter.warn(
                f"{look.path.name} does not say which colours it learned; the content's are kept"
            )
        return file.colours

    def _lora(self, look: Input) -> tuple[str, lora_files.LoraFile]:
        name = f"look_{look.sha256[:16]}"
        if name not in self._loaded:
            while len(self._loaded) >= MAX_LOADED:
                oldest = next(iter(self._loaded))
                self.adapters.remove(oldest)
                del self._loaded[oldest]
            file = self._read(look)
            self.adapters.add(name, file)
            self._loaded[name] = file
        return name, self._loaded[name]

    def _read(self, look: Input) -> lora_files.LoraFile:
        if look.role == "lora":
            return lora_files.read(look.path, self.backbone.unet)
        path = self._learn(look)
        try:
            return lora_files.read(path, self.backbone.unet)
        except WeightsError:
            # Nobody but us made that file, so nobody else can mend it.
            self.context.reporter.warn(f"the cached LoRA of {look.path.name} is damaged")
            path.unlink()
            return lora_files.read(self._learn(look), self.backbone.unet)

    def _learn(self, look: Input) -> Path:
        """The LoRA of a style picture: from the cache, or fitted now."""
        settings = self.recipe.lora.model_copy(update={"format": "diffusers"})
        pictures = lora.style_pictures([look.path], settings.prompt)
        seed = self.recipe.sampling.seed
        key = lora.identity(self.backbone, pictures, settings, seed)
        path = cache.cached("loras", key, ".safetensors")
        if not path.exists():
            self.context.reporter.note(f"learning the style of {look.path.name}")
            job = Job(key, "train-lora", (look,), path, seed)
            train_lora(job, self.backbone, self.recipe, self.context, settings=settings)
        return path


def _side_by_side(
    content: Float[Tensor, "3 h w"], look: Input, result: Float[Tensor, "3 h w"]
) -> Float[Tensor, "3 h wide"]:
    """Content, style (where there is a picture of it) and result at one height."""
    panels = [content, result]
    if look.role == "style":
        style = images.to_tensor(images.read(look.path).pixels)
        height = content.shape[-2]
        width = max(1, round(style.shape[-1] * height / style.shape[-2]))
        scaled = F.interpolate(style, (height, width), mode="bicubic", antialias=True)
        panels.insert(1, scaled[0].clamp(0, 1))
    return torch.cat(panels, dim=-1)


def _state_file(output: Path) -> Path:
    return output.with_name(f".{output.name}.state.safetensors")


def remove_state(output: Path) -> None:
    """Forget an interrupted training, so that it starts again."""
    _state_file(output).unlink(missing_ok=True)
