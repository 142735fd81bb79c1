"""Makes torchvision importable for test modules that import libraries on top of it."""

from __future__ import annotations

import stylecli.evaluation

__all__ = ["stylecli"]
