"""Qwen2.5-VL as a judge (Bai et al. 2025): one picture, yes or no.

All questions about a picture share what comes before them, the picture among it, so that is read
once: every further question costs a few words. Nothing is generated; the answer is read from what
the model would say first.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.errors import WeightsError
from stylecli.evaluation.judges.answers import NO, YES, Answer, answer
from stylecli.evaluation.judges.sight import look, positions
from stylecli.evaluation.judges.words import PIXELS, Words
from stylecli.evaluation.weights import is_untrained

# Up to 1280 tokens a picture, about a megapixel: what the model's authors advise.
FEWEST_PX, MOST_PX = 4 * 28 * 28, 1280 * 28 * 28
KIND = "qwen2_5_vl"
NAMED_KEYS = 4


class Judge:
    """Answers questions about pictures.

    Attributes:
        model: In evaluation mode, on its device.
    """

    def __init__(self, model: Any, words: Words) -> None:
        self.model = model
        self._words = words
        self._yes, self._no = words.one_token(*YES), words.one_token(*NO)
        if not self._yes or not self._no:
            raise WeightsError(
                "the judge's tokenizer has no single token for yes or for no",
                fix="give the published folder",
            )
        # Of the last picture: what it left behind, and where its last token stands.
        self._picture = b""
        self._past: Any = None
        self._next = 0
        self._answers: dict[str, Answer] = {}

    @torch.no_grad()
    def answer(self, pixels: UInt8[Tensor, "h w 3"], question: str) -> Answer:
        """What it says of a picture.

        Raises:
            ImageError: The picture is too narrow.
        """
        self._see(pixels)
        if question not in self._answers:
            logits = self._after(self._words.question(question))
            self._answers[question] = answer(logits, self._yes, self._no)
        return self._answers[question]

    def _see(self, pixels: Tensor) -> None:
        shape = ",".join(map(str, pixels.shape)).encode()
        picture = hashlib.blake2b(shape + pixels.contiguous().numpy().tobytes()).digest()
        if picture == self._picture:
            return
        device = self.model.device
        sight = look(pixels, FEWEST_PX, MOST_PX)
        ids = torch.tensor([self._words.opening(sight.tokens)], device=device)
        before = self._words.before_picture
        places = positions(before, sight, ids.shape[1] - before - sight.tokens)
        found = self.model.model(
            input_ids=ids,
            pixel_values=sight.patches.to(device),
            image_grid_thw=sight.grid.to(device),
            position_ids=places.to(device),
            use_cache=True,
        )
        self._past = found.past_key_values
        self._next = int(places.max()) + 1
        self._answers.clear()
        self._picture = picture

    def _after(self, ids: list[int]) -> Float[Tensor, " v"]:
        device = self.model.device
        places = torch.arange(self._next, self._next + len(ids), device=device)
        found = self.model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=places.expand(3, 1, -1),
            past_key_values=self._past,
            use_cache=True,
            logits_to_keep=1,
        )
        # The next question follows the picture, not this one.
        self._past.crop(-len(ids))
        logits: Tensor = found.logits[0, -1]
        return logits


def judge(folder: Path) -> Judge:
    """The model in a folder as published.

    Raises:
        WeightsError: It is another model, lacks tensors or has others, or was never trained.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = read_config(folder, KIND, Qwen2_5_VLConfig)
    words = Words(folder / "tokenizer.json")
    if config.image_token_id != words.mark(PIXELS):
        raise WeightsError(
            f"{folder}: its config and its tokenizer do not agree on {PIXELS}",
            fix="give the published folder",
        )
    model = filled(Qwen2_5_VLForConditionalGeneration, str(folder), config=config)
    return Judge(model, words)


def read_config(folder: Path, kind: str, config_class: Any) -> Any:
    """A folder's `config.json`.

    Raises:
        WeightsError: It cannot be read, or is of another kind of model.
    """
    try:
        given, _ = config_class.get_config_dict(str(folder), local_files_only=True)
        if given.get("model_type") == kind:
            return config_class.from_dict(given)
    except Exception as error:  # a strange value raises whatever it leads to
        raise WeightsError(
            f"{folder / 'config.json'} cannot be used: {str(error).partition(chr(10))[0]}",
            fix="give the published folder",
        ) from error
    raise WeightsError(
        f"{folder} is of a {given.get('model_type')!r}, not a {kind!r}",
        fix="give the published folder",
    )


def filled(model_class: Any, folder: str | None, *, config: Any, file: str = "", **how: Any) -> Any:
    """A model with every tensor from its files and no other, in their own precision.

    Args:
        folder: As `save_pretrained` writes it, or None where `how` has the tensors.
        file: For messages, where there is no folder.
        how: For `from_pretrained`.

    Raises:
        WeightsError: Tensors are missing, unknown or of another shape, or were never trained.
    """
    from transformers.utils import logging

    where = file or folder
    logging.disable_progress_bar()
    shown = logging.get_verbosity()
    # What it would print about missing tensors is raised below.
    logging.set_verbosity_error()
    try:
        model, about = model_class.from_pretrained(
            folder,
            config=config,
            dtype=how.pop("dtype", "auto"),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            attn_implementation="sdpa",
            **how,
        )
    except Exception as error:  # damaged files raise whatever their first wrong byte leads to
        raise WeightsError(
            f"{where} cannot be loaded: {str(error).partition(chr(10))[0]}",
            fix="give the published folder",
        ) from error
    finally:
        logging.set_verbosity(shown)
    faults = [f"lacks {key}" for key in sorted(about["missing_keys"])]
    faults += [f"has the unknown {key}" for key in sorted(about["unexpected_keys"])]
    faults += [
        f"has {key!s} of another shape" for key in sorted(map(str, about["mismatched_keys"]))
    ]
    if not faults and is_untrained(model.state_dict()):
        faults = ["was never trained: its norms are those of a new network"]
    if faults:
        more = f" and {len(faults) - NAMED_KEYS} more" if len(faults) > NAMED_KEYS else ""
        raise WeightsError(
            f"{where} {', '.join(faults[:NAMED_KEYS])}{more}", fix="give the published folder"
        )
    return model.eval().requires_grad_(False)
