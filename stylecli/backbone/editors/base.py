"""What RegionRoute asks of a frozen model that edits a picture by instruction.

Every model answers in an orientation of its own (noise, velocity, one way or the other); `target`
and `predict` share it, so a loss never needs to know. Times are noise levels sigma in (0, 1], or
timesteps as whole numbers in floats where the model counts in those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from stylecli.backbone.probe.base import Probe

# Told after each step of sampling: how many are done, and the time that was left behind.
AfterStep = Callable[[int, float], None]


@dataclass(frozen=True, eq=False)
class Text:
    """Encoded instructions, a row each, all of one length.

    Attributes:
        embeds: What the model's attention reads.
        pooled: One vector a row, of models that want it besides.
    """

    embeds: Float[Tensor, "b tokens width"]
    pooled: Float[Tensor, "b pooled"] | None = None

    @classmethod
    def cat(cls, texts: Sequence[Self]) -> Self:
        """Rows one below the other."""
        pooled = [text.pooled for text in texts if text.pooled is not None]
        return cls(
            torch.cat([text.embeds for text in texts]), torch.cat(pooled) if pooled else None
        )

    def rows(self, places: Sequence[int]) -> Self:
        """These rows, in this order."""
        chosen = list(places)
        return type(self)(self.embeds[chosen], None if self.pooled is None else self.pooled[chosen])


class Editor(Protocol):
    """A frozen editing model on one device, in eval mode; latents are float32.

    Attributes:
        kind: edit-unet or flux1-kontext.
        fingerprint: Of all its weights; part of each result's identity.
        model: The denoiser: where adapters and probes go.
        text_length: Tokens of every prompt, padded.
        native_px: The short side it knows best.
    """

    kind: str
    fingerprint: str
    model: nn.Module
    text_length: int
    native_px: int
    device: torch.device
    dtype: torch.dtype

    @property
    def tokenizer(self) -> Any:
        """Fast, with offsets; of the encoder whose tokens attention sees."""
        ...

    @property
    def multiple_px(self) -> int:
        """Sides of pictures are multiples of it."""
        ...

    def encode_image(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
        """Latents of pictures in [0, 1], always the same for a picture."""
        ...

    def decode(self, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
        """Pictures in [0, 1]."""
        ...

    def encode_prompt(self, prompts: Sequence[str]) -> Text:
        """All padded to `text_length`.

        Raises:
            UsageError: A prompt is longer, and would lose words.
        """
        ...

    def grid(self, latents: Float[Tensor, "b c lh lw"]) -> tuple[int, int]:
        """Rows and columns of attention maps for latents of this size."""
        ...

    def sample_times(
        self, count: int, latents: Float[Tensor, "_b c lh lw"], generator: Generator
    ) -> Float[Tensor, " n"]:
        """Times to learn at, drawn on the CPU."""
        ...

    def noised(self, clean: Tensor, noise: Tensor, times: Float[Tensor, " b"]) -> Tensor:
        """What the model is shown."""
        ...

    def target(self, clean: Tensor, noise: Tensor, times: Float[Tensor, " b"]) -> Tensor:
        """What the model should answer."""
        ...

    def weight(self, times: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Of each row's squared error; ones unless times are drawn unevenly on purpose."""
        ...

    def predict(
        self,
        noisy: Float[Tensor, "b c lh lw"],
        times: Float[Tensor, " b"],
        text: Text,
        reference: Float[Tensor, "b c lh lw"],
    ) -> Float[Tensor, "b c lh lw"]:
        """The answer for the target's cells, float32; what it says of the reference is left out."""
        ...

    def edit(
        self,
        reference: Float[Tensor, "b c lh lw"],
        text: Text,
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        image_guidance: float = 1.0,
        after: AfterStep | None = None,
    ) -> Float[Tensor, "b c lh lw"]:
        """Latents of the edited pictures; a row's noise is of its own seed.

        A probe that is open holds, when `after` is called, the pass with the instruction alone:
        never that of an empty prompt.

        Args:
            guidance: Of the text; embedded in models that were distilled with it.
            image_guidance: Of the picture, where there are three passes a step.
        """
        ...

    def layers(self, target_set: str) -> tuple[str, ...]:
        """Paths of the linear layers that get a LoRA: attn, attn+text, full, double, single, attn2.

        Raises:
            RecipeError: It has no such set.
        """
        ...

    def probing(self, layers: str = "auto") -> AbstractContextManager[Probe]:
        """Attention layers that record, until the block ends.

        Args:
            layers: auto, all, double, single, every:K, or names with commas between.

        Raises:
            RecipeError: No such layers.
        """
        ...

    def checkpointing(self, *, on: bool) -> None:
        """Keep less for the way back, and compute it twice; never the reentrant kind."""
        ...

    def release(self, part: Literal["text", "vae"]) -> None:
        """Free a large part's memory until it is asked again; small ones stay."""
        ...
