"""A tiny HiDream-O1 as a folder: the released names, a few words, random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from stylecli.backbone.denoisers.hidream_o1_model import Transformer

WORDS = [
    "<fill>",
    "<|boi_token|>",
    "<|tms_token|>",
    "user",
    "assistant",
    ":",
    "cat",
    "a",
    "red",
    "dog",
]
CHAT = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
TEXT: dict[str, Any] = {
    "model_type": "qwen3_vl_text",
    "vocab_size": 16,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
}
CONFIG: dict[str, Any] = {"model_type": "qwen3_vl", "text_config": TEXT}


def network(seed: int = 0) -> Transformer:
    """Random, but always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Transformer(CONFIG)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[1] ** 0.5)
    return model.requires_grad_(False).eval()


def state() -> dict[str, Tensor]:
    """With what a released folder holds besides."""
    unused = {"model.visual.blocks.0.norm1.weight": torch.ones(3), "lm_head.weight": torch.ones(2)}
    return {name: value.contiguous() for name, value in network().state_dict().items()} | unused


def save(folder: Path, tensors: dict[str, Tensor] | None = None, *, chat: str = CHAT) -> Path:
    """`tensors` in two files; default: a sound model's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    held = state() if tensors is None else tensors
    names = sorted(held)
    half = len(names) // 2
    for number, some in enumerate((names[:half], names[half:]), start=1):
        file = folder / f"model-0000{number}-of-00002.safetensors"
        save_file({name: held[name] for name in some}, file)
    save_tokenizer(folder, WORDS, chat=chat)
    return folder


def save_tokenizer(folder: Path, words: list[str], *, chat: str = CHAT) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    plain.pre_tokenizer = WhitespaceSplit()
    known = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        unk_token=words[0],
        additional_special_tokens=[word for word in words if word.startswith("<|")],
    )
    known.chat_template = chat
    known.save_pretrained(folder)
