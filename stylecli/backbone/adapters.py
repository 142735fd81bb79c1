"""Named LoRA adapters on one frozen UNet, switched on for the length of a ``with`` block.

PEFT's own switches walk every module of the model (20 ms on SD2.1, a second per run); here the LoRA
layers are collected once and only their flags change.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stylecli.backbone.lora import LoraFile, check_matches
from stylecli.errors import UsageError


class Adapters:
    """The LoRAs of one UNet. Outside every `use` block the UNet is its base model, bit for bit."""

    def __init__(self, unet: Any) -> None:
        self._unet = unet
        self._layers: list[Any] = []
        self._scales: list[dict[str, float]] = []
        self._names: set[str] = set()

    def add(self, name: str, file: LoraFile) -> None:
        """Load a LoRA under a name; off until `use` names it.

        Raises:
            UsageError: The name is taken or reserved, or the file matches nothing in this UNet.
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
                self._unet.load_lora_adapter(
                    state,
                    adapter_name=name,
                    prefix="unet",
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
        except UsageError:
            self.remove(name)
            raise

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

    def _collect(self) -> None:
        from peft.tuners.lora import LoraLayer

        self._layers = [m for m in self._unet.modules() if isinstance(m, LoraLayer)]
        self._scales = [dict(layer.scaling) for layer in self._layers]
        layer: Any
        for layer in self._layers:
            layer._disable_adapters = True
            # The library leaves a fresh adapter trainable.
            for pair in (layer.lora_A, layer.lora_B):
                pair.requires_grad_(False)
