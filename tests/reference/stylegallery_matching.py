"""StyleGallery's matching the long way: loops over cells, pixels, pairs and triples of points.

Section "Region matching". Regions count from 1, references from 0. Tensors only hold numbers here;
no attention kernel, no hull, no formula for the lens of two discs.
"""

from __future__ import annotations

import math

import torch


def cells(labels: torch.Tensor, number: int) -> list[tuple[int, int]]:
    height, width = labels.shape
    return [(y, x) for y in range(height) for x in range(width) if labels[y, x] == number]


def smallest_circle(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Of all circles on two or three of the points, the smallest that holds all."""
    if len(set(points)) == 1:
        return (*points[0], 0.0)
    best = None
    for i, (ax, ay) in enumerate(points):
        for j in range(i):
            bx, by = points[j]
            found = [((ax + bx) / 2, (ay + by) / 2, math.dist(points[i], points[j]) / 2)]
            for k in range(j):
                cx, cy = points[k]
                twice = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
                if abs(twice) < 1e-12:
                    continue
                a, b, c = ax * ax + ay * ay, bx * bx + by * by, cx * cx + cy * cy
                x = (a * (by - cy) + b * (cy - ay) + c * (ay - by)) / twice
                y = (a * (cx - bx) + b * (ax - cx) + c * (bx - ax)) / twice
                found.append((x, y, math.dist((x, y), points[i])))
            for x, y, radius in found:
                is_smaller = best is None or radius < best[2]
                if is_smaller and all(math.dist((x, y), p) <= radius + 1e-9 for p in points):
                    best = (x, y, radius)
    assert best is not None
    return best


def centroid_circle(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    centre = (sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points))
    return (*centre, max(math.dist(centre, point) for point in points))


def iou(one, other, slices: int = 100_000) -> float:
    """Both discs cut into thin vertical strips; what the strips share is added up."""
    low = min(one[0] - one[2], other[0] - other[2])
    high = max(one[0] + one[2], other[0] + other[2])
    if high == low:
        return 0.0
    x = low + (torch.arange(slices, dtype=torch.double) + 0.5) * (high - low) / slices

    def strip(disc):
        half = (disc[2] ** 2 - (x - disc[0]) ** 2).clamp(min=0).sqrt()
        return disc[1] - half, disc[1] + half

    (bottom, top), (low_other, high_other) = strip(one), strip(other)
    shared = (torch.minimum(top, high_other) - torch.maximum(bottom, low_other)).clamp(min=0)
    union = (top - bottom).sum() + (high_other - low_other).sum() - shared.sum()
    return float(shared.sum() / union)


def unit(vector: torch.Tensor) -> torch.Tensor:
    length = math.sqrt(sum(float(value) ** 2 for value in vector))
    return vector / length if length >= 1e-8 else torch.zeros_like(vector)


def standardised(features: torch.Tensor) -> torch.Tensor:
    """Channels without variation are not compared, which zeros do as well."""
    channels = []
    for channel in features.double():
        spread = channel.std()
        flat = spread < 1e-6
        channels.append(torch.zeros_like(channel) if flat else (channel - channel.mean()) / spread)
    return torch.stack(channels)


def attention_statistics(features, labels, number: int, *, skip_flat: bool) -> torch.Tensor:
    """``[mu/|mu| ; l/|l|] / sqrt(2)`` of one region of (standardised) features."""
    rows = [features[:, y, x].double() for y, x in cells(labels, number)]
    looked = []
    for row in rows:
        cosines = [float(unit(row) @ unit(other)) for other in rows]
        weights = [math.exp(cosine / 0.1) for cosine in cosines]
        mixed = sum(weight * other for weight, other in zip(weights, rows, strict=True))
        looked.append(mixed / sum(weights))
    mean = sum(looked) / len(looked)
    logs = torch.zeros_like(mean)
    if len(rows) > 1:
        counted = [d for d in range(len(features)) if not skip_flat or features[d].any()]
        for d in counted:
            values = torch.stack([row[d] for row in looked])
            logs[d] = math.log(float(values.std()) + 1e-4)
        middle = sum(float(logs[d]) for d in counted) / len(counted)
        for d in counted:
            logs[d] -= middle
    return torch.cat([unit(mean), unit(logs)]) / math.sqrt(2)


def transformer_weights(
    width: int, seed: int = 42
) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Eight layers of four linear maps each, uniform within one over the root of their inputs."""
    random = torch.Generator().manual_seed(seed)
    layers = []
    for _ in range(8):
        layer = []
        for into, out in ((1, 3), (1, 1), (1, 4), (4, 1)):
            bound = 1 / math.sqrt(into * width)
            size = (out * width, into * width)
            weight = torch.rand(size, generator=random, dtype=torch.double)
            bias = torch.rand(size[0], generator=random, dtype=torch.double)
            layer.append((weight * 2 * bound - bound, bias * 2 * bound - bound))
        layers.append(layer)
    return layers


def layer_norm(row: torch.Tensor) -> torch.Tensor:
    return (row - row.mean()) / torch.sqrt(row.var(unbiased=False) + 1e-5)


def gelu(row: torch.Tensor) -> torch.Tensor:
    return row * (1 + torch.erf(row / math.sqrt(2))) / 2


def transformer_statistics(features, labels, number: int) -> torch.Tensor:
    """Mean over the region and, over all cells with zeros outside, variance by n; then unit."""
    where = cells(labels, number)
    rows = [features[:, y, x].double() for y, x in where]
    width = len(rows[0])
    for (qkv, qkv_bias), (out, out_bias), (up, up_bias), (down, down_bias) in transformer_weights(
        width
    ):
        projected = [qkv @ layer_norm(row) + qkv_bias for row in rows]
        after = []
        for row, mine in zip(rows, projected, strict=True):
            heads = []
            for head in range(4):
                part = slice(head * width // 4, (head + 1) * width // 4)
                query = mine[:width][part]
                logits = torch.stack(
                    [query @ p[width : 2 * width][part] / math.sqrt(width / 4) for p in projected]
                )
                weights = logits.exp() / logits.exp().sum()
                heads.append(
                    sum(w * p[2 * width :][part] for w, p in zip(weights, projected, strict=True))
                )
            row = row + out @ torch.cat(heads) + out_bias
            after.append(row + down @ gelu(up @ layer_norm(row) + up_bias) + down_bias)
        rows = after
    everywhere = torch.zeros(labels.numel(), width, dtype=torch.double)
    for at, row in enumerate(rows):
        everywhere[at] = row
    mean = sum(rows) / len(rows)
    return unit(torch.cat([mean, everywhere.var(dim=0) / len(rows)]))


def token_pixels(labels, number: int, grid: tuple[int, int]) -> tuple[torch.Tensor, int]:
    """How many pixels of each token lie in the region, and how many a token has.

    A picture of so many pixels that each cell and each token is a whole number of them.
    """
    height, width = (math.lcm(a, b, 8 * a) for a, b in zip(labels.shape, grid, strict=True))
    found = torch.zeros(grid, dtype=torch.double)
    for y in range(height):
        for x in range(width):
            cell = labels[y * labels.shape[0] // height, x * labels.shape[1] // width]
            if cell == number:
                found[y * grid[0] // height, x * grid[1] // width] += 1
    return found, (height // grid[0]) * (width // grid[1])


def pooled(tokens, labels, number: int) -> torch.Tensor:
    """Tokens weighed by the area of the region in each."""
    pixels, _ = token_pixels(labels, number, tokens.shape[:2])
    total = torch.zeros(tokens.shape[2], dtype=torch.double)
    for y in range(tokens.shape[0]):
        for x in range(tokens.shape[1]):
            total += pixels[y, x] * tokens[y, x].double()
    return total / pixels.sum()


def pooled_by_authors(tokens, labels, number: int) -> torch.Tensor:
    """The mean of tokens of which more than 10 pixels of 32 x 32 are in the region."""
    pixels, size = token_pixels(labels, number, tokens.shape[:2])
    kept = [
        tokens[y, x].double()
        for y in range(tokens.shape[0])
        for x in range(tokens.shape[1])
        if pixels[y, x] * 32**2 / size > 10
    ]
    return sum(kept) / len(kept)


def best(totals: list[list[tuple[int, int, float]]]) -> list[tuple[int, int]]:
    """Of every region's ``(reference, region, total)`` the largest total, ties to the lowest."""
    return [min(row, key=lambda entry: (-entry[2], entry[0], entry[1]))[:2] for row in totals]
