"""Icon families: the same things drawn in many styles, as pictures with masks and captions.

A family is one `@iconify-json/<prefix>` package from npm; the caller names the folder that holds
them (`node_modules/@iconify-json`). Which families and which contents no training may touch is
decided here, once and for ever.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import resvg_py
from jaxtyping import UInt8
from PIL import Image

from stylecli.errors import InputError

RENDER_PX = 128


@dataclass(frozen=True, slots=True)
class Family:
    """One hand: the package that holds it, words for its look, and its licence (SPDX)."""

    prefix: str
    style: str
    licence: str
    author: str
    is_held_out: bool = False


FAMILIES: Mapping[str, Family] = {
    family.prefix: family
    for family in (
        Family("fluent-emoji", "glossy 3d style", "MIT", "Microsoft Corporation"),
        Family("fluent-emoji-flat", "fluent flat style", "MIT", "Microsoft Corporation"),
        Family(
            "fluent-emoji-high-contrast", "black and white style", "MIT", "Microsoft Corporation"
        ),
        Family("noto", "soft gradient style", "Apache-2.0", "Google Inc"),
        Family("noto-v1", "round blob style", "Apache-2.0", "Google Inc"),
        Family("twemoji", "bold flat style", "CC-BY-4.0", "Twitter"),
        Family("fxemoji", "long shadow style", "Apache-2.0", "Mozilla"),
        Family("streamline-emojis", "outlined pastel style", "CC-BY-4.0", "Streamline"),
        Family("flat-color-icons", "interface icon style", "MIT", "Icons8"),
        Family("openmoji", "thick outline style", "CC-BY-SA-4.0", "OpenMoji", is_held_out=True),
        Family("emojione", "round saturated style", "CC-BY-4.0", "Emoji One", is_held_out=True),
        Family("emojione-v1", "old glossy style", "CC-BY-SA-4.0", "Emoji One", is_held_out=True),
        Family(
            "emojione-monotone", "single colour style", "CC-BY-4.0", "Emoji One", is_held_out=True
        ),
    )
}

_SKIN_TONE = re.compile(r"skin-tone|-tone\d")
_BARE_TONE = re.compile(r"-(medium-light|medium-dark|light|medium|dark)(?=-|$)")


@dataclass(frozen=True, slots=True)
class Icon:
    """One drawing. `content` is the same for the same thing in every family."""

    family: str
    name: str
    content: str
    svg: str

    @property
    def is_held_out(self) -> bool:
        """Whether no training may touch it, for its family or for its content."""
        held_out = content_is_held_out(self.name) or content_is_held_out(self.content)
        return FAMILIES[self.family].is_held_out or held_out


def content_is_held_out(name: str) -> bool:
    """The rule of `split.json`: a tenth of all contents, siblings (same first word) together.

    >>> content_is_held_out("airplane") == content_is_held_out("airplane-arrival")
    True
    """
    first = name.split("-", 1)[0]
    return int(hashlib.sha1(first.encode(), usedforsecurity=False).hexdigest(), 16) % 10 == 0


def caption(icon: Icon) -> str:
    """`{name words}, {style phrase}`."""
    return f"{words(icon.content)}, {FAMILIES[icon.family].style}"


def words(content: str) -> str:
    return content.replace("-", " ")


def read_icons(folder: Path, families: Mapping[str, Family] = FAMILIES) -> list[Icon]:
    """All drawings of the families, without hidden icons, flags and skin-tone variants.

    Args:
        folder: An npm `node_modules/@iconify-json`.
        families: Which of its packages to read.

    Raises:
        InputError: A family is missing; the fix is the npm command that fetches it.
    """
    packages = {prefix: _read_package(folder / prefix) for prefix in families}
    known = {name for package in packages.values() for name in package["icons"] if "-" in name}
    unglued = {name.replace("-", ""): name for name in sorted(known)}
    icons = []
    for prefix, package in packages.items():
        for name, entry in _drawn(package["icons"]):
            # fxemoji writes `alarmclock` where the others write `alarm-clock`.
            content = unglued.get(name, name) if prefix == "fxemoji" else name
            icons.append(Icon(prefix, name, content, _svg(entry, package)))
    return icons


def by_family(icons: Sequence[Icon]) -> dict[tuple[str, bool], list[Icon]]:
    """By family and by whether the content is held out; one drawing of a content."""
    found: dict[tuple[str, bool], dict[str, Icon]] = {}
    for icon in icons:
        held = {content_is_held_out(word) for word in (icon.name, icon.content)}
        # What one family calls by a held-out name and the others do not is for neither.
        if len(held) == 1:
            found.setdefault((icon.family, held.pop()), {}).setdefault(icon.content, icon)
    return {key: list(by_content.values()) for key, by_content in found.items()}


def render(svg: str, px: int = RENDER_PX) -> UInt8[npt.NDArray[np.uint8], "px px 4"]:
    """One drawing as premultiplied RGBA, centred in a square; alpha is its mask."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=px, height=px)
    with Image.open(io.BytesIO(bytes(png))) as picture:
        rgba = np.asarray(picture.convert("RGBA"))
    alpha = rgba[..., 3:].astype(np.uint16)
    colour = (rgba[..., :3] * alpha + 127) // 255
    return np.concatenate([colour.astype(np.uint8), rgba[..., 3:]], axis=-1)


def split_record() -> dict[str, Any]:
    """What `split.json` holds: the rule in words and the families on each side of it."""
    return {
        "rule": "a content is held out when int(sha1(first).hexdigest(), 16) % 10 == 0, "
        "first = the icon name up to its first '-'",
        "train_families": [f.prefix for f in FAMILIES.values() if not f.is_held_out],
        "held_out_families": [f.prefix for f in FAMILIES.values() if f.is_held_out],
    }


def _read_package(folder: Path) -> dict[str, Any]:
    try:
        package: dict[str, Any] = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as missing:
        raise InputError(
            f"no icon family at {folder}", fix=f"npm install @iconify-json/{folder.name}"
        ) from missing
    return package


def _drawn(icons: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, entry in icons.items():
        bare = _BARE_TONE.sub("", name)
        is_toned = bool(_SKIN_TONE.search(name)) or (
            bare != name and (bare in icons or f"{bare}-default" in icons)
        )
        is_flag = name.startswith("flag-") or "-flag-for-" in name
        if not (entry.get("hidden") or is_toned or is_flag):
            yield name, entry


def _svg(entry: Mapping[str, Any], package: Mapping[str, Any]) -> str:
    def number(key: str, default: float) -> float:
        value: float = entry.get(key, package.get(key, default))
        return value

    box = f"{number('left', 0)} {number('top', 0)} {number('width', 16)} {number('height', 16)}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{RENDER_PX}" height="{RENDER_PX}" viewBox="{box}">{entry["body"]}</svg>'
    )
