"""Training: steps as `train-lora` takes them beside a bare pass forwards and backwards."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch

from stylecli.artifacts import store
from stylecli.backbone.model import Backbone
from stylecli.engine.bench.timing import Watch
from stylecli.engine.training import lora
from stylecli.recipe.schema import Lora
from stylecli.tensors.seeds import generator

# Steps that warm up.
WARM = 2


class Clock:
    """A reporter that notes when each step of a training was done."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.cpu_times: list[float] = []

    def note(self, text: str) -> None:
        """Nobody is told."""

    def warn(self, text: str) -> None:
        """Nobody is told."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Clock]:
        """Every task is timed alike."""
        yield self

    def advance(self, n: int = 1) -> None:
        """One step is done; where nothing was, as before the first, nothing is noted."""
        if n:
            self.times.append(time.perf_counter())
            self.cpu_times.append(time.process_time())

    def seconds(self) -> list[float]:
        """Of each step but the first, which no other precedes, and those that warm up."""
        return _between(self.times)

    def cpu_seconds(self) -> list[float]:
        """The same in seconds of this process."""
        return _between(self.cpu_times)


def _between(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times[WARM:])]


def fit(backbone: Backbone, settings: Lora, steps: int, styles: int) -> Clock:
    """Train on as many pictures of noise, side by side, and see how long each step takes."""
    side = settings.resolution
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        courses = []
        for style in range(styles):
            path = Path(folder) / f"{style}.png"
            chance = generator("bench", "style", style)
            noise = torch.randint(0, 256, (side, side, 3), generator=chance, dtype=torch.uint8)
            store.save_image(path, noise, None)
            pictures = lora.style_pictures([path], settings.prompt)
            courses.append(lora.Course(pictures, path.with_suffix(".state")))
        lora.fit_together(
            backbone,
            courses,
            settings.model_copy(update={"steps": steps, "save_every": steps}),
            seed=0,
            reporter=clock,
            rows=styles * settings.batch,
        )
    return clock


def bare(backbone: Backbone, settings: Lora, watch: Watch, steps: int, rows: int) -> None:
    """Rows of training, forwards and backwards through a UNet without a LoRA, and nothing else.

    Gradients are wanted of the latents alone, so every layer is gone back through once.
    """
    pixels = settings.crop_px if settings.crop == "random" else settings.resolution
    cells = pixels // backbone.multiple_px * backbone.multiple_px // backbone.latent_px
    channels = backbone.latent_channels
    latents = torch.randn(rows, channels, cells, cells, generator=generator("bench", "latents"))
    latents = latents.to(backbone.device, backbone.dtype).requires_grad_()
    embeds = backbone.encode_prompt([settings.prompt]).clone().expand(rows, -1, -1)
    with watch.part("pass"):
        for _ in range(steps):
            output = backbone.call(latents, 500, embeds)
            output.float().square().mean().backward()
            latents.grad = None
