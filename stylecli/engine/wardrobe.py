"""LoRAs by the files they come from, in the model while they are needed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from stylecli.artifacts import cache, store
from stylecli.backbone import lora as lora_files
from stylecli.backbone import lora_fitting, row_loras
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.model import Backbone
from stylecli.engine.context import RunContext
from stylecli.engine.i2l import neutral
from stylecli.engine.painting import Part
from stylecli.engine.plan import Input, Job
from stylecli.engine.training import lora
from stylecli.engine.training.lora_maker import train_lora
from stylecli.errors import DiskFullError, UsageError, WeightsError
from stylecli.recipe.schema import Recipe

# LoRAs kept in the model between jobs; more would only cost memory.
MAX_LOADED = 8


class Wardrobe:
    """The LoRAs of one model; style pictures become one when they are first asked for."""

    def __init__(
        self,
        backbone: Backbone,
        recipe: Recipe,
        context: RunContext,
        *,
        folder: Path | None = None,
        allow_download: bool = False,
    ) -> None:
        """Take a model on.

        Args:
            backbone: The model.
            recipe: How styles are learned.
            context: Where, and who is told.
            folder: Of the model, of which some encoders are a part.
            allow_download: Fetch the encoder that a neutral LoRA takes.
        """
        self.adapters = Adapters(backbone.unet, fused=recipe.device.adapters == "fused")
        self._backbone = backbone
        self._recipe = recipe
        self._context = context
        self._folder = folder
        self._allow_download = allow_download
        self._loaded: dict[str, lora_files.LoraFile] = {}

    @staticmethod
    def name(part: Part) -> str:
        """What a LoRA's adapter is called: a picture under another caption is another LoRA."""
        made_of = [part.look.sha256, part.caption.sha256 if part.caption else None]
        return f"look_{store.digest(made_of)[:16]}"

    def fetch(self, parts: Iterable[Part]) -> dict[str, lora_files.LoraFile]:
        """Load all of these at once, perhaps at the cost of others; by their adapters' names.

        Raises:
            UsageError: One does not fit this model.
            WeightsError: One cannot be read.
        """
        wanted = {self.name(part): part.look for part in parts}
        for name, look in wanted.items():
            if name not in self._loaded:
                self._make_room(len(wanted), wanted.keys())
                file = self._read(look)
                try:
                    self.adapters.add(name, file)
                    if self._recipe.device.adapters == "rows":
                        self._refuse_unshareable(name)
                except UsageError as error:
                    what = error.what.rstrip(": ")
                    raise UsageError(f"{look.path}: {what}", fix=error.fix) from error
                self._loaded[name] = file
        return {name: self._loaded[name] for name in wanted}

    def _refuse_unshareable(self, name: str) -> None:
        try:
            row_loras.loaded(self._backbone.unet, {name: 1.0})
        except UsageError:
            self.adapters.remove(name)
            raise

    def _make_room(self, needed: int, kept: Iterable[str]) -> None:
        while len(self._loaded) >= max(MAX_LOADED, needed):
            oldest = next(name for name in self._loaded if name not in set(kept))
            self.adapters.remove(oldest)
            del self._loaded[oldest]

    def _read(self, look: Input) -> lora_files.LoraFile:
        if look.role not in ("style", "neutral"):
            return lora_fitting.read(look.path, self._backbone.unet)
        path = self._made(look)
        try:
            return lora_fitting.read(path, self._backbone.unet)
        except WeightsError:
            # Nobody but us made that file, so nobody else can mend it.
            self._context.reporter.warn(f"the cached LoRA of {look.path.name} is damaged")
            path.unlink(missing_ok=True)
            return lora_fitting.read(self._made(look), self._backbone.unet)

    def _made(self, look: Input) -> Path:
        """A LoRA that no file of the user's holds: of a style picture, or a neutral one."""
        if look.role == "style":
            return self._learn(look)
        return neutral.file_of(
            look,
            self._recipe.i2l.encoder,
            self._context,
            backbone=self._folder,
            allow_download=self._allow_download,
        )

    def _learn(self, look: Input) -> Path:
        """The LoRA of a style picture: from the cache, or fitted now."""
        settings = self._recipe.lora.model_copy(update={"format": "diffusers"})
        pictures = lora.style_pictures([look.path], settings.prompt)
        seed = self._recipe.sampling.seed
        key = lora.identity(self._backbone, pictures, settings, seed)
        path = cache.cached("loras", key, ".safetensors")
        if not path.exists():
            self._context.reporter.note(f"learning the style of {look.path.name}")
            job = Job(key, "train-lora", (look,), path, seed)
            try:
                train_lora(job, self._backbone, self._recipe, self._context, settings=settings)
            except DiskFullError as error:
                # Not the disk of the output, nor the fault of the picture.
                raise DiskFullError(error.what, fix=cache.FIX) from error
        cache.touch(path)
        return path
