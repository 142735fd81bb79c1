"""Named LoRA adapters on one frozen model, switched on for the length of a ``with`` block.

PEFT's own switches walk every module of the model (20 ms on SD2.1, a second per run); here the LoRA
layers are collected once and only their flags change. Fused, it is their weights that change: each
set of LoRAs has its own copy ``W + sum of w B A`` of the layers it touches, which costs memory and
no work per pass. The base weights are put aside and back, never added to and subtracted from.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from stylecli.backbone.lora import LoraFile, check_matches
from stylecli.errors import UsageError

# Sets of LoRAs whose copies are kept; for queries, keys and values of SD2.1 each is 143 MiB in half
# precision.
MAX_COPIES = 8
Copy = list[nn.Parameter]


class Adapters:
    """The LoRAs of one UNet. Outside every `use` block the UNet is its base model, bit for bit."""

    def __init__(self, unet: Any, *, fused: bool = False) -> None:
        self._unet = unet
        self._is_fused = fused
        self._copies: OrderedDict[frozenset[tuple[str, float]], Copy] = OrderedDict()
        self._bases: list[Any] = []
        self._pristine: Copy = []
        self._layers: list[Any] = []
        self._scales: list[dict[str, float]] = []
        self._names: set[str] = set()

    def add(self, name: str, file: LoraFile) -> None:
        """Load a LoRA under a name; off until `use` names it.

        Raises:
            UsageError: The name is taken or reserved, the file matches nothing in this UNet, or it
                holds more than products, which cannot be merged.
        """
        if name == "base" or name in self._names:
            raise UsageError(f"a LoRA named {name!r} cannot be added twice, nor be called 'base'")
        from diffusers.utils import logging

        state = dict(file.state)
        # The library logs the failure it raises; ours says it once, and says what to do.
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                # Several adapters on one model are what this class is for.
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                # What it says when it takes back one that does not fit; see `remove`.
                warnings.filterwarnings("ignore", message="Adapter .* was active")
                self._unet.load_lora_adapter(
                    state,
                    adapter_name=name,
                    prefix=file.part,
                    network_alphas=dict(file.network_alphas) or None,
                    metadata=dict(file.metadata) or None,
                )
            refusal = ""
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            refusal = str(error).partition("\n")[0]
        finally:
            logging.set_verbosity(verbosity)
        self._names.add(name)
        self._collect()
        try:
            check_matches(self._unet, name, file, refusal=refusal)
            if self._is_fused:
                self._refuse_unmergeable(name)
        except UsageError:
            self.remove(name)
            raise

    def _refuse_unmergeable(self, name: str) -> None:
        for layer in self._layers:
            if name in layer.lora_variant or layer.lora_bias.get(name):
                raise UsageError(
                    "it has magnitudes or biases, which are not merged into weights",
                    fix="--set device.adapters=passes",
                )

    def adopt(self, name: str) -> None:
        """Take charge of an adapter that is already in the UNet, as after training."""
        self._names.add(name)
        self._collect()

    def remove(self, name: str) -> None:
        """Forget an adapter and free its memory."""
        self._names.discard(name)
        with warnings.catch_warnings():
            # The library makes another one active; `_collect` switches that off again.
            warnings.filterwarnings("ignore", message="Adapter .* was active")
            self._unet.delete_adapters(name)
        self._collect()

    @property
    def names(self) -> list[str]:
        """Of all LoRAs that are loaded."""
        return sorted(self._names)

    @contextmanager
    def use(self, weights: Mapping[str, float]) -> Iterator[None]:
        """Inside, the UNet is the base plus these LoRAs, each times its weight; ``{}`` is the base.

        Raises:
            UsageError: An unknown name. (PEFT would silently run the base model.)
        """
        if unknown := sorted(weights.keys() - self._names):
            raise UsageError(
                f"no LoRA named {unknown[0]!r} is loaded",
                fix=f"loaded: {', '.join(sorted(self._names)) or 'none'}",
            )
        with self._worn(weights) if self._is_fused else self._beside(weights):
            yield

    @contextmanager
    def _beside(self, weights: Mapping[str, float]) -> Iterator[None]:
        before = [
            (dict(layer.scaling), layer._active_adapter, layer._disable_adapters)
            for layer in self._layers
        ]
        for layer, scales in zip(self._layers, self._scales, strict=True):
            layer._disable_adapters = not weights
            layer._active_adapter = list(weights)
            for name in weights.keys() & scales.keys():
                layer.scaling[name] = scales[name] * weights[name]
        try:
            yield
        finally:
            for layer, (scaling, active, is_disabled) in zip(self._layers, before, strict=True):
                layer.scaling.update(scaling)
                layer._active_adapter, layer._disable_adapters = active, is_disabled

    @contextmanager
    def _worn(self, weights: Mapping[str, float]) -> Iterator[None]:
        wanted = self._copy(weights)
        before = [base.weight for base in self._bases]
        try:
            # Inside, since what waits elsewhere may not fit the device half way.
            _put_on(self._bases, wanted)
            yield
        finally:
            _put_on(self._bases, before)

    def _copy(self, weights: Mapping[str, float]) -> Copy:
        key = frozenset((name, weight) for name, weight in weights.items() if weight)
        if not key:
            return self._pristine
        if key not in self._copies:
            while len(self._copies) >= MAX_COPIES:
                self._copies.popitem(last=False)
            self._copies[key] = [
                _merged(layer, weight, scales, dict(key))
                for layer, weight, scales in zip(
                    self._layers, self._pristine, self._scales, strict=True
                )
            ]
        self._copies.move_to_end(key)
        return self._copies[key]

    def _collect(self) -> None:
        from peft.tuners.lora import LoraLayer

        self._layers = [m for m in self._unet.modules() if isinstance(m, LoraLayer)]
        self._scales = [dict(layer.scaling) for layer in self._layers]
        self._bases = [layer.get_base_layer() for layer in self._layers]
        self._pristine = [base.weight for base in self._bases]
        self._copies.clear()
        layer: Any
        for layer in self._layers:
            layer._disable_adapters = True
            # The library leaves a fresh adapter trainable.
            for pair in (layer.lora_A, layer.lora_B):
                pair.requires_grad_(False)


def _put_on(bases: list[Any], weights: Copy) -> None:
    for base, weight in zip(bases, weights, strict=True):
        if weight.device != base.weight.device:  # one of them was moved while the other was worn
            weight.data = weight.data.to(base.weight.device)
        base.weight = weight


# Also where samplers run: a gradient may go through these weights later.
@torch.inference_mode(mode=False)
@torch.no_grad()
def _merged(
    layer: Any, weight: nn.Parameter, scales: Mapping[str, float], weights: Mapping[str, float]
) -> nn.Parameter:
    """A layer's weight with its LoRAs added in float32; itself where it has none of them."""
    names = [name for name in sorted(weights) if name in scales]
    if not names:
        return weight
    total = weight.detach().float()
    for name in names:
        down, up = (pair[name].weight.detach().float() for pair in (layer.lora_A, layer.lora_B))
        product = up.flatten(1).to(total.device) @ down.flatten(1).to(total.device)
        total = total + weights[name] * scales[name] * product.view_as(total)
    layout = torch.channels_last if _is_channels_last(weight) else torch.contiguous_format
    data = total.to(weight.dtype).contiguous(memory_format=layout)
    return nn.Parameter(data, requires_grad=False)


def _is_channels_last(weight: torch.Tensor) -> bool:
    return weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
