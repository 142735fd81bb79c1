"""LoRAs of transformers under the names that ComfyUI finds layers by.

It takes its model's own names behind ``diffusion_model.``, which are the authors'; of Z-Image also
diffusers' names behind that, and of FLUX.1 and FLUX.2 diffusers' names of most layers, behind
``transformer.`` and no other way (docs/decisions/0013). A name that it does not know costs a line
in its log, and changes nothing of the picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from stylecli.backbone import original_names
from stylecli.backbone.original_names import Place
from stylecli.backbone.row_loras import Pairs

OWN, OF_DIFFUSERS = "diffusion_model", "transformer"
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
# Layers of FLUX.2 that it knows by their authors' names alone.
_UNKNOWN = re.compile(r"(double|single)_stream_modulation.*|time_guidance_embed\..*")
_Parts = Mapping[int, tuple[Tensor, Tensor]]


def named(pairs: Pairs) -> Pairs:
    """The same LoRA by the stems of its keys, prefix and all.

    FLUX.2's authors have queries, keys and values in one layer. Those that see the input through
    one matrix become one layer as they are. Others would need three times the rank, so that such a
    LoRA keeps diffusers' names, unless it has a layer that goes by the authors' alone.
    """
    if original_names.is_named("flux1", pairs):
        return _behind(OF_DIFFUSERS, pairs)
    if not original_names.is_named("flux2", pairs):
        return _behind(OWN, pairs)
    layers = _by_layer(pairs)
    is_kept = any(
        place.is_swapped or (place.parts > 1 and not _is_shared(parts, place))
        for place, parts in layers
    )
    if is_kept and not any(map(_UNKNOWN.fullmatch, pairs)):
        return _behind(OF_DIFFUSERS, pairs)
    return _behind(OWN, {place.path: _joined(parts, place) for place, parts in layers})


def keyed(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """`named`, of tensors named as PEFT does; with their scale in the numbers."""
    pairs = {
        path: (value, state[path + _UP] if scale == 1 else state[path + _UP] * scale)
        for key, value in state.items()
        if (path := key.removesuffix(_DOWN)) != key
    }
    return {
        stem + side: tensor.contiguous()
        for stem, pair in named(pairs).items()
        for side, tensor in zip((_DOWN, _UP), pair, strict=True)
    }


def _behind(stem: str, pairs: Pairs) -> Pairs:
    return {f"{stem}.{path}": pair for path, pair in pairs.items()}


def _by_layer(pairs: Pairs) -> list[tuple[Place, _Parts]]:
    """The authors' layers, each with what a LoRA has for its parts."""
    places: dict[str, Place] = {}
    found: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
    for path, pair in pairs.items():
        place = original_names.place("flux2", path)
        if place is not None:
            places.setdefault(place.path, place)
            found.setdefault(place.path, {})[place.part] = pair
    return [(places[path], parts) for path, parts in found.items()]


def _is_shared(parts: _Parts, place: Place) -> bool:
    """Whether all parts are there and see the input through one matrix."""
    first = next(iter(parts.values()))[0]
    return len(parts) == place.parts and all(torch.equal(first, down) for down, _ in parts.values())


def _joined(parts: _Parts, place: Place) -> tuple[Tensor, Tensor]:
    """One layer of its parts, exactly: each goes its own way to its own rows."""
    if place.parts == 1:
        down, up = parts[0]
        return down, torch.cat(up.chunk(2)[::-1]) if place.is_swapped else up
    if _is_shared(parts, place):
        return parts[0][0], torch.cat([parts[part][1] for part in range(place.parts)])
    ups = [up for _, up in parts.values()]
    none = ups[0].new_zeros(len(ups[0]), 0)  # of FLUX.2's fused layers all parts are as high
    rows = [parts[part][1] if part in parts else none for part in range(place.parts)]
    downs = [parts[part][0] for part in sorted(parts)]
    return torch.cat(downs), torch.block_diag(*rows)
