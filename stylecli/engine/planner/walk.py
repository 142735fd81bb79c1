"""What a computation asks of memory and machine, found without computing it.

Code runs as it stands on the meta device, where tensors have shapes and no numbers. A dispatch mode
sees every operation: the storages it makes are followed until the last tensor that holds them is
gone, and the operations are counted by their shapes. Attention is taken as the fused kernel it will
be, which forms no matrix.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Attention under names of our own, so that it can be told from what it is made of elsewhere.
ATTENTION, ATTENTION_BACKWARD = "attention", "attention_backward"
FUSED = "scaled_dot_product_attention"
# Of `torch.nn.functional`, what models here use of autocast's lists of lower and full precision.
LOWERED = ("linear", "conv2d")
RAISED = {"cpu": ("mse_loss",), "cuda": ("mse_loss", "group_norm", "layer_norm")}


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor without its numbers."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        count = 1
        for side in self.size:
            count *= side
        return count

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Call:
    """An operation with its arguments, tensors replaced by their `Spec`.

    Attributes:
        made: Bytes of the storages it makes.
    """

    operation: Any
    arguments: Hashable
    made: int

    @property
    def name(self) -> str:
        return str(getattr(self.operation, "overloadpacket", self.operation)).removeprefix("aten.")

    def tensors(self) -> list[Spec]:
        """All that it reads, in order."""
        return list(_specs(self.arguments))


@dataclass(slots=True)
class Walked:
    """What one walk saw.

    Attributes:
        timeline: Bytes alive after every operation that made something, besides what was alive
            before the walk.
        calls: How often each operation ran; views of what there is are not among them.
        modules: Calls of modules, which cost Python's time whatever they compute.
    """

    timeline: list[int] = field(default_factory=list)
    events: list[tuple[int, int]] = field(default_factory=list)
    calls: Counter[Call] = field(default_factory=Counter)
    modules: int = 0

    @property
    def peak(self) -> int:
        return max(self.timeline, default=0)


@contextmanager
def walked(autocast: torch.dtype | None = None, kind: str = "cpu") -> Iterator[Walked]:
    """Inside, what runs on the meta device is followed.

    Args:
        autocast: The type that products are computed in, whatever their inputs are.
        kind: Of the device it will be, whose autocast has its own ideas of norms.
    """
    seen = Walked()
    handle = torch.nn.modules.module.register_module_forward_pre_hook(_counter(seen))
    try:
        with _Storages(seen), _functions(seen, autocast, kind):
            yield seen
    finally:
        handle.remove()


def _counter(seen: Walked) -> Callable[..., None]:
    def count(*_: object) -> None:
        seen.modules += 1

    return count


class _Storages(TorchDispatchMode):
    """Follows storages from the operation that makes them to their end."""

    def __init__(self, seen: Walked) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen
        self._live = self._count = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # Inference mode hands over what autograd would have taken apart.
        if func not in _WHOLE:
            with self:
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
            _WHOLE.add(func)
        arguments = (_frozen(args), _frozen(kwargs))
        given = list(_tensors((args, kwargs)))
        made = _made(func, arguments, args, kwargs, given)
        known = {_address(tensor) for tensor in given}
        bytes_made = 0
        for tensor in _tensors(made):
            address = _address(tensor)
            if address not in known and address not in self._known:
                bytes_made += self._follow(tensor.untyped_storage(), address)
        if bytes_made or func._schema.is_mutable:
            self._seen.calls[Call(func, arguments, bytes_made)] += 1
            self._seen.timeline.append(self._live)
        return made

    def _follow(self, storage: Any, address: int) -> int:
        size = int(storage.nbytes())
        self._known.add(address)
        self._live += size
        self._count += 1
        self._seen.events.append((self._count, size))
        weakref.finalize(storage, self._gone, address, self._count, size)
        return size

    def _gone(self, address: int, number: int, size: int) -> None:
        self._seen.events.append((number, 0))
        self._known.discard(address)
        self._live -= size


@contextmanager
def _functions(seen: Walked, autocast: torch.dtype | None, kind: str) -> Iterator[None]:
    """Inside, attention is one operation, and types are as autocast has them.

    Autocast knows no meta device. The functions themselves are replaced, because no function mode
    reaches layers that gradient checkpointing computes once more.
    """

    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        output = _Attention.apply(seen, query, key, value)  # type: ignore[no-untyped-call]
        return cast(Tensor, output)

    raised = RAISED.get(kind, RAISED["cpu"])
    before = {name: getattr(F, name) for name in (FUSED, *LOWERED, *raised)}
    after: dict[str, Callable[..., Tensor]] = {FUSED: attention}
    if autocast is not None:
        after |= {name: _typed(before[name], autocast) for name in LOWERED}
        after |= {name: _typed(before[name], torch.float32) for name in raised}
        after[FUSED] = _typed(attention, autocast)
    for name, function in after.items():
        setattr(F, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(F, name, function)


def _typed(function: Callable[..., Tensor], dtype: torch.dtype) -> Callable[..., Tensor]:
    def typed(value: Any) -> Any:
        is_number = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if is_number else value

    def run(*args: Any, **kwargs: Any) -> Tensor:
        return function(*map(typed, args), **{key: typed(one) for key, one in kwargs.items()})

    return run


class _Attention(torch.autograd.Function):
    """What fused attention keeps for its way back: its inputs, its output and a number a query."""

    @staticmethod
    def forward(ctx: Any, seen: Walked, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows, heads, n, _ = query.shape
        # Heads lie side by side in memory, as the layer before left them.
        output = value.new_empty(rows, n, heads, value.shape[-1]).transpose(1, 2)
        seen.calls[Call(ATTENTION, _frozen((query, key, value)), _bytes(output))] += 1
        if torch.is_grad_enabled() or any(ctx.needs_input_grad):
            sums = query.new_empty(rows, heads, n, dtype=torch.float32)
            ctx.save_for_backward(query, key, value, output, sums)
        ctx.seen = seen
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, _output, _sums = ctx.saved_tensors
        made = [torch.empty_like(one) for one in (query, key, value)]
        size = sum(map(_bytes, made))
        call = Call(ATTENTION_BACKWARD, _frozen((query, key, value)), size)
        ctx.seen.calls[call] += 1
        return None, *made


# Operations that are not made of others.
_WHOLE: set[Any] = set()
# What an operation made of tensors like these; asking the library is a hundred times the work.
_MADE: dict[Hashable, Any] = {}


def _made(
    func: Any,
    arguments: Hashable,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    given: Sequence[Tensor],
) -> Any:
    is_plain = (
        given
        and all(tensor.is_meta for tensor in given)
        and not func._schema.is_mutable
        and all(returned.alias_info is None for returned in func._schema.returns)
    )
    if not is_plain:
        return func(*args, **kwargs)
    key = (func, arguments)
    if key not in _MADE:
        made = func(*args, **kwargs)
        # Some hand back what they were given when there is nothing to do.
        if not {_address(t) for t in _tensors(made)} & {_address(t) for t in given}:
            _MADE[key] = _frozen(made)
        return made
    return _thawed(_MADE[key])


def _thawed(value: Any) -> Any:
    if isinstance(value, Spec):
        return torch.empty_strided(value.size, value.stride, dtype=value.dtype, device="meta")
    if isinstance(value, tuple):
        return tuple(_thawed(inner) for inner in value)
    return value


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _address(tensor: Tensor) -> int:
    # Of a meta tensor the data pointer is 0; the storage's own object tells them apart.
    return int(tensor.untyped_storage()._cdata)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return Spec(tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, Mapping):
        return tuple((key, _frozen(inner)) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return tuple(_frozen(inner) for inner in value)
    return value  # type: ignore[no-any-return]


def _specs(value: Any) -> Iterator[Spec]:
    if isinstance(value, Spec):
        yield value
    elif isinstance(value, tuple):
        for inner in value:
            yield from _specs(inner)
