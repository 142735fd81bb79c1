"""What every encoder of references is to those who call it, whatever network is inside."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from stylecli.methods.i2l import pictures
from stylecli.methods.i2l.pictures import Fit, Resample


class Net(Protocol):
    """A frozen network, in eval mode, whose tokens are a square grid, row by row.

    Attributes:
        width: Of one token.
        tokens: Of one picture.
        px: Side of the pictures it sees.
    """

    width: int
    tokens: int
    px: int

    def __call__(self, pictures: Float[Tensor, "b 3 px px"]) -> Float[Tensor, "b t e"]:
        """Tokens of pictures in [-1, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """An encoder in plain values, as a predictor's file holds it.

    Attributes:
        id: As in `i2l.encoder.id`; of a folder its name alone.
        digest: SHA-256 of its weights.
        width: Of one token.
        tokens: Of one picture, after pooling.
        px: Side of the pictures it sees.
        fit: How they become square.
        resample: How they come to that size.
        pool: Side of the grid that tokens are averaged to; None is the network's own.
    """

    id: str
    digest: str
    width: int
    tokens: int
    px: int
    fit: Fit
    resample: Resample
    pool: int | None

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """What `to_json` wrote.

        Raises:
            TypeError: A value is missing or unknown.
        """
        return cls(**said)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @property
    def identity(self) -> str:
        """Equal for encoders that make the same tokens, up to the rounding of their types."""
        said = {key: value for key, value in self.to_json().items() if key != "id"}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class Encoder:
    """A network, and how its pictures are prepared and its tokens pooled.

    Attributes:
        description: All that decides which tokens a picture has.
        dtype: What it computes in, which decides their last bits.
    """

    def __init__(
        self,
        net: Net,
        *,
        name: str,
        digest: str,
        fit: Fit = "crop",
        resample: Resample = "bilinear",
        pool: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Dress a network that computes in `dtype` on `device` already.

        Raises:
            ValueError: `pool` is more than the side of the network's grid.
        """
        self._net = net
        self._side = math.isqrt(net.tokens)
        if pool is not None and pool > self._side:
            raise ValueError(f"tokens of {name} are a grid of {self._side} a side, not of {pool}")
        self._device = device or torch.device("cpu")
        self.dtype = dtype
        self.description = Description(
            id=name,
            digest=digest,
            width=net.width,
            tokens=net.tokens if pool is None else pool * pool,
            px=net.px,
            fit=fit,
            resample=resample,
            pool=pool,
        )

    @property
    def width(self) -> int:
        """Of one token."""
        return self.description.width

    @property
    def tokens(self) -> int:
        """Of one picture."""
        return self.description.tokens

    @property
    def px(self) -> int:
        """Side of the pictures it sees."""
        return self.description.px

    @property
    def identity(self) -> str:
        """Of `description`."""
        return self.description.identity

    def prepared(self, picture: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "3 px px"]:
        """One reference as `__call__` takes it."""
        said = self.description
        return pictures.prepared(picture, px=said.px, fit=said.fit, resample=said.resample)

    @torch.no_grad()
    def __call__(self, squares: Float[Tensor, "b 3 px px"]) -> Float[Tensor, "b t e"]:
        """Tokens of pictures in [-1, 1], float32 on the encoder's device."""
        found = self._net(squares.to(self._device, self.dtype)).float()
        if self.description.pool is None:
            return found
        grid = found.mT.unflatten(2, (self._side, self._side))
        return F.adaptive_avg_pool2d(grid, self.description.pool).flatten(2).mT.contiguous()
