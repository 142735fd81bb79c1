"""Pictures of a gallery: what decides them, and what does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from stylecli.artifacts import store
from stylecli.engine.gallery import analyst
from stylecli.engine.gallery.maker import GalleryMaker
from stylecli.methods.stylegallery import dfcc
from tests import small
from tests.engine.gallery.desk import Desk, painted, recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def report(desk: Desk, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((desk.folder / name).read_bytes())
    return found


def test_companions_change_no_byte_and_the_batch_at_most_a_shade(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = recipe(device__batch=2)
    desk.make("together", desk.contents, settings=together)
    monkeypatch.setenv("STYLE_CACHE_DIR", str(desk.folder / "other"))
    # Other companions, who take their style from other references, and nothing cached.
    desk.make("some", [desk.contents[3], desk.contents[0]], settings=together)
    for name in ("photo0.png", "photo3.png"):
        assert (desk.pixels(f"together/{name}") == desk.pixels(f"some/{name}")).all()
    desk.make("alone", desk.contents)
    for content in desk.contents:
        one, other = (desk.pixels(f"{folder}/{content.name}") for folder in ("alone", "together"))
        assert np.abs(one - other).max() <= 1


def test_shapes_and_odd_pictures_go_both_ways(desk: Desk) -> None:
    """Wide content with square references, one pixel, one colour, greys, and transparency."""
    folder = desk.folder / "odd"
    folder.mkdir()
    random = np.random.default_rng(3)
    wide = random.integers(0, 256, (40, 90, 3), dtype=np.uint8)
    Image.fromarray(wide).save(folder / "wide.png")
    Image.fromarray(wide[..., 0]).save(folder / "grey.png")
    Image.fromarray(np.dstack([wide, wide[..., 0]])).save(folder / "clear.png")
    Image.new("RGB", (1, 1), "teal").save(folder / "pixel.png")
    Image.new("RGB", (50, 40), "teal").save(folder / "plain.png")
    odd = sorted(folder.iterdir())
    desk.make("out", odd, explain=True)
    sizes = {"wide": (32, 72), "grey": (32, 72), "clear": (32, 72), "pixel": (32, 32)}
    for name, size in (sizes | {"plain": (32, 40)}).items():
        assert desk.pixels(f"out/{name}.png").shape[:2] == size
    for name in ("pixel", "plain"):
        assert len(report(desk, f"out/{name}.regions.json")["matches"]) == 1
    desk.make("back", refs=odd)
    assert desk.pixels("back/photo0.png").shape == (32, 38, 3)


def test_squashed_pictures_become_squares_and_transparency_may_be_dropped(desk: Desk) -> None:
    clear = np.dstack([desk.pixels("photo0.png"), np.zeros((40, 48))]).astype(np.uint8)
    Image.fromarray(clear).save(desk.folder / "clear.png")
    contents = [desk.contents[0], desk.folder / "clear.png"]
    desk.make("white", contents, explain=True)
    authors = recipe(gallery__fit="squash", gallery__alpha="drop")
    desk.make("drop", contents, settings=authors, explain=True)
    for name in ("photo0", "clear"):
        assert desk.pixels(f"drop/{name}.png").shape == (32, 32, 3)
    # All of it is transparent, so on white nothing is left of it.
    assert len(report(desk, "white/clear.regions.json")["matches"]) == 1
    assert (desk.pixels("drop/clear.png") == desk.pixels("drop/photo0.png")).all()


def test_what_is_drawn_is_drawn_for_each_item(desk: Desk) -> None:
    """With nothing to lead them, latents are the numbers they began with."""
    nothing = {"gallery__style_weight": 0.0, "gallery__content_weight": 0.0}
    settings = recipe(device__batch=2, gallery__init="noise", **nothing)
    desk.make("out", [desk.contents[0], desk.contents[2]], settings=settings)
    assert (desk.pixels("out/photo0.png") != desk.pixels("out/photo2.png")).any()
    desk.make("alone", [desk.contents[2]], settings=recipe(gallery__init="noise", **nothing))
    apart = np.abs(desk.pixels("alone/photo2.png") - desk.pixels("out/photo2.png"))
    assert apart.max() <= 1


def test_a_content_of_one_region_and_references_of_fewer(desk: Desk) -> None:
    results = desk.make("out", settings=recipe(dfcc__k=1))
    assert results[0].details["regions"] == 1


def test_what_people_say_of_matches_holds(desk: Desk) -> None:
    wishes = recipe(
        gallery__match=["1=ref2:1+2", "2=keep"],
        gallery__strength=["3=0.5"],
        gallery__exclude=["ref1"],
    )
    desk.make("out", settings=wishes, explain=True)
    first, second, third = report(desk, "out/photo0.regions.json")["matches"]
    assert (first["style"], first["regions"], first["source"]) == ("ref2", [1, 2], "user")
    assert second["keep"] is True
    assert (third["strength"], third["source"]) == (0.5, "auto")
    assert third["style"] != "ref1"
    desk.make("plain")
    desk.make("led", settings=recipe(gallery__match=["1=ref2:1+2"]))
    assert (desk.pixels("led/photo0.png") != desk.pixels("plain/photo0.png")).any()


def test_a_report_given_back_makes_the_same_picture_and_an_edited_one_another(desk: Desk) -> None:
    desk.make("first", explain=True)
    found = report(desk, "first/photo0.regions.json")
    same = recipe(gallery__match=[str(desk.folder / "first/photo0.regions.json")])
    desk.make("again", settings=same, explain=True)
    assert (desk.pixels("again/photo0.png") == desk.pixels("first/photo0.png")).all()
    again = report(desk, "again/photo0.regions.json")
    assert again["matches"] == found["matches"]
    assert again["config"]["gallery"]["match"] == ["photo0.regions.json"]
    # Another region of another reference than those that were chosen.
    others = {"ref1", "ref2", "ref3"} - {row["style"] for row in found["matches"]} or {"ref1"}
    edited = desk.folder / "mine.json"
    found["matches"][0] |= {"style": min(others), "regions": [2]}
    edited.write_text(json.dumps(found))
    desk.make("mine", settings=recipe(gallery__match=[str(edited)]), explain=True)
    first, *rest = report(desk, "mine/photo0.regions.json")["matches"]
    assert (first["style"], first["regions"]) == (min(others), [2])
    assert first["source"] == "user"
    assert {row["source"] for row in rest} == {"auto"}


def test_a_region_that_a_content_lacks_fails_that_content_alone(desk: Desk) -> None:
    few = desk.folder / "few.png"
    Image.new("RGB", (48, 40), "teal").save(few)
    settings = recipe(gallery__match=["3=ref1:1"])
    first, second = desk.prepare("out", [few, desk.contents[0]], settings=settings).run()
    assert first.error is not None
    assert "few.png: gallery.match '3=ref1:1': the content has no region 3" in first.error.what
    assert second.status == "done"


def test_regions_are_known_by_the_colours_they_were_painted_in(desk: Desk) -> None:
    painted(desk.folder / "mask-photo0.png", ["black", "red", "#1080f0"])
    mask = str(desk.folder / "mask-{content}.png")
    settings = recipe(gallery__mask=mask, gallery__only=["red"], dfcc__mask_mode="only")
    first, second = desk.prepare("out", desk.contents[:2], settings=settings, explain=True).run()
    assert first.status == "done", first.error
    found = report(desk, "out/photo0.regions.json")
    assert [region["painted"] for region in found["content"]["regions"]].count(True) == 2
    (styled,) = (row for row in found["matches"] if not row.get("keep"))
    region = found["content"]["regions"][styled["content"] - 1]
    assert region["bbox"][0] == pytest.approx(1 / 3, abs=0.07)
    assert region["bbox"][2] == pytest.approx(2 / 3, abs=0.07)
    assert second.error is not None
    assert "mask-photo1.png is missing" in second.error.what
    settings = recipe(gallery__mask=mask, gallery__only=["green"])
    (unknown,) = desk.prepare("other", settings=settings).run()
    assert unknown.error is not None
    assert "no region of the content is called 'green'" in unknown.error.what
    assert "red" in unknown.error.fix


def test_words_name_the_regions_they_cover(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.masks import plugs

    plugs.install(monkeypatch, fake="tests.masks.plugs:Fake")
    mask = str(painted(desk.folder / "m.png", ["red", "lime", "blue", "white"]))
    settings = {"masks__backend": "fake", "dfcc__mask_mode": "only", "gallery__mask": mask}
    # The fake's red deer is the left quarter, and its sky is everywhere.
    desk.make("one", settings=recipe(**settings, gallery__match=["red deer=keep"]), explain=True)
    found = report(desk, "one/photo0.regions.json")
    (kept,) = (row["content"] for row in found["matches"] if row.get("keep"))
    assert found["content"]["regions"][kept - 1]["bbox"][2] == pytest.approx(0.25, abs=0.07)
    desk.make("all", settings=recipe(**settings, gallery__match=["sky=keep"]), explain=True)
    found = report(desk, "all/photo0.regions.json")
    assert all(row["keep"] for row in found["matches"])
    lone = recipe(masks__backend="fake", dfcc__k=1, gallery__match=["red deer=keep"])
    (result,) = desk.prepare("lone", settings=lone).run()
    assert result.error is not None
    assert "no region is mostly 'red deer'" in result.error.what
    (result,) = desk.prepare("none", settings=recipe(**settings, gallery__only=["cow"])).run()
    assert result.error is not None
    assert "nothing matches 'cow'" in result.error.what


def test_a_dump_tells_how_the_latents_came_about(desk: Desk) -> None:
    """Adam, told the gradients that were dumped, ends at the latents that were dumped."""
    settings = recipe(device__batch=2, gallery__steps=3, gallery__iterations=2)
    desk.make("out", desk.contents[:1], settings=settings, explain=True, dump=True)
    with safe_open(desk.folder / "out/photo0.safetensors", framework="pt") as stream:
        found = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    assert found["timesteps"].tolist() == [667, 667, 334, 334, 1, 1]
    assert found["gradients"].shape == (6, 4, 16, 24)
    assert not found["skipped"].any()
    noise = found["content.noise"]
    leaf = ((noise - noise.mean(0)) / (noise.std(0) + 1e-8)).requires_grad_()
    adam = torch.optim.Adam([leaf], lr=0.05)
    for gradient in found["gradients"]:
        leaf.grad = gradient
        adam.step()
    torch.testing.assert_close(leaf.detach(), found["latents"])
    assert (found["losses.style"] > 0).all()
    listed = report(desk, "out/photo0.regions.json")
    for name, picture in (("content", listed["content"]), ("ref3", listed["styles"][2])):
        labels = found[f"labels.{name}"]
        rows, columns = picture["cells"]
        counts = torch.bincount(labels[:rows, :columns].flatten())[1:] / (rows * columns)
        areas = [region["area"] for region in picture["regions"]]
        torch.testing.assert_close(counts, torch.tensor(areas), atol=1e-5, rtol=0)


def test_what_is_asked_for_later_is_made_later_and_nothing_twice(desk: Desk) -> None:
    (first,) = desk.make("out")
    assert first.status == "done"
    before = desk.pixels("out/photo0.png")
    for explain, dump in ((True, False), (False, True), (True, True)):
        statuses = [desk.make("out", explain=explain, dump=dump)[0].status for _ in range(2)]
        assert statuses == ["skipped" if explain and dump else "done", "skipped"]
    assert (desk.pixels("out/photo0.png") == before).all()
    (desk.folder / "out/photo0.regions.json").write_text("{}")
    (other,) = desk.prepare("out", explain=True).run()
    assert other.error is not None
    assert "photo0.regions.json exists" in other.error.what


def test_files_say_what_made_them_and_name_no_folder(desk: Desk) -> None:
    style = small.lora(small.base_unet(), size=0.1)
    loras = desk.folder / "fast.safetensors"
    from safetensors.torch import save_file

    save_file({f"unet.{name}": value for name, value in style.items()}, loras)
    painted(desk.folder / "masks/look0.png", ["red", "blue"], (44, 44))
    settings = recipe(
        gallery__accelerator=str(loras),
        gallery__ref_masks=str(desk.folder / "masks/{style}.png"),
    )
    desk.make("out", settings=settings, explain=True, dump=True)
    names = ("photo0.png", "photo0.regions.png", "photo0.regions.json", "photo0.safetensors")
    said = [store.read_provenance(desk.folder / "out" / name) for name in names]
    assert said[0] is not None
    assert said.count(said[0]) == len(names)
    assert str(desk.folder) not in json.dumps(said)
    assert said[0]["recipe"]["gallery"]["accelerator"] == "fast.safetensors"
    assert said[0]["recipe"]["gallery"]["ref_masks"] == "{style}.png"
    sections = "backbone device dfcc gallery masks matching sampling"
    assert sorted(said[0]["recipe"]) == sections.split()
    roles = [one["role"] for one in said[0]["inputs"]]
    assert roles == ["content", "style", "mask", "style", "style", "accelerator"]
    assert str(desk.folder) not in (desk.folder / "out/photo0.regions.json").read_text()
    styles = report(desk, "out/photo0.regions.json")["styles"]
    assert [any(r["painted"] for r in one["regions"]) for one in styles] == [True, False, False]
    desk.make("mute", settings=settings, explain=True, dump=True, strip=True)
    assert all(store.read_provenance(desk.folder / "mute" / name) is None for name in names)
    mute = (desk.folder / "mute/photo0.regions.json").read_text()
    assert "photo0" not in mute
    assert "look0" not in mute
    assert "fast" not in mute
    assert "{style}" not in mute


def test_an_accelerator_leads_and_leaves_no_trace(desk: Desk) -> None:
    from safetensors.torch import save_file

    file = desk.folder / "fast.safetensors"
    pairs = small.lora(small.base_unet(), size=2.0)
    save_file({f"unet.{name}": value for name, value in pairs.items()}, file)
    plain = desk.prepare("plain")
    fast = desk.prepare("fast", settings=recipe(gallery__accelerator=str(file)))
    before = small.state(fast.session.backbone.unet)
    assert [result.status for result in (*plain.run(), *fast.run())] == ["done", "done"]
    small.assert_same_state(fast.session.backbone.unet, before)
    assert (desk.pixels("plain/photo0.png") != desk.pixels("fast/photo0.png")).any()


def test_too_little_memory_is_met_step_by_step(desk: Desk) -> None:
    prepared = desk.prepare("out", settings=recipe(device__batch=2))
    maker = prepared.start()
    steps = [maker.shrink(), maker.shrink()]
    assert steps == ["with gradient checkpointing", "one row at a time"]
    desk.make("plain")
    job = prepared.plan.jobs[0]
    maker.batch = 1
    (made,) = maker.make([(job, maker.load(job))])
    maker.save(job, made)
    assert np.abs(desk.pixels("out/photo0.png") - desk.pixels("plain/photo0.png")).max() <= 1
    assert [maker.shrink(), maker.shrink()] == ["large pictures in tiles", None]


def test_references_are_looked_at_once_whatever_the_batch(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = dfcc.see

    def counted(backbone: Any, pictures: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(len(pictures))
        return real(backbone, pictures, *arguments, **options)

    monkeypatch.setattr(analyst, "see", counted)
    desk.make("one")
    assert seen == [1] * 4
    seen.clear()
    desk.make("two", settings=recipe(device__batch=2))
    assert seen == [2]


def test_rows_of_equal_changes_are_led_together(desk: Desk) -> None:
    masks = painted(desk.folder / "masks/look0.png", ["red", "blue"], (44, 44)).parent
    contents = ("photo0.png", "photo2.png", "photo0.png")
    rows: list[dict[str, Any]] = [
        {"content": content, "gallery.lr": lr}
        for content, lr in zip(contents, (0.1, 0.1, 0.2), strict=True)
    ]
    settings = recipe(gallery__ref_masks=f"{masks}/{{style}}.png")
    prepared = desk.rows(settings, {"content": "photo2.png"}, *rows)
    maker = prepared.start()
    assert isinstance(maker, GalleryMaker)
    usual, first, second, other = (maker.bucket(job, maker.load(job)) for job in prepared.plan.jobs)
    assert first == second
    assert len({usual, first, other}) == 3
    tasks = [maker._tasks[job.key] for job in prepared.plan.jobs]
    assert len({id(task.references) for task in tasks}) == 1


def test_checkpoints_are_tried_unless_every_row_has_them(desk: Desk) -> None:
    own = [{"gallery.gradient_checkpointing": value} for value in (True, False)]
    for some, first in ((own, "with gradient checkpointing"), (own[:1], "one row at a time")):
        for usual in (True, False):
            settings = recipe(device__batch=2, gallery__gradient_checkpointing=usual)
            assert desk.rows(settings, *some).start().shrink() == first


def test_progress_counts_the_moments_there_are(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, list[int]] = {}

    class Told:
        def __init__(self, label: str) -> None:
            self.label = label

        def advance(self, n: int = 1) -> None:
            told[self.label][1] += n

    @contextmanager
    def task(label: str, total: int) -> Iterator[Told]:
        told[label] = [total, 0]
        yield Told(label)

    monkeypatch.setattr(desk.listener, "task", task)
    settings = recipe(gallery__mode="guided", gallery__steps=5, dfcc__steps=2)
    desk.make("out", settings=settings)
    total, done = told["restyle photo0.png"]
    assert total == done < 5


def test_the_report_of_other_pictures_is_refused(desk: Desk) -> None:
    desk.make("out", desk.contents[:1], explain=True)
    told = str(desk.folder / "out/photo0.regions.json")
    again = recipe(gallery__match=[told])
    (other,) = desk.prepare("b", [desk.contents[2]], settings=again).run()
    assert other.error is not None
    assert "photo0.regions.json tells of photo0.png where photo2.png is" in other.error.what
    refs = sorted((desk.folder / "refs").iterdir())
    (swapped,) = desk.prepare("c", desk.contents[:1], refs=refs[::-1], settings=again).run()
    assert swapped.error is not None
    assert "tells of look0.png where look2.png is" in swapped.error.what


def test_what_comes_to_nothing_is_told(desk: Desk) -> None:
    desk.make("kept", settings=recipe(dfcc__k=1, gallery__match=["1=keep"]))
    assert any("every region is kept" in text for text in desk.listener.said)
    black = painted(desk.folder / "black.png", ["black"])
    desk.make("black", settings=recipe(gallery__mask=str(black)))
    assert any("nothing is painted" in text for text in desk.listener.said)


def test_a_report_can_be_read_line_by_line(desk: Desk) -> None:
    desk.make("out", explain=True)
    lines = (desk.folder / "out/photo0.regions.json").read_text().splitlines()
    assert lines[2] == ' "matches": ['
    assert all('"content": ' in line for line in lines[3:6])
