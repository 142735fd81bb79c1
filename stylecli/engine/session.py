"""What every model command needs: a device, a snapshot of weights, and in time the model."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from stylecli.backbone import denoisers, hollow, registry, single_file, transformer_files
from stylecli.backbone.architectures import ARCHITECTURES, in_passing, on_paper
from stylecli.backbone.denoisers.stable_diffusion import StableDiffusion
from stylecli.backbone.editors import opening
from stylecli.backbone.editors.base import Editor
from stylecli.backbone.editors.unet_edit import UnetEdit
from stylecli.backbone.loading import fingerprint, load, see_whole
from stylecli.backbone.model import Backbone, precision
from stylecli.backbone.tuning import USUAL, tune
from stylecli.engine import quantized
from stylecli.engine.context import Reporter, RunContext, resolve
from stylecli.errors import UsageError, WeightsError
from stylecli.recipe.schema import Device, Recipe

STEPS = ("rows", "tiles", "parts", "blocks")
# Settings that change nothing of how transformers are loaded, and those that do where they paint.
FOR_UNETS = ("max_rows", "compile", "tiling", "offload")
FOR_BLOCKS = ("compile", "offload", "channels_last")


_PLANNING: ContextVar[bool] = ContextVar("planning", default=False)


@contextmanager
def planning() -> Iterator[None]:
    """Inside, sessions open without weights where those are missing: nothing will be drawn."""
    token = _PLANNING.set(True)
    try:
        yield
    finally:
        _PLANNING.reset(token)


def _configs_of(source: registry.Source) -> Path:
    """A folder with the configs of a model, whose weights nobody needs.

    Raises:
        UsageError: None ships, and it is no folder.
    """
    if source.folder is not None:
        return source.folder
    if source.file is not None:
        return on_paper(single_file.identify(source.file).architecture)
    return on_paper(source.name)


def _warn_of_doubt(file: Path, reporter: Reporter) -> None:
    if (doubt := single_file.identify(file).doubt) is not None:
        reporter.warn(f"{file.name} {doubt}")


def _laid_out(file: Path) -> Path:
    """What a checkpoint of one file has not beside its weights."""
    found = single_file.identify(file)
    return in_passing(found.architecture, json.dumps(found.scheduler))


@dataclass(eq=False)
class Session:
    """One run's recipe, device and weights; the model is loaded on first use.

    Attributes:
        is_blank: The model has random weights, and `folder` its configs alone: what is planned or
            timed on it counts, and nothing that it draws.
        device: The settings in force: the recipe's, until there was too little memory for them.
    """

    recipe: Recipe
    context: RunContext
    source: registry.Source
    folder: Path
    is_blank: bool = field(default=False, kw_only=True)
    device: Device = field(init=False)

    def __post_init__(self) -> None:
        self.device = self.recipe.device

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        reporter: Reporter,
        *,
        allow_download: bool = False,
        kinds: Sequence[registry.Kind] = registry.UNETS,
        blank: bool = False,
    ) -> Session:
        """Resolve the device and find the weights, without loading them.

        Args:
            recipe: Names the backbone and the device.
            reporter: Told what people should know.
            allow_download: Fetch what is missing.
            kinds: Of models that the command can use; for those that edit pictures, the editor that
                was made of the named backbone is opened.
            blank: Do without weights; within `planning` that is done where they are missing.

        Raises:
            UsageError: No such device, it cannot compute in that type or with weights in fewer
                bits, or the command cannot use this kind of model.
            RecipeError: Settings that do not go with weights in fewer bits.
            InputError: No such backbone.
            WeightsError: The weights are not on this machine, or a file of them was cut off.
        """
        context = resolve(recipe.device, reporter)
        source = registry.find(recipe.backbone.id)
        if set(kinds) <= set(registry.EDITING):
            source = registry.editing(source)
        registry.require(source, kinds)
        quantized.refuse_unfit(recipe, source, kinds, context.device, is_blank=blank)
        if blank:
            return cls(recipe, context, source, _configs_of(source), is_blank=True)
        if source.file is not None:
            _warn_of_doubt(source.file, reporter)
            if source.beside is None:
                return cls(recipe, context, source, _laid_out(source.file))
        try:
            folder = registry.snapshot(
                source, revision=recipe.backbone.revision, allow_download=allow_download
            )
        except WeightsError as missing:
            if not _PLANNING.get() or (source.beside or source.name) not in ARCHITECTURES:
                raise
            reporter.warn(
                "planned from the published configuration, as if nothing were done yet: "
                + missing.what
            )
            return cls(recipe, context, source, _configs_of(source), is_blank=True)
        see_whole(folder, source.weighed)
        return cls(recipe, context, source, folder)

    @cached_property
    def fingerprint(self) -> str:
        if self.is_blank:
            return "random"
        if self.source.kind in registry.EDITING:
            return opening.fingerprint(self.source, self.folder)
        if self.source.file is None:
            return fingerprint(self.folder)
        if self.source.beside is None:
            return single_file.fingerprint(self.source.file)
        return transformer_files.fingerprint(self.source.file, self.folder)

    @property
    def precision(self) -> dict[str, str]:
        """As the loaded model's, for keys."""
        return precision(self.context.dtype, self.recipe.backbone.quantize)

    @cached_property
    def backbone(self) -> Backbone:
        """The loaded model.

        Raises:
            WeightsError: Damaged or incomplete.
            UsageError: This machine cannot compile, and is to.
        """
        if self.is_blank:
            return self._blank()
        if self.source.kind == "edit-unet" and isinstance(self.editor, UnetEdit):
            return self.editor.backbone
        if self.source.kind in registry.FLOWS:
            return self._flow()
        loaded = load(
            # Of a local folder no more than its own name, since files will carry it.
            Path(self.source.name).name,
            self.folder,
            fingerprint=self.fingerprint,
            device=self.context.device,
            dtype=self.context.dtype,
            variant=self.recipe.backbone.variant,
            quantize=self.recipe.backbone.quantize,
            file=self.source.file,
            is_resident=self._is_resident,
        )
        self._tune(loaded)
        return loaded

    def _blank(self) -> Backbone:
        self._refuse_idle(FOR_BLOCKS if self.source.kind in registry.FLOWS else ())
        if self.device.offload != "none":
            raise UsageError(
                "device.offload moves weights, and a model with random ones has not all of them",
                fix="leave device.offload out, or pull the weights",
            )
        made = hollow.backbone(
            self.source.kind,
            self.folder,
            dtype=self.context.dtype,
            size_px=self.recipe.sampling.size,
            device=self.context.device,
        )
        self._tune(made)
        return made

    def _flow(self) -> Backbone:
        from stylecli.backbone import flow_model

        self._refuse_idle(FOR_BLOCKS)
        loaded = flow_model.load(
            self.source,
            self.folder,
            fingerprint=self.fingerprint,
            device=self.context.device,
            dtype=self.context.dtype,
            size_px=self.recipe.sampling.size,
            variant=self.recipe.backbone.variant,
            quantize=self.recipe.backbone.quantize,
        )
        self._tune(loaded)
        return loaded

    @property
    def _is_resident(self) -> bool:
        return self.device.offload == "none" or self.context.device.type != "cuda"

    def _tune(self, loaded: Backbone) -> None:
        tune(loaded, self.device, warn=self.context.reporter.warn)
        if self.device.offload != "none" and self.context.device.type != "cuda":
            self.context.reporter.warn("device.offload is for GPUs; nothing waits elsewhere here")

    @cached_property
    def denoiser(self) -> denoisers.Denoiser:
        """The loaded model as i2L asks it; of UNets it is `backbone`, of others all that is loaded.

        Raises:
            WeightsError: Damaged or incomplete.
            UsageError: A setting that this kind of model has no use for.
        """
        if self.source.kind == "unet":
            return StableDiffusion(self.backbone)
        self._refuse_idle()
        return denoisers.open(
            self.source,
            self.folder,
            device=self.context.device,
            dtype=self.context.dtype,
            variant=self.recipe.backbone.variant,
        )

    @cached_property
    def editor(self) -> Editor:
        """The loaded model as RegionRoute asks it; of UNets it is around `backbone`.

        Raises:
            WeightsError: Damaged or incomplete.
            UsageError: A setting that this kind of model has no use for.
        """
        if self.source.kind != "edit-unet":
            self._refuse_idle()
        route = self.recipe.route
        opened = opening.open(
            self.source,
            self.folder,
            fingerprint=self.fingerprint,
            device=self.context.device,
            dtype=self.context.dtype,
            variant=self.recipe.backbone.variant,
            text_length=route.text_length,
            quantize=self.recipe.backbone.quantize,
            is_resident=self._is_resident,
        )
        if isinstance(opened, UnetEdit):
            self._tune(opened.backbone)
        return opened

    def _refuse_idle(self, names: Sequence[str] = FOR_UNETS) -> None:
        for name in names:
            if getattr(self.device, name) != getattr(USUAL, name):
                raise UsageError(
                    f"device.{name} is for UNets, and {self.source.name} is a transformer",
                    fix=f"leave device.{name} out",
                )

    def step_down(self, among: Collection[str] = STEPS) -> str | None:
        """Lower the settings in force once more, and say how; None when nothing is left.

        What is made from here on differs in its last bits, and in tiles by more; files tell of it.

        Args:
            among: Steps that do the caller any good.
        """
        if self.source.kind not in (*registry.PAINTING, "edit-unet"):
            return None
        for name, words, changes in self._ladder():
            is_new = any(getattr(self.device, key) != value for key, value in changes.items())
            if is_new and name in among:
                self.device = self.device.model_copy(update=changes)
                tune(self.backbone, self.device, warn=self.context.reporter.warn)
                return words
        return None

    def _ladder(self) -> Iterator[tuple[str, str, dict[str, object]]]:
        """Steps in the order of what they cost, without those that would spare nothing."""
        yield "rows", "one row at a time", {"max_rows": 1}
        yield "tiles", "large pictures in tiles", {"tiling": True}
        if self.context.device.type != "cuda" or self.source.kind in registry.FLOWS:
            return  # others compute where weights would wait
        if self.recipe.backbone.quantize != "none":
            return  # only whole weights are moved
        if self.device.offload == "none":
            yield "parts", "with only the part at work on the GPU", {"offload": "parts"}
        yield "blocks", "with only the block at work on the GPU", {"offload": "blocks"}
