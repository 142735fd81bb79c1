"""Predictors of LoRAs for the tiny model: random numbers, an encoder without weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stylecli.artifacts import store
from stylecli.backbone.denoisers.layer_sets import layers_in
from stylecli.backbone.loading import fingerprint
from stylecli.engine.i2l import encoders
from stylecli.methods.i2l import files
from stylecli.methods.i2l.files import Config
from stylecli.methods.i2l.predictor import Predictor
from stylecli.methods.i2l.sizes import Shape
from stylecli.recipe.i2l import Encoder as Settings

CPU = torch.device("cpu")
MAX_REFERENCES = 3


def save(
    path: Path,
    folder: Path,
    *,
    kind: str = "unet",
    layer_set: str = "attn2",
    seed: int = 0,
    size: float = 0.3,
    fit: str = "crop",
    **config: Any,
) -> Path:
    """A predictor for the model in a folder, whose LoRAs change what it draws.

    Args:
        kind: Of the model.
        layer_set: Whose LoRA it predicts.
        seed: Of its numbers.
        size: Of the matrices that a fresh predictor has at zero.
        fit: How references become square.
        config: What its file is to say otherwise.
    """
    settings = Settings(id="random-patch", ref_fit=fit, pool_tokens=2)
    encoder = encoders.opened(
        settings, default="random-patch", device=CPU, dtype=torch.float32
    ).description
    layers = layers_in(kind, folder, layer_set)
    shape = Shape(
        encoder_width=encoder.width, width=32, depth=2, heads=2, hidden=64, bottleneck=8, rank=2
    )
    predictor = Predictor(shape, layers)
    generator = torch.Generator().manual_seed(seed)
    predictor.reset(generator)
    with torch.no_grad():
        for up in predictor.heads.up.values():
            up.normal_(0, size, generator=generator)
    said = Config(
        shape=shape,
        layers=layers,
        layer_set=layer_set,
        backbone=folder.name,
        kind=kind,
        encoder=encoder,
        fingerprint=fingerprint(folder),
        training={"max_references": MAX_REFERENCES},
    )
    tensors, header = files.contents(predictor, replace(said, **config))
    path.parent.mkdir(parents=True, exist_ok=True)
    store.save_tensors(path, tensors, header)
    return path
