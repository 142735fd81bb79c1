"""Scores: tensors in, numbers out."""

from stylecli.tensors.compat import ensure_torchvision

ensure_torchvision()
