"""Transformers for flow matching, asked as painting asks UNets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stylecli.backbone import anatomies, denoisers
from stylecli.backbone.denoisers.flow import GRID
from stylecli.backbone.denoisers.latent_flow import PATCH, LatentFlow, cell_px
from stylecli.backbone.denoisers.parts import flow_scheduler
from stylecli.backbone.denoisers.qwen import MOST_TOKENS
from stylecli.backbone.exchange import Exchange
from stylecli.backbone.flow_schedule import FlowSchedule
from stylecli.backbone.loading import COPY_AGAIN, json_of
from stylecli.backbone.model import Backbone
from stylecli.backbone.registry import Source
from stylecli.errors import WeightsError
from stylecli.recipe.schema import Injection
from stylecli.recipe.strict import Quantize


@dataclass(eq=False)
class FlowBackbone(Backbone):
    """A flow's parts, as `Backbone` has them; ``unet`` is the transformer.

    Prompts of one model may differ in length, and tensors of them may not: shorter ones end in rows
    of zeros, which no text encoder gives, and which are cut off before the model sees them.

    Attributes:
        flow: What knows how the model is asked.
    """

    flow: LatentFlow = field(kw_only=True)

    @property
    def parts(self) -> dict[str, Sequence[nn.Module]]:
        return {"text encoder": [self.text_encoder], "vae": [self.vae], "unet": [self.unet]}

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return [
            self.unet.get_submodule(block.path) for block in anatomies.anatomy_of(self.unet).blocks
        ]

    def exchange(self, injection: Injection) -> Exchange:
        return anatomies.exchange(self.unet, injection)

    def reads(self, prompt: str) -> tuple[int, int]:
        return self.flow.text.length(prompt), MOST_TOKENS

    @property
    def words_shape(self) -> tuple[int, int]:
        return MOST_TOKENS, self.flow.words_width

    @property
    def scaling_factor(self) -> float:
        """Of the autoencoder's config, where it has one: part of what names a trajectory."""
        return float(getattr(self.vae.config, "scaling_factor", 1.0))

    @property
    def latent_px(self) -> int:
        return self.multiple_px // self.flow.cells_per_token

    @property
    def multiple_px(self) -> int:
        return self.flow.multiple_px

    @property
    def latent_channels(self) -> int:
        return self.flow.latent_shape((self.multiple_px, self.multiple_px))[0]

    @torch.inference_mode()
    def posterior(
        self, images: Float[Tensor, "b 3 height width"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        at_once = self.max_rows or len(images)
        means, deviations = zip(*map(self.flow.posterior, images.split(at_once)), strict=True)
        return torch.cat(means), torch.cat(deviations)

    @torch.inference_mode()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        at_once = self.max_rows or len(latents)
        return torch.cat([self.flow.decode(some) for some in latents.split(at_once)])

    def lay_out(self, *, channels_last: bool) -> None:
        """Nothing: what is large here has no channels of pictures."""
        self.channels_last = channels_last

    @torch.inference_mode()
    def encode_prompt(self, prompts: list[str]) -> Float[Tensor, "b tokens width"]:
        """Prompt embeddings, each ending in zeros up to the most that the model reads."""
        found = [one.to(self.dtype) for one in self.flow.encode_prompt(prompts)]
        longest = found[0].new_zeros(MOST_TOKENS, found[0].shape[1])
        return pad_sequence([*found, longest], batch_first=True)[:-1]

    def call(
        self,
        latents: Float[Tensor, "b _seen h w"],
        timesteps: int | Int[Tensor, " b"],
        prompt_embeds: Float[Tensor, "b tokens width"],
    ) -> Float[Tensor, "b c h w"]:
        rows = len(latents)
        times = torch.as_tensor(timesteps, dtype=torch.float32).expand(rows) / GRID
        if prompt_embeds.is_meta:  # where nothing is said, all that could be is counted
            return self.flow.predict(latents, times, list(prompt_embeds))
        lengths = prompt_embeds.any(dim=-1).sum(dim=-1).tolist()
        words = [row[:length] for row, length in zip(prompt_embeds, lengths, strict=True)]
        return self.flow.predict(latents, times, words)


def load(
    source: Source,
    folder: Path,
    *,
    fingerprint: str,
    device: torch.device,
    dtype: torch.dtype,
    size_px: int,
    variant: str | None = None,
    quantize: Quantize = "none",
) -> FlowBackbone:
    """Load a flow for painting, strictly.

    Args:
        source: Which; its kind is one of `stylecli.backbone.registry.FLOWS`.
        folder: From `stylecli.backbone.registry.snapshot`.
        fingerprint: Of that folder.
        device: Where it computes.
        dtype: Of the transformer and the text encoder.
        size_px: Short side of the pictures that are to be made; see `schedule`.
        variant: Weight file variant, such as bf16.
        quantize: How the frozen weights of the transformer and the text encoder are kept.

    Raises:
        UsageError: This machine cannot quantise so.
        WeightsError: Missing, damaged or of another model.
    """
    flow: Any = denoisers.open(
        source, folder, device=device, dtype=dtype, variant=variant, quantize=quantize
    )
    made = of(flow, name=Path(source.name).name, fingerprint=fingerprint, size_px=size_px)
    made.quantize = quantize
    return made


def of(flow: LatentFlow, *, name: str, fingerprint: str, size_px: int) -> FlowBackbone:
    """A flow that is there already, for painting; see `load`."""
    return FlowBackbone(
        name=name,
        fingerprint=fingerprint,
        unet=flow.model,
        vae=flow.vae,
        text_encoder=flow.text.model,
        tokenizer=flow.text.tokenizer,
        schedule=_schedule(type(flow), flow.scheduler, flow.vae.config, size_px),
        device=flow.device,
        dtype=flow.dtype,
        flow=flow,
    )


def schedule(source: Source, folder: Path, size_px: int) -> FlowSchedule:
    """The noise levels of a model, of which only configs are read.

    Its own sampler shifts them by the size of the picture. Here they are those of a square of
    `size_px` for pictures of any shape, so that whatever is made in one run has the same levels.

    Raises:
        WeightsError: A config is missing or of another model.
    """
    vae = json_of(folder, "vae/config.json")
    if "block_out_channels" not in vae:
        raise WeightsError(
            f"{folder.name}: vae/config.json has no block_out_channels", fix=COPY_AGAIN
        )
    found = denoisers.latent_flow(source.kind)
    return _schedule(found, flow_scheduler(folder), vae, size_px)


def _schedule(flow: type[LatentFlow], scheduler: Any, vae: Any, size_px: int) -> FlowSchedule:
    side = size_px // (PATCH * cell_px(vae))
    said = json.dumps(dict(scheduler.config), sort_keys=True, default=str)
    return FlowSchedule(
        sigmas=partial(flow.visits, scheduler, tokens=side * side),
        answers=flow.answers,
        shift=flow.shift,
        config={
            "kind": flow.kind,
            "tokens": side * side,
            "scheduler": hashlib.sha256(said.encode()).hexdigest()[:16],
        },
    )
