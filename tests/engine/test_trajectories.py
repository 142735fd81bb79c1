"""Inversions are kept where there is room, and made again where there is not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stylecli.artifacts import cache, images, store
from stylecli.backbone.model import Backbone
from stylecli.engine.trajectories import Kept, View, find_or_invert
from stylecli.errors import DiskFullError
from stylecli.recipe.schema import Inversion
from tests.small import noise


class Listener:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.tasks = 0

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def advance(self, n: int = 1) -> None: ...

    @contextlib.contextmanager
    def task(self, label: str, total: int) -> Iterator[Listener]:
        self.tasks += 1
        yield self


def inverted(backbone: Backbone, listener: Listener, seed: int = 0) -> Kept:
    image = noise(1, 3, 32, 32, seed=seed).sigmoid()
    geometry = images.Geometry.plan(32, 32, short_side=32, multiple=backbone.multiple_px)
    view = View(image, f"{seed:064}", geometry, "x.png")
    settings = Inversion(steps=4)
    levels = backbone.schedule.levels(4)
    (kept,) = find_or_invert(backbone, [view], settings, levels, reporter=listener)
    return kept


def trajectory_files() -> list[Path]:
    return sorted((cache.cache_dir() / cache.TRAJECTORIES).rglob("*.safetensors"))


def test_on_a_full_disk_the_work_goes_on_without_keeping(
    shared: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()

    def full(path: Path, *_: object) -> None:
        raise DiskFullError(f"{path} cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "save_tensors", full)
        made = [inverted(shared, listener) for _ in range(2)]
    assert torch.equal(made[0].latents, made[1].latents)
    assert listener.tasks == 2
    assert len(listener.warnings) == 1
    assert not trajectory_files()
    assert torch.equal(inverted(shared, listener).latents, made[0].latents)
    assert len(trajectory_files()) == 1


def test_what_was_removed_meanwhile_is_made_again(shared: Backbone) -> None:
    listener = Listener()
    first = inverted(shared, listener)
    assert torch.equal(inverted(shared, listener).latents, first.latents)
    assert listener.tasks == 1
    (file,) = trajectory_files()
    file.unlink()
    assert torch.equal(inverted(shared, listener).latents, first.latents)
    assert listener.tasks == 2


@pytest.mark.slow
def test_the_cache_of_a_run_keeps_to_its_size_and_to_what_was_used_last(
    shared: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    inverted(shared, listener, seed=0)
    (first,) = trajectory_files()
    size = first.stat().st_size
    monkeypatch.setenv("STYLE_CACHE_SIZE", f"{4.5 * size / 1000:.3f}kB")
    for seed in range(1, 9):
        inverted(shared, listener, seed=seed)
        inverted(shared, listener, seed=0)
        assert sum(file.stat().st_size for file in trajectory_files()) <= 5 * size
    assert first in trajectory_files()
    assert listener.tasks == 9
