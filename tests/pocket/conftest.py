"""Models of diffusers, which a torchvision that does not fit would keep from being imported."""

from __future__ import annotations

import stylecli.backbone  # noqa: F401 - it says what is missing
