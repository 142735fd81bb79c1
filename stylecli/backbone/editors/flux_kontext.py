"""FLUX.1-Kontext: a transformer that sees text, target and reference as one sequence of tokens.

Told sigma, it answers with ``eps - x`` for every picture token; what it says of the reference is
left out. Text encoders and autoencoder are loaded when they are first asked, and can be let go
again: with what they said in a cache, training never sees them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from stylecli.backbone import transformer_files
from stylecli.backbone.denoisers.flow import visited
from stylecli.backbone.denoisers.parts import flow_scheduler, pictures
from stylecli.backbone.editors import kontext_layout as layout
from stylecli.backbone.editors.base import AfterStep, Text
from stylecli.backbone.editors.kontext_text import Encoders, t5_tokenizer
from stylecli.backbone.loading import load_part
from stylecli.backbone.probe import flux
from stylecli.backbone.probe.base import twice
from stylecli.errors import RecipeError, WeightsError
from stylecli.recipe.strict import Quantize

# Tokens of a prompt, where nobody says; T5 was trained with as many.
TEXT_LENGTH = 512
# The guidance a distilled model is told of in training: none (as in the authors' code).
IN_TRAINING = 1.0


class FluxKontext:
    """`base.Editor` for ``FluxTransformer2DModel``; times are sigmas in (0, 1].

    Attributes:
        quantize: In how many bits its frozen weights are.
    """

    kind: str = "flux1-kontext"
    native_px: int = 1024

    def __init__(
        self,
        model: Any,
        folder: Path,
        *,
        fingerprint: str,
        device: torch.device,
        dtype: torch.dtype,
        text_length: int,
        quantize: Quantize,
        variant: str | None,
    ) -> None:
        self.model: nn.Module = model
        self.fingerprint = fingerprint
        self.device = device
        self.dtype = dtype
        self.text_length = text_length
        self.quantize = quantize
        self._folder = folder
        self._variant = variant
        self._scheduler = flow_scheduler(folder)
        self._config: Mapping[str, Any] = model.config
        self._probe: flux.FluxProbe | None = None

    @cached_property
    def tokenizer(self) -> Any:
        """T5's, whose tokens attention sees."""
        return t5_tokenizer(self._folder)

    @cached_property
    def multiple_px(self) -> int:
        """Sides of a token; the autoencoder's config alone is read."""
        try:
            said = json.loads((self._folder / "vae" / "config.json").read_bytes())
            return int(layout.PATCH * 2 ** (len(said["block_out_channels"]) - 1))
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise WeightsError(
                f"{self._folder.name}: vae/config.json cannot be read",
                fix="copy or pull the folder again",
            ) from error

    @cached_property
    def _vae(self) -> Any:
        from diffusers import AutoencoderKL

        # In half precision it overflows.
        vae = load_part(AutoencoderKL, self._folder, "vae", torch.float32, self._variant)
        return vae.requires_grad_(False).eval().to(self.device)

    @cached_property
    def _text(self) -> Encoders:
        return Encoders.load(
            self._folder, device=self.device, dtype=self.dtype, variant=self._variant
        )

    def release(self, part: Literal["text", "vae"]) -> None:
        """Free the memory of the text encoders or the autoencoder; asked again, they are loaded."""
        self.__dict__.pop(f"_{part}", None)

    @torch.no_grad()
    def encode_image(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
        """As `Editor` says: the posterior's mode, a picture at a time."""
        said = self._vae.config
        seen = [
            self._vae.encode(one.to(self.device, torch.float32) * 2 - 1).latent_dist.mode()
            for one in pixels.split(1)
        ]
        latents: Tensor = (torch.cat(seen) - said.shift_factor) * said.scaling_factor
        return latents

    def decode(self, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
        """As `Editor` says, a picture at a time."""
        said = self._vae.config
        cells = latents.to(self.device, torch.float32) / said.scaling_factor + said.shift_factor
        return torch.cat([pictures(self._vae, one) for one in cells.split(1)])

    def encode_prompt(self, prompts: Sequence[str]) -> Text:
        """As `Editor` says."""
        return self._text.encode(prompts, self.text_length)

    def grid(self, latents: Float[Tensor, "b c lh lw"]) -> tuple[int, int]:
        """As `Editor` says: tokens down and across."""
        return latents.shape[-2] // layout.PATCH, latents.shape[-1] // layout.PATCH

    def _mu(self, latents: Tensor) -> float:
        rows, columns = self.grid(latents)
        return layout.shift_of(rows * columns, self._scheduler.config)

    def sample_times(
        self, count: int, latents: Float[Tensor, "_b c lh lw"], generator: Generator
    ) -> Float[Tensor, " n"]:
        """Sigmas as its own sampler visits them for pictures of this size, logit-normal."""
        return layout.drawn_sigmas(count, self._mu(latents), generator)

    def noised(self, clean: Tensor, noise: Tensor, times: Float[Tensor, " b"]) -> Tensor:
        """The place on the line from the picture to noise."""
        sigmas = times.to(clean.device, torch.float32).view(-1, *[1] * (clean.ndim - 1))
        return (1 - sigmas) * clean.float() + sigmas * noise

    def target(self, clean: Tensor, noise: Tensor, times: Float[Tensor, " b"]) -> Tensor:
        """The line's direction, the same at all times."""
        return noise - clean.float()

    def weight(self, times: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """As `Editor` says: ones."""
        return torch.ones_like(times)

    def predict(
        self,
        noisy: Float[Tensor, "b c lh lw"],
        times: Float[Tensor, " b"],
        text: Text,
        reference: Float[Tensor, "b c lh lw"],
    ) -> Float[Tensor, "b c lh lw"]:
        """As `Editor` says, with the guidance of training."""
        return self._answer(noisy, times, text, reference, IN_TRAINING)

    def _answer(
        self,
        noisy: Float[Tensor, "b c lh lw"],
        times: Float[Tensor, " b"],
        text: Text,
        reference: Float[Tensor, "b c lh lw"],
        guidance: float,
    ) -> Float[Tensor, "b c lh lw"]:
        grid = self.grid(noisy)
        both = torch.cat([layout.packed(noisy), layout.packed(reference)], dim=1)
        ids = torch.cat([layout.places(grid, 0), layout.places(grid, 1)])
        told = None
        if self._config["guidance_embeds"]:
            told = torch.full((len(noisy),), guidance, device=self.device)
        # LoRAs are float32 on weights of any type; here they compute in the model's.
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            answer = self.model(
                hidden_states=both.to(self.device, self.dtype),
                encoder_hidden_states=text.embeds.to(self.device, self.dtype),
                pooled_projections=_pooled(text).to(self.device, self.dtype),
                timestep=times.to(self.device, torch.float32),
                guidance=told,
                img_ids=ids.to(self.device),
                txt_ids=torch.zeros(text.embeds.shape[1], 3, device=self.device),
                return_dict=False,
            )[0]
        return layout.unpacked(answer[:, : grid[0] * grid[1]].float(), grid)

    @torch.no_grad()
    def edit(
        self,
        reference: Float[Tensor, "b c lh lw"],
        text: Text,
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        image_guidance: float = 1.0,
        after: AfterStep | None = None,
    ) -> Float[Tensor, "b c lh lw"]:
        """As `Editor` says: Euler's method over the pipeline's own noise levels.

        Raises:
            RecipeError: Guidance of the picture, or of the text in a model that is told of none.
        """
        self._check_guidance(guidance, image_guidance)
        each = [
            torch.randn((1, *reference.shape[1:]), generator=Generator().manual_seed(seed))
            for seed in seeds
        ]
        latents = torch.cat(each).to(self.device)
        levels = visited(self._scheduler, steps, self._mu(latents))
        for done, (sigma, reached) in enumerate(pairwise(levels), start=1):
            times = torch.full((len(latents),), sigma)
            answer = self._answer(latents, times, text, reference.to(self.device), guidance)
            latents = latents + (reached - sigma) * answer
            if after is not None:
                after(done, sigma)
        return latents

    def _check_guidance(self, guidance: float, image_guidance: float) -> None:
        if image_guidance != 1:
            raise RecipeError(
                f"route.apply.image_guidance {image_guidance:g}: FLUX.1-Kontext sees the picture "
                "in its only pass, and has no such guidance",
                fix="--set route.apply.image_guidance=1",
            )
        if guidance != 1 and not self._config["guidance_embeds"]:
            raise RecipeError(
                f"route.apply.guidance {guidance:g}: this model was not distilled with guidance",
                fix="--set route.apply.guidance=1",
            )

    def layers(self, target_set: str) -> tuple[str, ...]:
        """As `Editor` says."""
        return layout.paths(self.model, target_set)

    @contextmanager
    def probing(self, layers: str = "auto") -> Iterator[flux.FluxProbe]:
        """As `Editor` says; auto is all layers."""
        with flux.probing(
            self.model,
            layers,
            text_length=self.text_length,
            device=self.device,
            dtype=self.dtype,
        ) as probe:
            self._probe = probe
            try:
                yield probe
            finally:
                self._probe = None

    def checkpointing(self, *, on: bool) -> None:
        """As `Editor` says."""
        model: Any = self.model
        if on:
            model.enable_gradient_checkpointing(self._twice)
        else:
            model.disable_gradient_checkpointing()

    def _twice(self, block: nn.Module, *inputs: object) -> Any:
        return twice(self._probe, block, *inputs)


def load(
    name: str,
    folder: Path,
    *,
    fingerprint: str,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    text_length: int | None = None,
    quantize: Quantize = "none",
    variant: str | None = None,
    file: Path | None = None,
) -> FluxKontext:
    """Load FLUX.1-Kontext from a local diffusers folder, frozen and strictly.

    Args:
        name: For messages.
        folder: From `stylecli.backbone.registry.snapshot`.
        fingerprint: Of that folder.
        device: Where it computes.
        dtype: Of transformer and text encoders; the autoencoder is float32.
        text_length: Tokens of every prompt, padded; default: 512, as T5 was trained.
        quantize: In how many bits the transformer's frozen weights are kept.
        variant: Weight file variant, such as fp16.
        file: What has the transformer's weights instead of the folder.

    Raises:
        RecipeError: More tokens than the model was trained with.
        UsageError: A quantization that this machine has no means for.
        WeightsError: Missing, damaged or of another model.
    """
    from diffusers import FluxTransformer2DModel
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    length = TEXT_LENGTH if text_length is None else text_length
    if length > TEXT_LENGTH:
        raise RecipeError(
            f"route.text_length {length}: {name} reads {TEXT_LENGTH} tokens at most",
            fix=f"--set route.text_length={TEXT_LENGTH}",
        )
    model = transformer_files.load(
        FluxTransformer2DModel,
        folder,
        dtype,
        variant=variant,
        file=file,
        quantize=quantize,
        device=device,
    )
    return FluxKontext(
        model.requires_grad_(False).eval().to(device),
        folder,
        fingerprint=fingerprint,
        device=device,
        dtype=dtype,
        text_length=length,
        quantize=quantize,
        variant=variant,
    )


def _pooled(text: Text) -> Float[Tensor, "b pooled"]:
    if text.pooled is None:
        raise ValueError("FLUX also reads one vector a prompt, and this text has none")
    return text.pooled
