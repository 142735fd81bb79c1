"""Which photographs and objects make a set, from lists in the layouts that are published."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylecli.engine.route.data import items, prepare
from stylecli.engine.route.data.coco import bare
from stylecli.engine.route.data.photographs import Photograph, Photographs, unfit
from stylecli.engine.route.data.relabelled import CLASSES, class_of
from stylecli.errors import ImageError, InputError
from stylecli.recipe.route import Data
from tests.engine.route.data import photos

ALL = Data(images=3, held_out=1)


def chosen(source: Path, data: Data = ALL, seed: int = 0, **options: list[str]) -> Photographs:
    return Photographs([prepare.listing(source)], data, seed, **options)


def outlines(source: Path) -> dict[str, Photograph]:
    return {one.id: one for one in prepare.listing(source)}


@pytest.mark.mostly_slow
@pytest.mark.parametrize("layout", [photos.coco, photos.grounded, photos.voc, photos.big])
def test_every_layout_gives_its_pictures_names_and_masks(layout, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = chosen(layout(tmp_path))
    assert len(source.subjects) == 4
    for subject in source.subjects:
        view = source.view(subject)
        box = photos.BOXES[photos.NAMES.index(subject.object)]
        if (subject.image_id, subject.object) == ("000000000103", "dog"):
            box = photos.SECOND
        assert torch.equal(view.mask, torch.from_numpy(photos.inside(box) == 1))
        assert view.picture.shape == (3, photos.HIGH, photos.WIDE)
    assert Counter(one.split for one in source.subjects) == {"train": 3, "val": 1}


def test_a_category_that_occurs_twice_or_is_a_crowd_is_no_target(tmp_path: Path) -> None:
    """ "Make the dog …" would not say which."""
    found = outlines(photos.coco(tmp_path))
    assert [one.name for one in found["000000000102"].outlines] == ["bus"]
    assert [one.name for one in found["000000000103"].outlines] == ["dining table", "dog"]


def test_one_of_several_objects_is_chosen_by_the_seed_and_each_as_often(tmp_path: Path) -> None:
    file = photos.coco(tmp_path)
    said = [
        next(s.object for s in chosen(file, seed=seed).subjects if s.image_id.endswith("103"))
        for seed in range(60)
    ]
    assert 15 <= said.count("dog") <= 45
    again = chosen(file, seed=7).subjects
    assert again == chosen(file, seed=7).subjects


def test_phrases_of_no_thing_and_those_without_a_mask_are_passed_over(tmp_path: Path) -> None:
    found = outlines(photos.grounded(tmp_path))
    assert [one.name for one in found["000000000100"].outlines] == ["top", "dog"]
    assert {one.object for one in chosen(tmp_path / "train.jsonl").subjects} == set(photos.NAMES)


def test_articles_go_and_names_stay() -> None:
    assert [bare(text) for text in ("a dog", "The old  man", "an", "bus")] == [
        "dog", "old man", "an", "bus",
    ]  # fmt: skip


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("box", "why"),
    [
        ((0, 0, 8, 8), "small"),
        ((0, 0, 160, 100), "large"),
        ((10, 0, 50, 120), "narrow"),
        ((0, 0, 0, 0), "small"),
        ((10, 10, 70, 70), None),
    ],
)
def test_objects_of_other_sizes_will_not_do(box: photos.Box, why: str | None) -> None:
    reason = unfit(torch.from_numpy(photos.inside(box) == 1), Data())
    assert reason is None if why is None else reason is not None and why in reason


def test_too_few_photographs_are_refused_with_what_was_wrong(tmp_path: Path) -> None:
    file = photos.coco(tmp_path)
    (tmp_path / "train2017" / "000000000101.jpg").unlink()
    (tmp_path / "train2017" / "000000000100.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(InputError, match="2 photographs will do, and 4 are asked for") as caught:
        chosen(file)
    assert "2 whose picture is missing or damaged" in caught.value.what
    assert caught.value.fix.startswith("--images 1,")
    with pytest.raises(InputError) as caught:
        chosen(file, Data(images=3, held_out=10))
    assert caught.value.fix.startswith("--images 1 --val 1,")
    # What was advised is enough.
    assert len(chosen(file, Data(images=1, held_out=1)).subjects) == 2
    with pytest.raises(InputError) as caught:
        chosen(file, Data(images=1, held_out=0, objects=("dinosaur",)))
    assert "--images" not in caught.value.fix


def test_objects_are_chosen_by_name(tmp_path: Path) -> None:
    file = photos.coco(tmp_path)
    source = chosen(file, Data(images=1, held_out=0, objects=("dog",)))
    assert [one.object for one in source.subjects] == ["dog"]
    with pytest.raises(InputError, match="show none of the objects that are asked for"):
        chosen(file, Data(images=1, held_out=0, objects=("zebra",)))


def test_masks_of_another_size_will_not_do(tmp_path: Path) -> None:
    file = photos.grounded(tmp_path)
    for mask in tmp_path.glob("seg/000000000101/*.png"):
        Image.new("L", (10, 10), 255).save(mask)
    source = chosen(file, Data(images=3, held_out=0))
    assert "000000000101" not in {one.image_id for one in source.subjects}
    assert source.left_out == {"whose mask is missing, damaged or of another size": 1} or (
        not source.left_out
    )


def test_pictures_of_another_size_than_the_list_says_will_not_do(tmp_path: Path) -> None:
    """Polygons would lie elsewhere in a resized copy, and nothing would tell."""
    file = photos.coco(tmp_path)
    picture = tmp_path / "train2017" / "000000000100.jpg"
    with Image.open(picture) as image:
        image.resize((photos.WIDE // 2, photos.HIGH // 2)).save(picture)
    (outline,) = outlines(file)["000000000100"].outlines
    with pytest.raises(ImageError, match=r"is 80x60, and instances_train2017\.json says 160x120"):
        outline.read((60, 80))
    with pytest.raises(InputError, match="3 photographs will do"):
        chosen(file)


def test_pairs_are_told_apart_by_all_of_their_names(tmp_path: Path) -> None:
    """Two objects of one picture of VOC, and two pictures of BIG."""
    said = {"2007_000033_01": "aeroplane", "2007_000033_15": "person", "train_tv_12": "tv",
            "train_tv_34": "tv"}  # fmt: skip
    for place, stem in enumerate(said):
        photos.photograph(tmp_path / f"{stem}_im.png", place)
        mask = photos.inside(photos.BOXES[place]) * 255
        Image.fromarray(mask).save(tmp_path / f"{stem}_gt.png")
    assert {one.image_id: one.object for one in chosen(tmp_path).subjects} == said


def test_more_pictures_to_learn_from_never_change_those_of_validation(tmp_path: Path) -> None:
    file = photos.coco(tmp_path)
    few, more = (chosen(file, Data(images=count, held_out=2)).subjects for count in (1, 2))
    assert more[:3] == few


def test_what_is_validated_on_is_not_learned_from_for_another_of_its_objects(
    tmp_path: Path,
) -> None:
    """As in relabelled VOC, where each object comes with a copy of the photograph."""
    photos.voc(tmp_path)
    for file in tmp_path.glob("*_im.png"):
        photos.photograph(file, 0)
    assert len(chosen(tmp_path, Data(images=4, held_out=0)).subjects) == 4
    with pytest.raises(InputError, match="3 with a picture that validation has"):
        chosen(tmp_path, ALL)


def test_no_picture_of_a_set_is_in_one_that_excludes_it(tmp_path: Path) -> None:
    """Whichever list names it, and whatever the seed."""
    train = chosen(photos.coco(tmp_path / "a"), Data(images=1, held_out=1))
    used = [one.image_id for one in train.subjects]
    rest = Data(images=2, held_out=0)
    for seed in range(8):
        for file in (tmp_path / "a/annotations/instances_train2017.json",):
            other = chosen(file, rest, seed, excluded=used)
            assert not {one.image_id for one in other.subjects} & set(used)
    other = chosen(photos.grounded(tmp_path / "b"), rest, excluded=used)
    assert not {one.image_id for one in other.subjects} & set(used)
    with pytest.raises(InputError, match="2 in the set that is excluded"):
        chosen(tmp_path / "b" / "train.jsonl", excluded=used)


def test_a_picture_that_two_lists_name_is_used_once(tmp_path: Path) -> None:
    lists = [
        prepare.listing(photos.coco(tmp_path / "a")),
        prepare.listing(photos.grounded(tmp_path / "b")),
    ]
    source = Photographs(lists, ALL, 0)
    assert source.left_out["named twice"] == 4


def test_classes_are_told_by_number_or_by_name() -> None:
    for number, name in enumerate(CLASSES, start=1):
        assert class_of(f"2008_000123_{number:02}") == name
    assert class_of("tv_0003") == "tvmonitor"
    assert class_of("test_train_02") == "train"
    with pytest.raises(InputError, match="no class"):
        class_of("2008_000123_21")
    with pytest.raises(InputError, match="no class"):
        class_of("zebra_01")


def test_half_of_white_parts_inside_from_outside(tmp_path: Path) -> None:
    photos.big(tmp_path)
    file = next(tmp_path.rglob("dog*_gt.png"))
    Image.fromarray(np.full((photos.HIGH, photos.WIDE), 120, dtype=np.uint8)).save(file)
    found = outlines(tmp_path)
    mask = found[file.name.removesuffix("_gt.png")].outlines[0].read((photos.HIGH, photos.WIDE))
    assert not mask.any()


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", "[]", "`images` is no list"),
        ("a.json", '{"images": [{"id": 1}]}', "`images` is no list of id, file_name"),
        pytest.param("a.json", "[" * 100_000, "is not JSON", id="deep"),
        ("a.json", '{"images": [{"id": [1], "file_name": "a"}]}', "`images` is no list of id"),
        ("a.jsonl", '{"file_name": "a.jpg"}\n', "a.jsonl:1: no `file_name`"),
        ("a.jsonl", '{"file_name": "a.jpg", "attn_list": [["dog"]]}\n', "a.jsonl:1: `attn_list`"),
        ("a.txt", "", "is no list of photographs"),
    ],
)
def test_lists_of_something_else_are_refused_with_their_place(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        chosen(tmp_path / name)


def test_an_annotation_of_no_category_is_refused(tmp_path: Path) -> None:
    file = photos.coco(tmp_path)
    said = json.loads(file.read_text())
    said["annotations"][2]["category_id"] = 77
    file.write_text(json.dumps(said))
    with pytest.raises(InputError, match="annotation 2 is of category 77"):
        chosen(file)


def test_folders_without_pairs_and_lists_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pairs of NAME_im"):
        chosen(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        chosen(tmp_path / "missing.json")
    with pytest.raises(InputError, match="excluded_ids"):
        items.excluded(tmp_path)


def test_a_set_is_another_when_a_mask_that_its_list_names_was_exchanged(tmp_path: Path) -> None:
    file = photos.grounded(tmp_path)
    before = chosen(file).facts
    assert chosen(file).facts == before
    mask = next((tmp_path / "seg").rglob("*.png"))
    with Image.open(mask) as image:
        again = image.copy()
    again.putpixel((0, 0), (7, 7, 7, 255))
    again.save(mask)
    assert chosen(file).facts != before


def test_a_mask_is_its_first_channel_whatever_the_others_say(tmp_path: Path) -> None:
    file = photos.grounded(tmp_path)
    noise = np.random.default_rng(0)
    for mask in (tmp_path / "seg").rglob("*.png"):
        with Image.open(mask) as image:
            pixels = np.array(image)
        # Written as numbers of a class, under a picture's leftovers.
        pixels[..., 0] = pixels[..., 0] > 0
        pixels[..., 1:] = noise.integers(0, 256, pixels[..., 1:].shape)
        Image.fromarray(pixels).save(mask)
    source = chosen(file)
    for subject in source.subjects:
        box = photos.BOXES[photos.NAMES.index(subject.object)]
        wanted = torch.from_numpy(photos.inside(box) == 1)
        assert torch.equal(source.view(subject).mask, wanted)
