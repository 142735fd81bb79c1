"""Stable Diffusion and pocket: a UNet over timesteps, which answers with noise or a velocity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from stylecli.backbone import objective, sampling
from stylecli.backbone.denoisers.base import Applied, Weighting
from stylecli.backbone.denoisers.layer_sets import layers_of
from stylecli.backbone.linears import Layer
from stylecli.backbone.model import Backbone
from stylecli.backbone.sampling import Step, guided
from stylecli.errors import RecipeError


class StableDiffusion:
    """`base.Denoiser` for `Backbone`. Times are timesteps."""

    kind: str = "unet"
    negative_prompt: str = ""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.model: nn.Module = backbone.unet
        self.device = backbone.device
        self.dtype = backbone.dtype

    @property
    def native_px(self) -> int:
        return int(self._backbone.unet.config.sample_size * self._backbone.latent_px)

    @property
    def multiple_px(self) -> int:
        return self._backbone.multiple_px

    def layers(self, layer_set: str) -> tuple[Layer, ...]:
        """As `Denoiser` says."""
        return layers_of(self.kind, self._backbone.unet.config, layer_set)

    def encode_target(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
        """The posterior's mean."""
        # A copy from outside inference mode is one that gradients may pass by.
        return self._backbone.encode_image(pixels).clone()

    def encode_prompt(self, prompts: Sequence[str]) -> list[Tensor]:
        """All of the tokenizer's length."""
        return list(self._backbone.encode_prompt(list(prompts)).clone())

    def sample_times(
        self, count: int, generator: Generator, *, shift: float | None = None
    ) -> Float[Tensor, " b"]:
        """Timesteps of training, all equally often.

        Raises:
            RecipeError: A shift, which these models have none of.
        """
        if shift is not None:
            raise RecipeError(
                "i2l.train.time_shift is for flow matching, and this model counts timesteps",
                fix="--set i2l.train.time_shift=null",
            )
        total = self._backbone.schedule.total
        return torch.randint(0, total, (count,), generator=generator).float()

    def draw_noise(self, like: Tensor, generator: Generator) -> Tensor:
        """As `Denoiser` says."""
        return torch.randn(like.shape, generator=generator).to(like.device)

    def noised(self, clean: Tensor, noise: Tensor, times: Float[Tensor, " b"]) -> Tensor:
        """As `Denoiser` says."""
        return self._pair(clean, noise, times)[0]

    def target(self, clean: Tensor, noise: Tensor, times: Float[Tensor, " b"]) -> Tensor:
        """The noise, or the velocity where the model was trained for it."""
        return self._pair(clean, noise, times)[1]

    def _pair(self, clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        return self._backbone.schedule.noised(clean.float(), noise, times.long())

    def predict(
        self,
        noised: Float[Tensor, "b c h w"],
        times: Float[Tensor, " b"],
        prompts: Sequence[Tensor],
    ) -> Float[Tensor, "b c h w"]:
        """As in training of a LoRA: in autocast where the model is not float32."""
        words = torch.stack([prompt.to(self.device, self.dtype) for prompt in prompts])
        return objective.answer(self._backbone, noised.to(self.device), times.long(), words)

    def weight(
        self, times: Float[Tensor, " b"], kind: Weighting, *, shift: float | None = None
    ) -> Float[Tensor, " b"]:
        """1, or ``min(SNR, 1) / SNR`` (Hang et al. 2023), of mean 1 over all timesteps.

        Raises:
            RecipeError: The weighting of another kind of model.
        """
        if kind == "none":
            return torch.ones_like(times)
        if kind != "min-snr":
            raise RecipeError(
                f"i2l.train.loss_weight {kind} is for flow matching, and this model counts "
                "timesteps",
                fix="--set i2l.train.loss_weight=min-snr, or none",
            )
        kept = self._backbone.schedule.signals()
        ratio = kept / (1 - kept)
        # Of noise; an error of a velocity is one of noise, and SNR more.
        own = ratio.clamp(max=1) / ratio
        if self._backbone.schedule.prediction_type == "v_prediction":
            own = own * ratio / (ratio + 1)
        return (own / own.mean())[times.long().cpu()].to(times.device)

    def decode(self, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
        """As `Denoiser` says."""
        return self._backbone.decode(latents.to(self.device, torch.float32)).clone()

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Tensor],
        negatives: Sequence[Tensor],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        applied: Applied,
        size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """DDIM with eta 0, each side in a call of its own."""
        model = self._backbone
        cells = [side // model.latent_px for side in size or (self.native_px, self.native_px)]
        like = torch.empty(1, model.unet.config.in_channels, *cells)
        each = [self.draw_noise(like, Generator().manual_seed(seed)) for seed in seeds]

        def predict(latents: Tensor, step: Step) -> Tensor:
            times = torch.full((len(latents),), float(step.timestep))
            with applied("pos"):
                output = self.predict(latents, times, prompts)
            if guidance == 1:
                return output
            with applied("neg"):
                return guided(self.predict(latents, times, negatives), output, guidance)

        latents = torch.cat(each).to(self.device)
        levels = model.schedule.levels(steps)
        for _, reached in sampling.denoise(latents, predict, model.schedule, levels):
            latents = reached
        return self.decode(latents)

    def checkpointing(self, *, on: bool) -> None:
        """As `Denoiser` says."""
        if on:
            self._backbone.unet.enable_gradient_checkpointing()
        else:
            self._backbone.unet.disable_gradient_checkpointing()
