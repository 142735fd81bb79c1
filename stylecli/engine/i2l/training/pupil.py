"""The predictor that is to learn: new, or one that learned before; and what it learns with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stylecli.artifacts import store
from stylecli.backbone.denoisers.base import Denoiser
from stylecli.backbone.linears import Layer
from stylecli.engine.i2l import encoders, predictors
from stylecli.engine.session import Session
from stylecli.errors import RecipeError, UsageError
from stylecli.methods.i2l.encoders.base import Encoder
from stylecli.methods.i2l.files import Config
from stylecli.methods.i2l.predictor import Predictor
from stylecli.methods.i2l.presets import resolve
from stylecli.methods.i2l.sizes import Shape
from stylecli.recipe.i2l import I2L, Data
from stylecli.tensors.seeds import generator

# Settings of prediction, and those that decide when something is looked at or kept: nothing of
# what is learned.
INDIFFERENT: Mapping[str, Any] = {
    "scale": True,
    "format": True,
    "dtype": True,
    "exclude_refiners": True,
    "compress_rank": True,
    "validation": True,
    "data": {"cache"},
    "predictor": {"checkpointing"},
    "train": {"save_every", "keep"},
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a training needs of models.

    Attributes:
        config: Of the predictor that is to be, without a word of its training.
        init: The predictor that it begins as, where it is not a new one.
    """

    denoiser: Denoiser
    encoder: Encoder
    config: Config
    init: Predictor | None

    def predictor(self, seed: int) -> Predictor:
        """As it is before the first step, on the model's device; the same every time."""
        made = Predictor(self.config.shape, self.config.layers)
        if self.init is None:
            made.reset(generator(seed, "predictor"))
        else:
            made.load_state_dict(self.init.state_dict())
        return made.train().to(self.denoiser.device)


def decisive(settings: I2L) -> dict[str, Any]:
    """The settings by which a predictor differs from another.

    >>> decisive(I2L())["train"].keys() & {"save_every", "keep"}
    set()
    """
    return settings.model_dump(exclude=dict(INDIFFERENT))


def identity(settings: I2L, session: Session, init: Path | None) -> str:
    """Of all that decides what a step learns, besides the data."""
    said = decisive(settings)
    if settings.train.schedule == "constant":
        # Nothing of a step depends on how many will follow.
        del said["train"]["steps"]
    return store.digest(
        {
            "settings": said,
            "model": session.fingerprint,
            **session.precision,
            "seed": session.recipe.sampling.seed,
            "init": None if init is None else store.file_sha256(init),
        }
    )


def load(session: Session, init: Path | None, *, allow_download: bool = False) -> Loaded:
    """Load the frozen model and the encoder, and the predictor to begin with.

    Raises:
        WeightsError: Missing, damaged, or a predictor of another encoder.
        UsageError: A predictor of another backbone, or not what the recipe asks for.
        RecipeError: Targets of a size that the model cannot see.
    """
    recipe, context = session.recipe, session.context
    settings = recipe.i2l
    asked = resolve(settings, recipe.backbone.id)
    denoiser = session.denoiser
    _refuse_uneven(settings.data, denoiser)
    places: dict[str, Any] = {
        "device": context.device,
        "dtype": context.dtype,
        "allow_download": allow_download,
        "backbone": session.folder,
    }
    if init is None:
        encoder = encoders.opened(settings.encoder, default=asked.encoder, **places)
        layer_set = asked.layer_set
        shape = asked.shape(encoder.width)
        begun = None
    else:
        begun, config = predictors.load(init)
        encoder = encoders.opened_for(config.encoder, settings.encoder, **places)
        layer_set = config.layer_set
        shape = replace(config.shape, query_std=settings.predictor.query_std)
        _refuse_other(init, settings, layer_set, shape, asked.shape(encoder.width))
    layers = denoiser.layers(layer_set)
    if begun is not None and begun.layers != layers:
        raise _of_another_model(begun.layers, layers, init)
    config = Config(
        shape=shape,
        layers=layers,
        layer_set=layer_set,
        # Of a local folder no more than its own name, since files will carry it.
        backbone=Path(session.source.name).name,
        kind=session.source.kind,
        encoder=encoder.description,
        revision=recipe.backbone.revision or session.source.revision,
        fingerprint=session.fingerprint,
    )
    return Loaded(denoiser, encoder, config, begun)


def _refuse_uneven(settings: Data, denoiser: Denoiser) -> None:
    asked, unit = settings.resolution, denoiser.multiple_px
    if asked is not None and asked % unit:
        near = max(unit, round(asked / unit) * unit)
        raise RecipeError(
            f"i2l.data.resolution {asked} is no multiple of {unit}, which this model needs",
            fix=f"--set i2l.data.resolution={near}",
        )


def _refuse_other(init: Path, settings: I2L, layer_set: str, own: Shape, asked: Shape) -> None:
    """See that a recipe which says how large it wants the predictor gets that."""
    said = settings.predictor.model_dump(exclude={"query_std", "checkpointing"})
    is_open = said.pop("preset") == "auto" and not any(said.values())
    if not is_open and own != asked:
        raise UsageError(
            f"{init.name} is not of the size that i2l.predictor asks for",
            fix="leave the sizes out, and it keeps its own",
        )
    if settings.layer_set not in ("auto", layer_set):
        raise UsageError(
            f"{init.name} predicts the LoRAs of {layer_set}, not of {settings.layer_set}",
            fix=f"--set i2l.layer_set={layer_set}",
        )


def _of_another_model(
    own: tuple[Layer, ...], there: tuple[Layer, ...], init: Path | None
) -> UsageError:
    name = "" if init is None else init.name
    strange = next((layer.path for layer in own if layer not in there), "the order of its layers")
    return UsageError(
        f"{name} was trained for another backbone: {strange} is not as this one has it",
        fix="name the backbone it was trained for",
    )
