"""FLUX.2-klein base: packed latents with places, told sigma, answers with ``eps - x``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from stylecli.backbone import transformer_files
from stylecli.backbone.denoisers.flow import visited
from stylecli.backbone.denoisers.latent_flow import PATCH, LatentFlow
from stylecli.backbone.denoisers.parts import flow_scheduler, pictures
from stylecli.backbone.denoisers.qwen import Qwen
from stylecli.backbone.loading import load_part
from stylecli.recipe.strict import Quantize

TEXT_LAYERS = (9, 18, 27)
# Black Forest Labs' fit of how far times are shifted: for 10 and for 200 steps a line over the
# number of tokens, between them a line over steps; above so many tokens the second alone.
_AT_10, _AT_200, _MANY = (8.73809524e-05, 1.89833333), (0.00016927, 0.45666666), 4300


class Flux2Klein(LatentFlow):
    """`base.Denoiser` for ``Flux2Transformer2DModel``, whose guidance is none of its inputs."""

    kind = "flux2"
    shift = 2.225540928492468  # e^0.8
    answers = 1
    cells_per_token = 1

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
        from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

        scheduler = flow_scheduler(folder)
        bits: Any = {"quantize": quantize, "device": device}
        model = transformer_files.load(
            Flux2Transformer2DModel, folder, dtype, variant=variant, file=file, **bits
        )
        vae = load_part(AutoencoderKLFlux2, folder, "vae", torch.float32, variant)
        text = Qwen.load(folder, dtype=dtype, thinks=False, is_padded=True, **bits)
        for part in (model, vae):
            part.requires_grad_(False).eval().to(device)
        return cls(model, vae, text, scheduler, device=device, dtype=dtype)

    @property
    def words_width(self) -> int:
        model: Any = self.model
        return int(model.config.joint_attention_dim)

    @torch.no_grad()
    def posterior(
        self, pixels: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b c lh lw"], Float[Tensor, "b c lh lw"]]:
        seen = self.vae.encode(pixels.to(self.device, torch.float32) * 2 - 1).latent_dist
        mean, deviation = self._spread()
        means, spreads = (F.pixel_unshuffle(one, PATCH) for one in (seen.mean, seen.std))
        return (means - mean) / deviation, spreads / deviation

    def encode_prompt(self, prompts: Sequence[str]) -> list[Tensor]:
        """Three layers side by side, all 512 places: fillers are read as well."""
        return [torch.cat(self.text.states(prompt, TEXT_LAYERS), dim=-1) for prompt in prompts]

    def predict(
        self,
        noised: Float[Tensor, "b c h w"],
        times: Float[Tensor, " b"],
        prompts: Sequence[Tensor],
    ) -> Float[Tensor, "b c h w"]:
        height, width = noised.shape[-2:]
        words = torch.stack([prompt.to(self.device, self.dtype) for prompt in prompts])
        answer = self.model(
            hidden_states=noised.to(self.device, self.dtype).flatten(2).mT.contiguous(),
            encoder_hidden_states=words,
            timestep=times.to(self.device, torch.float32),
            guidance=None,
            img_ids=_places(height, width, 1).to(self.device),
            txt_ids=_places(1, 1, words.shape[1]).to(self.device),
            return_dict=False,
        )[0]
        cells: Tensor = answer.float().mT.unflatten(2, (height, width))
        return cells

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
        mean, deviation = self._spread()
        cells = latents.to(self.device, torch.float32) * deviation + mean
        return pictures(self.vae, F.pixel_shuffle(cells, PATCH))

    @staticmethod
    def visits(scheduler: Any, steps: int, tokens: int) -> list[float]:
        few, many = (slope * tokens + start for slope, start in (_AT_10, _AT_200))
        mu = many if tokens > _MANY else many + (many - few) / 190 * (steps - 200)
        return visited(scheduler, steps, mu)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        model: Any = self.model
        own = self.multiple_px
        return model.config.in_channels, size[0] // own, size[1] // own

    def _spread(self) -> tuple[Float[Tensor, "1 c 1 1"], Float[Tensor, "1 c 1 1"]]:
        """Mean and deviation of the latent's channels, as the autoencoder keeps them."""
        norm = self.vae.bn
        deviation = (norm.running_var + self.vae.config.batch_norm_eps).sqrt()
        return norm.running_mean.view(1, -1, 1, 1), deviation.view(1, -1, 1, 1)


def _places(height: int, width: int, length: int) -> Int[Tensor, "n 4"]:
    """Time, row, column and place in the text of every token."""
    axes = (torch.arange(1), *(torch.arange(size) for size in (height, width, length)))
    return torch.cartesian_prod(*axes)
