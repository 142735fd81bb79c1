"""What `mask-transfer` makes of the questions: told by the true mask where, and by a LoRA how.

The LoRA of each style learned from pictures that are in that style all over.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from route_world import PX, World
from torch import Tensor

from stylecli.artifacts import images, store
from stylecli.backbone import loading
from stylecli.backbone.registry import ASSETS
from stylecli.methods.regionroute.styles import Style

# Pictures of each style to learn from; their numbers are none of the questions'.
LEARNED, FIRST = 8, 1000
SMALL = ("--set", f"sampling.size={PX}")
LEARNING = ("--set", f"lora.resolution={PX}", "--set", f"lora.crop_px={PX}")


def answers(
    world: World,
    style: Style,
    pairs: Sequence[tuple[str, Float[Tensor, "3 h w"], Float[Tensor, "h w"]]],
    work: Path,
) -> tuple[str, list[Float[Tensor, "3 h w"]]]:
    """Whose work it is, and the restyled pictures; again, only those that are missing.

    Args:
        pairs: A name, a picture and a mask of each.
    """
    home = work / style.id
    for folder in ("learn", "contents", "masks"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    for number in range(FIRST, FIRST + LEARNED):
        _save(home / "learn" / f"{number}.png", world.ask("seen", number).whole(style))
    for name, picture, mask in pairs:
        _save(home / "contents" / f"{name}.png", picture)
        _save(home / "masks" / f"{name}.png", mask.expand(3, -1, -1))
    lora = home / "style.safetensors"
    _style("train-lora", home / "learn", "-o", lora, *LEARNING)
    region = f"{home / 'masks'}/{{content}}.png={lora}"
    out = home / "out"
    _style("mask-transfer", home / "contents", "--region", region, "-o", out, *SMALL)
    by = f"{loading.fingerprint(ASSETS / 'pocket')} {store.file_sha256(lora)[:16]}"
    return by, [_read(out, name) for name, _, _ in pairs]


def _style(*words: object) -> None:
    done = subprocess.run(  # noqa: S603 - this very program
        [sys.executable, "-m", "stylecli", *map(str, words), "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)


def _save(path: Path, picture: Float[Tensor, "3 h w"]) -> None:
    Image.fromarray(images.to_pixels(picture).numpy()).save(path)


def _read(folder: Path, name: str) -> Float[Tensor, "3 h w"]:
    (path,) = folder.glob(f"{name}*.png")
    with Image.open(path) as opened:
        pixels = torch.frombuffer(bytearray(opened.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.view(PX, PX, 3).permute(2, 0, 1).float() / 255
