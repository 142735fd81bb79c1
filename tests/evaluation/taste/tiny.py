"""Small random networks of the real classes, under the keys that the published files have."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from stylecli.evaluation.taste.head import Head
from stylecli.evaluation.taste.imagereward import TEXT, VISION

WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "of", "red", "oil", "paint"),
    *("##ing", "cafe", ",", "[", "]", "enc"),
)
VOCABULARY = {word: number for number, word in enumerate(WORDS)}
TINY_VISION = VISION | {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
}
TINY_TEXT = TEXT | {
    "vocab_size": len(WORDS) + 2,
    "hidden_size": 16,
    "encoder_hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
CLS, SEP = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]


def published_keys() -> dict[str, Tensor]:
    """Random weights of the tiny network, under the names that ImageReward.pt has."""
    generator = torch.Generator().manual_seed(3)
    wide, narrow, text = 24, 48, 16
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (width,), (width,)

    eye = "blip.visual_encoder"
    shapes |= {f"{eye}.cls_token": (1, 1, wide), f"{eye}.pos_embed": (1, 14 * 14 + 1, wide)}
    shapes[f"{eye}.patch_embed.proj.weight"] = (wide, 3, 16, 16)
    shapes[f"{eye}.patch_embed.proj.bias"] = (wide,)
    for block in (f"{eye}.blocks.0", f"{eye}.blocks.1"):
        norm(f"{block}.norm1", wide)
        norm(f"{block}.norm2", wide)
        linear(f"{block}.attn.qkv", 3 * wide, wide)
        linear(f"{block}.attn.proj", wide, wide)
        linear(f"{block}.mlp.fc1", narrow, wide)
        linear(f"{block}.mlp.fc2", wide, narrow)
    norm(f"{eye}.norm", wide)
    reader = "blip.text_encoder"
    shapes[f"{reader}.embeddings.word_embeddings.weight"] = (len(WORDS) + 2, text)
    shapes[f"{reader}.embeddings.position_embeddings.weight"] = (40, text)
    norm(f"{reader}.embeddings.LayerNorm", text)
    for layer in (f"{reader}.encoder.layer.0", f"{reader}.encoder.layer.1"):
        for kind, seen in (("attention", text), ("crossattention", wide)):
            linear(f"{layer}.{kind}.self.query", text, text)
            linear(f"{layer}.{kind}.self.key", text, seen)
            linear(f"{layer}.{kind}.self.value", text, seen)
            linear(f"{layer}.{kind}.output.dense", text, text)
            norm(f"{layer}.{kind}.output.LayerNorm", text)
        linear(f"{layer}.intermediate.dense", 32, text)
        linear(f"{layer}.output.dense", text, 32)
        norm(f"{layer}.output.LayerNorm", text)
    linear("blip.vision_proj", 8, wide)
    linear("blip.text_proj", 8, text)
    for index, (out, into) in {0: (1024, text), 2: (128, 1024), 4: (64, 128)}.items():
        linear(f"mlp.layers.{index}", out, into)
    linear("mlp.layers.6", 16, 64)
    linear("mlp.layers.7", 1, 16)
    made = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        gain = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        # Large enough that a layer left out, or in another order, shows.
        scale = 0.5 if len(shape) < 2 or "embeddings" in name else 1.4 / shape[-1] ** 0.5
        if "patch_embed.proj.weight" in name:
            scale = 0.05
        made[name] = gain + scale * noise
    made[f"{reader}.embeddings.position_ids"] = torch.arange(40)[None]
    return made


def clip_config(*, quick_gelu: bool = False, width: int = 12) -> dict[str, Any]:
    """Of open_clip, so small that it runs in no time."""
    return {
        "embed_dim": width,
        "quick_gelu": quick_gelu,
        "vision_cfg": {
            "image_size": 224,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 56,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 2,
        },
    }


def clip_model(config: dict[str, Any], seed: int = 5) -> nn.Module:
    """open_clip's own, every weight moved from its first value."""
    from open_clip.model import CLIP

    return _moved(lambda: CLIP(**copy.deepcopy(config)), seed)


def transformers_clip(seed: int = 7) -> nn.Module:
    """transformers' own of the same shape, as PickScore was saved from."""
    from transformers import CLIPConfig, CLIPModel

    trunk = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"}
    config = CLIPConfig(
        projection_dim=12,
        vision_config=trunk
        | {"hidden_size": 32, "intermediate_size": 128, "image_size": 224, "patch_size": 56},
        text_config=trunk
        | {
            "hidden_size": 16,
            "intermediate_size": 64,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "eos_token_id": 49407,
            "bos_token_id": 49406,
            "pad_token_id": 0,
        },
    )
    return _moved(lambda: CLIPModel(config), seed)


def head(width: int = 768, seed: int = 8) -> Head:
    """A head whose answers differ."""
    made: Head = _moved(lambda: Head(width), seed)  # type: ignore[assignment]
    return made


def _moved(make: Any, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = make()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 / max(1, parameter.ndim) * torch.randn_like(parameter))
    return model.eval()
