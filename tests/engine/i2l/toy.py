"""A world small enough to learn in seconds: pictures of eight numbers, a linear model, styles.

A content is a vector whose first number is always the same, a style a shift, a picture of the one
in the other their sum. The model knows the caption, which is the content, and draws it as it is:
what is missing is the style, which references show, and which a LoRA can add by that first number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor, nn

from stylecli.artifacts.store import file_sha256
from stylecli.backbone.linears import Layer
from stylecli.engine.i2l.data.items import Dataset, Item
from stylecli.engine.i2l.data.tuples import Tuples
from stylecli.engine.i2l.training.caches import Encoded
from stylecli.engine.i2l.training.draws import Draws
from stylecli.engine.i2l.training.steps import Material
from stylecli.methods.i2l.encoders.base import Encoder
from stylecli.methods.i2l.predictor import Predictor
from stylecli.methods.i2l.sizes import Shape
from stylecli.recipe.i2l import Data, Kept, References, Train

PX = 2
WIDTH = 3 * PX * PX
SHAPE = Shape(
    encoder_width=WIDTH, width=32, depth=1, heads=2, hidden=64, bottleneck=16, rank=4, query_std=0.5
)


class Model(nn.Module):
    """What it answers for a content, whatever it is shown: the content as it is, by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.draw = nn.Linear(WIDTH, WIDTH, bias=False)
        self.turn = nn.Linear(WIDTH, WIDTH, bias=False)
        for layer in (self.draw, self.turn):
            nn.init.eye_(layer.weight)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.turn(self.draw(x))


class Toy:
    """A denoiser whose target is the picture, and whose prompt is the content's numbers."""

    kind, negative_prompt = "z-image", ""
    native_px = multiple_px = PX
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        self.model = Model()
        self.calls = 0

    def layers(self, layer_set: str) -> tuple[Layer, ...]:
        return tuple(Layer(name, WIDTH, WIDTH) for name in ("draw", "turn"))

    def encode_target(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        return pixels.flatten(1) * 2 - 1

    def encode_prompt(self, prompts: Sequence[str]) -> list[Tensor]:
        return [vector(prompt) for prompt in prompts]

    def sample_times(self, count: int, generator: Generator, *, shift: float | None) -> Tensor:
        return torch.rand(count, generator=generator)

    def draw_noise(self, like: Tensor, generator: Generator) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    def noised(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return noise

    def target(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return clean + 0.1 * noise

    def predict(self, noised: Tensor, times: Tensor, prompts: Sequence[Tensor]) -> Tensor:
        return self.model(torch.stack(list(prompts))) + 0.1 * noised

    def weight(self, times: Tensor, kind: str, *, shift: float | None) -> Tensor:
        return torch.ones_like(times)

    def checkpointing(self, *, on: bool) -> None:
        pass

    def sample(self, prompts: Sequence[Tensor], *rest: Any, applied: Any, **given: Any) -> Tensor:
        with applied("neg"):
            pass
        with applied("pos"):
            drawn = self.model(torch.stack(list(prompts)))
        return (drawn.unflatten(1, (3, PX, PX)) / 2 + 0.5).repeat_interleave(8, 2)


class Numbers:
    """An encoder's net whose single token is the picture."""

    width, tokens, px = WIDTH, 1, PX

    def __call__(self, pictures: Tensor) -> Tensor:
        return pictures.flatten(1)[:, None]


def vector(words: str) -> Tensor:
    """The numbers of a content; none for no words."""
    if not words:
        return torch.zeros(WIDTH)
    own = Generator().manual_seed(int(words.rpartition(" ")[2]))
    found = torch.rand(WIDTH, generator=own) - 0.5
    found[0] = 0.5
    return found


def dataset(folder: Path, *, styles: int = 24, contents: int = 12) -> Dataset:
    """Every style draws every content; a sixth of the styles, and some contents, are held out."""
    items = []
    for style in range(styles):
        shift = torch.rand(WIDTH, generator=Generator().manual_seed(1000 + style)) * 0.8 - 0.4
        is_kept = style % 6 == 5
        for content in range(contents):
            if not is_kept and content >= contents - 4:
                continue
            pixels = (vector(f"thing {content}") + shift).clamp(-1, 1) / 2 + 0.5
            picture = (pixels.view(3, PX, PX).permute(1, 2, 0) * 255).round().byte().numpy()
            file = folder / f"{style}-{content}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)
            items.append(
                Item(
                    id=file.stem,
                    style_id=f"s{style}",
                    folder=folder,
                    name=file.name,
                    caption=f"thing {content}",
                    width=PX,
                    height=PX,
                    sha256=file_sha256(file),
                    split="test" if is_kept else "train",
                )
            )
    return Dataset(items, "the toy's", {})


def material(data: Dataset, train: Train, *, seed: int = 0, cache: bool = False) -> Material:
    """What a toy predictor learns with."""
    denoiser = Toy()
    encoder = Encoder(Numbers(), name="numbers", digest="0")
    kept = Kept(latents=cache, text=cache, tokens=cache)
    encoded = Encoded(denoiser, encoder, model="toy", px=PX, kept=kept, warn=print)
    settings = Data(n_refs=References(max=4))
    tuples = Tuples(data.split("train"), settings, seed, targets=train.targets_per_style)
    return Material(denoiser, encoded, Draws(tuples, train, seed), None)


def held_out(data: Dataset) -> Tuples:
    return Tuples(data.held_out(), Data(n_refs=References(max=4)), 0)


def predictor(seed: int = 0) -> Predictor:
    made = Predictor(SHAPE, Toy().layers("all"))
    made.reset(Generator().manual_seed(seed))
    return made
