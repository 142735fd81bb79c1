"""What pocket's editor learns by.

Errors of noise, at times that `objective.drawn` favours; and, as large editors know what
instructions name and this one is small, where named things are: the attention of a name is to lie
on its thing (as TokenCompose, Wang et al. 2024, has it), and each thing is to ask for its own name.
Where a style's words look is left to experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from stylecli.backbone import objective
from stylecli.backbone.probe import unet as probes
from stylecli.methods.regionroute import losses, measures
from stylecli.methods.regionroute.spans import locate
from stylecli.pocket import edits, loop, naming, words
from stylecli.pocket.asking import KINDS, Asked, Sentence, asked, dropped, unnamed
from stylecli.pocket.changes import Changes
from stylecli.pocket.diffusion import OFFSET_NOISE, scheduler, tokenize
from stylecli.tensors import grounds

FIXED_ROWS = 48
# Of attention, a tenth of RegionRoute's (eq. 4), for one whose names are known: at the full weights
# five sixths of the loss is attention, and pictures pay for it. Names are learned first, with
# (0.05, 0.1, 0.5): with a fifth of that hardly any was told from another in 900 steps.
FOCUS, COVER, NAMING = 0.01, 0.02, 0.02
# How often what needs no names is asked of things without one.
OTHERS = 0.6


@dataclass(frozen=True, slots=True, eq=False)
class _Thing:
    """Something seen in a row of a batch, of which its own instruction says nothing."""

    row: int
    mask: Float[Tensor, "h w"]
    sentence: Sentence

    @property
    def name(self) -> str:
        return self.sentence.text[slice(*(self.sentence.span or (0, 0)))]


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
        others: Sequence[edits.Shard] = (),
    ) -> None:
        """The end of the last shard is kept out of the batches.

        Args:
            unet: What `changes` change.
            others: Scenes of things whose names are not learned: restyled as a whole, or left.
        """
        self._unet, self._changes, self._speaker = unet, changes, speaker
        self._shards, self._others, self._batch = shards, others, batch
        self._probe = naming.NamingProbe(probes.chosen(unet, "auto"))
        self._kept = scheduler().alphas_cumprod
        self._is_half = has_fast_halves(unet.device)
        self._chances, self._counts = objective.drawn(self._kept)

    @property
    def module(self) -> Changes:
        return self._changes

    def losses(self, progress: float, generator: Generator) -> loop.Losses:
        kinds, chances = list(KINDS), torch.tensor(list(KINDS.values()))
        rows: list[tuple[edits.Shard, Asked]] = []
        things: list[_Thing] = []
        while len(rows) < self._batch:
            kind = kinds[int(torch.multinomial(chances, 1, generator=generator))]
            is_other = bool(self._others) and kind != "local" and grounds.flip(OTHERS, generator)
            shard = grounds.one_of(self._others if is_other else self._shards, generator)
            count = len(shard.rows) - FIXED_ROWS * (shard is self._shards[-1])
            row = int(torch.randint(count, (), generator=generator))
            if (one := _asked_of(shard, row, kind, generator)) is None:
                continue
            one = dropped(one, generator)
            if one.reference.any() and not is_other:
                others = unnamed(shard.rows[row], one.sentence, generator)
                things += [
                    _Thing(len(rows), shard.masks[other.mask].float(), other) for other in others
                ]
            rows.append((shard, one))
        times = torch.multinomial(self._chances, self._batch, True, generator=generator)
        with self._probe.installed(self._unet):
            errors, maps, masks = self._answered(rows, times, generator)
            names = self._named(things)
        found = losses.attention(maps, masks, masks.any(dim=1), losses.Forms())
        return {
            "loss": (errors * self._counts[times].to(errors.device)).mean(),
            "focus": FOCUS * found.focus,
            "cover": COVER * found.cover,
            "naming": NAMING * names,
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

    def _named(self, things: Sequence[_Thing]) -> Float[Tensor, ""]:
        """Of the last pass."""
        if not things:
            return torch.zeros(())
        spoken = self._speaker([one.sentence.text for one in things])
        shares = torch.zeros(spoken.shape[:2])
        for place, one in enumerate(things):
            (own,) = self._speaker.places(one.sentence)
            shares[place, list(own)] = 1 / len(own)
        device = self._unet.device
        scores = self._probe.scores(
            self._unet,
            [one.row for one in things],
            torch.stack([one.mask for one in things]).to(device),
            spoken.to(device),
            shares.to(device),
        )
        return naming.loss(scores.float().cpu(), [one.name for one in things])

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
        self._probe.watch([self._speaker.places(one.sentence) for _, one in rows], (height, width))
        spoken = self._speaker([one.sentence.text for _, one in rows]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._is_half):
            answer = self._unet(seen, times.to(device), spoken).sample.float()
        errors: Tensor = (answer - noise.to(device)).square().mean(dim=(1, 2, 3))
        nowhere = torch.zeros(height, width)
        masks = [_mask(shard, one.sentence, nowhere) for shard, one in rows]
        return errors, self._probe.maps(), torch.stack(masks).float().flatten(1)[..., None]


def _mask(shard: edits.Shard, sentence: Sentence, nowhere: Tensor) -> Float[Tensor, "h w"]:
    return nowhere if sentence.mask is None else shard.masks[sentence.mask]


def _asked_of(shard: edits.Shard, row: int, kind: str, generator: Generator) -> Asked | None:
    return asked(shard.rows[row], shard.references[row], shard.targets, kind, generator)


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

    def places(self, sentence: Sentence) -> list[tuple[int, ...]]:
        """Of a thing's name among the tokens; of no name none."""
        if sentence.span is None:
            return [()]
        return [locate(self._tokenizer, sentence.text, sentence.span, words.MAX_TOKENS)]
