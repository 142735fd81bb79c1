"""A folder of experts: what is written is what is read, and nothing else changes."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from stylecli.artifacts import files, store
from stylecli.engine.route import experts
from stylecli.engine.route.experts import INDEX, Expert
from stylecli.errors import InputError, ItemError, StyleError, UsageError, WeightsError
from stylecli.methods.regionroute.styles import PAPER, Style

NUMBERS = {"unet.a.lora_A.weight": torch.ones(2, 3)}


def entry(style: Style = PAPER[0], **changes: Any) -> Expert:
    facts: dict[str, Any] = {
        "id": style.id,
        "phrase": style.phrase,
        "aliases": style.aliases,
        "rank": 4,
        "alpha": 4.0,
        "target_set": "attn",
        "base": {"name": "pocket-edit", "fingerprint": "0" * 16},
        "text_length": 32,
        "training": {"profile": "sound", "steps": 5000, "seed": 0},
    }
    return Expert(**(facts | changes))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    for style in PAPER:
        experts.add(tmp_path, entry(style), NUMBERS, {"format": "pt", "style": "{}"})
    for place in (tmp_path, tmp_path / INDEX):
        found = experts.read(place)
        assert found.folder == tmp_path
        assert found.styles == PAPER
        for one in found.experts:
            assert replace(one, file="", sha256="") == entry(one.style)
    with safe_open(found.file("line_art"), framework="pt") as stream:
        assert stream.metadata() == {"format": "pt", "style": "{}"}
        assert torch.equal(stream.get_tensor("unet.a.lora_A.weight"), torch.ones(2, 3))


def test_a_new_style_changes_no_other_byte(tmp_path: Path) -> None:
    for style in PAPER[:3]:
        experts.add(tmp_path, entry(style), NUMBERS, {})
    before = snapshot(tmp_path)
    experts.add(tmp_path, entry(PAPER[3]), NUMBERS, {})
    after = snapshot(tmp_path)
    assert after.keys() - before.keys() == {"line_art.safetensors"}
    assert [name for name in before if before[name] != after[name]] == [INDEX]
    lines, now = (one[INDEX].splitlines() for one in (before, after))
    assert [line.rstrip(b",") for line in lines[1:-1]] == [
        line.rstrip(b",") for line in now[1 : len(lines) - 1]
    ]


def test_a_style_that_is_trained_again_keeps_its_place(tmp_path: Path) -> None:
    for style in PAPER:
        experts.add(tmp_path, entry(style), NUMBERS, {})
    more = {"unet.a.lora_A.weight": torch.zeros(2, 3)}
    experts.add(tmp_path, entry(PAPER[1], rank=16), more, {})
    found = experts.read(tmp_path)
    assert found.styles == PAPER
    assert found.of("cyberpunk").rank == 16
    assert found.file("cyberpunk").name == "cyberpunk.safetensors"


def test_a_file_that_is_not_the_indexed_one_is_refused(tmp_path: Path) -> None:
    path = experts.add(tmp_path, entry(), NUMBERS, {})
    experts.add(tmp_path, entry(PAPER[1]), NUMBERS, {})
    found = experts.read(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="SHA-256") as caught:
        found.file("pixel_art")
    assert "train pixel_art again" in caught.value.fix
    path.unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        found.file("pixel_art")
    assert found.file("cyberpunk").is_file()


def test_killed_before_the_index_is_written_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts.add(tmp_path, entry(), NUMBERS, {})
    write = files.write_atomic

    def killed(path: Path, data: bytes) -> None:
        if path.name == INDEX:
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            experts.add(tmp_path, entry(PAPER[1]), NUMBERS, {})
    assert experts.read(tmp_path).styles == PAPER[:1]
    assert not (tmp_path / "cyberpunk.safetensors").exists(), "it would count as done"
    experts.add(tmp_path, entry(PAPER[1]), NUMBERS, {})
    assert experts.read(tmp_path).file("cyberpunk").is_file()


def test_killed_after_that_only_the_new_expert_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts.add(tmp_path, entry(), NUMBERS, {})
    rename = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if target.name == "cyberpunk.safetensors":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            experts.add(tmp_path, entry(PAPER[1]), NUMBERS, {})
    found = experts.read(tmp_path)
    assert found.file("pixel_art").is_file()
    with pytest.raises(WeightsError, match="cannot be read") as caught:
        found.file("cyberpunk")
    assert "train cyberpunk again" in caught.value.fix
    assert not (tmp_path / "cyberpunk.safetensors").exists()
    path = experts.add(tmp_path, entry(PAPER[1]), NUMBERS, {})
    assert experts.read(tmp_path).file("cyberpunk") == path
    assert not list(tmp_path.glob(".*.safetensors"))


@pytest.mark.slow
def test_experts_that_are_added_at_once_are_all_in_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = store.save_tensors

    def slow(*arguments: Any) -> None:
        time.sleep(0.1)
        save(*arguments)

    monkeypatch.setattr(store, "save_tensors", slow)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda style: experts.add(tmp_path, entry(style), NUMBERS, {}), PAPER))
    assert set(experts.read(tmp_path).styles) == set(PAPER)


def test_a_file_is_indexed_by_its_digest_and_its_name(tmp_path: Path) -> None:
    path = experts.add(tmp_path, entry(), NUMBERS, {})
    assert experts.is_indexed(path)
    (other := tmp_path / "cyberpunk.safetensors").write_bytes(path.read_bytes())
    assert not experts.is_indexed(other)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert not experts.is_indexed(path)
    (tmp_path / INDEX).unlink()
    assert not experts.is_indexed(path)


@pytest.mark.parametrize(
    "style",
    [
        Style("pixel-art", "mosaic"),
        Style("mosaic", "Pixel Art"),
        Style("mosaic", "mosaic", ("8 bit",)),
        Style("../mosaic", "mosaic"),
        Style("mosaic", " "),
    ],
)
def test_names_that_mean_two_styles_or_no_file_are_refused(tmp_path: Path, style: Style) -> None:
    experts.add(tmp_path, entry(), NUMBERS, {})
    before = snapshot(tmp_path)
    with pytest.raises(UsageError):
        experts.add(tmp_path, entry(style), NUMBERS, {})
    assert snapshot(tmp_path) == before


def test_numbers_that_are_none_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="NaN"):
        experts.add(tmp_path, entry(), {"a": torch.tensor([torch.nan])}, {})
    assert not (tmp_path / INDEX).exists()


def test_what_is_no_folder_of_experts_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    lora = experts.add(tmp_path / "full", entry(), NUMBERS, {})
    for place in (tmp_path / "empty", tmp_path / "nowhere", tmp_path / "nowhere" / INDEX):
        with pytest.raises(InputError) as caught:
            experts.read(place)
        assert "style route-train" in caught.value.fix
    with pytest.raises(InputError, match="is a file") as caught:
        experts.read(lora)
    assert caught.value.fix == f"--experts {tmp_path / 'full'}"


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"version": 2},
        {"experts": [{"id": "pixel_art"}]},
        {"experts": {"a": 1}},
        {"experts": [1]},
        {"experts": [{**entry().to_json(), "aliases": "pixels"}]},
        {"experts": [{**entry().to_json(), "aliases": ["-"]}]},
        {"experts": [{**entry().to_json(), "file": "a\0.safetensors"}]},
        {"experts": [{**entry().to_json(), "file": ".."}]},
        {"experts": [{**entry().to_json(), "rank": 0}]},
        {"experts": [{**entry().to_json(), "alpha": float("nan")}]},
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    experts.add(tmp_path, entry(), NUMBERS, {})
    index = tmp_path / INDEX
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))
    with pytest.raises(WeightsError, match="no index of experts"):
        experts.read(tmp_path)
    with pytest.raises(WeightsError, match="no index of experts"):
        experts.add(tmp_path, entry(PAPER[1]), NUMBERS, {})


@pytest.mark.parametrize("text", ["{}", "[]", "3", '"experts"', "null"])
def test_an_index_of_something_else_is_refused_in_words_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(WeightsError, match="it has no format, version and experts"):
        experts.read(tmp_path)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("file", "../elsewhere.safetensors"),
        ("file", ""),
        ("sha256", None),
        ("rank", "4"),
        ("aliases", [1]),
        ("base", {"name": "pocket-edit"}),
        ("base", {"name": "pocket-edit", "fingerprint": 1}),
        ("where", {"file": "where.safetensors"}),
        ("phrase", ""),
        ("colour", "red"),
    ],
)
def test_an_entry_is_taken_strictly(tmp_path: Path, key: str, value: object) -> None:
    experts.add(tmp_path, entry(), NUMBERS, {})
    index = tmp_path / INDEX
    said = json.loads(index.read_text())
    said["experts"][0][key] = value
    index.write_text(json.dumps(said))
    with pytest.raises(WeightsError):
        experts.read(tmp_path)


@pytest.mark.slow
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4))
def test_no_index_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, said: Any) -> None:
    folder = tmp_path_factory.mktemp("experts")
    for text in (json.dumps(said), json.dumps({"format": said, "version": 1, "experts": said})):
        (folder / INDEX).write_text(text)
        with pytest.raises(StyleError):
            experts.read(folder)


def test_an_unknown_style_names_the_known_ones(tmp_path: Path) -> None:
    for style in PAPER:
        experts.add(tmp_path, entry(style), NUMBERS, {})
    with pytest.raises(UsageError) as caught:
        experts.read(tmp_path).of("pixelart")
    assert caught.value.fix.startswith("did you mean pixel_art? it has pixel_art, cyberpunk")
