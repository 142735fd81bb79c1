"""The latent diffusion model: tokenizer, text encoder and denoiser, trained together.

Sizes are mixed so that every step costs about the same: mostly 64 px pictures, some of 96 and
128 px and whole photographs of 256 px, because transfer runs there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from stylecli.pocket.latents import Bank, caption
from stylecli.pocket.loop import Losses

MIN_SNR = 5.0  # Hang et al. 2023, gamma
FIXED_ROWS = 128
# Noise whose mean is itself noisy (Guttenberg 2023). Without it the mean colour of so few latents
# survives to the last timestep, and what is drawn takes its ground from the noise, not the words.
OFFSET_NOISE = 0.15

UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (32, 64, 96, 128),
    "layers_per_block": 2,
    "attention_head_dim": (1, 2, 3, 4),  # diffusers reads this as the number of heads
    "norm_num_groups": 8,
    "cross_attention_dim": 128,
    "use_linear_projection": True,
}


@dataclass(frozen=True, slots=True)
class Share:
    """How often a size is drawn, and how many rows a step of it has."""

    bank: Bank
    weight: float
    batch: int


class Denoiser(nn.Module):
    """What is optimised: the UNet and the text encoder that speaks to it."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet.to(memory_format=torch.channels_last)
        self.text_encoder = text_encoder


def scheduler() -> DDIMScheduler:
    made: DDIMScheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
        timestep_spacing="leading",
        prediction_type="epsilon",
    )
    return made


def create(tokenizer: CLIPTokenizer, generator: Generator) -> Denoiser:
    """Fresh weights; the module's own initialisers draw from a seed taken from the generator."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=128,
                intermediate_size=512,
                num_hidden_layers=4,
                num_attention_heads=4,
                max_position_embeddings=32,
                projection_dim=128,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        return Denoiser(UNet2DConditionModel(**UNET), text_encoder)


class DiffusionPart:
    """Epsilon prediction with min-SNR weights over banks of several sizes."""

    def __init__(
        self, denoiser: Denoiser, tokenizer: CLIPTokenizer, shares: Sequence[Share]
    ) -> None:
        self._module = denoiser
        self._tokenizer = tokenizer
        self._shares = shares
        self._weights = torch.tensor([share.weight for share in shares])
        self._alphas: Float[Tensor, " t"] = scheduler().alphas_cumprod
        self._ids: dict[str, list[int]] = {}

    @property
    def module(self) -> Denoiser:
        return self._module

    def losses(self, progress: float, generator: Generator) -> Losses:
        # The first tenth is small pictures only: shapes and words before sizes.
        first = progress < 0.1
        lot = 0 if first else int(torch.multinomial(self._weights, 1, generator=generator))
        share = self._shares[lot]
        rows = torch.randint(len(share.bank) - FIXED_ROWS, (share.batch,), generator=generator)
        captions = [caption(share.bank.words[int(row)], generator) for row in rows]
        weighted, _ = self._errors(share.bank.latents[rows], captions, generator)
        return {"loss": weighted.mean()}

    @torch.no_grad()
    def figures(self) -> Mapping[str, float]:
        """Unweighted error on views kept out of the batches, with noise that never changes."""
        result = {}
        for share in self._shares:
            generator = torch.Generator().manual_seed(7)
            count = max(2, share.batch * 2)
            rows = torch.arange(len(share.bank) - count, len(share.bank))
            captions = [", ".join(w for w in share.bank.words[int(row)] if w) for row in rows]
            _, plain = self._errors(share.bank.latents[rows], captions, generator)
            result[f"error_{share.bank.latents.shape[-1]}"] = float(plain.mean())
        return result

    def tokens(self, captions: Sequence[str]) -> Int[Tensor, "b n"]:
        for text in captions:
            if text not in self._ids:
                self._ids[text] = tokenize(self._tokenizer, [text])[0].tolist()
        return torch.tensor([self._ids[text] for text in captions])

    def _errors(
        self, latents: Float[Tensor, "b 4 h w"], captions: Sequence[str], generator: Generator
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        device = self._module.unet.device
        clean = latents.float().to(device, memory_format=torch.channels_last)
        batch = len(clean)
        # Stratified timesteps: one in each of `batch` equal slices, so a batch sees them all.
        slices = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        timesteps = (slices * len(self._alphas)).long()
        alpha = self._alphas[timesteps][:, None, None, None].to(device)
        noise = torch.randn(clean.shape, generator=generator)
        noise += OFFSET_NOISE * torch.randn(batch, clean.shape[1], 1, 1, generator=generator)
        noise = noise.to(device)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        # Float32 on a CPU: for channels this few, bfloat16 there was measured no faster.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = self._module.text_encoder(self.tokens(captions).to(device)).last_hidden_state
            noise_pred = self._module.unet(noisy, timesteps.to(device), hidden).sample.float()
        plain = (noise_pred - noise).square().mean(dim=(1, 2, 3))
        snr = (alpha / (1 - alpha)).flatten()
        return plain * snr.clamp_max(MIN_SNR) / snr, plain


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Int[Tensor, "b n"]:
    ids: Tensor = tokenizer(
        list(captions),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def export(denoiser: Denoiser, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """The diffusers folder but for `vae/`, which is already there: float16 safetensors."""
    half = copy.deepcopy(denoiser).half()
    half.unet.to(memory_format=torch.contiguous_format)
    half.unet.save_pretrained(folder / "unet")
    half.text_encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(_MODEL_INDEX, encoding="utf-8")


_MODEL_INDEX = """{
  "_class_name": "StableDiffusionPipeline",
  "_diffusers_version": "0.35.0",
  "feature_extractor": [null, null],
  "image_encoder": [null, null],
  "requires_safety_checker": false,
  "safety_checker": [null, null],
  "scheduler": ["diffusers", "DDIMScheduler"],
  "text_encoder": ["transformers", "CLIPTextModel"],
  "tokenizer": ["transformers", "CLIPTokenizer"],
  "unet": ["diffusers", "UNet2DConditionModel"],
  "vae": ["diffusers", "AutoencoderKL"]
}
"""
