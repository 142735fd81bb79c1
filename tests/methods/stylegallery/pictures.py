"""Pictures with known regions, as the diffusion model would see them."""

from __future__ import annotations

import torch
from torch import Tensor

from stylecli.methods.stylegallery.dfcc import Seen

AS_RELEASED = {
    "pca": "random",
    "k_means": "random",
    "merge": "ordered",
    "sweep": "once",
    "depth_resize": "nearest",
}


def as_sets(labels: Tensor) -> set[frozenset[tuple[int, int]]]:
    return {
        frozenset(map(tuple, (labels == number).nonzero().tolist())) for number in labels.unique()
    }


def picture_of(
    regions: Tensor, *, far_apart: float = 5.0, seed: int = 0, rough: float = 0.1
) -> Seen:
    """A picture whose features and latents differ from region to region, with a little noise."""
    count = int(regions.max()) + 1
    random = torch.Generator().manual_seed(seed)
    means = torch.eye(count, 6) * 10
    features = means[regions].permute(2, 0, 1)
    colours = (torch.arange(count) * far_apart)[regions].expand(4, -1, -1)
    return Seen(
        clean=colours + rough * torch.randn(4, *regions.shape, generator=random),
        noise=torch.randn(4, *regions.shape, generator=random),
        features=features + rough * torch.randn(6, *regions.shape, generator=random),
    )


def thirds(height: int = 16, width: int = 18) -> Tensor:
    """Three upright stripes: of a half, a third and a sixth of the width."""
    columns = torch.arange(width)
    return ((columns >= width // 2).long() + (columns >= width * 5 // 6)).expand(height, width)


def random_picture(seed: int, size: tuple[int, int] = (12, 10)) -> Seen:
    random = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.avg_pool2d
    features = smooth(torch.randn(8, size[0] + 4, size[1] + 4, generator=random), 5, 1)
    clean = smooth(torch.randn(4, size[0] + 4, size[1] + 4, generator=random), 5, 1)
    return Seen(clean * 3, clean, features)


def assert_numbered(labels: Tensor) -> None:
    areas = torch.bincount(labels.flatten())[1:].tolist()
    assert int(labels.min()) == 1
    assert 0 not in areas
    assert areas == sorted(areas, reverse=True)
