"""Frozen diffusion models: the only code that knows diffusers and peft."""

from stylecli.tensors.compat import ensure_torchvision

ensure_torchvision()
