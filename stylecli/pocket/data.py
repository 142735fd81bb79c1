"""The training world: icons of many families on many grounds, photographs, and words for both.

    npm install @iconify-json/fluent-emoji ...            (families of `artifacts.glyphs`)
    apt-get download lomiri-wallpapers-16.04 && dpkg -x lomiri-wallpapers-16.04*.deb debian

`--data` holds what these fetch: `node_modules/@iconify-json` and `debian`. scikit-image brings
the other photographs. Built once into `--work`, then memory-mapped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor
from torch.nn import functional as F

from stylecli.artifacts import glyphs
from stylecli.errors import InputError
from stylecli.tensors.grounds import flip, interval, one_of

Image.MAX_IMAGE_PIXELS = 40_000_000
MAX_PHOTO_PX = 1024
MIN_PHOTO_PX = 128

# Debian's lomiri-wallpapers-16.04: CC BY 4.0, seeding CC0; its other pictures are share-alike.
WALLPAPERS: Mapping[str, str] = {
    "aitzgorri_by_Aitzol_Berasategi.jpg": "mountain and autumn forest",
    "friends_by_Aitzol_Berasategi.jpg": "two dogs at a window",
    "life_by_Aitzol_Berasategi.jpg": "stream in a forest",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg": "mountain path",
    "Picture_0B_by_freespace.jpg": "fig in a red bowl",
    "Picture_1A_by_freespace.jpg": "paint brushes",
    "sunset_by_Aitzol_Berasategi.jpg": "sunset in the mountains",
    "umang_by_Abhishek_Mudgal.jpg": "colour gradient",
    "Wine_by_Jakkub_Mede.jpg": "wine bottle in a room",
    "seeding_by_Clements_Engelhardt.jpg": "dandelions in a meadow",
}
# scikit-image: CC0 or public domain.
BUNDLED: Mapping[str, str] = {
    "coffee.png": "coffee cup",
    "rocket.jpg": "rocket",
    "hubble_deep_field.jpg": "galaxies",
    "brick.png": "brick wall",
    "grass.png": "grass",
    "gravel.png": "gravel",
}
UNSEEN: Mapping[str, str] = {"chelsea.png": "cat", "astronaut.png": "astronaut"}


@dataclass(frozen=True, slots=True)
class IconRow:
    """What is known about one row of the icon pictures."""

    family: str
    content: str
    caption: str
    is_held_out: bool


@dataclass(frozen=True, slots=True)
class World:
    """Everything a training draws from.

    Attributes:
        icons: Premultiplied RGBA at `glyphs.RENDER_PX`, memory-mapped.
        rows: One per icon.
        photos: Name -> the picture at halving sizes, largest first, (3, h, w).
        unseen: The same for photographs that no training may touch.
    """

    icons: UInt8[npt.NDArray[np.uint8], "n px px 4"]
    rows: list[IconRow]
    photos: Mapping[str, list[UInt8[Tensor, "3 h w"]]]
    unseen: Mapping[str, list[UInt8[Tensor, "3 h w"]]]

    def indices(self, *, held_out_content: bool = False) -> list[int]:
        """Rows of the train families; by default those that may be trained on."""
        return [
            index
            for index, row in enumerate(self.rows)
            if not glyphs.FAMILIES[row.family].is_held_out and row.is_held_out == held_out_content
        ]

    def icon(self, index: int) -> Float[Tensor, "4 px px"]:
        """Premultiplied RGBA in [0, 1]."""
        return torch.from_numpy(np.array(self.icons[index])).permute(2, 0, 1).float() / 255


def load(data: Path, work: Path) -> World:
    """The world in `work`, built from `data` if it is not there yet."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "icons.json").exists():
        _build_icons(data / "node_modules" / "@iconify-json", work)
    if not (work / "photos.safetensors").exists():
        _build_photos(data / "debian", work)
    rows = json.loads((work / "icons.json").read_text(encoding="utf-8"))
    return World(
        icons=np.load(work / "icons.npy", mmap_mode="r"),
        rows=[IconRow(**row) for row in rows],
        photos=_pyramids(work / "photos.safetensors", {**WALLPAPERS, **BUNDLED}),
        unseen=_pyramids(work / "photos.safetensors", UNSEEN),
    )


def photo_words(name: str) -> str:
    return {**WALLPAPERS, **BUNDLED, **UNSEEN}[name]


def photo_crop(
    pyramid: list[UInt8[Tensor, "3 h w"]], px: int, generator: Generator
) -> Float[Tensor, "3 px px"]:
    """A square window of any scale, from the whole short side down to single pixels."""
    fitting = [level for level in pyramid if min(level.shape[1:]) >= px]
    level = one_of(fitting, generator) if fitting else pyramid[0]
    height, width = level.shape[1:]
    side = min(round(px * interval(1.0, 1.8, generator)), height, width)
    top = int(interval(0, height - side + 0.999, generator))
    left = int(interval(0, width - side + 0.999, generator))
    window = level[:, top : top + side, left : left + side].float() / 255
    if flip(0.5, generator):
        window = window.flip(-1)
    if side != px:
        window = F.interpolate(
            window[None], (px, px), mode="bilinear", antialias=True, align_corners=False
        )[0].clamp(0, 1)
    return window


def _build_icons(packages: Path, work: Path) -> None:
    icons = glyphs.read_icons(packages)
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        pictures = list(pool.map(glyphs.render, (icon.svg for icon in icons), chunksize=64))
    np.save(work / "icons.npy", np.stack(pictures))
    rows = [
        asdict(IconRow(icon.family, icon.content, glyphs.caption(icon), icon.is_held_out))
        for icon in icons
    ]
    (work / "icons.json").write_text(json.dumps(rows), encoding="utf-8")


def _build_photos(debian: Path, work: Path) -> None:
    import skimage.data

    bundled = Path(skimage.data.__file__).parent
    wallpapers = debian / "usr" / "share" / "backgrounds"
    paths = [wallpapers / name for name in WALLPAPERS]
    paths += [bundled / name for name in {**BUNDLED, **UNSEEN}]
    levels: dict[str, Tensor] = {}
    for path in paths:
        if not path.exists():
            raise InputError(
                f"no photograph at {path}",
                fix="apt-get download lomiri-wallpapers-16.04; pip install scikit-image",
            )
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail(_fit(picture.size, MAX_PHOTO_PX), Image.Resampling.LANCZOS)
        level = 0
        while min(picture.size) >= MIN_PHOTO_PX:
            pixels = torch.from_numpy(np.array(picture))
            levels[f"{path.name}.{level}"] = pixels.permute(2, 0, 1).contiguous()
            picture = picture.resize(
                (picture.width // 2, picture.height // 2), Image.Resampling.BOX
            )
            level += 1
    save_file(levels, work / "photos.safetensors")


def _fit(size: tuple[int, int], short: int) -> tuple[int, int]:
    scale = min(1.0, short / min(size))
    return round(size[0] * scale), round(size[1] * scale)


def _pyramids(path: Path, names: Mapping[str, str]) -> dict[str, list[UInt8[Tensor, "3 h w"]]]:
    tensors = load_file(path)
    return {
        name: [tensors[key] for key in sorted(tensors) if key.rsplit(".", 1)[0] == name]
        for name in names
    }
