"""What is measured: ours, the plain reference, and the procedure of the authors' code.

Each is given clean latents and leaves stylised ones; the pictures' way in and out is the same for
all, and a side of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.inversion import invert, null_prediction
from stylecli.backbone.layers import anchor, decoder_layers, select
from stylecli.engine.bench import reference
from stylecli.engine.bench.scene import Scene
from stylecli.engine.bench.timing import Watch
from stylecli.errors import UsageError
from stylecli.methods.diffstyler import Background, Region, Version, paint, paint_versions
from stylecli.recipe.schema import Recipe

# The authors invert in as many steps as their scheduler has but one.
AUTHORS_STEPS = 999
AUTHORS_ROWS = 3


@torch.inference_mode()
def ours(
    scene: Scene,
    watch: Watch,
    styles: int = 1,
    *,
    adapters: Adapters | None = None,
    in_rows: bool = False,
) -> list[Float[Tensor, "1 c h w"]]:
    """One content in so many of the scene's styles, side by side.

    Args:
        adapters: Other ways to the same LoRAs than the scene's own.
        in_rows: All styles in one pass, each row with its own LoRA.
    """
    backbone, levels = scene.backbone, scene.levels
    with watch.part("invert"):
        predict = null_prediction(backbone, 1)
        trajectory = invert(scene.clean, predict, backbone.schedule, levels)
    with watch.part("sample"):
        looks = islice(cycle(scene.looks), styles)
        versions = [Version(regions=[Region(looks=[look] * len(levels))]) for look in looks]
        return paint_versions(
            backbone,
            adapters or scene.adapters,
            trajectory,
            versions,
            scene.recipe.injection,
            in_rows=in_rows,
        )


@torch.inference_mode()
def regional(scene: Scene, watch: Watch, regions: int) -> Tensor:
    """One content in regions side by side, a strip of it left as it is."""
    backbone, levels = scene.backbone, scene.levels
    predict = null_prediction(backbone, 1)
    trajectory = invert(scene.clean, predict, backbone.schedule, levels)
    grid = torch.zeros(regions + 1, 1, 1, *scene.clean.shape[-2:], device=scene.clean.device)
    for column in range(grid.shape[-1]):
        grid[column % (regions + 1), ..., column] = 1
    looks = islice(cycle(scene.looks), regions)
    areas = [
        Region(looks=[look] * len(levels), share=share)
        for look, share in zip(looks, grid, strict=False)
    ]
    with watch.part("sample"):
        return paint(
            backbone,
            scene.adapters,
            trajectory,
            areas,
            scene.recipe.injection,
            background=Background(share=grid[-1]),
        )


@torch.inference_mode()
def vae(scene: Scene, watch: Watch) -> Tensor:
    """The picture into latents and out again."""
    assert scene.picture is not None, "a scene on a loaded model"  # noqa: S101
    with watch.part("vae"):
        return scene.backbone.decode(scene.backbone.encode_image(scene.picture))


class Plain:
    """The reference on this scene: three rows in every step, attention matrices written out.

    Its merged UNet is made here, so that only passes are measured.

    Attributes:
        unets: Whatever it passes rows through.
    """

    def __init__(self, scene: Scene) -> None:
        """Prepare it.

        Raises:
            UsageError: A decoder that is not three resnets to a block, which it does not know.
        """
        self._scene = scene
        self._ddim = reference.module("ddim")
        self._method = reference.module("diffstyler")
        self._layers = _layers(scene)
        strength = scene.recipe.sampling.weight
        self._styled = self._method.merged(scene.base, scene.loras[0], strength)
        self.unets = scene.base, self._styled

    @torch.inference_mode()
    def __call__(self, watch: Watch, recipe: Recipe | None = None) -> Float[Tensor, "1 c h w"]:
        """The same content in the same style, under the scene's settings or others."""
        scene = replace(self._scene, recipe=recipe or self._scene.recipe)
        levels, sampling = scene.levels, scene.recipe.sampling
        injection = scene.recipe.injection
        prediction = scene.backbone.schedule.prediction_type
        null, uncond, cond = scene.conditions()
        settings = self._method.Settings(
            **self._layers,
            feature_steps=injection.feature_steps,
            kappas=self._method.kappas(
                injection.attn_tail, len(levels), injection.attn_steps, levels.timesteps
            ),
            tap=injection.feature_tap,
            mix=injection.attn_mix,
            source=injection.source,
        )
        with _in_own_type(scene, *self.unets):
            with watch.part("invert"):
                path = self._ddim.invert(
                    scene.clean, _alone(scene.base, null), *_grid(levels), prediction
                )
            with watch.part("sample"):
                found: Tensor = self._method.transfer(
                    scene.base,
                    self._styled,
                    path,
                    *_grid(levels),
                    prediction=prediction,
                    null=null,
                    uncond=uncond,
                    cond=cond,
                    guidance=sampling.guidance,
                    settings=settings,
                )
        return found


class Authors:
    """What the authors' code passes through which UNet; every pass at the price of a plain one.

    Part of its inversion and reconstruction, whole passes of its sampling: three rows through the
    base model and three through the merged one in every step. Injection costs nothing here and
    attention is fused, which theirs is not, so this is less than theirs takes.
    """

    def __init__(self, scene: Scene, measured: int) -> None:
        """Prepare it.

        Args:
            measured: Steps of the 999 that are walked, each way.
        """
        self._scene = scene
        self._measured = measured
        self._ddim = reference.module("ddim")
        method = reference.module("diffstyler")
        strength = scene.recipe.sampling.weight
        self._styled = method.merged(scene.base, scene.loras[0], strength)
        self.unets = scene.base, self._styled

    @torch.inference_mode()
    def __call__(self, watch: Watch) -> None:
        scene, levels = self._scene, self._scene.levels
        schedule = scene.backbone.schedule
        timesteps, alphas = _grid(schedule.levels(AUTHORS_STEPS))
        part = timesteps[: self._measured], alphas[: self._measured + 1]
        conditions = scene.conditions()
        model = _alone(scene.base, conditions[0])
        with _in_own_type(scene, *self.unets):
            with watch.part("invert"):
                path = self._ddim.invert(scene.clean, model, *part, schedule.prediction_type)
            with watch.part("reconstruct"):
                self._ddim.sample(path[-1], model, *part, schedule.prediction_type)
            with watch.part("sample"):
                rows = scene.clean.repeat(AUTHORS_ROWS, 1, 1, 1)
                for timestep in reversed(levels.timesteps):
                    for unet in self.unets:
                        unet(rows, timestep, encoder_hidden_states=torch.cat(conditions))

    def scaled(self, seconds: Mapping[str, float], steps: int) -> float:
        """Seconds of the whole procedure.

        Args:
            seconds: Of the parts of one run.
            steps: Of the sampling it stands for.
        """
        ways = seconds["invert"] + seconds["reconstruct"]
        share = steps / self._scene.recipe.sampling.steps
        return ways * AUTHORS_STEPS / self._measured + seconds["sample"] * share


@torch.inference_mode()
def one_pass(scene: Scene, watch: Watch, rows: int, times: int) -> None:
    """So many rows through the model without LoRAs, several times: what nothing can undercut."""
    null = scene.conditions()[0].expand(rows, -1, -1)
    latents = scene.clean.repeat(rows, 1, 1, 1).to(scene.backbone.dtype)
    timestep = scene.levels.timesteps[0]
    with watch.part("pass"):
        for _ in range(times):
            scene.bare(latents, timestep, null)


def _grid(levels: Any) -> tuple[list[int], list[float]]:
    return list(levels.timesteps), list(levels.alphas)


def _alone(unet: Any, null: Tensor) -> Callable[[Tensor, int], Tensor]:
    def model(latents: Tensor, timestep: int) -> Tensor:
        output: Tensor = unet(latents, timestep, encoder_hidden_states=null).sample
        return output

    return model


@contextmanager
def _in_own_type(scene: Scene, *unets: Any) -> Iterator[None]:
    """The reference keeps latents in float32 and knows no other type; these models may."""

    def cast(_module: object, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given[0].to(scene.backbone.dtype), *given[1:])

    handles = [unet.register_forward_pre_hook(cast) for unet in unets]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layers(scene: Scene) -> dict[str, list[int]]:
    """The recipe's layers by the numbers the reference calls them."""
    layers = decoder_layers(scene.base)
    if any(layer.number != 3 * layer.block + layer.index for layer in layers):
        raise UsageError(
            "the plain reference knows decoders of three resnets to a block, and this is another",
            fix="leave out the case `plain`",
        )
    injection = scene.recipe.injection
    kinds = {
        "feature_layers": (injection.feature_layers, "feature_layers", False),
        "self_layers": (injection.attn_layers, "attn_layers", True),
        "cross_layers": (injection.attn_cross, "attn_cross", True),
    }
    return {
        name: [
            layer.number
            for layer in select(layers, which, anchor, key=key, with_attention=attention)
        ]
        for name, (which, key, attention) in kinds.items()
    }
