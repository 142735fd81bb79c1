"""Z-Image: a transformer that is told how clean a picture is, and answers with ``x - eps``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.denoisers.flow import Flow, visited
from stylecli.backbone.denoisers.parts import flow_scheduler, pictures
from stylecli.backbone.denoisers.qwen import Qwen
from stylecli.backbone.model import load_part

# Cells of the latent that make one token, a side.
PATCH = 2
# The state before the last layer.
TEXT_LAYERS = (-2,)


class ZImage(Flow):
    """`base.Denoiser` for ``ZImageTransformer2DModel``. Pictures pass as a list of their own."""

    kind = "z-image"
    # The stock pipeline asks for both sides in one batch, and its scale counts from the other end:
    # pos + g (pos - neg), so the paper's s is g + 1.
    shift = 3.0
    answers = -1

    def __init__(
        self,
        model: Any,
        vae: Any,
        text: Qwen,
        scheduler: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(model, device=device, dtype=dtype)
        self._vae = vae
        self._text = text
        self._scheduler = scheduler

    @classmethod
    def load(
        cls, folder: Path, *, device: torch.device, dtype: torch.dtype, variant: str | None = None
    ) -> ZImage:
        """Frozen, from a diffusers folder.

        Raises:
            WeightsError: Missing, damaged or of another model.
        """
        from diffusers import AutoencoderKL, ZImageTransformer2DModel

        scheduler = flow_scheduler(folder)
        model = load_part(ZImageTransformer2DModel, folder, "transformer", dtype, variant)
        vae = load_part(AutoencoderKL, folder, "vae", torch.float32, variant)
        text = Qwen.load(folder, device=device, dtype=dtype, thinks=True, is_padded=False)
        for part in (model, vae):
            part.requires_grad_(False).eval().to(device)
        return cls(model, vae, text, scheduler, device=device, dtype=dtype)

    @property
    def multiple_px(self) -> int:
        return PATCH * self._cell_px

    @property
    def _cell_px(self) -> int:
        return int(2 ** (len(self._vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode_target(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
        said = self._vae.config
        seen = self._vae.encode(pixels.to(self.device, torch.float32) * 2 - 1).latent_dist.mode()
        cells: Tensor = (seen - said.shift_factor) * said.scaling_factor
        return cells

    def encode_prompt(self, prompts: Sequence[str]) -> list[Tensor]:
        return [self._text.states(prompt, TEXT_LAYERS)[0] for prompt in prompts]

    def predict(
        self,
        noised: Float[Tensor, "b c h w"],
        times: Float[Tensor, " b"],
        prompts: Sequence[Tensor],
    ) -> Float[Tensor, "b c h w"]:
        """Told 1 - sigma: how clean, not how noisy."""
        # One frame each.
        rows = list(noised.to(self.device, self.dtype).unsqueeze(2))
        words = [prompt.to(self.device, self.dtype) for prompt in prompts]
        clean = 1 - times.to(self.device, torch.float32)
        answers = self.model(rows, clean, words, return_dict=False)[0]
        return torch.stack([answer.squeeze(1) for answer in answers]).float()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
        said = self._vae.config
        cells = latents.to(self.device, torch.float32) / said.scaling_factor + said.shift_factor
        return pictures(self._vae, cells)

    def sigmas(self, steps: int, latents: Float[Tensor, "b c h w"]) -> list[float]:
        tokens = (latents.shape[-2] // PATCH) * (latents.shape[-1] // PATCH)
        said = self._scheduler.config
        slope = (said.max_shift - said.base_shift) / (
            said.max_image_seq_len - said.base_image_seq_len
        )
        mu = said.base_shift + slope * (tokens - said.base_image_seq_len)
        return visited(self._scheduler, steps, mu)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        model: Any = self.model
        return model.config.in_channels, size[0] // self._cell_px, size[1] // self._cell_px
