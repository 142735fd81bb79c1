"""HiDream-O1-Image as i2L's denoiser: the picture itself is what is noised, there is no VAE.

The network answers with the picture it sees behind the noise. Here that becomes the direction
``(x_sigma - answer) / sigma``, which should be ``noise - picture``; noise has a standard deviation
of 8, as the model was trained. What a prompt is encoded to is its token ids: whole numbers, which
a cache must keep as such. Shorter prompts of a call are filled up at the left, where nobody looks.

The distilled model (Dev) has the same files and another sampler: it cannot be told apart, and is
not supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stylecli.backbone.denoisers import hidream_o1_files
from stylecli.backbone.denoisers.flow import Flow, shifted
from stylecli.backbone.denoisers.hidream_o1_files import BEGIN, TIME
from stylecli.backbone.denoisers.hidream_o1_model import PATCH, Transformer
from stylecli.errors import UsageError

# Below it a division by sigma says nothing.
LEAST_SIGMA = 1e-3


class HiDreamO1(Flow):
    """`base.Denoiser` for a network that neither diffusers nor transformers knows."""

    kind = "hidream"
    shift = 3.0
    answers = 1
    noise_std = 8.0
    negative_prompt = " "
    native_px = 2048

    def __init__(
        self, model: Transformer, tokenizer: Any, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(model.to(device), device=device, dtype=dtype)
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, *, device: torch.device, dtype: torch.dtype) -> HiDreamO1:
        """Frozen, from a folder with `config.json`, weights and tokenizer side by side.

        Raises:
            WeightsError: Something is missing, unreadable, or of another model.
        """
        model = hidream_o1_files.load(folder, dtype=dtype)
        tokenizer = hidream_o1_files.tokenizer(folder)
        return cls(model, tokenizer, device=device, dtype=dtype)

    @property
    def multiple_px(self) -> int:
        return PATCH

    def encode_target(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Pictures in [-1, 1].

        Raises:
            UsageError: A side is no multiple of the patch.
        """
        _check(*pixels.shape[-2:])
        return pixels.to(self.device, torch.float32) * 2 - 1

    def encode_prompt(self, prompts: Sequence[str]) -> list[Tensor]:
        """Token ids of a question to a chat model; the last one stands for the time."""
        found = []
        for prompt in prompts:
            chat = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            ids = self._tokenizer.encode(chat + BEGIN + TIME, add_special_tokens=False)
            found.append(torch.tensor(ids))
        return found

    def predict(
        self,
        noised: Float[Tensor, "b 3 h w"],
        times: Float[Tensor, " b"],
        prompts: Sequence[Tensor],
    ) -> Float[Tensor, "b 3 h w"]:
        """Told 1 - sigma.

        Raises:
            TypeError: A prompt is not of whole numbers: a cache has rounded its tokens.
        """
        place = noised.to(self.device, torch.float32)
        sigmas = times.to(self.device, torch.float32)
        ids, is_word = _side_by_side(prompts)
        there = None if bool(is_word.all()) else is_word.to(self.device)
        seen: Tensor = self.model(place, 1 - sigmas, ids.to(self.device), there)
        return (place - seen) / sigmas.clamp(min=LEAST_SIGMA).view(-1, 1, 1, 1)

    def decode(self, latents: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return (latents / 2 + 0.5).clamp(0, 1)

    def sigmas(self, steps: int, latents: Float[Tensor, "b 3 h w"]) -> list[float]:
        """For Euler's method; the released sampler is of a higher order on the same levels."""
        found: list[float] = shifted(torch.linspace(1, 0, steps + 1), self.shift).tolist()
        return found

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """The picture's own.

        Raises:
            UsageError: A side is no multiple of the patch.
        """
        _check(*size)
        return 3, *size


def _side_by_side(
    prompts: Sequence[Tensor],
) -> tuple[Int[Tensor, "b words"], Bool[Tensor, "b words"]]:
    """Token ids, filled up at the left, and which of them count."""
    if any(prompt.is_floating_point() for prompt in prompts):
        raise TypeError("token ids are whole numbers, and must be kept as such")
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    is_word = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        is_word[row, longest - len(prompt) :] = True
    return ids, is_word


def _check(height: int, width: int) -> None:
    if height % PATCH or width % PATCH:
        raise UsageError(
            f"HiDream-O1 draws pictures whose sides are multiples of {PATCH}, not {width}x{height}",
            fix=f"choose sides such as {32 * PATCH}",
        )
