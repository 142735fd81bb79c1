"""How long operations take on this machine: the ones that matter timed, the others scaled.

An operation is called with tensors of its own shapes and strides, a few times, until a small budget
is used up, the largest share of the work first. What was not timed takes as long as its arithmetic,
or the bytes it moves, at the rate of its kind.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylecli.engine.planner.walk import ATTENTION, ATTENTION_BACKWARD, Call, Spec

# Until something was timed: rates that only say what to time first.
GUESSED_FLOPS, GUESSED_BYTES = 2e10, 5e9
# Arguments come from different places of a buffer: the call before left none in the cache.
POOL_BYTES = 64 * 2**20
REPEATS = 3
# What a layer costs besides its operations, in calls of one that does nothing: measured on the
# model that ships, whose layers are those of the others.
CALLS_A_LAYER = 20


@dataclass(eq=False)
class Clock:
    """Seconds of operations on one device.

    Attributes:
        budget: Seconds that timing may take in all.
        timed: Seconds of each operation that was timed.
    """

    device: torch.device
    budget: float = 1.5
    timed: dict[Call, float] = field(default_factory=dict)
    _rates: dict[Any, float] = field(default_factory=dict)

    def time(self, work: Mapping[Call, float]) -> None:
        """Time what takes the largest part of some work.

        Args:
            work: Operation -> how often it will run.
        """
        pool = _Pool(self.device)
        left = self.budget
        waiting = [call for call in work if call not in self.timed]
        waiting.sort(key=lambda call: -work[call] * self.seconds_of(call))
        for call in waiting:
            if left <= 0:
                break
            if self.seconds_of(call) * (REPEATS + 1) > left:
                continue
            started = time.perf_counter()
            run = pool.runner(call)
            if run is not None:
                try:
                    self.timed[call] = _timed(run, self.device)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError:
                    continue  # it cannot run on its own, such as what changes a view in place
                self._learn()
            left -= time.perf_counter() - started

    def seconds_of(self, call: Call) -> float:
        """One operation, timed or scaled."""
        if call in self.timed:
            return self.timed[call]
        size, kind = _size(call)
        guessed = GUESSED_FLOPS if kind == "arithmetic" else GUESSED_BYTES
        return size / self._rates.get(call.name, self._rates.get(kind, guessed))

    def seconds(self, calls: Mapping[Call, int]) -> float:
        return sum(self.seconds_of(call) * count for call, count in calls.items())

    @cached_property
    def layer_seconds(self) -> float:
        """Python's time for one layer."""
        nothing, number = torch.nn.Identity(), torch.zeros(1)

        def run() -> None:
            for _ in range(100):
                nothing(number)

        # The fastest of many: a call is too short for an average that others leave alone.
        cpu = torch.device("cpu")
        return CALLS_A_LAYER * min(_timed(run, cpu) for _ in range(10)) / 100

    def _learn(self) -> None:
        sizes: Counter[str] = Counter()
        seconds: dict[str, float] = {}
        for call, taken in self.timed.items():
            size, kind = _size(call)
            for name in (call.name, kind):
                sizes[name] += size
                seconds[name] = seconds.get(name, 0.0) + taken
        self._rates = {name: size / seconds[name] for name, size in sizes.items() if size}


def _size(call: Call) -> tuple[int, str]:
    count = flops(call)
    if count:
        return count, "arithmetic"
    return sum(spec.nbytes for spec in call.tensors()) + call.made, "bytes"


def flops(call: Call) -> int:
    """Floating point operations of a product, two for each multiply-add; 0 of anything else."""
    tensors = call.tensors()
    match call.name:
        case "convolution":
            weight = tensors[1]
            return 2 * call.made // weight.dtype.itemsize * weight.numel // weight.size[0]
        case "convolution_backward":
            output, weight = tensors[0], tensors[2]
            return 2 * output.numel * weight.numel // weight.size[0]
        case "mm" | "bmm":
            left, right = tensors
            return 2 * left.numel * right.size[-1]
        case "addmm" | "baddbmm":
            _, left, right = tensors
            return 2 * left.numel * right.size[-1]
        case "attention":
            query, key, value = tensors
            return 2 * query.numel * key.size[-2] + 2 * query.numel * value.size[-2]
        case "attention_backward":
            query, key, _ = tensors
            return 10 * query.numel * key.size[-2]
    return 0


class _Pool:
    """Numbers to compute with; tensors of all shapes are cut from one buffer."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[torch.dtype, Tensor] = {}
        self._at = 0

    def runner(self, call: Call) -> Callable[[], object] | None:
        """Runs an operation as it was recorded; None where numbers of its own matter."""
        if call.operation in (ATTENTION, ATTENTION_BACKWARD):
            query, key, value = (self._cut(spec) for spec in call.tensors())
            if call.operation == ATTENTION:
                return lambda: F.scaled_dot_product_attention(query, key, value)
            return _there_and_back(query, key, value)
        arguments: Any = call.arguments
        args, kwargs = arguments
        if any(not spec.dtype.is_floating_point for spec in call.tensors()):
            return None
        given = [self._thawed(one) for one in args]
        named = {key: self._thawed(value) for key, value in kwargs}
        if "device" in named:
            named["device"] = self._device
        return lambda: call.operation(*given, **named)

    def _thawed(self, value: Any) -> Any:
        if isinstance(value, Spec):
            return self._cut(value)
        if isinstance(value, tuple):
            return [self._thawed(inner) for inner in value]
        return value

    def _cut(self, spec: Spec) -> Tensor:
        steps = zip(spec.size, spec.stride, strict=True)
        reach = 1 + sum((side - 1) * step for side, step in steps)
        buffer = self._buffers.get(spec.dtype)
        if buffer is None or len(buffer) < reach:
            count = max(reach, POOL_BYTES // spec.dtype.itemsize)
            buffer = torch.rand(count, device=self._device).to(spec.dtype)
            self._buffers[spec.dtype] = buffer
        if self._at + reach > len(buffer):
            self._at = 0
        cut = buffer.as_strided(spec.size, spec.stride, self._at)
        self._at += (reach + 63) // 64 * 64
        return cut


def _there_and_back(query: Tensor, key: Tensor, value: Tensor) -> Callable[[], object]:
    leaves = [one.clone().requires_grad_() for one in (query, key, value)]
    with torch.enable_grad():
        output = F.scaled_dot_product_attention(leaves[0], leaves[1], leaves[2])
    upstream = torch.ones_like(output)
    return lambda: torch.autograd.grad(output, leaves, upstream, retain_graph=True)


def _timed(run: Callable[[], object], device: torch.device) -> float:
    """The middle one of a few runs, after one that warms up."""
    # One thread's own time counts none of what others do meanwhile.
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    run()
    wait(device)
    taken = []
    for _ in range(REPEATS):
        started = clock()
        run()
        wait(device)
        taken.append(clock() - started)
    return sorted(taken)[REPEATS // 2]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
