"""Where image tokens look for words: attention from cells of the picture to tokens of a phrase."""

from stylecli.backbone.probe.base import Probe

__all__ = ["Probe"]
