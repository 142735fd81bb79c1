"""Folders of Qwen's vision-language models in miniature, as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLModel,
)

from stylecli.evaluation.judges.hpsv3 import HPSv3, hpsv3
from stylecli.evaluation.judges.sight import look

MARKS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
SAID = "yes no Yes No YES NO is the background in pixel-art style user assistant system " * 4


def words() -> Tokenizer:
    """Byte-level pairs, split and normalised as Qwen's are, with single tokens for yes and no."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator([SAID, *SAID.split()], trainer)
    tokenizer.add_special_tokens(list(MARKS))
    return tokenizer


def save_words(folder: Path) -> Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = words()
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def judge_folder(
    folder: Path, *, seed: int = 0, said: tuple[str, str] | None = None
) -> Qwen2_5_VLForConditionalGeneration:
    """Qwen2.5-VL with two layers of each kind.

    Args:
        said: It says one of these, and hardly anything else.
    """
    tokenizer = save_words(folder)
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        **_marks(tokenizer),
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    as_if_trained(model)
    if said:
        _make_talk(model, tokenizer, said)
    model.save_pretrained(folder)
    return model.eval()


def _make_talk(model: nn.Module, tokenizer: Tokenizer, said: tuple[str, str]) -> None:
    """Whatever it has seen, one of two words comes next: which one, a direction decides."""
    first, second = (tokenizer.encode(word, add_special_tokens=False).ids[0] for word in said)
    weight = model.lm_head.weight
    with torch.no_grad():
        way = 60 * weight[first].clone()
        weight.zero_()
        weight[first], weight[second] = way, -way


def reward_shape(folder: Path) -> Qwen2VLConfig:
    """The folder that says what HPSv3 is made of: words, and a config with room for more."""
    tokenizer = save_words(folder)
    config = Qwen2VLConfig(
        text_config=_text(tokenizer),
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2,
                       "hidden_size": 32},
        **_marks(tokenizer),
    )  # fmt: skip
    config.save_pretrained(folder)
    return config


def reward_trunk(config: Qwen2VLConfig, *, words: int, seed: int = 0) -> Qwen2VLModel:
    torch.manual_seed(seed)
    config.text_config.vocab_size = words
    model = Qwen2VLModel(config)
    as_if_trained(model)
    return model.eval()


CODE = '''
import torch
INSTRUCTION = """
Rate it.
Prompt - {text_prompt}

"""
INSTRUCTION_debug = "another"
prompt_with_special_token = """
The mark: <|Reward|>

END
"""
raise RuntimeError("this must not run")
'''


class RewardFiles:
    """What a user has on disk, and the model behind it."""

    def __init__(self, folder: Path) -> None:
        self.shape = folder / "Qwen2-VL-7B-Instruct"
        config = reward_shape(self.shape)
        self.tokenizer = Tokenizer.from_file(str(self.shape / "tokenizer.json"))
        self.mark = self.tokenizer.get_vocab_size(with_added_tokens=True)
        self.trunk = reward_trunk(config, words=self.mark + 1)
        torch.manual_seed(1)
        self.head = nn.Sequential(
            nn.Linear(32, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(),
            nn.Linear(16, 2),
        ).eval()  # fmt: skip
        self.instruction = folder / "data_collator_qwen.py"
        self.instruction.write_text(CODE)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Under the names that the authors' releases of the libraries gave."""
        trunk = {
            key.replace("language_model.", "model."): t
            for key, t in self.trunk.state_dict().items()
        }
        head = {f"rm_head.{key}": t for key, t in self.head.state_dict().items()}
        return {**trunk, **head, "lm_head.weight": torch.zeros(self.mark + 1, 32)}

    def save(self, tensors: Path, shape: Path, instruction: Path) -> None:
        """Put them where a user would."""
        save_file({key: t.contiguous() for key, t in self.tensors.items()}, tensors)
        shape.symlink_to(self.shape)
        instruction.symlink_to(self.instruction)

    def load(self) -> HPSv3:
        return hpsv3(self.tensors, self.shape, self.instruction, file="HPSv3.safetensors")

    def plainly(self, pixels: Tensor, prompt: str) -> float:
        """The whole text with what follows the mark, and the head at the mark."""
        sight = look(pixels, 256 * 784, 256 * 784)
        tokenizer = Tokenizer.from_file(str(self.shape / "tokenizer.json"))
        tokenizer.add_special_tokens(["<|Reward|>"])
        text = (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            f"<|vision_start|>{'<|image_pad|>' * sight.tokens}<|vision_end|>"
            f"\nRate it.\nPrompt - {prompt}\n\n\nThe mark: <|Reward|>\n\nEND\n<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
        assert (ids == self.mark).sum() == 1
        trunk = self.trunk
        with torch.no_grad():
            inputs = trunk.get_input_embeddings()(ids)
            seen = trunk.visual(sight.patches, grid_thw=sight.grid).pooler_output
            inputs[ids == trunk.config.image_token_id] = seen
            # No places given: they count up through words and picture alike.
            hidden = trunk.language_model(inputs_embeds=inputs).last_hidden_state
            return float(self.head(hidden)[ids == self.mark][0, 0])


def as_if_trained(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.1 if parameter.ndim == 1 else 0.3
            parameter.add_(torch.randn_like(parameter) * spread)


def _text(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        # More than there are tokens, as published.
        "vocab_size": tokenizer.get_vocab_size() + 9,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [1, 1, 2],
        },
    }


def _marks(tokenizer: Tokenizer) -> dict[str, int]:
    return {
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
    }
