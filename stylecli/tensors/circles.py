"""Circles around points, and how far two discs cover one another.

A circle is a row ``(x, y, radius)``. Everything is computed in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Point = tuple[float, float]
Circle = tuple[float, float, float]
# Of the radius: a point so little outside of a circle lies on it.
TOLERANCE = 1e-10
# Of the squared extent: points whose triangles are no larger lie on a line.
FLAT = 1e-12


def enclosing(points: Float[Tensor, "n 2"]) -> Float[Tensor, " 3"]:
    """The smallest circle that holds all points, after Welzl 1991; one point has radius 0.

    Only the corners of the convex hull are looked at. Their order is shuffled the same way each
    time, so equal points give equal circles.

    >>> enclosing(torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 0.5]])).tolist()
    [1.0, 0.0, 1.0]
    """
    hull = _corners(points.double().unique(dim=0))
    order = torch.randperm(len(hull), generator=torch.Generator().manual_seed(0))
    corners = [hull[at] for at in order.tolist()]
    circle = (*corners[0], 0.0)
    for count, point in enumerate(corners):
        if not _holds(circle, point):
            circle = _through_one(corners[:count], point)
    return torch.tensor(circle, dtype=torch.double)


def around_centroid(points: Float[Tensor, "n 2"]) -> Float[Tensor, " 3"]:
    """The circle around the mean of all points that reaches the farthest: rarely the smallest."""
    centre = points.double().mean(dim=0)
    return torch.cat([centre, (points - centre).norm(dim=1).amax()[None]])


def iou(one: Float[Tensor, "r 3"], other: Float[Tensor, "s 3"]) -> Float[Tensor, "r s"]:
    """Shared area of two discs over their common area, for every pair.

    Discs that touch share nothing; of two points the value is 0, even of equal ones.
    """
    apart = (one[:, None, :2].double() - other[None, :, :2].double()).norm(dim=2)
    a, b = torch.broadcast_tensors(one[:, None, 2].double(), other[None, :, 2].double())
    small, large = torch.minimum(a, b), torch.maximum(a, b)
    nested = (small / large.where(large > 0, 1.0)) ** 2
    # The lens is computed of all pairs and kept of those that cross, where nothing divides by 0.
    crosses = (apart < a + b) & (apart > large - small)
    gap = apart.where(crosses, 1.0)
    shared = _segment(gap, a, b, crosses) + _segment(gap, b, a, crosses)
    union = (math.pi * (a**2 + b**2) - shared).where(crosses, 1.0)
    found: Tensor = (shared / union).where(crosses, nested.where(apart < a + b, 0.0))
    return found


def _segment(gap: Tensor, own: Tensor, other: Tensor, crosses: Tensor) -> Tensor:
    """What the chord through both crossings cuts off one's own disc, towards the other."""
    radius = own.where(crosses, 1.0)
    chord = ((gap**2 + radius**2 - other.where(crosses, 1.0) ** 2) / (2 * gap)).clamp(
        -radius, radius
    )
    return radius**2 * (chord / radius).acos() - chord * (radius**2 - chord**2).clamp(min=0).sqrt()


def _corners(points: Float[Tensor, "n 2"]) -> list[Point]:
    """Of the convex hull; the two ends of points on a line. They come sorted."""
    along, across = points[-1] - points[0], points - points[0]
    area = (along[0] * across[:, 1] - along[1] * across[:, 0]).abs().amax()
    is_line = bool(area <= FLAT * along.dot(along))
    kept = points[[0, -1]] if is_line else points[_hull(points)]
    return [(x, y) for x, y in kept.tolist()]


def _hull(points: Float[Tensor, "n 2"]) -> list[int]:
    from scipy.spatial import ConvexHull, QhullError

    try:
        return np.sort(ConvexHull(points.numpy()).vertices).tolist()  # type: ignore[no-any-return]
    except QhullError:  # a sliver that is a line for Qhull
        return list(range(len(points)))


def _through_one(points: Sequence[Point], first: Point) -> Circle:
    """The smallest circle that holds all and has `first` on it."""
    circle = (*first, 0.0)
    for count, point in enumerate(points):
        if not _holds(circle, point):
            circle = _through_two(points[:count], first, point)
    return circle


def _through_two(points: Sequence[Point], first: Point, second: Point) -> Circle:
    circle = _between(first, second)
    for point in points:
        if not _holds(circle, point):
            circle = _through_three(first, second, point)
    return circle


def _through_three(a: Point, b: Point, c: Point) -> Circle:
    """The circumscribed circle; of three points on a line the one between the outer two."""
    bx, by, cx, cy = b[0] - a[0], b[1] - a[1], c[0] - a[0], c[1] - a[1]
    twice = 2 * (bx * cy - by * cx)
    if abs(twice) <= FLAT * max(math.hypot(bx, by), math.hypot(cx, cy)) ** 2:
        return max((_between(*pair) for pair in ((a, b), (a, c), (b, c))), key=lambda one: one[2])
    square_b, square_c = bx * bx + by * by, cx * cx + cy * cy
    x = (cy * square_b - by * square_c) / twice
    y = (bx * square_c - cx * square_b) / twice
    return (a[0] + x, a[1] + y, math.hypot(x, y))


def _between(a: Point, b: Point) -> Circle:
    return ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, math.dist(a, b) / 2)


def _holds(circle: Circle, point: Point) -> bool:
    x, y, radius = circle
    return math.dist((x, y), point) <= radius * (1 + TOLERANCE)
