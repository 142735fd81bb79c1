"""LoRAs that differ from row to row of one batch.

PEFT changes a layer for all rows alike. Here the factors of several LoRAs lie side by side in one
tensor, and a hook on each linear layer adds to every row what its own LoRA says. The weights of the
model are neither changed nor copied, and no ``B A`` is ever formed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count, groupby
from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.errors import UsageError

# Of one LoRA: down [rank, in] and up [out, rank] of each layer, by the path of its module.
Pairs = Mapping[str, tuple[Tensor, Tensor]]
PASSES = "--set device.adapters=passes"
# What only UNets have.
UNET_PARTS = ("down_blocks.", "mid_block.", "up_blocks.")
# Numbers of blocks in which LoRAs were applied: no two are alike.
_BLOCKS = count()
# Layers of Z-Image that see the tokens of all rows one after another.
OF_TOKENS = ("all_x_embedder", "cap_embedder")


class Shape(NamedTuple):
    """The size of one layer's factors."""

    path: str
    rank: int
    width_in: int
    width_out: int


@dataclass(frozen=True, eq=False)
class Factors:
    """S LoRAs side by side, ranks filled up with zeros to the largest of each layer.

    Attributes:
        shapes: Of each layer, in the order in which `packed` holds their factors.
        packed: One LoRA a row: down and up of the first layer, then those of the next. ``up``
            holds alpha / rank and the strength already.
    """

    shapes: tuple[Shape, ...]
    packed: Float[Tensor, "s numbers"]

    @classmethod
    def stacked(cls, loras: Sequence[Pairs], *, device: torch.device | None = None) -> Self:
        """LoRAs as float32 factors; a layer that one of them leaves alone is zero there.

        Args:
            loras: Slot 0, 1, and so on, from `pairs` or `loaded`.
            device: Of the factors; default: that of the tensors.

        Raises:
            UsageError: Two of them do not agree on the size of a layer.
        """
        shapes = tuple(_shape(path, loras) for path in dict.fromkeys(p for x in loras for p in x))
        where = device or next((a.device for one in loras for a, _ in one.values()), None)
        factors = cls(shapes, torch.zeros(len(loras), numbers(shapes), device=where))
        with torch.no_grad():
            for slot, one in enumerate(loras):
                for path, (a, b) in one.items():
                    factors.down[path][slot, : len(a)].copy_(a)
                    factors.up[path][slot, :, : len(a)].copy_(b)
        return factors

    @cached_property
    def down(self) -> Mapping[str, Float[Tensor, "s rank width_in"]]:
        """Views of `packed`, by layer."""
        return {path: a for path, (a, _) in views(self.shapes, self.packed).items()}

    @cached_property
    def up(self) -> Mapping[str, Float[Tensor, "s width_out rank"]]:
        """Views of `packed`, by layer."""
        return {path: b for path, (_, b) in views(self.shapes, self.packed).items()}


def numbers(shapes: Sequence[Shape]) -> int:
    """How many numbers one LoRA of these layers has."""
    return sum(rank * (width_in + width_out) for _, rank, width_in, width_out in shapes)


def views(
    shapes: Sequence[Shape], packed: Float[Tensor, "s numbers"]
) -> dict[str, tuple[Float[Tensor, "s rank width_in"], Float[Tensor, "s width_out rank"]]]:
    """Down and up of every layer, without a copy."""
    sizes = [size for s in shapes for size in (s.rank * s.width_in, s.rank * s.width_out)]
    # One node of the graph: a slice of its own for each would add up gradients of the whole.
    parts = iter(packed.split(sizes, dim=1))
    return {
        s.path: (next(parts).unflatten(1, (s.rank, -1)), next(parts).unflatten(1, (-1, s.rank)))
        for s in shapes
    }


def pairs(state: Mapping[str, Tensor], *, scale: float = 1.0) -> Pairs:
    """One LoRA of tensors named ``[unet.]<path>.lora_A.weight`` and ``.lora_B.weight``.

    Args:
        state: As PEFT and diffusers name them.
        scale: alpha / rank, times the strength.

    Raises:
        UsageError: A layer is not linear, or has one of its two matrices alone.
    """
    down, up = (
        {
            key.removeprefix("unet.").removesuffix(ending): value
            for key, value in state.items()
            if key.endswith(ending)
        }
        for ending in (".lora_A.weight", ".lora_B.weight")
    )
    for key in state:
        path = key.removeprefix("unet.").rpartition(".lora_")[0]
        if path not in down.keys() & up.keys() or {down[path].ndim, up[path].ndim} != {2}:
            raise _unfit(path or key)
    return {path: (a, up[path] * scale) for path, a in down.items()}


def loaded(unet: Any, weights: Mapping[str, float]) -> Pairs:
    """The sum of adapters that PEFT holds in a UNet, each times its weight, as one LoRA.

    Ranks add up: a sum of products is a product of the factors written side by side. To be called
    where none of them is in use, since that changes the scales PEFT keeps.

    Raises:
        UsageError: An adapter changes a layer that is not linear, or does more than add ``B A``.
    """
    from peft.tuners.lora import LoraLayer

    found: dict[str, tuple[Tensor, Tensor]] = {}
    for path, module in cast(nn.Module, unet).named_modules():
        if not isinstance(module, LoraLayer):
            continue
        layer: Any = module
        names = [name for name in weights if name in layer.lora_A]
        if any(not _is_plain(layer, name) for name in names):
            raise _unfit(path, unet)
        if names:
            downs = [layer.lora_A[name].weight for name in names]
            ups = [
                layer.lora_B[name].weight.float() * (layer.scaling[name] * weights[name])
                for name in names
            ]
            found[path] = (
                torch.cat([down.detach().float() for down in downs]),
                torch.cat(ups, dim=1).detach(),
            )
    return found


@contextmanager
def applied(model: nn.Module, factors: Factors, slots: Sequence[int | None]) -> Iterator[None]:
    """Inside, row ``r`` of every call of the model has the LoRA ``slots[r]``; None is the base.

    What PEFT has in use acts beside it, on all rows. Gradients reach `factors.packed` where it asks
    for them; with gradient checkpointing the backward pass belongs inside the block too, and fails
    elsewhere, also where other LoRAs are in use by then. Factors are read once per block: changes
    to them count from the next.

    Raises:
        IndexError: There is no such slot.
        RuntimeError: A layer is inside another such block; or, on the way back, a reentrant
            checkpoint computes it again: what it computed first never saw that these factors learn.
        UsageError: A layer of the factors is no linear layer of this model.
    """
    if any(slot is not None and not 0 <= slot < len(factors.packed) for slot in slots):
        raise IndexError(f"slots {list(slots)} of {len(factors.packed)} LoRAs")
    hooks: list[torch.utils.hooks.RemovableHandle] = []
    try:
        if any(slot is not None for slot in slots):
            rows = _Rows.of(factors, slots)
            for shape in factors.shapes:
                layer = _linear(model, shape)
                others = layer._forward_hooks.values()
                if any(isinstance(hook, partial) and hook.func is _add for hook in others):
                    raise RuntimeError(f"{shape.path} has LoRAs by the row already")
                hooks.append(layer.register_forward_hook(partial(_add, rows, shape.path)))
        yield
    finally:
        for handle in hooks:
            handle.remove()


class _Rows:
    """One pass's rows, and the factors laid out for them.

    Attributes:
        total: Rows of a call.
        is_learned: Gradients are to reach the factors.
        is_unseen: Some layer used them where no gradients are recorded.
        chosen: Those with a LoRA: a slice where they lie together, their indices elsewhere.
        groups: Matrices of a product: rows that share one lie together in it.
        dtype: Of the factors.
        mark: Of no content, and of a shape that no other block's has.
    """

    def __init__(
        self,
        factors: Factors,
        packed: Float[Tensor, "groups numbers"],
        total: int,
        chosen: slice | Tensor,
    ) -> None:
        self.total = total
        self.chosen = chosen
        self.groups = len(packed)
        self.dtype = packed.dtype
        self.is_learned = packed.requires_grad
        self.is_unseen = False
        self.mark = torch.empty(next(_BLOCKS), 0)
        self._shapes = factors.shapes
        self._packed = packed
        self._views: dict[torch.dtype, dict[str, tuple[Tensor, Tensor]]] = {}

    @classmethod
    def of(cls, factors: Factors, slots: Sequence[int | None]) -> _Rows:
        """Lay out the factors with one copy at most."""
        packed = factors.packed
        places = [row for row, slot in enumerate(slots) if slot is not None]
        ordered = [slot for slot in slots if slot is not None]
        first, last = places[0], places[-1] + 1
        chosen: slice | Tensor = slice(first, last)
        if len(places) < last - first:
            chosen = torch.tensor(places, device=packed.device)
        runs = [(slot, len(list(run))) for slot, run in groupby(ordered)]
        if len({length for _, length in runs}) == 1:
            ordered = [slot for slot, _ in runs]
        if ordered != list(range(len(packed))):
            packed = packed[torch.tensor(ordered, device=packed.device)]
        return cls(factors, packed, len(slots), chosen)

    def pair(self, path: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Down and up of a layer, one for each group."""
        if dtype not in self._views:
            self._views[dtype] = views(self._shapes, self._packed.to(dtype))
        return self._views[dtype][path]


class _Marked(torch.autograd.Function):
    """Lets a checkpoint see which block's LoRAs it computes again.

    It compares the shapes of what is kept for the way back, and those of two LoRAs are alike: with
    others in use by then, gradients would be wrong without a word.
    """

    @staticmethod
    def forward(ctx: Any, change: Tensor, mark: Tensor) -> Tensor:
        ctx.save_for_backward(mark)
        return change.view_as(change)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _add(
    rows: _Rows, path: str, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    hidden = inputs[0]
    if len(hidden) != rows.total:
        if path.startswith(OF_TOKENS):
            raise UsageError(
                f"{path} sees the tokens of all rows as one, where rows have no LoRAs of their own",
                fix="leave it out of lora.targets; for a LoRA that has it: device.adapters=passes",
            )
        raise ValueError(f"{path} sees {len(hidden)} rows of a pass of {rows.total}")
    # As PEFT does: in the type of the factors, or in that of autocast.
    is_mixed = torch.is_autocast_enabled(hidden.device.type)
    dtype = torch.get_autocast_dtype(hidden.device.type) if is_mixed else rows.dtype
    if rows.is_learned:
        _refuse_reentrant(rows, path)
    down, up = rows.pair(path, dtype)
    is_whole = rows.chosen == slice(0, rows.total)
    own = (hidden if is_whole else hidden[rows.chosen]).to(dtype)
    if rows.groups == 1:
        change = F.linear(F.linear(own, down[0]), up[0])
    else:
        low = own.reshape(rows.groups, -1, own.shape[-1]) @ down.mT
        change = (low @ up.mT).reshape(*own.shape[:-1], -1)
    if rows.is_learned and torch.is_grad_enabled():
        marked: Any = _Marked
        change = cast(Tensor, marked.apply(change, rows.mark))
    if is_whole:
        return (output + change).to(output.dtype)
    changed = (output[rows.chosen] + change).to(output.dtype)
    if not torch.is_grad_enabled():
        output[rows.chosen] = changed
        return output
    if isinstance(rows.chosen, Tensor):
        return output.index_copy(0, rows.chosen, changed)
    first, last = rows.chosen.start, rows.chosen.stop
    return torch.cat((output[:first], changed, output[last:]))


def _refuse_reentrant(rows: _Rows, path: str) -> None:
    """Such a checkpoint computes without gradients first, and only on the way back with them."""
    rows.is_unseen = rows.is_unseen or not torch.is_grad_enabled()
    if rows.is_unseen and torch.is_grad_enabled():
        raise RuntimeError(
            f"{path} is computed with gradients after it was without: checkpoints must not be "
            "reentrant where LoRAs by the row learn (use_reentrant=False)"
        )


def _linear(model: nn.Module, shape: Shape) -> nn.Linear:
    """The layer itself, also where PEFT has wrapped it."""
    found: nn.Module | None = model
    # Once per layer and pass: torch's own search takes ten times as long.
    for name in shape.path.split("."):
        found = None if found is None else found._modules.get(name)
    layer = None if found is None else found._modules.get("base_layer", found)
    if not isinstance(layer, nn.Linear):
        raise _unfit(shape.path, model)
    if (layer.in_features, layer.out_features) != (shape.width_in, shape.width_out):
        raise _unfit(shape.path, model)
    return layer


def _shape(path: str, loras: Sequence[Pairs]) -> Shape:
    own = [one[path] for one in loras if path in one]
    sizes = {(a.shape[1], b.shape[0]) for a, b in own}
    if len(sizes) != 1 or any(len(a) != b.shape[1] for a, b in own):
        raise _unfit(path)
    return Shape(path, max(len(a) for a, _ in own), *sizes.pop())


def _is_plain(layer: Any, name: str) -> bool:
    is_linear = isinstance(layer.base_layer, nn.Linear) and name not in layer.lora_variant
    return is_linear and layer.lora_B[name].bias is None


def _unfit(path: str, model: nn.Module | None = None) -> UsageError:
    """Args: without a model, the name alone tells whose layer it is."""
    is_unet = path.startswith(UNET_PARTS) if model is None else hasattr(model, "down_blocks")
    return UsageError(
        f"the LoRA of {path} is not one of a linear layer of this model, which rows cannot share",
        fix=PASSES if is_unet else "use a LoRA of linear layers, made for this model",
    )
