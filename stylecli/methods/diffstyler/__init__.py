"""DiffStyler: style LoRAs, steered by the content image's own pass (AAAI 2026 and arXiv v1).

`source` is what the content's pass hands over (eq. 4 to 6), `looks` what is asked for where and
when (eq. 8 and 9), `painting` the sampling loop that brings them together (eq. 7).
"""

from stylecli.methods.diffstyler.looks import Look, Region
from stylecli.methods.diffstyler.painting import (
    Background,
    Version,
    generate,
    paint,
    paint_versions,
    transfer,
)
from stylecli.methods.diffstyler.source import Keeper, kappa

__all__ = [
    "Background",
    "Keeper",
    "Look",
    "Region",
    "Version",
    "generate",
    "kappa",
    "paint",
    "paint_versions",
    "transfer",
]
