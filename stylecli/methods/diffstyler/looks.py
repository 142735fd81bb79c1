"""What is asked of the model: which LoRAs, which words, where and at which step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.model import Backbone
from stylecli.backbone.sampling import Step, guided


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a pass of the model is asked for.

    Attributes:
        weights: Adapter name -> strength; empty is the base model.
        prompt: Usually the caption the LoRA was trained with.
        negative: Negative prompt; unused at guidance 1.
        guidance: Classifier-free guidance scale; 1 is off.
    """

    weights: Mapping[str, float]
    prompt: str
    negative: str = ""
    guidance: float = 1.0

    @property
    def prompts(self) -> tuple[str, ...]:
        """What its rows are conditioned on: both prompts where their difference is amplified."""
        is_guided = self.guidance != 1 and self.prompt != self.negative
        return (self.negative, self.prompt) if is_guided else (self.prompt,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of the picture and its look at every step.

    Attributes:
        looks: One for each sampling step, noisiest first.
        share: Its weight in the composition, after overlaps are settled; None is everywhere.
    """

    looks: Sequence[Look]
    share: Float[Tensor, "1 1 h w"] | None = None

    @property
    def is_empty(self) -> bool:
        """No latent cell shows it, so no row need be computed for it."""
        return self.share is not None and not bool(self.share.any())


class Predictor:
    """The model's guided output for any look; every prompt is embedded once."""

    def __init__(
        self, backbone: Backbone, adapters: Adapters, looks: Iterable[Look], batch: int
    ) -> None:
        self._backbone = backbone
        self._adapters = adapters
        prompts = sorted({prompt for look in looks for prompt in look.prompts})
        embeds = {prompt: backbone.encode_prompt([prompt]) for prompt in prompts}
        self._rows = {
            chosen: torch.cat([embeds[prompt].expand(batch, -1, -1) for prompt in chosen])
            for chosen in {look.prompts for look in looks}
        }

    def __call__(
        self, latents: Float[Tensor, "b c h w"], step: Step, look: Look
    ) -> Float[Tensor, "b c h w"]:
        """One row a latent, or two (``[uncond | cond]``) where the look is guided.

        Raises:
            UsageError: The look names an adapter that is not loaded.
        """
        rows = latents.repeat(len(look.prompts), 1, 1, 1)
        with self._adapters.use(look.weights):
            output = self._backbone.predict(rows, step.timestep, self._rows[look.prompts])
        if len(look.prompts) == 1:
            return output
        uncond, cond = output.chunk(2)
        return guided(uncond, cond, look.guidance)
