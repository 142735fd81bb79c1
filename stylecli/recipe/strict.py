"""What the sections of a recipe share: frozen, and refusing what they do not know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
# No model here makes a picture of fewer.
Pixels = Annotated[int, Field(ge=16, le=16384)]
# No model here was trained on more levels of noise.
MAX_LEVELS = 1000
Levels = Annotated[int, Field(ge=1, le=MAX_LEVELS)]
# Of a flow thousandths of sigma, of which the last is noise alone.
Timestep = Annotated[int, Field(ge=0, le=MAX_LEVELS)]
Count = Annotated[int, Field(ge=0)]
Unit = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=-1000.0, le=1000.0)]
AttentionLayers = (
    Literal["last_six", "from_anchor", "all"] | Annotated[tuple[Count, ...], Field(min_length=1)]
)

# How frozen weights are kept: as they are, in 8 bits (torchao) or in 4 (bitsandbytes).
Quantize = Literal["none", "int8", "nf4"]


class Strict(BaseModel):
    """A section: unknown keys are refused, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )
