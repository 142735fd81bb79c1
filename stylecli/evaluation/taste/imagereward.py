"""ImageReward (Xu et al. 2023): how well people would rate a picture for its prompt.

BLIP's fusion encoder (Li et al. 2022) reads the prompt, looking both ways, and in every layer looks
at the patches of the picture; what its class token has become goes through a linear head. The
published file has the keys of BLIP's own code, whose names for the picture's half are not those of
transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stylecli.errors import WeightsError
from stylecli.evaluation.taste.head import Head
from stylecli.evaluation.weights import load_strictly

# Mean and deviation of the head's answers on the authors' data, from their `ImageReward.py`.
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
# Tokens of a prompt, [CLS] and [SEP] among them; the rest is cut off.
CONTEXT = 35
FRAME = 2
# Words that BLIP added behind BERT's.
ADDED = ("[DEC]", "[ENC]")
# Written out, because the defaults of a library may change under weights that do not. transformers'
# own for the picture's half has another epsilon than the network was trained with.
VISION: Mapping[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
}
TEXT: Mapping[str, Any] = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "encoder_hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    # Here this only says that layers have a cross attention; the mask is chosen in each call.
    "is_decoder": True,
}
PICTURE, WORDS, HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp."
# BLIP's projections for contrast, which the reward does not use, and a counter.
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
# Beginning of a key as published -> as transformers calls it.
AROUND: Mapping[str, str] = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "norm.": "post_layernorm.",
    "blocks.": "encoder.layers.",
}
IN_A_LAYER: Mapping[str, str] = {
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
}


class Prompts:
    """BERT's tokens, lower case, with BLIP's two words behind them."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        from transformers import BertTokenizer

        whole = dict(vocabulary) | {word: len(vocabulary) + i for i, word in enumerate(ADDED)}
        self._tokenizer = BertTokenizer(vocab=whole, do_lower_case=True)
        self._tokenizer.add_special_tokens(
            {"bos_token": ADDED[0], "additional_special_tokens": [ADDED[1]]}
        )

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, texts: Sequence[str]) -> tuple[Int[Tensor, "n c"], Int[Tensor, "n c"]]:
        """Tokens, [CLS] first, cut or padded to the context; and 1 where there is a token."""
        found = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=CONTEXT,
            return_tensors="pt",
        )
        return found["input_ids"], found["attention_mask"]

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of the texts are not read to their end."""
        tokens = (self._tokenizer.encode(text, add_special_tokens=False) for text in texts)
        return sum(len(found) > CONTEXT - FRAME for found in tokens)


class ImageReward(nn.Module):
    """The picture's half, the prompt's half that looks at it, and the head."""

    def __init__(self, vision: nn.Module, text: nn.Module, head: Head, prompts: Prompts) -> None:
        super().__init__()
        self.vision, self.text, self.head, self.prompts = vision, text, head, prompts

    def forward(
        self, images: Float[Tensor, "b 3 224 224"], texts: Sequence[str]
    ) -> Float[Tensor, " b"]:
        """Rewards of pictures that ``PREPROCESS["clip224"]`` has prepared, each for its prompt."""
        device = images.device
        tokens, present = (x.to(device) for x in self.prompts(texts))
        reward: Tensor = self.head(self.class_token(images, tokens, present))
        return (reward - MEAN) / DEVIATION

    def class_token(
        self,
        images: Float[Tensor, "b 3 224 224"],
        tokens: Int[Tensor, "b c"],
        present: Int[Tensor, "b c"],
    ) -> Float[Tensor, "b d"]:
        """What the first token has become; BLIP's other uses put [ENC] there, this one [CLS]."""
        patches = self.vision(pixel_values=images).last_hidden_state
        hidden: Tensor = self.text(
            input_ids=tokens,
            attention_mask=present,
            # transformers' own are a buffer, which no file fills.
            position_ids=torch.arange(tokens.shape[1], device=tokens.device)[None],
            encoder_hidden_states=patches,
            is_decoder=False,
        ).last_hidden_state
        return hidden[:, 0]


def imagereward(
    tensors: Mapping[str, Tensor],
    vocabulary: Mapping[str, int],
    *,
    file: str,
    vision: Mapping[str, Any] = VISION,
    text: Mapping[str, Any] = TEXT,
) -> ImageReward:
    """The network from the tensors of its file, in float32.

    Args:
        tensors: Under the published keys.
        vocabulary: BERT's, token -> index.
        file: For messages.
        vision: Another architecture in the words of transformers, for tests.
        text: The same of the prompt's half.

    Raises:
        WeightsError: The file is of another network, or the vocabulary of another file.
    """
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    prompts = Prompts(vocabulary)
    if len(prompts) != text["vocab_size"]:
        raise WeightsError(
            f"{file} knows {text['vocab_size']} words, but the vocabulary, with "
            f"{' and '.join(ADDED)}, has {len(prompts)}",
            fix="give the vocab.txt of bert-base-uncased",
        )
    with torch.device("meta"):
        model = ImageReward(
            BlipVisionModel(BlipVisionConfig(**vision)),
            BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False),
            Head(text["hidden_size"]),
            prompts,
        )
    model.to_empty(device="cpu")
    load_strictly(model, _renamed(tensors), file=file, ignore=UNUSED)
    return model


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under this model's keys; a key that is not known keeps its name."""
    found = {}
    for key, tensor in tensors.items():
        new = key
        if key.startswith(UNUSED):
            pass
        elif key.startswith(PICTURE):
            new = "vision." + _of_transformers(key.removeprefix(PICTURE))
        elif key.startswith(WORDS):
            new = "text." + key.removeprefix(WORDS)
        elif key.startswith(HEAD):
            new = "head." + key.removeprefix(HEAD)
        found[new] = tensor
    return found


def _of_transformers(key: str) -> str:
    for published, renamed in AROUND.items():
        if key.startswith(published):
            key = renamed + key.removeprefix(published)
            break
    for published, renamed in IN_A_LAYER.items():
        key = key.replace(published, renamed)
    return key
