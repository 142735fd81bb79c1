"""Features of decoder layers, taken out of a pass of the UNet while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.exchange import PassEnded
from stylecli.backbone.layers import DecoderLayer

Tap = Literal["residual", "output", "layer"]


@contextmanager
def tapped(
    unet: Any, layers: Sequence[DecoderLayer], tap: Tap
) -> Iterator[dict[int, Float[Tensor, "rows _c _h _w"]]]:
    """Inside, a pass of the UNet leaves the features of these layers here, by layer number.

    The pass ends after the last of them, and with it the block: nothing behind it is computed.

    Args:
        unet: With whatever adapters are on.
        layers: At least one.
        tap: ``residual`` is what the resnet adds to its shortcut (the output of its ``conv2``),
            ``output`` the sum, ``layer`` what the attention after it makes of that. A layer
            without attention ends with its resnet, so there the last two are one.
    """
    found: dict[int, Tensor] = {}
    last = max(layer.number for layer in layers)

    def keeper(number: int) -> Any:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            value: Tensor = output[0] if isinstance(output, tuple) else output
            # A copy: what follows may work in place.
            found[number] = value.detach().clone()
            if number == last:
                raise PassEnded

        return keep

    handles = [
        _module(unet, layer, tap).register_forward_hook(keeper(layer.number)) for layer in layers
    ]
    try:
        yield found
    except PassEnded:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _module(unet: Any, layer: DecoderLayer, tap: Tap) -> Any:
    block = unet.up_blocks[layer.block]
    resnet = block.resnets[layer.index]
    if tap == "residual":
        return resnet.conv2
    if tap == "layer" and layer.self_attention:
        return block.attentions[layer.index]
    return resnet
