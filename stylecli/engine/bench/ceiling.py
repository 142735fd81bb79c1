"""The most this device computes: plain matrix products and plain convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stylecli.engine.bench.timing import Spread, Watch

SECONDS = 0.4
ROUNDS = 5
# Sides of square matrices and widths of 3x3 convolutions: the fastest counts, and which that is
# depends on caches. A GPU needs more to be busy.
MATRICES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192), "mps": (2048, 4096)}
CONVOLUTIONS = {"cpu": ((64, 64), (128, 32), (256, 16)), "cuda": ((320, 64), (640, 32))}


@dataclass(frozen=True, slots=True)
class Rate:
    """Operations a second.

    Attributes:
        clock: By the clock.
        cpu: Of this process.
    """

    clock: Spread
    cpu: Spread


def matmul(device: torch.device, dtype: torch.dtype) -> Rate:
    """Operations a second of the best square product."""

    def work(side: int) -> tuple[Callable[[], Tensor], float]:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        return lambda: a @ b, 2.0 * side**3

    return _best([work(side) for side in MATRICES.get(device.type, MATRICES["cpu"])], device)


def convolution(device: torch.device, dtype: torch.dtype) -> Rate:
    """Operations a second of the best 3x3 convolution, of two rows."""

    def work(channels: int, side: int) -> tuple[Callable[[], Tensor], float]:
        layer = torch.nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype)
        layer.weight.data = layer.weight.contiguous(memory_format=torch.channels_last)
        rows = torch.randn(2, channels, side, side).to(device, dtype)
        rows = rows.contiguous(memory_format=torch.channels_last)
        return lambda: layer(rows), 2.0 * 2 * 9 * channels**2 * side**2

    sizes = CONVOLUTIONS.get(device.type, CONVOLUTIONS["cpu"])
    return _best([work(*size) for size in sizes], device)


@torch.inference_mode()
def _best(works: list[tuple[Callable[[], Tensor], float]], device: torch.device) -> Rate:
    rates = [_rate(*work, device) for work in works]
    if device.type == "cpu":
        return max(rates, key=lambda rate: rate.cpu.high)
    return max(rates, key=lambda rate: rate.clock.high)


def _rate(work: Callable[[], Tensor], flops: float, device: torch.device) -> Rate:
    watch = Watch(device)
    with watch.part("first"):
        work()
    with watch.part("second"):
        work()
    times = max(1, round(SECONDS / ROUNDS / max(watch.seconds["second"], 1e-6)))
    watches = [Watch(device) for _ in range(ROUNDS)]
    for watch in watches:
        with watch.part("many"):
            for _ in range(times):
                work()
    return Rate(
        Spread.of([flops * times / watch.total for watch in watches]),
        Spread.of([flops * times / watch.cpu_total for watch in watches]),
    )
