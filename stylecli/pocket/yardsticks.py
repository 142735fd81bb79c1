"""Training of pocket-clip and pocket-lpips, the small networks that pocket is measured with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from stylecli.artifacts import glyphs
from stylecli.evaluation.perceptual import PocketLpips, clip_tokens, create_clip
from stylecli.pocket import latents
from stylecli.pocket.data import World
from stylecli.pocket.loop import Losses

VIEW_PX = 64
MIN_FAMILIES = 4  # a content is a class when this many train families draw it
FIXED_ROWS = 512


def clip_config(vocabulary: int) -> dict[str, object]:
    """open_clip's own keys: a small ModifiedResNet beside a small text transformer."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": VIEW_PX, "layers": [1, 2, 2, 1], "width": 12},
        "text_cfg": {
            "context_length": 32,
            "vocab_size": vocabulary,
            "width": 64,
            "heads": 2,
            "layers": 2,
        },
    }


@dataclass(frozen=True, slots=True)
class Views:
    """Pictures kept in memory with their words; the last `FIXED_ROWS` are never trained on."""

    pictures: UInt8[Tensor, "n 3 px px"]
    words: list[tuple[str, str, str]]

    def batch(self, rows: Int[Tensor, " b"]) -> Float[Tensor, "b 3 px px"]:
        return self.pictures[rows].float() / 255

    def draw(self, batch: int, generator: Generator) -> Int[Tensor, " b"]:
        return torch.randint(len(self.words) - FIXED_ROWS, (batch,), generator=generator)


def views(
    world: World,
    count: int,
    photo_share: float,
    generator: Generator,
    *,
    held_out_content: bool = False,
) -> Views:
    """`count` pictures of the train families."""
    rows = world.indices(held_out_content=held_out_content)
    families = latents.by_family(world, rows)
    pictures = torch.empty(count, 3, VIEW_PX, VIEW_PX, dtype=torch.uint8)
    words = []
    for index in range(count):
        made = latents.view(world, families, VIEW_PX, photo_share, generator)
        pictures[index] = made.picture.mul(255).round().to(torch.uint8)
        words.append((made.content, made.style, made.ground))
    return Views(pictures, words)


def classes(world: World) -> tuple[list[str], list[str]]:
    """Contents that enough train families draw, and the train families by prefix."""
    rows = [world.rows[index] for index in world.indices()]
    drawn = Counter(content for content, _ in {(row.content, row.family) for row in rows})
    contents = sorted(c for c, families in drawn.items() if families >= MIN_FAMILIES)
    families = [f.prefix for f in glyphs.FAMILIES.values() if not f.is_held_out]
    return contents, families


class LpipsPart:
    """Two cross entropies; views whose content or family is no class do not count there."""

    def __init__(self, model: PocketLpips, sample: Views, batch: int) -> None:
        self._module = model
        self._sample, self._batch = sample, batch
        content = {glyphs.words(name): index for index, name in enumerate(model.contents)}
        style = {glyphs.FAMILIES[name].style: i for i, name in enumerate(model.families)}
        self._contents = torch.tensor([content.get(w[0], -1) for w in sample.words])
        self._families = torch.tensor([style.get(w[1], -1) for w in sample.words])

    @property
    def module(self) -> nn.Module:
        return self._module

    def losses(self, progress: float, generator: Generator) -> Losses:
        rows = self._sample.draw(self._batch, generator)
        content, family = self._logits(rows)
        return {
            # A thousand classes make the louder gradient; the few families must be heard beside it.
            "content": 0.5 * F.cross_entropy(content, self._contents[rows], ignore_index=-1),
            "family": 2 * F.cross_entropy(family, self._families[rows], ignore_index=-1),
        }

    @torch.no_grad()
    def figures(self) -> Mapping[str, float]:
        self._module.eval()
        rows = torch.arange(len(self._sample.words) - FIXED_ROWS, len(self._sample.words))
        content, family = self._logits(rows)
        self._module.train()
        return {
            "content_top1": _accuracy(content, self._contents[rows]),
            "family_top1": _accuracy(family, self._families[rows]),
        }

    def _logits(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        device = self._module.content_head.weight.device
        pictures = self._sample.batch(rows).to(device, memory_format=torch.channels_last)
        content, family = self._module.logits(pictures)
        return content.cpu(), family.cpu()


class ClipPart:
    """Symmetric contrastive loss over captions that differ."""

    def __init__(
        self, model: nn.Module, tokenizer: CLIPTokenizer, sample: Views, batch: int
    ) -> None:
        self._module = model
        self._tokenizer, self._sample, self._batch = tokenizer, sample, batch

    @property
    def module(self) -> nn.Module:
        return self._module

    def losses(self, progress: float, generator: Generator) -> Losses:
        rows = self._sample.draw(self._batch, generator)
        texts = [_content_or_all(self._sample.words[int(row)], generator) for row in rows]
        image, text, scale = self._embed(rows, texts)
        logits = scale * image @ text.T
        same = torch.tensor([[float(a == b) for b in texts] for a in texts])
        wanted = same / same.sum(dim=1, keepdim=True)
        return {
            "image": F.cross_entropy(logits, wanted) / 2,
            "text": F.cross_entropy(logits.T, wanted) / 2,
        }

    @torch.no_grad()
    def figures(self) -> Mapping[str, float]:
        """Share of fixed views whose own content is among the five best of fifty."""
        self._module.eval()
        rows = torch.arange(len(self._sample.words) - FIXED_ROWS, len(self._sample.words))
        contents = [self._sample.words[int(row)][0] for row in rows]
        choices = sorted(set(contents))
        image, text, _ = self._embed(rows, choices)
        self._module.train()
        own = torch.tensor([choices.index(content) for content in contents])
        return {"top5_of_50": top_share(image @ text.T, own, choose=50, best=5)}

    def _embed(self, rows: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        device = next(self._module.parameters()).device
        pictures = self._sample.batch(rows).mul(2).sub(1)
        pictures = pictures.to(device, memory_format=torch.channels_last)
        found = self._module(pictures, clip_tokens(self._tokenizer, texts).to(device))
        image, text, scale = (tensor.cpu() for tensor in tuple(found)[:3])
        return image, text, scale


def top_share(
    scores: Float[Tensor, "b texts"], own: Int[Tensor, " b"], *, choose: int, best: int
) -> float:
    """How often a row's own text is among its `best` of `choose`, the others drawn at random."""
    generator = torch.Generator().manual_seed(3)
    hits = 0
    for row, index in zip(scores, own, strict=True):
        others = torch.randperm(len(row), generator=generator)
        others = others[others != index][: choose - 1]
        hits += int((row[others] > row[index]).sum()) < best
    return hits / len(own)


def export_lpips(model: PocketLpips, folder: Path) -> None:
    config = {"contents": list(model.contents), "families": list(model.families)}
    _write(model, config, folder)


def export_clip(
    model: nn.Module, config: Mapping[str, object], tokenizer: CLIPTokenizer, folder: Path
) -> None:
    tokenizer.save_pretrained(folder)
    _write(model, config, folder)


def fresh_clip(tokenizer: CLIPTokenizer, folder: Path, generator: Generator) -> nn.Module:
    """Write the configuration and the tokenizer, and make an untrained model of them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config = clip_config(len(tokenizer))
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return create_clip(folder)


def _content_or_all(words: tuple[str, str, str], generator: Generator) -> str:
    is_content_only = torch.rand((), generator=generator) < 0.6
    return words[0] if is_content_only else ", ".join(part for part in words if part)


def _accuracy(logits: Float[Tensor, "b n"], labels: Int[Tensor, " b"]) -> float:
    known = labels >= 0
    return float((logits[known].argmax(dim=1) == labels[known]).float().mean())


def _write(model: nn.Module, config: Mapping[str, object], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(halves, folder / "model.safetensors")
    text = json.dumps(config, indent=1, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
