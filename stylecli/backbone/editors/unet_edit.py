"""A UNet that sees the picture to be edited beside the noise (InstructPix2Pix, Brooks et al. 2023).

Its input is ``cat([z_t, E(X)])`` on channels. Times are timesteps; it answers with noise, or with a
velocity where it was trained for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from stylecli.backbone import loading, objective, sampling
from stylecli.backbone.denoisers.layer_sets import layers_of
from stylecli.backbone.editors import delta as deltas
from stylecli.backbone.editors.base import AfterStep, Text
from stylecli.backbone.editors.delta import Reference
from stylecli.backbone.model import Backbone
from stylecli.backbone.probe import unet as probes
from stylecli.backbone.probe.base import twice
from stylecli.backbone.probe.unet import UnetProbe
from stylecli.backbone.registry import DELTA
from stylecli.backbone.sampling import Step
from stylecli.errors import RecipeError, UsageError, WeightsError

# Target sets -> layer sets of UNets.
SETS = {"attn": "attn", "attn2": "attn2", "full": "attn+ff"}


class UnetEdit:
    """`base.Editor` for UNets with twice the channels at their entry.

    Args:
        backbone: The parts; its UNet is widened already.
        native_px: The short side it knows best.
        reference: How it is shown the picture to be edited. Latents are scaled wherever they are
            handed in or out.
    """

    kind: str = "edit-unet"

    def __init__(self, backbone: Backbone, *, native_px: int, reference: Reference) -> None:
        self.backbone = backbone
        self.fingerprint = backbone.fingerprint
        self.model: nn.Module = backbone.unet
        self.tokenizer: Any = backbone.tokenizer
        self.text_length: int = backbone.tokenizer.model_max_length
        self.native_px: int = native_px
        self.multiple_px: int = backbone.multiple_px
        self.device = backbone.device
        self.dtype = backbone.dtype
        self.reference = reference
        self._probe: UnetProbe | None = None

    @cached_property
    def _drawn(self) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"]]:
        schedule = self.backbone.schedule
        return objective.drawn(schedule.signals(), schedule.prediction_type)

    def encode_image(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
        """The posterior's mean, scaled."""
        # A copy from outside inference mode is one that gradients may pass by.
        return self.backbone.encode_image(pixels).clone()

    def decode(self, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
        """As `Editor` says."""
        return self.backbone.decode(latents.to(self.device, torch.float32)).clone()

    def encode_prompt(self, prompts: Sequence[str]) -> Text:
        """As `Editor` says."""
        for prompt, ids in zip(prompts, self.tokenizer(list(prompts)).input_ids, strict=True):
            if len(ids) > self.text_length:
                raise UsageError(
                    f"{prompt!r} has {len(ids)} tokens, and this model reads {self.text_length}",
                    fix="say it in fewer words",
                )
        return Text(self.backbone.encode_prompt(list(prompts)).clone())

    def grid(self, latents: Float[Tensor, "b c lh lw"]) -> tuple[int, int]:
        """Of the finest layer that records unless told otherwise."""
        return probes.finest(self.model, latents)

    def sample_times(
        self, count: int, latents: Float[Tensor, "_b c lh lw"], generator: Generator
    ) -> Float[Tensor, " n"]:
        """Most of them by min-SNR weight, the others evenly; `weight` sets that right."""
        return torch.multinomial(self._drawn[0], count, True, generator=generator).float()

    def noised(self, clean: Tensor, noise: Tensor, times: Float[Tensor, " b"]) -> Tensor:
        """As `Editor` says."""
        return self._pair(clean, noise, times)[0]

    def target(self, clean: Tensor, noise: Tensor, times: Float[Tensor, " b"]) -> Tensor:
        """The noise, or the velocity where the model was trained for it."""
        return self._pair(clean, noise, times)[1]

    def _pair(self, clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        return self.backbone.schedule.noised(clean.float(), noise, times.long())

    def weight(self, times: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The min-SNR weight over what the times were drawn by; of mean 1 over draws."""
        return self._drawn[1][times.long().cpu()].to(times.device)

    def predict(
        self,
        noisy: Float[Tensor, "b c lh lw"],
        times: Float[Tensor, " b"],
        text: Text,
        reference: Float[Tensor, "b c lh lw"],
    ) -> Float[Tensor, "b c lh lw"]:
        """As `Editor` says; in autocast where the model is not float32."""
        return self._answer(noisy.to(self.device), times.long(), text, self._shown(reference))

    def _shown(self, reference: Tensor) -> Tensor:
        scale = 1.0 if self.reference == "scaled" else self.backbone.scaling_factor
        return reference.to(self.device, torch.float32) / scale

    def _answer(self, noisy: Tensor, times: Tensor, text: Text, shown: Tensor) -> Tensor:
        # Gradients keep all rows anyway.
        most = None if torch.is_grad_enabled() else self.backbone.max_rows
        at_once = most or len(noisy)
        words = text.embeds.to(self.device, self.dtype)
        seen = torch.cat([noisy, shown], dim=1)
        answers = []
        for first in range(0, len(seen), at_once):
            rows = slice(first, first + at_once)
            if self._probe is not None:
                self._probe.first = first
            answers.append(objective.answer(self.backbone, seen[rows], times[rows], words[rows]))
        return answers[0] if len(answers) == 1 else torch.cat(answers)

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
        """DDIM with eta 0 from each row's own noise.

        ``e(0,0) + s_I (e(0,X) - e(0,0)) + s_T (e(T,X) - e(0,X))`` (InstructPix2Pix eq. 3), of which
        only what counts is computed: one row a picture where both are 1, two where one drops out.
        """
        schedule = self.backbone.schedule
        levels = schedule.levels(steps)
        shown = self._shown(reference)
        count = len(shown)
        # The instruction's rows come first: a probe's maps are of them.
        branches = [(guidance, text.embeds, shown)]
        if guidance != image_guidance or image_guidance != 1:
            empty = self.encode_prompt([""]).embeds.expand(count, -1, -1)
            others = [
                (image_guidance - guidance, empty, shown),
                (1 - image_guidance, empty, torch.zeros_like(shown)),
            ]
            branches += [branch for branch in others if branch[0] != 0]
        shares = [share for share, _, _ in branches]
        words = Text(torch.cat([embeds.to(self.device) for _, embeds, _ in branches]))
        pictures = torch.cat([picture for _, _, picture in branches])

        def predict(latents: Tensor, step: Step) -> Tensor:
            rows = latents.repeat(len(branches), 1, 1, 1)
            times = torch.full((len(rows),), step.timestep)
            answers: Sequence[Tensor] = self._answer(rows, times, words, pictures).split(count)
            if len(answers) == 1:
                return answers[0]
            parts = [share * answer for share, answer in zip(shares, answers, strict=True)]
            return torch.stack(parts).sum(0)

        each = [
            torch.randn(shown[:1].shape, generator=Generator().manual_seed(seed)) for seed in seeds
        ]
        latents = torch.cat(each).to(self.device)
        for step, reached in sampling.denoise(latents, predict, schedule, levels):
            latents = reached
            if after is not None:
                after(step.index + 1, float(step.timestep))
        return latents.clone()

    def layers(self, target_set: str) -> tuple[str, ...]:
        """As `Editor` says."""
        if target_set not in SETS:
            raise RecipeError(
                f"route.lora.targets {target_set}: a UNet has {', '.join(SETS)}",
                fix="--set route.lora.targets=attn",
            )
        config = self.backbone.unet.config
        return tuple(layer.path for layer in layers_of("unet", config, SETS[target_set]))

    @contextmanager
    def probing(self, layers: str = "auto") -> Iterator[UnetProbe]:
        """As `Editor` says; auto is the middle and the decoder. One probe at a time."""
        if self._probe is not None:
            raise RuntimeError("a probe is open already")
        probe = UnetProbe(probes.chosen(self.model, layers))
        with probe.installed(self.model):
            self._probe = probe
            try:
                yield probe
            finally:
                self._probe = None

    def checkpointing(self, *, on: bool) -> None:
        """As `Editor` says."""
        if on:
            self.backbone.unet.enable_gradient_checkpointing(self._twice)
        else:
            self.backbone.unet.disable_gradient_checkpointing()

    def _twice(self, block: nn.Module, *inputs: object) -> Any:
        return twice(self._probe, block, *inputs)

    def release(self, part: Literal["text", "vae"]) -> None:
        """Nothing: these parts are small."""


def fingerprint(folder: Path, delta: Path | None) -> str:
    """One digest for a model's files and for the changes to it.

    Raises:
        WeightsError: The changes are not there.
    """
    base = loading.fingerprint(folder)
    if delta is None:
        return base
    file = delta / DELTA
    if not file.is_file():
        raise WeightsError(f"{file} is missing", fix=deltas.REMEDY)
    with file.open("rb") as stream:
        own = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashlib.sha256(f"{base} {own}\n".encode()).hexdigest()[:16]


def load(
    name: str,
    folder: Path,
    *,
    delta: Path | None = None,
    fingerprint: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    is_resident: bool = True,
) -> UnetEdit:
    """Load an editor from a diffusers folder, or from that of a UNet and the changes to it.

    Args:
        name: For messages and provenance.
        folder: From `stylecli.backbone.registry.snapshot`.
        delta: Folder of the changes; None where the UNet is an editor by itself.
        fingerprint: Of both.
        device: Where it computes.
        dtype: Of the UNet and the text encoder.
        variant: Weight file variant, such as fp16.
        is_resident: As `stylecli.backbone.loading.load` says.

    Raises:
        WeightsError: Files missing or damaged, changes of another model, or a UNet that sees no
            second picture.
    """
    read = None if delta is None else deltas.read(delta / DELTA)
    backbone = loading.load(
        name,
        folder,
        fingerprint=fingerprint,
        device=device,
        dtype=dtype,
        variant=variant,
        is_resident=is_resident,
        is_editor=True,
    )
    if read is not None and delta is not None:
        base = loading.fingerprint(folder)
        encoder = backbone.text_encoder
        deltas.apply(backbone.unet, encoder, read, delta / DELTA, base_fingerprint=base)
        backbone.lay_out(channels_last=backbone.channels_last)
    config = backbone.unet.config
    seen, latent = config.in_channels, backbone.vae.config.latent_channels
    if seen != 2 * latent:
        raise WeightsError(
            f"{name}: its UNet sees {seen} channels, and an editor sees {2 * latent}",
            fix="give a model of the InstructPix2Pix layout",
        )
    if read is not None:
        return UnetEdit(backbone, native_px=read.native_px, reference=read.reference)
    native_px = int(config.sample_size * backbone.latent_px)
    return UnetEdit(backbone, native_px=native_px, reference="unscaled")
