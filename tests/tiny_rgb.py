"""A small editor of pixels for tests: coloured shapes, words for them, and looks that are a rule.

`RgbEditor` is a UNet of the real class whose input is ``cat([z_t, X])`` in RGB, 32 px wide. Words
are learned vectors, one for each of a short list. Nothing here is what users meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from stylecli.backbone.linears import matching
from stylecli.backbone.objective import drawn
from stylecli.backbone.probe.unet import UnetProbe, chosen
from stylecli.tensors.filters import FILTERS

PX, LENGTH, WIDTH = 32, 16, 64
OBJECTS = ("circle", "square", "triangle")
WORDS = (
    *("<pad>", "make", "turn", "the", "image", "into", "in", "style", "keep", "other", "area"),
    *("unchanged", "change", "nothing", *OBJECTS, *FILTERS),
)
TIMES = 1000
ATTENTION = r".*\.attn[12]\.to_(q|k|v|out\.0)"


@dataclass(frozen=True, eq=False)
class Example:
    """A picture, what one of its shapes is, where that is, and the picture with it restyled."""

    source: Tensor
    target: Tensor
    mask: Tensor
    prompt: str
    phrase: tuple[int, ...]


def tokens(prompt: str) -> list[int]:
    """One a word; names of styles are one word."""
    found = [WORDS.index(word) for word in prompt.replace(",", "").split()]
    return found + [0] * (LENGTH - len(found))


def example(style: str, generator: Generator) -> Example:
    """Two shapes on a wavy ground, of which one is asked for."""
    y, x = torch.meshgrid(torch.arange(PX) / PX, torch.arange(PX) / PX, indexing="ij")
    waves = torch.rand(3, 3, generator=generator)
    picture = torch.stack(
        [0.5 + 0.25 * torch.sin(9 * a * x + 9 * b * y + 6 * c) for a, b, c in waves.tolist()]
    )
    names = torch.randperm(len(OBJECTS), generator=generator)[:2].tolist()
    masks = []
    for place, name in enumerate(names):
        left, top = (torch.rand(2, generator=generator) * 0.12 + 0.22).tolist()
        mask = _shape(OBJECTS[name], x - left - 0.44 * place, y - top - 0.44 * (1 - place))
        colour = torch.rand(3, 1, 1, generator=generator)
        picture = torch.where(mask, colour, picture)
        masks.append(mask)
    mask = masks[0].float()
    styled = FILTERS[style](picture)
    prompt = f"make the {OBJECTS[names[0]]} in {style} style, keep other area unchanged"
    place = prompt.split().index(style)
    return Example(picture, mask * styled + (1 - mask) * picture, mask, prompt, (place,))


def _shape(name: str, x: Tensor, y: Tensor) -> Tensor:
    if name == "circle":
        return x**2 + y**2 < 0.19**2
    if name == "square":
        return (x.abs() < 0.17) & (y.abs() < 0.17)
    return (y < 0.17) & (y > 3 * x.abs() - 0.3)


class RgbEditor(nn.Module):
    """The learned parts, and the verbs of `Editor` that a loop of training needs."""

    def __init__(self, seed: int = 0) -> None:
        from diffusers import UNet2DConditionModel

        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet: Any = UNet2DConditionModel(
                sample_size=PX,
                in_channels=6,
                out_channels=3,
                block_out_channels=(32, 64, 64),
                layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=WIDTH,
                attention_head_dim=8,
                norm_num_groups=8,
            )
            self.words = nn.Embedding(len(WORDS), WIDTH)
            self.places = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.1)
        steps = torch.linspace(0.00085**0.5, 0.012**0.5, TIMES) ** 2
        self.kept = (1 - steps).cumprod(0)
        self.chances, self.counts = drawn(self.kept)

    def layers(self) -> tuple[str, ...]:
        return tuple(layer.path for layer in matching(self.unet, [ATTENTION]))

    def probing(self) -> tuple[UnetProbe, AbstractContextManager[None]]:
        probe = UnetProbe(chosen(self.unet, "auto"))
        return probe, probe.installed(self.unet)

    def errors(
        self,
        sources: Tensor,
        targets: Tensor,
        prompts: Sequence[str],
        generator: Generator,
    ) -> Tensor:
        """Weighted squared error of the noise, of each row."""
        times = torch.multinomial(self.chances, len(targets), True, generator=generator)
        noise = torch.randn(targets.shape, generator=generator)
        kept = self.kept[times][:, None, None, None]
        clean = targets * 2 - 1
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        spoken = self.words(torch.tensor([tokens(prompt) for prompt in prompts])) + self.places
        seen = torch.cat([noisy, sources * 2 - 1], dim=1)
        answer = self.unet(seen, times, spoken, return_dict=False)[0]
        error: Tensor = (answer - noise).square().mean(dim=(1, 2, 3)) * self.counts[times]
        return error
