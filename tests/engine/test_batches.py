"""Batches: a picture does not depend on which others were made beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylecli.engine import commands, generate, restyle
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.recipe.load import load
from stylecli.recipe.schema import Recipe
from tests import small
from tests.cli.conftest import draw
from tests.engine.jobs import Listener

SIZES = [(48, 40), (40, 48), (48, 40), (48, 40), (40, 48), (48, 40), (33, 70)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i, size in enumerate(SIZES):
        draw(folder / f"{i}.png", seed=i, size=size)
    draw(folder.parent / "painting.png", seed=20)
    return folder


def settings(batch: int, **more: object) -> Recipe:
    values = {
        "backbone.id": str(small.folder()),
        "device.batch": batch,
        "device.name": "cpu",
        "sampling.size": 32,
        "sampling.steps": 4,
        "sampling.guidance": 3.0,
        "inversion.steps": 4,
        "inversion.refine_iters": 2,
        "injection.feature_steps": 2,
        "injection.attn_steps": 2,
        "lora.resolution": 32,
        "lora.steps": 3,
    }
    return load(flags=values | more).recipe


def made(prepared: Prepared) -> dict[str, bytes]:
    for result in prepared.run():
        assert result.status == "done", result.error
    return {job.output.name: job.output.read_bytes() for job in prepared.plan.jobs}


def transferred(recipe: Recipe, photos: Path, out: Path, names: Sequence[str] = ()) -> Prepared:
    contents = [str(photos / name) for name in names] or [str(photos)]
    return restyle.transfer(
        recipe,
        Contents(arguments=contents),
        Destination(output=f"{out}/"),
        Listener(),
        styles=[str(photos.parent / "painting.png")],
    )


def pixels(data: bytes, folder: Path) -> np.ndarray:
    (folder / "x.png").write_bytes(data)
    return np.array(Image.open(folder / "x.png")).astype(int)


@pytest.mark.slow
def test_companions_change_no_byte_and_the_batch_at_most_a_shade(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / "cache"))
    together = made(transferred(settings(3), photos, tmp_path / "together"))
    assert len(together) == len(SIZES)
    # What a resumed run, or a shard of another size, has to make: other groups, no cache.
    monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / "other"))
    some = made(transferred(settings(3), photos, tmp_path / "some", ["5.png", "1.png", "2.png"]))
    assert some == {name: together[name] for name in some}
    alone = made(transferred(settings(1), photos, tmp_path / "alone"))
    for name, data in alone.items():
        one, other = pixels(data, tmp_path), pixels(together[name], tmp_path)
        assert np.abs(one - other).max() <= 1


@pytest.mark.slow
def test_regions_of_fixed_masks_are_painted_together(photos: Path, tmp_path: Path) -> None:
    mask = np.zeros((40, 48), np.uint8)
    mask[:, 20:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    region = f"{tmp_path / 'mask.png'}={photos.parent / 'painting.png'}"
    names = ["0.png", "2.png", "3.png"]

    def run(batch: int, out: str, chosen: Sequence[str]) -> dict[str, bytes]:
        return made(
            restyle.mask_transfer(
                settings(batch, **{"sampling.regions": [region]}),
                Contents(arguments=[str(photos / name) for name in chosen]),
                Destination(output=f"{tmp_path / out}/"),
                Listener(),
            )
        )

    together, one = run(2, "together", names), run(2, "one", names[1:2])
    assert one.items() <= together.items()
    for name, data in run(1, "alone", names).items():
        assert np.abs(pixels(data, tmp_path) - pixels(together[name], tmp_path)).max() <= 1
    left = pixels(together["0__painting.png"], tmp_path)[:, :20]
    assert (left == np.array(Image.open(photos / "0.png"))[:, :20]).all()


@pytest.mark.slow
@pytest.mark.slow
def test_inversions_and_words_come_in_batches_too(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inverted(out: str, names: Sequence[str]) -> dict[str, bytes]:
        monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / f"cache-{out}"))
        return made(
            commands.invert(
                settings(3),
                Contents(arguments=[str(photos / name) for name in names]),
                Destination(output=f"{tmp_path / out}/"),
                Listener(),
            )
        )

    whole = inverted("all", [f"{i}.png" for i in range(len(SIZES))])
    assert inverted("some", ["3.png"]).items() <= whole.items()

    def drawn(batch: int, out: str, count: int) -> dict[str, bytes]:
        return made(
            generate.generate(
                settings(batch),
                generate.Words(("a red heart",), count),
                Destination(output=f"{tmp_path / out}/"),
                Listener(),
            )
        )

    five, three = drawn(2, "five", 5), drawn(2, "three", 3)
    assert three.items() <= five.items()
    assert len(set(five.values())) == 5
    for name, data in drawn(1, "alone", 3).items():
        assert np.abs(pixels(data, tmp_path) - pixels(three[name], tmp_path)).max() <= 1
