"""The features of one picture, as the base model has them and as it has them with each LoRA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.finite import see_finite
from stylecli.backbone.layers import decoder_layers
from stylecli.backbone.taps import Tap, tapped
from stylecli.engine.analysis.asked import Level
from stylecli.engine.contents import Canvas, Inverter
from stylecli.engine.painting import Part
from stylecli.engine.plan import Input
from stylecli.engine.session import Session
from stylecli.engine.wardrobe import Wardrobe
from stylecli.recipe.schema import Device

# By layer number; of one picture.
Maps = Mapping[int, Float[Tensor, "_c _h _w"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where in the model to look, checked against the model.

    Attributes:
        prompt: The same for every model; the null prompt is empty.
    """

    levels: tuple[Level, ...]
    layers: tuple[int, ...]
    tap: Tap
    prompt: str


class Observer:
    """Shows one latent of a picture to the base model and to each LoRA.

    The latent is the base model's own inversion of the picture, so that nothing but the LoRA
    differs between two passes.
    """

    def __init__(self, session: Session, places: Places) -> None:
        self.backbone = session.backbone
        self.recipe = session.recipe
        self.places = places
        self._session = session
        self._context = session.context
        self._inverter = Inverter(session.backbone, session.context)
        self._wardrobe = Wardrobe(session.backbone, session.recipe, session.context)
        known = decoder_layers(session.backbone.unet)
        self._layers = [known[number] for number in places.layers]

    @property
    def device(self) -> Device:
        """The settings in force."""
        return self._session.device

    def try_on(self, parts: Iterable[Part]) -> None:
        """Load each LoRA file once, so that one that does not fit costs no item its work.

        Raises:
            UsageError: One does not fit this model.
            WeightsError: One cannot be read.
        """
        for part in parts:
            if part.look.role == "lora":
                self._wardrobe.fetch([part])

    def open(self, content: Input) -> Canvas:
        """A picture at the model's size.

        Raises:
            ImageError: It cannot be read.
        """
        return self._inverter.open(content, self.recipe, whole=False)

    def features(self, canvas: Canvas, parts: Sequence[Part]) -> dict[Level, list[Maps]]:
        """By level, the maps of the base model and then of each LoRA; float32, on the CPU.

        Raises:
            ItemError: The model returned NaN or infinity.
            WeightsError: Its weights hold them.
        """
        trajectory = self._inverter.invert([canvas.view()], self.recipe)
        prompt = self.backbone.encode_prompt([self.places.prompt])
        found: dict[Level, list[Maps]] = {level: [] for level in self.places.levels}
        label = f"features {canvas.name}"
        total = (1 + len(parts)) * len(found)
        with self._context.reporter.task(label, total) as task:
            for part in (None, *parts):
                weights = {}
                if part is not None:
                    weights = dict.fromkeys(self._wardrobe.fetch([part]), part.weight)
                with self._wardrobe.adapters.use(weights):
                    for level, maps in found.items():
                        latents = trajectory.at(level.timestep)
                        maps.append(self._maps(latents, level.timestep, prompt))
                        task.advance(1)
        return found

    @torch.inference_mode()
    def _maps(
        self,
        latents: Float[Tensor, "1 c h w"],
        timestep: int,
        prompt: Float[Tensor, "1 tokens width"],
    ) -> Maps:
        with tapped(self.backbone.unet, self._layers, self.places.tap) as seen:
            self.backbone.predict(latents, timestep, prompt)
        maps = {number: value[0].float().cpu() for number, value in seen.items()}
        for one in maps.values():
            see_finite(one, self.backbone, what="the features hold")
        return maps
