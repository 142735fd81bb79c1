"""Experts: LoRAs of a frozen editor, one for each style, at work one at a time or as a mix.

They are float32 whatever the model is: in bfloat16 a small step is rounded to none. While one
learns, autocast has its products in the model's type, without PEFT's copy of every layer's input
in float32.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from stylecli.backbone import lora
from stylecli.backbone.adapters import Adapters
from stylecli.errors import RecipeError, WeightsError

Init = Literal["gaussian", "kaiming"]
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
FIX = "use an expert that was trained on this backbone"
# In a header of peft's: then `scale B A` is not what is added.
OTHER_KINDS = ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern")


class Experts:
    """The experts of one model, which is frozen; outside every block it is its base, bit for bit.

    Attributes:
        prefix: Of tensors' names in files, as the model's own pipeline has it.
    """

    def __init__(self, model: nn.Module) -> None:
        """Freeze the model; it has no expert yet."""
        self._model: Any = model.requires_grad_(False)
        self._adapters = Adapters(model)
        self._pairs: dict[str, dict[str, nn.Parameter]] = {}
        self.prefix = "unet." if hasattr(model, "down_blocks") else "transformer."

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the styles that have an expert, in the order they came."""
        return tuple(self._pairs)

    def new(
        self,
        style_id: str,
        targets: Sequence[str],
        *,
        rank: int,
        alpha: float | None = None,
        init: Init = "gaussian",
        generator: Generator,
    ) -> None:
        """An expert that changes nothing yet: B is zero.

        Args:
            targets: Paths of linear layers, from `Editor.layers`.
            alpha: Scale times rank; None is the rank.
            init: Of A: standard deviation 1/rank, or uniform within 1/sqrt(width).
            generator: Of A, on the CPU; layers draw in the order of `targets`.

        Raises:
            RecipeError: A target is no linear layer of this model.
        """
        for path in targets:
            if self._linear(path) is None:
                raise RecipeError(
                    f"{path} is no linear layer of this model",
                    fix="choose other route.lora.targets",
                )
        self._inject(style_id, targets, rank, float(rank if alpha is None else alpha), init)
        with torch.no_grad():
            for name, value in self._pairs[style_id].items():
                if name.endswith(DOWN):
                    value.copy_(_drawn(value.shape, init, generator))
                else:
                    value.zero_()

    def load(self, style_id: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
        """An expert from a file, complete or not at all.

        Args:
            tensors: As `tensors` gives them.
            header: Of the file; without PEFT's settings in it, alpha is the rank.

        Raises:
            WeightsError: It is of another model, its ranks differ, or a layer has half a pair.
        """
        own = {key.removeprefix(self.prefix): value for key, value in tensors.items()}
        paths = self._paths(style_id, tensors)
        (rank,) = {own[path + DOWN].shape[0] for path in paths}
        self._inject(style_id, paths, rank, _alpha(header, self.prefix, rank), "gaussian")
        with torch.no_grad():
            for name, value in self._pairs[style_id].items():
                value.copy_(own[name])

    def remove(self, style_id: str) -> None:
        """Forget an expert; the others do not notice."""
        del self._pairs[style_id]
        self._adapters.remove(_name(style_id))

    def parameters(self, style_id: str) -> dict[str, nn.Parameter]:
        """What of an expert learns, by PEFT's names; float32."""
        return dict(self._pairs[style_id])

    def tensors(self, style_id: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """An expert for a file, as the stock pipeline's `load_lora_weights` reads it; CPU."""
        return {
            self.prefix + name: value.detach().to("cpu", dtype, copy=True).contiguous()
            for name, value in self._pairs[style_id].items()
        }

    def header(self, style_id: str) -> dict[str, str]:
        """What a file of `tensors` says of them for the stock pipeline."""
        config = lora.plain_config(self._model.peft_config[_name(style_id)])
        said = {self.prefix + key: value for key, value in config.items()}
        return {lora.METADATA: json.dumps(said, sort_keys=True)}

    @contextmanager
    def only(self, style_id: str) -> Iterator[None]:
        """Inside, the model is the base with this expert.

        Raises:
            UsageError: There is none of this style.
        """
        with self.mixed({style_id: 1.0}):
            yield

    @contextmanager
    def mixed(self, weights: Mapping[str, float]) -> Iterator[None]:
        """Inside, the model is the base with these experts, each times its weight.

        Raises:
            UsageError: There is none of one of these styles.
        """
        with self._adapters.use({_name(key): weight for key, weight in weights.items()}):
            yield

    @contextmanager
    def none(self) -> Iterator[None]:
        """Inside, the model is its base."""
        with self._adapters.use({}):
            yield

    @contextmanager
    def learning(self, style_id: str) -> Iterator[None]:
        """Inside, the model is the base with this expert, and gradients reach it and nothing else.

        The way back belongs inside the block too: checkpointed layers are computed again there.

        Raises:
            UsageError: There is none of this style.
        """
        from peft.helpers import disable_input_dtype_casting

        own = self._pairs.get(style_id, {}).values()
        dtype = self._dtype
        with ExitStack() as stack:
            stack.enter_context(self.only(style_id))
            if dtype != torch.float32:
                device = next(iter(own)).device.type
                stack.enter_context(torch.autocast(device, dtype=dtype))
                stack.enter_context(disable_input_dtype_casting(self._model))
            for parameter in own:
                parameter.requires_grad_(True)
            try:
                yield
            finally:
                for parameter in own:
                    parameter.requires_grad_(False)

    @property
    def _dtype(self) -> torch.dtype:
        """What the base computes in."""
        learned = {id(value) for pairs in self._pairs.values() for value in pairs.values()}
        kinds = (v.dtype for v in self._model.parameters() if id(v) not in learned)
        found: torch.dtype = next(
            kind for kind in kinds if kind.is_floating_point and kind.itemsize > 1
        )
        return found

    def _linear(self, path: str) -> nn.Linear | None:
        try:
            layer = self._model.get_submodule(path)
        except AttributeError:
            return None
        layer = getattr(layer, "base_layer", layer)
        return layer if isinstance(layer, nn.Linear) else None

    def _inject(
        self, style_id: str, targets: Sequence[str], rank: int, alpha: float, init: Init
    ) -> None:
        from peft import LoraConfig

        if style_id in self._pairs:
            raise WeightsError(f"expert {style_id} is there already", fix="give each style one")
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            init_lora_weights="gaussian" if init == "gaussian" else True,
            target_modules=list(targets),
        )
        # Its own numbers are replaced, and nobody else's chance is to move.
        name = _name(style_id)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # Several adapters on one model are what this class is for.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            self._model.add_adapter(config, adapter_name=name)
        pairs: dict[str, nn.Parameter] = {}
        for path in targets:
            layer = self._model.get_submodule(path)
            for ending, part in ((DOWN, layer.lora_A[name]), (UP, layer.lora_B[name])):
                part.float()
                pairs[path + ending] = part.weight
        self._adapters.adopt(name)
        self._pairs[style_id] = pairs

    def _paths(self, style_id: str, tensors: Mapping[str, Tensor]) -> list[str]:
        """Layers of a file, each with both its matrices in sizes that fit."""
        ranks: dict[int, str] = {}
        paths = []
        for key, value in tensors.items():
            name = key.removeprefix(self.prefix)
            path = name.removesuffix(DOWN).removesuffix(UP)
            other = tensors.get(self.prefix + path + (UP if name.endswith(DOWN) else DOWN))
            layer = self._linear(path) if key.startswith(self.prefix) and path != name else None
            if layer is None or other is None:
                raise WeightsError(f"expert {style_id}: {key} has no place in this model", fix=FIX)
            down, up = (value, other) if name.endswith(DOWN) else (other, value)
            sizes = (down.shape[1:], up.shape[:1], up.shape[1:])
            if sizes != ((layer.in_features,), (layer.out_features,), down.shape[:1]):
                raise WeightsError(
                    f"expert {style_id}: {key} is of the wrong size for this model", fix=FIX
                )
            ranks.setdefault(len(down), path)
            if name.endswith(DOWN):
                paths.append(path)
        if len(ranks) != 1:
            raise WeightsError(
                f"expert {style_id} has layers of {len(ranks)} ranks; one is needed", fix=FIX
            )
        return paths


def _name(style_id: str) -> str:
    """Of its adapter: a module's name has no dots, and is none of a dictionary's methods."""
    name = style_id.replace(".", "·")
    return f"·{name}" if hasattr(nn.ModuleDict, name) else name


def _drawn(shape: torch.Size, init: Init, generator: Generator) -> Tensor:
    rank, width = shape
    if init == "gaussian":
        return torch.randn(rank, width, generator=generator) / rank
    even: Tensor = (torch.rand(rank, width, generator=generator) * 2 - 1) / width**0.5
    return even


def _alpha(header: Mapping[str, str], prefix: str, rank: int) -> float:
    try:
        said = json.loads(header.get(lora.METADATA, "{}"))
        if odd := [name for name in OTHER_KINDS if said.get(prefix + name)]:
            raise WeightsError(
                f"an expert's header says {odd[0]}: its numbers mean something else than a LoRA's",
                fix="give a LoRA of one alpha, as `style route-train` makes them",
            )
        return float(said.get(f"{prefix}lora_alpha", rank))
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"the header of an expert is damaged: {error}", fix="copy the file again"
        ) from error
