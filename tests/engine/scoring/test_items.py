"""What is scored, and against what: every way of saying it, and every way of saying it wrongly."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from stylecli.artifacts import store
from stylecli.engine.scoring.items import Asked, collect
from stylecli.errors import InputError, UsageError
from stylecli.recipe.scoring import Evaluate
from tests.cli.conftest import draw
from tests.engine.scoring.conftest import World

PLAIN = Evaluate()


def manifest(path: Path, *rows: dict[str, object]) -> Asked:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Asked(manifest=path)


def test_a_csv_manifest_says_the_same_as_jsonl(world: World, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in world.manifest.read_text().splitlines()]
    file = world.root / "all.csv"
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    ours, theirs = (collect(Asked(manifest=m), PLAIN) for m in (world.manifest, file))
    assert [replace(item, place="") for item in ours] == [
        replace(item, place="") for item in theirs
    ]
    assert len(ours) == 12


def test_references_are_lists_in_both_formats(world: World) -> None:
    common = {"method": "m", "output": "near/apple__ink.png"}
    styles = ["styles/ink.png", "styles/oil.png"]
    jsonl = manifest(world.root / "two.jsonl", {**common, "style": styles})
    (world.root / "two.csv").write_text(
        "method,output,style\nm,near/apple__ink.png," + "|".join(styles)
    )
    for asked in (jsonl, Asked(manifest=world.root / "two.csv")):
        (item,) = collect(asked, PLAIN)
        assert [path.name for path in item.style] == ["ink.png", "oil.png"]


def test_an_item_that_a_method_has_twice_is_refused_with_both_places(world: World) -> None:
    row = {"id": "x", "method": "m", "output": "near/apple__ink.png"}
    asked = manifest(world.root / "twice.jsonl", row, {**row, "output": "near/boat__ink.png"})
    with pytest.raises(InputError, match=r"twice\.jsonl:2  method 'm' has the item 'x' twice.*:1"):
        collect(asked, PLAIN)


@pytest.mark.parametrize("column", ["output", "content", "style", "mask", "target"])
def test_a_file_that_is_not_there_is_named_with_its_line(world: World, column: str) -> None:
    row = {"method": "m", "output": "near/apple__ink.png", column: "nowhere.png"}
    with pytest.raises(InputError, match=r"gone\.jsonl:1  .*nowhere\.png does not exist"):
        collect(manifest(world.root / "gone.jsonl", row), PLAIN)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"output": "near/apple__ink.png"}, "no 'method'"),
        ({"method": "m"}, "no 'output'"),
        ({"method": "m", "output": "near/apple__ink.png", "contnet": "x"}, "unknown column"),
        ({"method": "m", "output": "x" * 5000}, "does not exist"),
        ({"method": "\ud800", "output": "near/apple__ink.png"}, "half a character"),
        ({"method": "m", "output": 5}, "output is 5"),
        ({"method": "m", "output": "near/apple__ink.png", "content": ["a", "b"]}, "content is"),
        ({"method": "m", "output": "near/apple__ink.png", "style": [["a"]]}, "style is"),
        ({"method": "m", "output": "near/apple__ink.png", "prompt": ["a"]}, r'prompt is \["a"\]'),
        ({"method": "m", "output": "near/apple__ink.png", "region_text": True}, "region_text is"),
        ({"method": {"a": 1}, "output": "near/apple__ink.png"}, "method is"),
    ],
)
def test_a_line_that_lacks_something_is_refused(
    world: World, row: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        collect(manifest(world.root / "bad.jsonl", row), PLAIN)


def test_names_of_outputs_say_what_they_are_of(world: World) -> None:
    asked = Asked(
        results=[str(world.root / "near")],
        contents=[str(world.root / "contents")],
        styles=[str(world.root / "styles")],
    )
    items = collect(asked, PLAIN)
    assert {item.method for item in items} == {"near"}
    for item in items:
        assert item.content is not None
        assert item.id == f"{item.content.stem}__{item.style[0].stem}"


def test_another_tools_names_are_read_too(world: World, tmp_path: Path) -> None:
    for name in ("apple_stylized_ink", "boat_stylized_oil"):
        draw(tmp_path / "theirs" / f"{name}.png")
    common = {
        "results": [str(tmp_path / "theirs")],
        "contents": [str(world.root / "contents")],
        "styles": [str(world.root / "styles")],
    }
    built_in = collect(Asked(**common), PLAIN)
    assert [(i.content.stem, i.style[0].stem) for i in built_in if i.content] == [
        ("apple", "ink"),
        ("boat", "oil"),
    ]
    own = Evaluate(pattern=r"(?P<content>[a-z]+)_.*_(?P<style>[a-z]+)")
    assert [i.style for i in collect(Asked(**common), own)] == [i.style for i in built_in]
    for wrong in ("(", "(.+)__(.+)"):
        with pytest.raises(UsageError, match="no regular expression"):
            collect(Asked(**common), Evaluate(pattern=wrong))


def test_a_name_that_fits_nothing_is_refused(world: World, tmp_path: Path) -> None:
    draw(tmp_path / "theirs" / "17.png")
    asked = Asked(results=[str(tmp_path / "theirs")], contents=[str(world.root / "contents")])
    with pytest.raises(InputError, match=r"17\.png: its name fits no content") as caught:
        collect(asked, PLAIN)
    assert "lexicographic" in caught.value.fix


def test_pairing_by_order_needs_equal_numbers(world: World, tmp_path: Path) -> None:
    for index in range(3):
        draw(tmp_path / "theirs" / f"{index}.png")
    asked = Asked(results=[str(tmp_path / "theirs")], contents=[str(world.root / "contents")])
    settings = Evaluate(pair="lexicographic")
    assert [i.content.stem for i in collect(asked, settings) if i.content] == [
        "apple",
        "boat",
        "cow",
    ]
    draw(tmp_path / "theirs" / "3.png")
    with pytest.raises(InputError, match="4 outputs, and there are 3 contents"):
        collect(asked, settings)


def test_a_folder_of_ours_is_paired_by_what_the_pictures_are(world: World, tmp_path: Path) -> None:
    content, style = world.root / "contents" / "apple.png", world.root / "styles" / "ink.png"
    run = tmp_path / "run"
    draw(run / "renamed.png")
    inputs = [
        {"role": role, "name": path.name, "sha256": store.file_sha256(path)}
        for role, path in (("content", content), ("style", style))
    ]
    row = {"key": "k", "status": "done", "output": "renamed.png", "inputs": inputs}
    (run / "runs.jsonl").write_text(json.dumps(row) + "\n")
    asked = Asked(
        results=[str(run)],
        contents=[str(content.parent)],
        styles=[str(style.parent)],
        methods=["ours"],
    )
    (item,) = collect(asked, PLAIN)
    assert (item.method, item.content, item.style) == ("ours", content, (style,))
    assert item.id == "apple__ink"
    strangers = replace(asked, contents=[str(draw(tmp_path / "other.png", 99))])
    with pytest.raises(InputError, match="none of the 1 files of --content made a result"):
        collect(strangers, PLAIN)


def test_what_was_made_is_scored_though_a_mistyped_run_came_after(
    world: World, tmp_path: Path
) -> None:
    draw(tmp_path / "run" / "cat.png")
    done = {"key": "k", "status": "done", "output": "cat.png", "finished": "2026-01-01"}
    error = {"code": "output_differs", "what": "it exists", "fix": ""}
    late = {"finished": "2026-01-02", "error": error}
    refused = {"key": "l", "status": "failed", "output": "cat.png", **late}
    rows = [json.dumps({**row, "inputs": []}) for row in (refused, done)]
    (tmp_path / "run" / "runs.jsonl").write_text("\n".join(rows))
    (item,) = collect(Asked(results=[str(tmp_path / "run")]), PLAIN)
    assert item.output.name == "cat.png"


def test_contents_of_one_name_and_of_the_same_bytes_are_scored_each(
    world: World, tmp_path: Path
) -> None:
    rows = []
    for folder in ("a", "b"):
        draw(tmp_path / "run" / folder / "cat.png", 7)
        content = draw(tmp_path / "in" / folder / "cat.png")
        named = {"role": "content", "name": "cat.png", "sha256": store.file_sha256(content)}
        rows.append(
            {"key": "k", "status": "done", "output": f"{folder}/cat.png", "inputs": [named]}
        )
    draw(tmp_path / "run" / "dog.png")
    rows.append({"key": "l", "status": "done", "output": "dog.png", "inputs": [{"name": "dog.x"}]})
    (tmp_path / "run" / "runs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = Asked(results=[str(tmp_path / "run")], contents=[str(tmp_path / "in")])
    assert [item.id for item in collect(asked, PLAIN)] == ["a/cat", "b/cat", "dog"]


def test_one_style_is_lent_to_loras_and_to_nothing_else(world: World, tmp_path: Path) -> None:
    content, style = world.root / "contents" / "apple.png", world.root / "styles" / "ink.png"
    run = tmp_path / "run"
    rows = []
    for name, role in (("a", "lora"), ("b", "style")):
        draw(run / f"{name}.png")
        inputs = [
            {"role": "content", "name": "apple.png", "sha256": store.file_sha256(content)},
            {"role": role, "name": "look", "sha256": "of another file"},
        ]
        rows.append({"key": name, "status": "done", "output": f"{name}.png", "inputs": inputs})
    rows[0]["inputs"][1]["name"] = "mine.safetensors"
    (run / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = Asked(results=[str(run)], contents=[str(content)], styles=[str(style)])
    found = {item.output.stem: item.style for item in collect(asked, PLAIN)}
    assert found == {"a": (style,), "b": ()}


def test_every_folder_has_one_name_or_its_own(world: World) -> None:
    near = str(world.root / "near")
    with pytest.raises(UsageError, match="2 names for 1 folders"):
        collect(Asked(results=[near], methods=["a", "b"]), PLAIN)
    with pytest.raises(InputError, match="no results were named"):
        collect(Asked(), PLAIN)
    with pytest.raises(InputError, match="is not a folder of results"):
        collect(Asked(results=[f"{near}/apple__ink.png"]), PLAIN)


def test_a_limit_keeps_whole_tasks(world: World) -> None:
    items = world.items(limit=2)
    assert [item.method for item in items] == ["near", "near", "far", "far"]
    assert [item.id for item in items[:2]] == [item.id for item in items[2:]]


def test_no_method_is_called_like_a_copy(world: World) -> None:
    row = {"method": "style_copy", "output": "near/apple__ink.png"}
    with pytest.raises(InputError, match="cannot be called 'style_copy'"):
        collect(manifest(world.root / "named.jsonl", row), PLAIN)


def test_equal_ids_are_equal_tasks(world: World) -> None:
    rows = [
        {"id": "x", "method": m, "output": f"{m}/apple__ink.png", "style": f"styles/{s}.png"}
        for m, s in (("near", "ink"), ("far", "oil"))
    ]
    with pytest.raises(InputError, match="another content or style than that of 'near'"):
        collect(manifest(world.root / "tasks.jsonl", *rows), PLAIN)


def test_two_contents_of_one_name_pair_with_nothing(world: World, tmp_path: Path) -> None:
    draw(tmp_path / "more" / "apple.png", 77)
    asked = Asked(
        results=[str(world.root / "near")],
        contents=[str(world.root / "contents"), str(tmp_path / "more")],
    )
    with pytest.raises(InputError, match="two of --content have one name"):
        collect(asked, PLAIN)


def test_a_glob_names_folders(world: World) -> None:
    found = collect(Asked(results=[str(world.root / "[nf]*ar")]), PLAIN)
    assert {item.method for item in found} == {"near", "far"}


def test_a_manifest_of_tasks_counts_for_every_folder_of_results(world: World) -> None:
    rows = [
        {"id": f"{name}!", "output": f"{name}__ink.png", "content": f"contents/{name}.png"}
        for name in ("apple", "boat")
    ]
    tasks = manifest(world.root / "tasks.jsonl", *rows).manifest
    folders = [str(world.root / "near"), str(world.root / "far")]
    items = collect(Asked(results=folders, manifest=tasks), PLAIN)
    assert [(i.id, i.method, i.output.parent.name, i.output.name) for i in items] == [
        ("apple!", "near", "near", "apple__ink.png"),
        ("apple!", "far", "far", "apple__ink.png"),
        ("boat!", "near", "near", "boat__ink.png"),
        ("boat!", "far", "far", "boat__ink.png"),
    ]
    assert items[0].content is items[1].content
    named = collect(Asked(results=folders, manifest=tasks, methods=["a", "b"]), PLAIN)
    assert [item.method for item in named] == ["a", "b"] * 2


@pytest.mark.parametrize(
    ("row", "more", "said"),
    [
        ({"method": "near", "output": "near/apple__oil.png"}, {}, "names a method, and other rows"),
        ({"output": "gone.png"}, {}, "gone.png does not exist"),
        ({"output": "apple__oil.png"}, {"contents": ["{}/contents"]}, "says what the results are"),
        ({"output": "apple__oil.png"}, {"methods": ["a", "a"]}, "called 'a'"),
        ({"output": "apple__oil.png"}, {"results": []}, "no 'method'"),
        ({"content": "contents/boat.png"}, {}, "no 'output'"),
    ],
)
def test_a_manifest_of_tasks_that_does_not_fit_is_refused(
    world: World, row: dict[str, object], more: dict[str, list[str]], said: str
) -> None:
    first = {"output": "apple__ink.png", "content": "contents/apple.png"}
    tasks = manifest(world.root / "wrong.jsonl", first, row).manifest
    results = [str(world.root / "near"), str(world.root / "far")]
    filled = {key: [one.format(world.root) for one in value] for key, value in more.items()}
    with pytest.raises((InputError, UsageError), match=said):
        collect(Asked(**{"results": results, "manifest": tasks, **filled}), PLAIN)
