"""Tiny flows as painting asks them, opened once a process."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from stylecli.backbone import flow_model
from stylecli.backbone.flow_model import FlowBackbone
from stylecli.backbone.registry import find
from tests import tiny_flow
from tests.small import noise

KINDS = ("z-image", "flux2")
SIZE_PX = 32


@cache
def _folder(kind: str) -> tuple[tempfile.TemporaryDirectory[str], Path]:
    kept = tempfile.TemporaryDirectory()
    return kept, tiny_flow.save_folder(kind, Path(kept.name) / kind)


def folder(kind: str) -> Path:
    """A diffusers folder, made once."""
    return _folder(kind)[1]


def backbone(kind: str) -> FlowBackbone:
    """A model of its own for whoever asks."""
    return flow_model.load(
        find(str(folder(kind))),
        folder(kind),
        fingerprint=kind,
        device=torch.device("cpu"),
        dtype=torch.float32,
        size_px=SIZE_PX,
    )


def latents(model: FlowBackbone, rows: int = 1, seed: int = 0) -> Tensor:
    """Random ones of a picture of 32 x 24 pixels."""
    shape = model.flow.latent_shape((32, 24))
    return noise(rows, *shape, seed=seed)
