"""Z-Image: a transformer that is told how clean a picture is, and answers with ``x - eps``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone import transformer_files
from stylecli.backbone.denoisers.flow import visited
from stylecli.backbone.denoisers.latent_flow import PATCH, LatentFlow
from stylecli.backbone.denoisers.parts import flow_scheduler, pictures
from stylecli.backbone.denoisers.qwen import Qwen
from stylecli.backbone.loading import load_part
from stylecli.recipe.strict import Quantize

# The state before the last layer.
TEXT_LAYERS = (-2,)


class ZImage(LatentFlow):
    """`base.Denoiser` for ``ZImageTransformer2DModel``. Pictures pass as a list of their own."""

    kind = "z-image"
    # The stock pipeline asks for both sides in one batch, and its scale counts from the other end:
    # pos + g (pos - neg), so the paper's s is g + 1.
    shift = 3.0
    answers = -1
    cells_per_token = PATCH

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        variant: str | None = None,
        file: Path | None = None,
        quantize: Quantize = "none",
    ) -> Self:
        from diffusers import AutoencoderKL, ZImageTransformer2DModel

        scheduler = flow_scheduler(folder)
        bits: Any = {"quantize": quantize, "device": device}
        model = transformer_files.load(
            ZImageTransformer2DModel, folder, dtype, variant=variant, file=file, **bits
        )
        vae = load_part(AutoencoderKL, folder, "vae", torch.float32, variant)
        text = Qwen.load(folder, dtype=dtype, thinks=True, is_padded=False, **bits)
        for part in (model, vae):
            part.requires_grad_(False).eval().to(device)
        return cls(model, vae, text, scheduler, device=device, dtype=dtype)

    @property
    def words_width(self) -> int:
        model: Any = self.model
        return int(model.config.cap_feat_dim)

    @torch.no_grad()
    def posterior(
        self, pixels: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b c lh lw"], Float[Tensor, "b c lh lw"]]:
        said = self.vae.config
        seen = self.vae.encode(pixels.to(self.device, torch.float32) * 2 - 1).latent_dist
        mean = (seen.mean - said.shift_factor) * said.scaling_factor
        return mean, seen.std * said.scaling_factor

    def encode_prompt(self, prompts: Sequence[str]) -> list[Tensor]:
        return [self.text.states(prompt, TEXT_LAYERS)[0] for prompt in prompts]

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
        said = self.vae.config
        cells = latents.to(self.device, torch.float32) / said.scaling_factor + said.shift_factor
        return pictures(self.vae, cells)

    @staticmethod
    def visits(scheduler: Any, steps: int, tokens: int) -> list[float]:
        said = scheduler.config
        slope = (said.max_shift - said.base_shift) / (
            said.max_image_seq_len - said.base_image_seq_len
        )
        mu = said.base_shift + slope * (tokens - said.base_image_seq_len)
        return visited(scheduler, steps, mu)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        model: Any = self.model
        return model.config.in_channels, size[0] // self.cell_px, size[1] // self.cell_px
