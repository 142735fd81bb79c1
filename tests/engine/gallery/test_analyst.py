"""Pictures are looked at once: what changes, changes its own tier of the cache and those after."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stylecli.artifacts import cache
from stylecli.backbone.model import Backbone
from stylecli.engine.contents import Inverter
from stylecli.engine.context import RunContext
from stylecli.engine.gallery import analyst as analysts
from stylecli.engine.gallery.analyst import Analysis, Analyst
from stylecli.engine.gallery.references import References, sit
from stylecli.engine.gallery.sight import Sight
from stylecli.engine.gallery.wishes import Listed
from stylecli.engine.plan import Input
from stylecli.recipe.schema import Recipe
from tests.cli.conftest import draw
from tests.engine.gallery.desk import painted, recipe
from tests.engine.jobs import Listener

NETWORKS: dict[str, object] = {
    "depth": "none",
    "segmenter": "none",
    "semantics": "features",
    "weights": None,
}


class Blind(Sight):
    """Networks that are there and tell nothing."""

    def __init__(self) -> None:
        """There is nothing to load."""

    def depth(self, *_: object, **__: object) -> None: ...

    def segments(self, *_: object, **__: object) -> None: ...

    def semantics(self, *_: object, pixels: torch.Tensor | None = None, **__: object) -> None:
        self.shown = pixels


class Bench:
    """An analyst that counts what it does."""

    def __init__(self, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
        self.listener = Listener()
        self.context = RunContext(torch.device("cpu"), torch.float32, self.listener)
        self.inverter = Inverter(backbone, self.context)
        self.sight = Blind()
        self.analyst = Analyst(backbone, self.context, self.sight)
        self.done: Counter[str] = Counter()
        for name in ("see", "divide", "describe"):
            self._count(name, monkeypatch)

    def _count(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        real = getattr(analysts, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.done[name] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(analysts, name, counted)

    def look(
        self,
        path: Path,
        settings: Recipe | None = None,
        mask: Path | None = None,
        networks: Mapping[str, object] | None = None,
        rows: int = 1,
    ) -> Analysis:
        settings = settings or recipe()
        painted_ = None if mask is None else Input.of("mask", mask)
        sitter = sit(self.inverter, Input.of("content", path), painted_, settings)
        (found,) = self.analyst.analyse([sitter], settings, NETWORKS | dict(networks or {}), rows)
        return found

    def took(self) -> str:
        """What was done since it was last asked: s, d, and d of the three tiers."""
        found = "".join(
            letter
            for letter, name in (("s", "see"), ("r", "divide"), ("d", "describe"))
            if self.done[name]
        )
        self.done.clear()
        return found


@pytest.fixture
def bench(shared: Backbone, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(shared, monkeypatch)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return draw(tmp_path / "photo.png", seed=1)


def assert_equal(one: Analysis, other: Analysis) -> None:
    for name in ("clean", "noise", "colours"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(one.regions.labels, other.regions.labels)
    assert dict(one.regions.scores) == dict(other.regions.scores)
    assert dict(one.regions.of_paint) == dict(other.regions.of_paint)
    assert (one.regions.moved, one.regions.painted) == (other.regions.moved, other.regions.painted)
    for name in ("statistics", "semantics", "circles"):
        a, b = (getattr(found.described, name) for found in (one, other))
        assert torch.equal(a, b), name


@pytest.mark.slow
def test_each_setting_changes_its_own_tier_and_those_after(
    bench: Bench, photo: Path, tmp_path: Path
) -> None:
    mask = painted(tmp_path / "mask.png", ["red", "black"])
    first = bench.look(photo)
    assert bench.took() == "srd"
    assert_equal(bench.look(photo), first)
    assert bench.took() == ""
    copy = tmp_path / "elsewhere" / "other.png"
    copy.parent.mkdir()
    shutil.copy(photo, copy)
    assert bench.look(copy).name == "other.png"
    assert bench.took() == ""
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "steps": ("srd", {"settings": recipe(dfcc__steps=3)}),
        "block": ("srd", {"settings": recipe(dfcc__block=1)}),
        "size": ("srd", {"settings": recipe(sampling__size=48)}),
        "fit": ("srd", {"settings": recipe(gallery__fit="squash")}),
        "rows": ("srd", {"rows": 2}),
        "k": ("rd", {"settings": recipe(dfcc__k=2)}),
        "merging": ("rd", {"settings": recipe(dfcc__merge_distance=0.2)}),
        "seed": ("rd", {"settings": recipe(sampling__seed=5)}),
        "depth": ("rd", {"networks": {"depth": "some network"}}),
        "segments": ("rd", {"networks": {"segmenter": "some network"}}),
        "mask": ("rd", {"mask": mask}),
        "mask alone": ("rd", {"mask": mask, "settings": recipe(dfcc__mask_mode="only")}),
        "circle": ("d", {"settings": recipe(matching__circle="centroid")}),
        "statistics": ("d", {"settings": recipe(matching__statistics="none")}),
        "semantics": ("d", {"networks": {"semantics": "none"}}),
        "weights of what sees": ("d", {"networks": {"weights": "others"}}),
        # Without a mask nobody asks what becomes of it, and these are for later.
        "no mask": ("", {"settings": recipe(dfcc__mask_mode="only")}),
        "lambda": ("", {"settings": recipe(matching__semantics_weight=2.0)}),
        "later": ("", {"settings": recipe(gallery__steps=9, gallery__lr=0.2)}),
    }
    for name, (tiers, options) in cases.items():
        bench.look(photo, **options)
        assert (name, bench.took()) == (name, tiers)
        bench.look(photo, **options)
        assert (name, bench.took()) == (name, "")
    image = Image.open(photo)
    image.putpixel((3, 3), (1, 2, 3))
    image.save(photo)
    bench.look(photo)
    assert bench.took() == "srd"
    assert not bench.listener.said


@pytest.mark.mostly_slow
@pytest.mark.parametrize("kind", [cache.SEEN, cache.REGIONS, cache.DESCRIBED])
def test_what_is_damaged_is_told_of_once_and_made_again(
    bench: Bench, photo: Path, kind: str
) -> None:
    first = bench.look(photo)
    bench.took()
    (file,) = (cache.cache_dir() / kind).rglob("*.safetensors")
    whole = file.read_bytes()
    # The first number; features, which come last, are not even read where regions are known.
    at = 8 + int.from_bytes(whole[:8], "little")
    changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    for damaged in (whole[:-7], changed, b"", b"{}" * 50):
        file.write_bytes(damaged)
        assert_equal(bench.look(photo), first)
        assert bench.took() == {"seen": "s", "regions": "r", "described": "d"}[kind]
        assert file.read_bytes() == whole
    (said,) = bench.listener.said
    assert "damaged; computed again" in said


@pytest.mark.slow
def test_a_lost_tier_is_made_again_from_those_before_it(bench: Bench, photo: Path) -> None:
    first = bench.look(photo)
    for kind, tiers in ((cache.SEEN, "s"), (cache.REGIONS, "r"), (cache.DESCRIBED, "d")):
        shutil.rmtree(cache.cache_dir() / kind)
        bench.took()
        assert_equal(bench.look(photo), first)
        assert bench.took() == tiers


@pytest.mark.slow
def test_references_are_looked_at_once_whatever_their_sizes(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(48, 40), (40, 48), (48, 40), (44, 44), (48, 40)]
    paths = [draw(tmp_path / f"{i}.png", seed=i, size=size) for i, size in enumerate(sizes)]
    wanted = [Listed(Input.of("style", path)) for path in paths]
    references = References(bench.inverter, bench.analyst, bench.context)
    found = references.of(wanted, recipe(), NETWORKS)
    assert [one.name for one in found] == [path.name for path in paths]
    assert bench.done["see"] == bench.done["divide"] == 5
    bench.took()
    again = references.of(wanted, recipe(gallery__lr=0.1), NETWORKS)
    assert again is found
    monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / "empty"))
    fewer = References(bench.inverter, bench.analyst, bench.context).of(
        wanted[2:], recipe(), NETWORKS
    )
    for one, other in zip(fewer, found[2:], strict=True):
        assert_equal(one, other)
    assert all(one.noise.untyped_storage().size() < 100_000 for one in found)


def held(one: object) -> int:
    """Bytes of all tensors in an object, whatever it is made of."""
    if isinstance(one, torch.Tensor):
        return one.untyped_storage().nbytes()
    if isinstance(one, Mapping):
        return sum(map(held, one.values()))
    if dataclasses.is_dataclass(one):
        return sum(held(getattr(one, field.name)) for field in dataclasses.fields(one))
    return 0


@pytest.mark.slow
def test_nothing_is_held_at_the_size_of_a_file(bench: Bench, tmp_path: Path) -> None:
    photo = draw(tmp_path / "large.png", seed=1, size=(480, 400))
    mask = painted(tmp_path / "mask.png", ["red", "black"], (480, 400))
    assert held(bench.look(photo, mask=mask)) < 480 * 400


def test_where_the_middle_is_looked_at_it_is_that_of_the_file(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = draw(tmp_path / "wide.png", seed=1, size=(90, 40))
    settings = recipe(gallery__fit="squash", matching__semantics_view="centre")
    bench.look(photo, settings)
    assert bench.sight.shown is not None
    assert torch.equal(bench.sight.shown, torch.from_numpy(np.array(Image.open(photo))))
    whole = Bench(bench.inverter.backbone, monkeypatch)
    whole.look(photo, recipe(gallery__fit="squash", dfcc__k=2))
    assert whole.sight.shown is None


def test_noisy_regions_are_told_of_in_every_run(
    bench: Bench, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysts, "MOST_MOVED", -1.0)
    for count in (1, 2):
        bench.look(photo)
        assert len(bench.listener.said) == count
        assert "photo.png: noisy segmentation" in bench.listener.said[-1]
