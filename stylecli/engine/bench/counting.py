"""Rows and operations of whatever passes a UNet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


@contextmanager
def passes(*unets: Any) -> Iterator[Counter[int]]:
    """Inside, every pass of these UNets is counted under its number of rows.

    A pass that is stopped early counts like any other.
    """
    found: Counter[int] = Counter()

    def count(_module: object, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        (shown,) = given[:1] or [named[key] for key in ("sample", "hidden_states") if key in named]
        found[len(shown)] += 1

    with ExitStack() as hooks:
        for unet in unets:
            handle = unet.register_forward_pre_hook(count, with_kwargs=True)
            hooks.callback(handle.remove)
        yield found


def rows(found: Counter[int]) -> int:
    """Sample-forwards: what the passes add up to.

    >>> rows(Counter({1: 99, 2: 50}))
    199
    """
    return sum(size * times for size, times in found.items())


def flops(work: Callable[[], object]) -> float:
    """Operations of matrix products, convolutions and attention, two to a multiply-add.

    On the meta device nothing is computed and the count is the same; code that asks whether a
    result is sound is told that it is.
    """
    # The library knows the fused attention of GPUs only.
    known = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    with FlopCounterMode(display=False, custom_mapping=known) as counter, _Assured():
        work()
    return float(counter.get_total_flops())


def _attention(query: Any, key: Any, value: Any, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))


class _Assured(TorchFunctionMode):
    """Every tensor without numbers counts as true."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.__bool__ and args[0].is_meta:
            return True
        return func(*args, **(kwargs or {}))
