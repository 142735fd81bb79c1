"""A predictor and its encoder, loaded: references in, LoRA out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.backbone.denoisers import layer_sets
from stylecli.backbone.row_loras import Pairs
from stylecli.engine.context import RunContext
from stylecli.engine.i2l import encoders, predictors
from stylecli.errors import ItemError
from stylecli.methods.i2l.encoders.base import Encoder
from stylecli.methods.i2l.files import Config
from stylecli.methods.i2l.pictures import grey
from stylecli.methods.i2l.predictor import Predictor
from stylecli.recipe.i2l import Encoder as Settings


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """What makes LoRAs of one kind; the backbone they are for is not loaded.

    Attributes:
        encoder: The one that the predictor was trained with.
        config: What the predictor's file says.
    """

    predictor: Predictor
    encoder: Encoder
    config: Config

    @classmethod
    def load(
        cls,
        file: Path,
        settings: Settings,
        context: RunContext,
        *,
        backbone: Path | None = None,
        allow_download: bool = False,
    ) -> Forward:
        """Load a predictor and its encoder.

        Args:
            file: The predictor's.
            settings: Of the encoder: where it lies, if it is a folder, and its type.
            context: Where they compute.
            backbone: Folder of the frozen model, of which some encoders are a part.
            allow_download: Fetch an encoder that is missing.

        Raises:
            WeightsError: One of them is not on this machine, or damaged, or of another predictor.
        """
        predictor, config = predictors.load(file)
        encoder = encoders.opened_for(
            config.encoder,
            settings,
            device=context.device,
            dtype=context.dtype,
            allow_download=allow_download,
            backbone=backbone,
        )
        return cls(predictor.to(context.device), encoder, config)

    def prepared(self, picture: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "3 px px"]:
        """A reference as the encoder sees it."""
        return self.encoder.prepared(picture)

    @torch.inference_mode()
    def pairs(self, squares: Sequence[Float[Tensor, "3 px px"]]) -> Pairs:
        """The LoRA of some references, on the CPU, at strength 1.

        Raises:
            ItemError: It holds NaN or infinity.
        """
        tokens = self.encoder(torch.stack(list(squares)))[None]
        packed = self.predictor(tokens).cpu()
        if not torch.isfinite(packed).all():
            raise ItemError(
                "the predicted LoRA holds NaN or infinity",
                fix="--set i2l.encoder.dtype=float32; where pictures are made, device.dtype",
            )
        factors = self.predictor.factors(packed)
        return {path: (down[0], factors.up[path][0]) for path, down in factors.down.items()}

    def neutral(self, count: int, sizes: Sequence[tuple[int, int]] = ()) -> Pairs:
        """What is predicted from as many grey pictures; it is not nothing, but what styles share.

        Args:
            count: Of the references.
            sizes: Their heights and widths, where these count; see `header.sizes_that_count`.
        """
        shapes = sizes or [(self.encoder.px,) * 2] * count
        return self.pairs([self.prepared(grey(shape)) for shape in shapes])


def without_refiners(pairs: Pairs, config: Config) -> Pairs:
    """A LoRA of Z-Image's main blocks alone: a ControlNet that borrows refiners says the same."""
    kept = {layer.path for layer in layer_sets.within(config.kind, config.layers, "layers")}
    return {path: pair for path, pair in pairs.items() if path in kept}
