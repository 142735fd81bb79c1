"""Scenes of icons: what is in them, what is seen of it, and the truth about another hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stylecli.artifacts import glyphs
from stylecli.engine.route.data import scenes
from stylecli.engine.route.data.making import box_of
from stylecli.engine.route.data.scenes import Scenes, Wanted
from stylecli.errors import InputError
from stylecli.methods.regionroute.styles import PAPER
from stylecli.recipe.route import Data
from tests.engine.route.data import families

PX = 48
HANDS = ("fluent-emoji-high-contrast", "streamline-emojis")


@pytest.fixture(scope="module")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.packages(tmp_path_factory.mktemp("icons"))


def drawn(
    icons: Path,
    images: int = 12,
    *,
    hands: tuple[str, ...] = HANDS,
    seed: int = 0,
    objects: tuple[str, ...] = (),
) -> Scenes:
    known = {style.id: style for style in scenes.family_styles()}
    styles = [*PAPER, *(known[hand] for hand in hands)]
    data = Data(images=images, held_out=4, objects=objects)
    return Scenes(Wanted(icons=icons, styles=styles, hands=hands, data=data, px=PX, seed=seed))


def test_validation_shows_what_training_never_does(icons: Path) -> None:
    source = drawn(icons, 30)
    for image_id, cast in source._casts.items():
        for content in cast.contents:
            assert glyphs.content_is_held_out(content) == ("val" in image_id)
            assert content in (families.HELD if "val" in image_id else families.SEEN)
    assert [s.split for s in source.subjects] == ["val"] * 4 + ["train"] * 30


def test_of_chosen_objects_others_are_in_the_scene_and_do_not_change(icons: Path) -> None:
    source = drawn(icons, 30, objects=("Banana", "pen"))
    assert {one.object for one in source.subjects} == {"banana", "fountain pen"}
    assert {one.split for one in source.subjects} == {"train", "val"}
    shown = {one for cast in source._casts.values() for one in cast.contents}
    assert shown - {"banana", "fountain-pen"}


@pytest.mark.parametrize("name", ["nana", "yacht", families.HELD[0]])
def test_objects_that_nobody_draws_or_that_are_kept_out_are_refused(icons: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"none of the objects .*{name}"):
        drawn(icons, objects=(name,))


@pytest.mark.slow
def test_a_scene_is_two_or_three_things_of_one_hand_with_names_of_their_own(icons: Path) -> None:
    source = drawn(icons, 40)
    counts = set()
    for cast in source._casts.values():
        words = [word for content in cast.contents for word in content.split("-")]
        assert len(set(words)) == len(words)
        counts.add(len(cast.contents))
        family = glyphs.FAMILIES[cast.family]
        assert not family.is_held_out
        assert cast.family not in HANDS
    assert counts == {2, 3}


@pytest.mark.slow
def test_signs_and_names_of_styles_are_not_in_scenes(icons: Path) -> None:
    shown = {one for cast in drawn(icons, 60)._casts.values() for one in cast.contents}
    assert not shown & {*families.CONFUSING, "yeti"}


@pytest.mark.slow
def test_everything_named_is_to_be_seen_where_its_mask_says(icons: Path) -> None:
    source = drawn(icons, hands=())
    for subject in source.subjects:
        view = source.view(subject)
        cast = source._casts[subject.image_id]
        inside = view.picture[:, view.mask]
        red, green, blue = families.colour(cast.family)
        painted = torch.tensor([red, green, blue])[:, None] / 255
        # All but its soft edge is in the hand's colour.
        assert float(((inside - painted).abs().amax(dim=0) < 0.02).float().mean()) > 0.5
        left, top, right, bottom = box_of(view.mask)
        assert min(right - left, bottom - top) >= PX // 8


@pytest.mark.slow
def test_another_hand_draws_the_named_thing_alone(icons: Path) -> None:
    source = drawn(icons)
    for subject in source.subjects:
        view = source.view(subject)
        styled = source.anew(subject, "streamline-emojis")
        changed = (styled.picture - view.picture).abs().amax(dim=0) > 3 * scenes.TOUCHED
        assert changed.any()
        assert not (changed & ~styled.mask).any()
        assert (styled.mask | ~view.mask).all()
        painted = torch.tensor(families.colour("streamline-emojis"))[:, None] / 255
        inside = styled.picture[:, view.mask]
        assert float(((inside - painted).abs().amax(dim=0) < 0.02).float().mean()) > 0.5


@pytest.mark.slow
def test_a_scene_is_the_same_whichever_were_drawn_before_it(icons: Path) -> None:
    few, more = drawn(icons, 3), drawn(icons, 9)
    assert more.subjects[: len(few.subjects)] == few.subjects
    last = few.subjects[-1]
    for _ in map(more.view, more.subjects):
        pass
    assert more.view(last).data == few.view(last).data
    assert (
        drawn(icons, 3, seed=1).view(drawn(icons, 3, seed=1).subjects[-1]).data
        != few.view(last).data
    )


@pytest.mark.slow
def test_what_decides_a_scene_is_among_its_facts(icons: Path) -> None:
    assert drawn(icons).facts == drawn(icons).facts
    assert drawn(icons).facts != drawn(icons, seed=1).facts
    assert drawn(icons).facts != drawn(icons, hands=()).facts
    assert str(icons) not in str(drawn(icons).facts)


def test_families_are_styles_by_their_words() -> None:
    styles = {style.id: style for style in scenes.family_styles()}
    assert styles["fluent-emoji-high-contrast"].phrase == "black and white"
    assert styles["streamline-emojis"].phrase == "outlined pastel"
    assert not [one for one in styles if glyphs.FAMILIES[one].is_held_out]


def test_too_few_icons_are_refused(icons: Path, tmp_path: Path) -> None:
    for prefix in glyphs.FAMILIES:
        (tmp_path / prefix).mkdir()
        (tmp_path / prefix / "icons.json").write_text('{"icons": {}}')
    with pytest.raises(InputError, match="no held-out content is drawn by 5 families"):
        drawn(tmp_path)


def test_where_every_family_is_a_style_nobody_is_left_to_draw(icons: Path) -> None:
    every = tuple(style.id for style in scenes.family_styles())
    left = [one for one in every if one not in scenes.ONE_COLOUR]
    for hands in (every, tuple(left)):
        with pytest.raises(InputError, match="none is left to draw") as caught:
            drawn(icons, hands=hands)
        assert "--style-name" in caught.value.fix


def test_draws_that_come_to_nothing_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thing alone is no scene."""
    monkeypatch.setattr(scenes, "DRAWS", 50)
    alone = families.packages(tmp_path)
    for file in alone.glob("*/icons.json"):
        said = json.loads(file.read_text())
        said["icons"] = {name: said["icons"][name] for name in (families.SEEN[0], families.HELD[0])}
        file.write_text(json.dumps(said))
    with pytest.raises(InputError, match="in 50 draws"):
        drawn(alone)
