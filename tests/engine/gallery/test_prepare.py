"""What a gallery refuses before anything is loaded, and what decides its keys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stylecli.engine import asking, plan, restyle
from stylecli.engine.gallery.prepare import gallery
from stylecli.engine.mask_backends import Finder
from stylecli.engine.request import Contents, Destination
from stylecli.errors import InputError, RecipeError, StyleError, UsageError, WeightsError
from tests.engine.gallery.desk import Desk, painted, recipe
from tests.masks import plugs


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def keys(desk: Desk, **options: Any) -> list[str]:
    return [job.key for job in desk.prepare("out", **options).plan.jobs]


REFUSED: dict[str, tuple[dict[str, Any], type[StyleError], str]] = {
    "a wish without a place": ({"gallery__match": ["sky="]}, UsageError, "one side of a ="),
    "no such reference": (
        {"gallery__match": ["1=ref9:1"]},
        UsageError,
        "no reference is called 'ref9'",
    ),
    "a strength that is none": ({"gallery__strength": ["1=much"]}, UsageError, "no strength"),
    "a report that is not there": ({"gallery__match": ["x.json"]}, InputError, "x.json"),
    "an exclusion of nobody": ({"gallery__exclude": ["ref0"]}, UsageError, "ref0"),
    "everything is excluded": (
        {"gallery__exclude": ["ref1", "look1", "ref3"]},
        UsageError,
        "leaves no reference",
    ),
    "everything is excluded, and one region is to be restyled": (
        {"gallery__exclude": ["ref1", "ref2", "ref3"], "gallery__only": ["2"]},
        UsageError,
        "leaves no reference",
    ),
    "only nobody": ({"gallery__only": ["0"]}, UsageError, "no region 0"),
    "masks of no reference": (
        {"gallery__ref_masks": "nowhere/{style}.png"},
        InputError,
        "no reference has such a mask",
    ),
    "one mask for three": ({"gallery__ref_masks": "m.png"}, InputError, "one mask for 3"),
    "an unknown field": ({"gallery__mask": "{name}.png"}, InputError, "{name} is no field"),
    "a mask that is not there": ({"gallery__mask": "nowhere.png"}, InputError, "nowhere.png"),
    "an accelerator that is not there": (
        {"gallery__accelerator": "no.safetensors"},
        InputError,
        "gallery.accelerator: LoRA no.safetensors does not exist",
    ),
    "more timesteps than there are": ({"gallery__steps": 1000}, RecipeError, "1000 steps"),
    "nothing to sample from": (
        {"gallery__mode": "guided", "dfcc__steps": 0},
        RecipeError,
        "dfcc.steps is 0",
    ),
}


@pytest.mark.mostly_slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(desk: Desk, case: str) -> None:
    changes, kind, said = REFUSED[case]
    with pytest.raises(kind) as error:
        desk.prepare("out", settings=recipe(**changes))
    assert said in error.value.what
    assert error.value.fix
    assert not (desk.folder / "out").exists()


def test_masks_of_references_are_looked_at_before_the_work(desk: Desk) -> None:
    template = str(desk.folder / "masks/{style}.png")
    painted(desk.folder / "masks/look0.png", ["red", "blue"], (10, 40))
    with pytest.raises(InputError, match="of another shape than its picture, which is 44x44"):
        desk.prepare("out", settings=recipe(gallery__ref_masks=template))
    (desk.folder / "masks/look0.png").write_text("no picture")
    with pytest.raises(InputError, match="not a picture"):
        desk.prepare("out", settings=recipe(gallery__ref_masks=template))


def test_reports_are_read_before_the_work(desk: Desk) -> None:
    file = desk.folder / "mine.json"
    for text, said in (
        ("{", "not JSON"),
        ("3", "neither overrides nor a report"),
        ('[{"content": 1, "style": "ref7"}]', "ref7"),
        ('{"matches": [{"content": 1, "style": "ref1", "colour": 2}]}', "'colour'"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError) as error:
            desk.prepare("out", settings=recipe(gallery__match=[str(file)]))
        assert said in error.value.what


@pytest.mark.slow
def test_references_are_files_folders_and_globs_each_picture_once(desk: Desk) -> None:
    shutil.copy(desk.refs[1], desk.folder / "refs/another name.png")
    refs = [desk.refs[2], desk.folder / "refs", desk.folder / "refs" / "*0.png"]
    prepared = desk.prepare("out", refs=refs)
    (job,) = prepared.plan.jobs
    assert prepared.notes[:2] == [
        "3 references",
        "look1.png is the same picture as another name.png, and left out",
    ]
    names = [item.path.name for item in job.inputs if item.role == "style"]
    assert names == ["look2.png", "another name.png", "look0.png"]
    for refs, said in (([], "no reference"), ([desk.folder / "x"], "does not exist")):
        with pytest.raises(UsageError, match=said):
            gallery(
                recipe(),
                Contents(arguments=[str(desk.contents[0])]),
                Destination(output=str(desk.folder / "out.png")),
                desk.listener,
                refs=[str(one) for one in refs],
            )
    broken = desk.folder / "refs/zz.png"
    broken.write_text("no picture")
    with pytest.raises(InputError, match=r"zz\.png"):
        desk.prepare("out")


@pytest.mark.slow
def test_keys_follow_what_decides_a_picture_and_nothing_else(desk: Desk) -> None:
    usual = keys(desk)
    harmless: dict[str, Any] = {
        "sampling__guidance": 3.0,
        "sampling__steps": 7,
        "inversion__steps": 7,
        "lora__steps": 3,
        "distill__lr": 0.3,
        "gallery__gradient_checkpointing": True,
        "gallery__profile": "sound",
        "masks__feather_px": 3.0,
        "device__batch": 4,
    }
    for name, value in harmless.items():
        changes = {name: value} | ({"gallery__steps": 2} if name == "gallery__profile" else {})
        assert keys(desk, settings=recipe(**changes)) == usual, name
    assert keys(desk, explain=True, dump=True) == usual
    mask = painted(desk.folder / "m.png", ["red", "blue"])
    painted(desk.folder / "masks/look1.png", ["red", "blue"], (40, 48))
    painted(desk.folder / "others/look1.png", ["blue", "red"], (40, 48))
    decisive: list[dict[str, Any]] = [
        {"dfcc__steps": 3},
        {"matching__diversity": 0.5},
        {"gallery__lr": 0.1},
        {"gallery__match": ["1=keep"]},
        {"gallery__only": ["1"]},
        {"gallery__exclude": ["ref1"]},
        {"gallery__strength": ["1=0.5"]},
        {"gallery__mask": str(mask)},
        {"gallery__ref_masks": str(desk.folder / "masks/{style}.png")},
        {"gallery__ref_masks": str(desk.folder / "others/{style}.png")},
        {"sampling__seed": 1},
        {"sampling__size": 48},
        {"matching__semantics": "none"},
    ]
    found = [keys(desk, settings=recipe(**changes))[0] for changes in decisive]
    found += keys(desk, refs=desk.refs[:2]) + keys(desk, refs=desk.refs[::-1])
    assert len({*found, *usual}) == len(found) + 1


def test_the_same_mask_for_the_content_or_for_a_reference_is_another_picture(desk: Desk) -> None:
    shutil.copy(desk.contents[0], desk.folder / "look.png")
    mask = str(painted(desk.folder / "look-mask.png", ["red", "blue"]))
    refs = [desk.folder / "look.png"]
    one = keys(desk, refs=refs, settings=recipe(gallery__mask=mask))
    other = keys(desk, refs=refs, settings=recipe(gallery__ref_masks=mask))
    assert one != other


@pytest.mark.slow
def test_settings_of_a_gallery_decide_nothing_elsewhere(desk: Desk) -> None:
    own: dict[str, Any] = {
        "dfcc__k": 7,
        "matching__diversity": 0.3,
        "gallery__lr": 0.7,
        "gallery__mask": "x.png",
    }
    for method in ("diffstyler", "styleid", "attn-distill"):
        plain, other = (
            restyle.transfer(
                recipe(sampling__method=method, **changes),
                Contents(arguments=[str(desk.contents[0])]),
                Destination(output=str(desk.folder / "out.png")),
                desk.listener,
                styles=[str(desk.refs[0])],
            )
            for changes in ({}, own)
        )
        assert plain.plan.jobs == other.plan.jobs
    assert not {"dfcc", "matching", "gallery"} & asking.decisive(recipe(), with_masks=True).keys()


@pytest.mark.slow
def test_a_manifest_gives_rows_settings_of_their_own(desk: Desk) -> None:
    rows: list[dict[str, Any]] = [
        {"content": "photo0.png", "output": "a.png"},
        {"content": "photo0.png", "output": "b.png", "gallery.lr": 0.2, "sampling.size": 48},
        {"content": "photo0.png", "output": "c.png", "gallery.match": ["1=keep"]},
    ]
    file = desk.folder / "jobs.jsonl"

    def prepared() -> plan.Plan:
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return gallery(
            recipe(),
            Contents(manifest=file),
            Destination(output=f"{desk.folder}/out/"),
            desk.listener,
            refs=[str(desk.folder / "refs")],
        ).plan

    found = [job.key for job in prepared().jobs]
    assert found[:1] == keys(desk)
    settings = recipe(gallery__lr=0.2, sampling__size=48)
    assert found[1:2] == keys(desk, settings=settings)
    assert found[2:] == keys(desk, settings=recipe(gallery__match=["1=keep"]))
    for column in ({"style": "refs/look0.png"}, {"sampling.steps": 3}, {"sampling.seed": 3}):
        rows[2] = {"content": "photo0.png", "output": "c.png", **column}
        with pytest.raises(UsageError, match=rf"jobs\.jsonl:3  {next(iter(column))}"):
            prepared()
    rows[2] = {"content": "photo0.png", "output": "c.png", "gallery.match": ["1=ref7"]}
    with pytest.raises(UsageError, match=r"jobs\.jsonl:3  gallery\.match '1=ref7'"):
        prepared()


@pytest.mark.slow
def test_what_is_made_beside_a_picture_is_no_input_and_nobody_elses(desk: Desk) -> None:
    desk.make("out", explain=True)
    edited = str(desk.folder / "out/photo0.regions.json")
    with pytest.raises(UsageError, match=r"photo0\.regions\.json is one of the inputs"):
        desk.prepare("out", settings=recipe(gallery__match=[edited]), explain=True)
    Image.new("RGB", (40, 40)).save(desk.folder / "photo0.jpg")
    with pytest.raises(UsageError, match="would both write"):
        desk.prepare(
            "two", [desk.contents[0], desk.folder / "photo0.jpg"], name="{content}.{ext}", dump=True
        )


def test_the_cost_counts_references_once_and_used_ones_each_time(desk: Desk) -> None:
    settings = recipe(gallery__steps=150, gallery__refresh=4, dfcc__steps=15, dfcc__k=None)
    rows = desk.prepare("out", desk.contents[:2], settings=settings).rows
    assert rows == {
        "inversion": 15 + 23,
        "content": 38,
        "references": 38 * 3,
        "updated": 150,
        "gradients": 150,
    }
    guided = recipe(gallery__mode="guided", dfcc__k=2)
    rows = desk.prepare("out", settings=guided).rows
    assert rows["sampled"] == 2
    assert rows["references"] == 4


@pytest.mark.slow
def test_dumps_go_where_they_are_wanted(desk: Desk) -> None:
    def places(count: int, dump: str) -> list[str]:
        prepared = gallery(
            recipe(),
            Contents(arguments=[str(path) for path in desk.contents[:count]]),
            Destination(output=f"{desk.folder}/out/"),
            desk.listener,
            refs=[str(desk.folder / "refs")],
            dump=str(desk.folder / dump) + "/" * dump.endswith("/"),
        )
        return [
            place.relative_to(desk.folder).as_posix()
            for job in prepared.plan.jobs
            for place in job.beside
        ]

    assert places(1, "t.safetensors") == ["t.safetensors"]
    assert places(2, "t/") == ["t/photo0.safetensors", "t/photo1.safetensors"]
    assert places(1, "t") == ["t/photo0.safetensors"]
    with pytest.raises(UsageError, match="is a file, but there are 2 contents"):
        places(2, "t.safetensors")
    with pytest.raises(UsageError, match=r"tensors go into \.safetensors files"):
        places(1, "t.npz")


@pytest.mark.slow
def test_what_people_chose_need_not_be_left_to_choose_from(desk: Desk) -> None:
    settings = recipe(
        dfcc__k=1, gallery__exclude=["ref1", "ref2", "ref3"], gallery__match=["1=ref2"]
    )
    desk.make("out", settings=settings)


@pytest.mark.slow
def test_names_of_references_mean_their_pictures(desk: Desk) -> None:
    places = {"a": ("x.png", "y.png"), "b": ("y.png", "x.png")}
    for folder, names in places.items():
        (desk.folder / folder).mkdir()
        for picture, name in zip(desk.refs, names, strict=False):
            shutil.copy(picture, desk.folder / folder / name)
    file = desk.folder / "wishes.json"

    def found(**changes: Any) -> list[list[str]]:
        """Of the same pictures in the same order, whose names changed places."""
        return [
            keys(desk, refs=[desk.folder / folder / name for name in names], settings=settings)
            for settings in [recipe(**changes)]
            for folder, names in places.items()
        ]

    for style in ("x", "x.png", "x:2+3", "x*0.5"):
        one, other = found(gallery__match=[f"1={style}"])
        assert one != other, style
    one, other = found(gallery__exclude=["y"])
    assert one != other
    cases: list[tuple[str | int, bool]] = [("x", False), ("ref1", True), (0, True)]
    for called, is_same in cases:
        file.write_text(json.dumps([{"content": 1, "style": called}]))
        one, other = found(gallery__match=[str(file)])
        assert (one == other) is is_same
    one, other = found(gallery__match=["1=ref1"], gallery__exclude=["ref2:1"])
    assert one == other


def test_words_in_one_row_decide_nothing_of_another(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugs.install(monkeypatch, fake="tests.masks.plugs:Fake")
    settings, words = recipe(masks__backend="fake"), ["a deer=0.5"]
    plain, worded = desk.rows(settings, {}, {"gallery.strength": words}).plan.jobs
    assert [plain.key] == keys(desk, settings=settings)
    alone = recipe(masks__backend="fake", gallery__strength=words)
    assert [worded.key] == keys(desk, settings=alone)
    monkeypatch.setattr(Finder, "identity", lambda _: "another")
    again, changed = desk.rows(settings, {}, {"gallery.strength": words}).plan.jobs
    assert again.key == plain.key
    assert changed.key != worded.key


@pytest.mark.slow
def test_networks_that_no_row_uses_need_not_be_there(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(desk.folder / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(desk.folder / "hub"))
    missing = recipe(dfcc__depth="auto")
    rows = [{"dfcc.depth": "none", "gallery.lr": lr} for lr in (0.05, 0.1)]
    found = [job.key for job in desk.rows(missing, *rows).plan.jobs]
    assert found == keys(desk) + keys(desk, settings=recipe(gallery__lr=0.1))
    with pytest.raises(WeightsError):
        desk.rows(missing, *rows, {})


@pytest.mark.slow
def test_what_a_run_wrote_among_the_references_is_none(desk: Desk) -> None:
    def names(out: str) -> list[str]:
        prepared = desk.prepare(out)
        return [one.path.name for one in prepared.plan.jobs[0].inputs if one.role == "style"]

    usual = names("refs")
    desk.make("refs", explain=True)
    assert (desk.folder / "refs/photo0.regions.png").exists()
    assert names("refs") == usual
    assert len(names("elsewhere")) > len(usual)


@pytest.mark.slow
def test_a_glob_that_the_shell_spread_is_told_of(desk: Desk) -> None:
    first, *others = sorted((desk.folder / "refs").iterdir())
    desk.prepare("out", [desk.contents[0], *others], refs=[first])
    assert any("lies beside the reference look0.png" in text for text in desk.listener.said)
    before = len(desk.listener.said)
    # A content in the folder of the references, and nothing else, is what it is.
    desk.prepare("out", others, refs=[first])
    desk.prepare("out", [desk.contents[0]], refs=[first])
    assert len(desk.listener.said) == before


def test_a_network_that_nobody_asks_is_refused(desk: Desk) -> None:
    own = recipe(matching__semantics_model="facebook/dinov2-base")
    with pytest.raises(UsageError, match=r"semantics_model is a dinov2, .* is features"):
        desk.prepare("out", settings=own)
