"""Trains the small models that ship with the package; nothing else imports this."""

from stylecli.tensors.compat import ensure_torchvision

ensure_torchvision()
