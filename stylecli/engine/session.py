"""What every model command needs: a device, a snapshot of weights, and in time the model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stylecli.backbone import registry
from stylecli.backbone.model import Backbone, fingerprint, load
from stylecli.backbone.schedule import NoiseSchedule
from stylecli.engine.context import Reporter, RunContext, resolve
from stylecli.recipe.schema import Recipe


@dataclass(eq=False)
class Session:
    """One run's recipe, device and weights; the model is loaded on first use."""

    recipe: Recipe
    context: RunContext
    source: registry.Source
    folder: Path

    @classmethod
    def open(cls, recipe: Recipe, reporter: Reporter, *, allow_download: bool = False) -> Session:
        """Resolve the device and find the weights, without loading them.

        Raises:
            UsageError: No such device, or it cannot compute in that type.
            InputError: No such backbone.
            WeightsError: The weights are not on this machine.
        """
        context = resolve(recipe.device, reporter)
        source = registry.find(recipe.backbone.id)
        folder = registry.snapshot(
            source, revision=recipe.backbone.revision, allow_download=allow_download
        )
        return cls(recipe, context, source, folder)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.folder)

    def check_steps(self, recipe: Recipe) -> None:
        """Find out before the work whether the model has these steps; its config alone is read.

        Raises:
            RecipeError: More steps than it was trained with, or an inversion that passes some by.
            WeightsError: Its scheduler does what DDIM does not.
        """
        file = self.folder / "scheduler" / "scheduler_config.json"
        if not file.is_file():
            return  # loading says what is missing
        schedule = NoiseSchedule.from_config(json.loads(file.read_bytes()))
        steps = schedule.levels(recipe.sampling.steps)
        schedule.levels(recipe.inversion.steps).restricted_to(steps)

    @cached_property
    def backbone(self) -> Backbone:
        """The loaded model.

        Raises:
            WeightsError: Damaged or incomplete.
        """
        return load(
            # Of a local folder no more than its own name, since files will carry it.
            Path(self.source.name).name,
            self.folder,
            fingerprint=self.fingerprint,
            device=self.context.device,
            dtype=self.context.dtype,
            variant=self.recipe.backbone.variant,
        )
