"""Tiny finders of the real classes, made from config: random weights, but always the same ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORDS = ("deer", "red", "sky", "grass", "a")
# Grounding DINO knows these ids by heart.
START, END, PERIOD, QUESTION = 101, 102, 1012, 1029


def sam2(folder: Path) -> Path:
    """`Sam2Model` for squares of 64 px, and its processor."""
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor
    from transformers.models.sam2.configuration_sam2 import (
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    trunk = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 1, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 2, 2, 2],
        global_attention_blocks=[],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = Sam2VisionConfig(
        backbone_config=trunk,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=16,
    )
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=16,
            mlp_dim=16,
            num_attention_heads=2,
            iou_head_hidden_dim=16,
        ),
    )
    processor = Sam2Processor(
        Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16})
    )
    return _save(folder, lambda: Sam2Model(config), processor)


def grounding_dino(folder: Path) -> Path:
    """`GroundingDinoForObjectDetection` with a vocabulary of a few whole words."""
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    names = {0: "[PAD]", 100: "[UNK]", START: "[CLS]", END: "[SEP]", 103: "[MASK]"}
    names |= {PERIOD: ".", QUESTION: "?"} | {200 + i: word for i, word in enumerate(WORDS)}
    tokens = [names.get(i, f"[unused{i}]") for i in range(QUESTION + 1)]
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            image_size=64,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=len(tokens),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
        ),
        max_text_len=32,
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        d_model=32,
    )
    processor = GroundingDinoProcessor(
        GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160}), tokenizer
    )
    return _save(folder, lambda: GroundingDinoForObjectDetection(config), processor)


def clipseg(folder: Path) -> Path:
    """`CLIPSegForImageSegmentation` for squares of 32 px."""
    from transformers import (
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        CLIPSegProcessor,
        ViTImageProcessor,
    )

    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    tokenizer = clip_tokenizer(16)
    config = CLIPSegConfig(
        text_config=_clip_text(len(tokenizer), 16),
        vision_config=size | {"num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 1, 2],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    processor = CLIPSegProcessor(ViTImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    return _save(folder, lambda: CLIPSegForImageSegmentation(config), processor)


def clip(folder: Path) -> Path:
    """`CLIPModel` for squares of 32 px."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    tokenizer = clip_tokenizer(16)
    config = CLIPConfig(
        text_config=_clip_text(len(tokenizer), 16),
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        projection_dim=16,
    )
    processor = CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
    )
    return _save(folder, lambda: CLIPModel(config), processor)


def sam3(folder: Path) -> Path:
    """`Sam3Model` for squares of 56 px."""
    from transformers import Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    size = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32}
    tokenizer = clip_tokenizer(32)
    config = Sam3Config(
        vision_config={
            "backbone_config": size
            | {
                "model_type": "sam3_vit_model",
                "num_hidden_layers": 2,
                "image_size": 56,
                "patch_size": 14,
                "window_size": 2,
                "global_attn_indexes": [1],
                "pretrain_image_size": 56,
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config=_clip_text(len(tokenizer), 32) | {"projection_dim": 16},
        geometry_encoder_config=size | {"num_layers": 1},
        detr_encoder_config=size | {"num_layers": 1},
        detr_decoder_config=size | {"num_layers": 1, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 4},
    )
    processor = Sam3Processor(
        Sam3ImageProcessor(size={"height": 56, "width": 56}, mask_size={"height": 16, "width": 16}),
        tokenizer,
    )
    return _save(folder, lambda: Sam3Model(config), processor)


def depth(folder: Path) -> Path:
    """`DepthAnythingForDepthEstimation` for pictures of 28 px and what keeps their shape."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    trunk = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=trunk,
        patch_size=14,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 8, 12, 16],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    processor = DPTImageProcessorPil(
        size={"height": 28, "width": 28}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    return _save(folder, lambda: DepthAnythingForDepthEstimation(config), processor)


def dinov2(folder: Path) -> Path:
    """`Dinov2Model` for pictures of 28 px, without a processor."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    return _save(folder, lambda: Dinov2Model(config))


def clip_tokenizer(length: int) -> Any:
    """Letters, and whole words as far as `WORDS` go."""
    from transformers import CLIPTokenizer

    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for letter in sorted(set("".join(WORDS))):
        vocabulary[letter] = len(vocabulary)
        vocabulary[f"{letter}</w>"] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)


def _clip_text(vocabulary: int, positions: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": positions,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }


def _save(folder: Path, build: Callable[[], Any], processor: Any = None) -> Path:
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        build().save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder
