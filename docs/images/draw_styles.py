"""Draw the style pictures that the examples use; ours, under the project's licence.

    python docs/images/draw_styles.py

Deterministic: the pictures beside this file are exactly what it writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 320
SCALE = 3  # drawn larger and reduced, for smooth edges
Palette = list[tuple[int, int, int]]

NIGHT: Palette = [
    (16, 28, 72), (24, 52, 120), (38, 92, 168), (84, 146, 202), (150, 196, 218),
    (236, 190, 60), (250, 224, 130), (44, 84, 90),
]  # fmt: skip
GLASS: Palette = [
    (200, 40, 44), (232, 128, 36), (246, 200, 60), (40, 120, 76), (30, 84, 156),
    (112, 48, 132), (232, 224, 200),
]  # fmt: skip
PRINT: Palette = [(238, 70, 110), (24, 150, 160), (250, 214, 70)]


def flow(x: float, y: float) -> float:
    """Direction of the brush at a place, in radians."""
    swirl = 0.0
    for cx, cy, turn in ((0.3, 0.35, 1.0), (0.72, 0.25, -1.0), (0.6, 0.75, 1.0)):
        distance = math.hypot(x - cx, y - cy)
        swirl += (
            turn * math.exp(-((distance / 0.22) ** 2)) * (math.pi / 2 + math.atan2(y - cy, x - cx))
        )
    return 0.5 * math.sin(3 * x + 2 * y) + swirl


def brush(random: np.random.Generator) -> Image.Image:
    """Short thick strokes along a swirling field, night blues with yellow lights."""
    side = SIDE * SCALE
    canvas = Image.new("RGB", (side, side), NIGHT[1])
    draw = ImageDraw.Draw(canvas)
    for _ in range(5200):
        x, y = random.uniform(-0.02, 1.02, 2)
        light = math.exp(-((math.hypot(x - 0.3, y - 0.35) / 0.13) ** 2)) + math.exp(
            -((math.hypot(x - 0.72, y - 0.25) / 0.09) ** 2)
        )
        tone = 5 + random.integers(2) if random.random() < light else random.integers(5)
        if y > 0.85 and random.random() < 0.6:
            tone = 7
        colour = np.clip(np.array(NIGHT[tone]) + random.normal(0, 10, 3), 0, 255).astype(int)
        points = []
        for _ in range(9):
            points.append((x * side, y * side))
            angle = flow(x, y)
            x, y = x + 0.007 * math.cos(angle), y + 0.007 * math.sin(angle)
        draw.line(points, fill=tuple(map(int, colour)), width=int(random.integers(9, 16)))
    return canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def glass(random: np.random.Generator) -> Image.Image:
    """Stained glass: bright cells, each its own tone, in dark lead."""
    side = SIDE * 2
    sites = random.uniform(0, side, (110, 2))
    tones = np.array(GLASS)[random.integers(len(GLASS), size=110)]
    tones = np.clip(tones + random.normal(0, 14, tones.shape), 0, 255)
    y, x = np.mgrid[0:side, 0:side]
    distances = np.hypot(x[..., None] - sites[:, 0], y[..., None] - sites[:, 1])
    order = np.argpartition(distances, 1, axis=-1)[..., :2]
    near = np.take_along_axis(distances, order, axis=-1)
    lead = np.abs(near[..., 1] - near[..., 0]) < 7
    picture = tones[order[..., 0]] * (1.08 - 0.16 * (y / side))[..., None]
    picture[lead] = (22, 20, 28)
    image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def ink(random: np.random.Generator) -> Image.Image:
    """Pen and ink on cream paper: hatching whose density is the tone."""
    side = SIDE * SCALE
    paper = np.full((side, side, 3), (244, 236, 216), np.float64)
    paper += random.normal(0, 3, (side, side, 1))
    canvas = Image.fromarray(paper.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    y, x = np.mgrid[0:1:200j, 0:1:200j]
    tone = 0.5 + 0.5 * np.sin(9 * x + 3 * np.sin(5 * y)) * np.cos(7 * y - 2 * x)
    for _ in range(7500):
        u, v = random.uniform(0, 1, 2)
        if random.random() > tone[int(v * 199), int(u * 199)] ** 1.6:
            continue
        angle = math.pi / 4 + 0.15 * random.normal() + (math.pi / 2) * (random.random() < 0.25)
        length = random.uniform(0.02, 0.05)
        dx, dy = length * math.cos(angle), length * math.sin(angle)
        ends = [(u - dx) * side, (v - dy) * side, (u + dx) * side, (v + dy) * side]
        draw.line(ends, fill=(28, 26, 34), width=int(random.integers(2, 5)))
    return canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def riso(random: np.random.Generator) -> Image.Image:
    """A two-and-a-half colour print: halftone dots of pink, teal and yellow on white."""
    side = SIDE * SCALE
    picture = np.full((side, side, 3), 250.0)
    y, x = np.mgrid[0:side, 0:side] / side
    for i, colour in enumerate(PRINT):
        angle = math.radians((15, 45, 75)[i])
        u = (x * math.cos(angle) + y * math.sin(angle)) * 42
        v = (y * math.cos(angle) - x * math.sin(angle)) * 42
        shapes = np.sin(4 * x + 2.1 * i) * np.cos(3 * y - 1.3 * i) + 0.4 * np.sin(11 * x * y + i)
        radius = 0.18 + 0.48 * (0.5 + 0.5 * shapes)
        dots = np.hypot(u - np.round(u), v - np.round(v)) < radius
        picture[dots] *= np.array(colour) / 255
    picture += random.normal(0, 4, (side, side, 1))
    image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(1)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


STYLES: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "brush": brush,
    "glass": glass,
    "ink": ink,
    "riso": riso,
}

if __name__ == "__main__":
    folder = Path(__file__).parent / "styles"
    folder.mkdir(exist_ok=True)
    for name, draw_style in STYLES.items():
        draw_style(np.random.default_rng(7)).save(folder / f"{name}.png", optimize=True)
