"""HPSv3 (Ma et al. 2025): how much people would like a picture made for a prompt.

Qwen2-VL reads the picture, its authors' instruction and the prompt; what it has made of all that
at a mark of its own goes through a small head. Attention looks back only, so what the authors put
behind the mark is left out. The trunk was trained with the places of plain text, pictures'
tokens in one line with the words, and is run like that: multimodal places would be another model.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from stylecli.errors import WeightsError
from stylecli.evaluation.judges.qwen import filled, read_config
from stylecli.evaluation.judges.sight import look
from stylecli.evaluation.judges.words import Words
from stylecli.evaluation.weights import load_strictly

KIND = "qwen2_vl"
# Every picture is scaled to this: more than a hundred thousand people's choices were learnt so.
PIXELS = 256 * 28 * 28
MARK = "<|Reward|>"
BEFORE, BEHIND, PROMPT = "INSTRUCTION", "prompt_with_special_token", "{text_prompt}"
HEAD, UNUSED = "rm_head.", ("lm_head.",)
# Beginning of a key as published -> in today's classes.
TRUNK = {"visual.": "visual.", "model.": "language_model."}
HIDDEN = (1024, 16)
# Of the head: the score, and how unsure it is.
OUTPUTS = 2
DROPOUT = 0.05


class Reward(nn.Module):
    """Trunk and head."""

    def __init__(self, trunk: Any, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head


class HPSv3:
    """Scores pictures one by one: padding would move the digits of the trunk's sixteen bits.

    Attributes:
        model: In evaluation mode, on its device.
    """

    def __init__(self, model: Reward, words: Words, before: str, behind: str) -> None:
        self.model = model
        self._words = words
        self._before, self._behind = before, behind

    @torch.no_grad()
    def score(self, pixels: UInt8[Tensor, "h w 3"], prompt: str) -> float:
        """The score; the better the higher, without bounds.

        Raises:
            ImageError: The picture is too narrow.
        """
        sight = look(pixels, PIXELS, PIXELS)
        said = self._before.replace(PROMPT, prompt) + self._behind
        ids = [
            *(*self._words.opening(sight.tokens), *self._words.plain(said)),
            # The mark was added behind all the words that there were.
            len(self._words),
        ]
        device = next(self.model.parameters()).device
        seen = self.model.trunk(
            input_ids=torch.tensor([ids], device=device),
            pixel_values=sight.patches.to(device),
            image_grid_thw=sight.grid.to(device),
            position_ids=torch.arange(len(ids), device=device).expand(3, 1, -1),
            use_cache=False,
        )
        return float(self.model.head(seen.last_hidden_state[0, -1].float())[0])


def hpsv3(tensors: Mapping[str, Tensor], shape: Path, instruction: Path, *, file: str) -> HPSv3:
    """The network from its published files.

    Args:
        tensors: Under the keys of its authors' code.
        shape: Folder of Qwen2-VL's config and tokenizer.
        instruction: The authors' code, which is read and not run.
        file: Of the tensors, for messages.

    Raises:
        WeightsError: The files are others, or do not belong together.
    """
    from transformers import Qwen2VLConfig, Qwen2VLModel

    words = Words(shape / "tokenizer.json")
    config = read_config(shape, KIND, Qwen2VLConfig)
    config.text_config.vocab_size = len(words) + 1
    before, behind = texts(instruction)
    trunk: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.startswith(HEAD):
            head[key.removeprefix(HEAD)] = tensor
        elif not key.startswith(UNUSED):
            old = next((old for old in TRUNK if key.startswith(old)), "")
            trunk[TRUNK.get(old, "") + key.removeprefix(old)] = tensor
    made = _head(config.text_config.hidden_size)
    load_strictly(made, head, file=file)
    own = {tensor.dtype for tensor in trunk.values()}
    dtype = own.pop() if len(own) == 1 else torch.float32
    model = filled(Qwen2VLModel, None, config=config, state_dict=trunk, dtype=dtype, file=file)
    return HPSv3(Reward(model, made).eval(), words, before, behind)


def texts(instruction: Path) -> tuple[str, str]:
    """What the model is told before the prompt, the prompt's place in it, and what follows.

    Raises:
        WeightsError: The file does not say it.
    """
    try:
        tree = ast.parse(instruction.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise WeightsError(
            f"{instruction} cannot be read: {error}", fix="give the published file"
        ) from error
    said = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    before, behind = said.get(BEFORE, ""), said.get(BEHIND, "")
    if PROMPT not in before or MARK not in behind:
        raise WeightsError(
            f"{instruction} has no {BEFORE} for a prompt, or no {BEHIND} with {MARK}",
            fix="give the published file",
        )
    return before, behind.partition(MARK)[0]


def _head(width: int) -> nn.Sequential:
    first, second = HIDDEN
    return nn.Sequential(
        nn.Linear(width, first),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, OUTPUTS),
    )
