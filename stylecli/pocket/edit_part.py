"""What pocket's editor is taught, and the weights that learn it.

A product of two thin matrices is learned for every weight, besides the first convolution: what
ships holds what changed and not the model. The text encoder learns too: captions taught it to tell
ways of asking apart better than styles. Errors are of noise, at times that `objective.drawn`
favours.

Large editors know what instructions name. This one is told: the attention of a thing's name is to
lie on the thing (as TokenCompose, Wang et al. 2024, has it). Where a style's words look is left to
experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize
from transformers import CLIPTextModel, CLIPTokenizer

from stylecli.artifacts import glyphs
from stylecli.backbone import objective
from stylecli.backbone.editors import delta as deltas
from stylecli.backbone.probe import unet as probes
from stylecli.backbone.probe.unet import UnetProbe
from stylecli.errors import WeightsError
from stylecli.methods.regionroute import losses, measures
from stylecli.methods.regionroute.spans import locate
from stylecli.methods.regionroute.styles import PAPER, TEMPLATES, WHOLE
from stylecli.pocket import edits, loop, words
from stylecli.pocket.diffusion import OFFSET_NOISE, scheduler, tokenize
from stylecli.tensors import grounds

FIXED_ROWS = 48
# How often each is asked for; "local" is whatever is done to one thing.
KINDS = {"whole": 0.35, "local": 0.55, "identity": 0.1}
# Of attention, as RegionRoute weighs it (eq. 4).
FOCUS, COVER = 0.1, 0.2
# Instruction, reference, or both are left out, for guidance.
DROP_TEXT, DROP_PICTURE, DROP_BOTH = 0.05, 0.05, 0.05

WHOLES = (
    WHOLE,
    "turn the whole picture into {style} style",
    "make everything in {style} style",
    "{style} style",
    "repaint the image in {style} style",
)
TINTS = (
    "make the {object} {style}",
    "turn the {object} {style}",
    "paint the {object} {style}, keep other area unchanged",
    "make the {object} {style}, keep other area unchanged",
)
REMOVALS = (
    "remove the {object}",
    "take the {object} away",
    "remove the {object}, keep other area unchanged",
)
LOCALS: Mapping[edits.Kind, Sequence[str]] = {
    "redraw": TEMPLATES,
    "tint": TINTS,
    "remove": REMOVALS,
}
IDENTITIES = ("", "keep the image unchanged", "leave everything as it is", "change nothing")
# Family or filter -> what instructions call it.
LOOKS: Mapping[str, str] = {
    **{name: family.style.removesuffix(" style") for name, family in glyphs.FAMILIES.items()},
    **{style.id: style.phrase for style in PAPER},
}


class Product(nn.Module):
    """What is added to one weight: nothing at first, at most of this rank ever."""

    def __init__(self, weight: Tensor, rank: int, generator: Generator) -> None:
        super().__init__()
        inner = weight[0].numel()
        rank = min(rank, len(weight), inner)
        self.down = nn.Parameter(torch.randn(rank, inner, generator=generator) / math.sqrt(inner))
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


class Changes(nn.Module):
    """All that is learned; the models it changes are used with it, and are no part of it."""

    def __init__(self, unet: Any, encoder: nn.Module, rank: int, generator: Generator) -> None:
        super().__init__()
        unet.requires_grad_(False)
        encoder.requires_grad_(False)
        deltas.widen(unet)
        self.entry: nn.Conv2d = unet.conv_in.requires_grad_(True)
        self.products = nn.ModuleDict()
        for name, module in deltas.changeable(unet, encoder).items():
            product = Product(module.weight, rank, generator)
            parametrize.register_parametrization(module, "weight", product)
            self.products[name.replace(".", "/")] = product

    def tensors(self) -> dict[str, Tensor]:
        """As a delta file names them."""
        found: dict[str, Tensor] = {
            f"{deltas.ENTRY}.{name}": p for name, p in self.entry.named_parameters()
        }
        for path, product in self.products.items():
            name = path.replace("/", ".")
            found[name + deltas.DOWN] = product.get_parameter("down")
            found[name + deltas.UP] = product.get_parameter("up")
        return found

    @torch.no_grad()
    def take_up(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a delta's; products may have less rank there, or none.

        Raises:
            WeightsError: It is not of these changes.
        """
        own = self.tensors()
        odd = sorted(
            name for name, tensor in tensors.items() if not _has_room(name, own.get(name), tensor)
        )
        odd += [name for name in own if name.startswith(deltas.ENTRY) and name not in tensors]
        odd += [
            name + deltas.UP
            for name in deltas.changed(tensors)
            if (up := tensors.get(name + deltas.UP)) is None
            or (down := tensors.get(name + deltas.DOWN)) is None
            or up.shape[1] != len(down)
        ]
        if odd:
            raise WeightsError(f"the editor that ships has another {odd[0]}", fix="--fresh")
        for name, parameter in own.items():
            # What is left of the rank begins with a column of zeros, and goes on to learn.
            if name.endswith(deltas.UP):
                parameter.zero_()
        for name, tensor in tensors.items():
            own[name][tuple(map(slice, tensor.shape))] = tensor


def _has_room(name: str, whole: Tensor | None, part: Tensor) -> bool:
    """Whether a tensor goes into ours: of a product's two, one that has less rank does too."""
    if whole is None or whole.ndim != part.ndim:
        return False
    side = {deltas.DOWN: 0, deltas.UP: 1}.get(f".{name.rpartition('.')[2]}")
    return all(
        room == size or (room > size and axis == side)
        for axis, (room, size) in enumerate(zip(whole.shape, part.shape, strict=True))
    )


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """An instruction and its answer.

    Attributes:
        reference: A picture, or its latents.
        span: Of a thing's name in the prompt; None where all of the picture is meant, or none.
        mask: Of the thing, among the scene's or the shard's.
    """

    prompt: str
    reference: Tensor
    target: Tensor
    span: tuple[int, int] | None = None
    mask: int | None = None


class EditPart:
    """Instructions on scenes of several kinds, with min-SNR weights."""

    def __init__(
        self,
        unet: Any,
        changes: Changes,
        speaker: Speaker,
        shards: Sequence[edits.Shard],
        *,
        batch: int,
    ) -> None:
        """The end of the last shard is kept out of the batches.

        Args:
            unet: What `changes` change.
        """
        self._unet, self._changes, self._speaker = unet, changes, speaker
        self._shards, self._batch = shards, batch
        self._probe = UnetProbe(probes.chosen(unet, "auto"))
        self._kept = scheduler().alphas_cumprod
        self._is_half = has_fast_halves(unet.device)
        self._chances, self._counts = objective.drawn(self._kept)

    @property
    def module(self) -> Changes:
        return self._changes

    def losses(self, progress: float, generator: Generator) -> loop.Losses:
        kinds, chances = list(KINDS), torch.tensor(list(KINDS.values()))
        rows: list[tuple[edits.Shard, Asked]] = []
        while len(rows) < self._batch:
            shard = grounds.one_of(self._shards, generator)
            count = len(shard.rows) - FIXED_ROWS * (shard is self._shards[-1])
            row = int(torch.randint(count, (), generator=generator))
            kind = kinds[int(torch.multinomial(chances, 1, generator=generator))]
            if (asked := _asked_of(shard, row, kind, generator)) is not None:
                rows.append((shard, _dropped(asked, generator)))
        times = torch.multinomial(self._chances, self._batch, True, generator=generator)
        with self._probe.installed(self._unet):
            errors, maps, masks = self._answered(rows, times, generator)
        found = losses.attention(maps, masks, masks.any(dim=1), losses.Forms())
        return {
            "loss": (errors * self._counts[times].to(errors.device)).mean(),
            "focus": FOCUS * found.focus,
            "cover": COVER * found.cover,
        }

    @torch.no_grad()
    def figures(self) -> Mapping[str, float]:
        """Unweighted error of each kind on scenes kept out of the batches, with fixed noise.

        And how much of the attention of things' names is on the things.
        """
        shard, found = self._shards[-1], {}
        for kind in KINDS:
            generator = torch.Generator().manual_seed(7)
            rows = [
                (shard, one)
                for row in range(len(shard.rows) - FIXED_ROWS, len(shard.rows))
                if (one := _asked_of(shard, row, kind, generator)) is not None
            ]
            times = torch.linspace(0, len(self._kept) - 1, len(rows)).long()
            with self._probe.installed(self._unet):
                errors, maps, masks = self._answered(rows, times, generator)
            found[f"error_{kind}"] = float(errors.mean())
            if kind == "local":
                found["named_inside"] = float(
                    measures.inside_mass(maps[..., 0], masks[..., 0]).mean()
                )
        return found

    def _answered(
        self, rows: Sequence[tuple[edits.Shard, Asked]], times: Tensor, generator: Generator
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "b n 1"], Float[Tensor, "b n 1"]]:
        """Errors; where the names of things looked, and where the things are (or nothing)."""
        device = self._unet.device
        clean = torch.stack([one.target for _, one in rows]).float()
        noise = torch.randn(clean.shape, generator=generator)
        noise += OFFSET_NOISE * torch.randn(*clean.shape[:2], 1, 1, generator=generator)
        kept = self._kept[times][:, None, None, None]
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        seen = torch.cat([noisy, torch.stack([one.reference for _, one in rows]).float()], dim=1)
        seen = seen.to(device, memory_format=torch.channels_last)
        height, width = clean.shape[-2:]
        self._probe.watch([self._speaker.places(one) for _, one in rows], (height, width))
        spoken = self._speaker([one.prompt for _, one in rows]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._is_half):
            answer = self._unet(seen, times.to(device), spoken).sample.float()
        errors: Tensor = (answer - noise.to(device)).square().mean(dim=(1, 2, 3))
        nowhere = torch.zeros(height, width)
        masks = [nowhere if one.mask is None else shard.masks[one.mask] for shard, one in rows]
        return errors, self._probe.maps(), torch.stack(masks).float().flatten(1)[..., None]


def has_fast_halves(device: torch.device) -> bool:
    """Whether products of bfloat16 are several times faster there than float32's."""
    if device.type != "cpu":
        return device.type == "cuda"
    # Newer than the oldest torch that will do.
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16"))


class Speaker:
    """The text encoder; in one batch it says nothing twice."""

    def __init__(self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> None:
        self._tokenizer, self._encoder = tokenizer, encoder

    def __call__(self, prompts: Sequence[str]) -> Float[Tensor, "b n c"]:
        each = sorted(set(prompts))
        tokens = tokenize(self._tokenizer, each).to(self._encoder.device)
        spoken: Tensor = self._encoder(tokens).last_hidden_state
        return spoken[[each.index(prompt) for prompt in prompts]]

    def places(self, asked: Asked) -> list[tuple[int, ...]]:
        """Of a thing's name among the tokens; of no name none."""
        if asked.span is None:
            return [()]
        return [locate(self._tokenizer, asked.prompt, asked.span, words.MAX_TOKENS)]


def asked(
    scene: edits.Row,
    reference: Tensor,
    targets: Tensor | Sequence[Tensor],
    kind: str,
    generator: Generator,
) -> Asked | None:
    """An instruction, the reference and the answer; None where the scene has no such edit.

    Args:
        targets: Pictures or latents, by the numbers of edits.
    """
    if kind == "identity":
        return Asked(grounds.one_of(IDENTITIES, generator), reference, reference)
    fitting = [edit for edit in scene.edits if (edit.kind == "whole") == (kind == "whole")]
    if not fitting:
        return None
    edit = grounds.one_of(fitting, generator)
    template = grounds.one_of(WHOLES if edit.kind == "whole" else LOCALS[edit.kind], generator)
    look, target = LOOKS.get(edit.look, edit.look), targets[edit.target]
    prompt = template.format(object=edit.thing, style=look)
    if edit.kind == "whole":
        return Asked(prompt, reference, target)
    first = len(template.partition("{object}")[0].format(style=look))
    return Asked(prompt, reference, target, (first, first + len(edit.thing)), edit.mask)


def _asked_of(shard: edits.Shard, row: int, kind: str, generator: Generator) -> Asked | None:
    return asked(shard.rows[row], shard.references[row], shard.targets, kind, generator)


def _dropped(asked: Asked, generator: Generator) -> Asked:
    lot = grounds.uniform(generator)
    if DROP_TEXT <= lot < _DROPPED:
        # Nobody can tell where the thing is, then.
        nothing = torch.zeros_like(asked.reference)
        asked = replace(asked, reference=nothing, span=None, mask=None)
    if lot < DROP_TEXT or DROP_TEXT + DROP_PICTURE <= lot < _DROPPED:
        asked = replace(asked, prompt="", span=None, mask=None)
    return asked


_DROPPED = DROP_TEXT + DROP_PICTURE + DROP_BOTH
