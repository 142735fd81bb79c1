"""`style transfer`, `invert` and `train-lora` on a tiny model, in this process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stylecli.artifacts import journal
from tests.cli.conftest import draw
from tests.conftest import Style

pytestmark = pytest.mark.slow


@contextmanager
def counted_rows() -> Iterator[list[int]]:
    """The rows of every UNet call that computes something, whoever makes it."""
    from diffusers import UNet2DConditionModel

    rows: list[int] = []
    forward = UNet2DConditionModel.forward

    def counting(self: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not sample.is_meta:  # where a plan is made, nothing is computed
            rows.append(len(sample))
        return forward(self, sample, *args, **kwargs)

    UNet2DConditionModel.forward = counting
    try:
        yield rows
    finally:
        UNet2DConditionModel.forward = forward


@pytest.fixture
def content(tmp_path: Path) -> Path:
    return draw(tmp_path / "photo.png", seed=1)


@pytest.fixture
def look(tmp_path: Path) -> Path:
    return draw(tmp_path / "painting.png", seed=2, size=(70, 66))


@pytest.fixture
def lora(style: Style, recipe: Path, look: Path, tmp_path: Path) -> Path:
    file = tmp_path / "painting.safetensors"
    assert style("train-lora", look, "-o", file, "-r", recipe, "-q").status == 0
    return file


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ([], 199),
        (["injection.attn_tail=hard"], 180),
        (["sampling.guidance=1"], 149),
        (["injection.attn_layers=none", "injection.feature_layers=none"], 150),
    ],
)
def test_a_transfer_costs_the_rows_of_the_cost_model(
    style: Style,
    recipe: Path,
    content: Path,
    lora: Path,
    tmp_path: Path,
    settings: list[str],
    wanted: int,
) -> None:
    """Spec 9: one content, one style, 50 steps."""
    steps = [
        "sampling.steps=50",
        "inversion.steps=50",
        "injection.feature_steps=30",
        "injection.attn_steps=25",
    ]
    changes = [word for setting in steps + settings for word in ("--set", setting)]
    with counted_rows() as rows:
        done = style("transfer", content, "--lora", lora, "-o", tmp_path / "out.png", "-r", recipe,
                     "-q", *changes)  # fmt: skip
    assert done.status == 0, done.err
    assert sum(rows) == wanted


def test_a_style_picture_becomes_a_cached_lora_and_the_same_picture_as_its_file(
    style: Style, recipe: Path, content: Path, look: Path, lora: Path, tmp_path: Path
) -> None:
    learned, given = tmp_path / "learned.png", tmp_path / "given.png"
    assert style("transfer", content, "-s", look, "-o", learned, "-r", recipe, "-q").status == 0
    with counted_rows() as rows:
        again = style(
            "transfer", content, "-s", look, "-o", tmp_path / "again.png", "-r", recipe, "-q"
        )
    assert again.status == 0
    assert sum(rows) == 6 * 2 + 5, "the LoRA or the inversion was made again"
    assert style("transfer", content, "-l", lora, "-o", given, "-r", recipe, "-q").status == 0
    pixels = [Image.open(file).tobytes() for file in (learned, given)]
    assert pixels[0] == pixels[1]


def test_a_second_run_does_nothing_and_says_so(
    style: Style, recipe: Path, content: Path, lora: Path, tmp_path: Path
) -> None:
    command = ("transfer", content, "-l", lora, "-o", tmp_path / "out.png", "-r", recipe, "--json")
    first = style(*command)
    before = (tmp_path / "out.png").stat().st_mtime_ns
    with counted_rows() as rows:
        second = style(*command)
    assert first.summary["counts"] == {"done": 1, "items": 1}
    assert second.summary["counts"] == {"skipped": 1, "items": 1}
    assert not rows
    assert (tmp_path / "out.png").stat().st_mtime_ns == before
    assert [row["command"] for row in journal.rows(tmp_path)].count("transfer") == 1


def test_an_output_made_from_something_else_is_kept_unless_overwrite(
    style: Style, recipe: Path, content: Path, lora: Path, tmp_path: Path
) -> None:
    out = draw(tmp_path / "out.png", seed=9)
    before = out.read_bytes()
    command = ("transfer", content, "-l", lora, "-o", out, "-r", recipe, "--json")
    refused = style(*command)
    assert refused.status == 3
    assert refused.rows[0]["error"]["code"] == "output_differs"
    assert out.read_bytes() == before
    assert style(*command, "--overwrite").status == 0
    assert out.read_bytes() != before


def test_a_picture_says_what_made_it_and_nothing_about_the_machine(
    style: Style, recipe: Path, content: Path, lora: Path, tmp_path: Path
) -> None:
    for suffix in (".png", ".jpg", ".webp"):
        out = tmp_path / f"out{suffix}"
        assert style("transfer", content, "-l", lora, "-o", out, "-r", recipe, "-q").status == 0
        from stylecli.artifacts.store import read_provenance

        made_by = read_provenance(out)
        assert made_by is not None
        assert made_by["command"] == "transfer"
        assert made_by["recipe"]["sampling"]["steps"] == 6
        assert {item["name"] for item in made_by["inputs"]} == {"photo.png", "painting.safetensors"}
        text = json.dumps(made_by) + (tmp_path / "runs.jsonl").read_text()
        assert str(tmp_path) not in text
    with safe_open(lora, framework="pt") as stream:
        header = stream.metadata()
    assert str(tmp_path) not in json.dumps(header)
    assert json.loads(header["style"])["inputs"][0]["name"] == "painting.png"
    assert header["modelspec.trigger_phrase"] == "a picture in <sss> style"


def test_equal_commands_make_equal_bytes(
    style: Style,
    recipe: Path,
    content: Path,
    look: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    for attempt in ("one", "two"):
        monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / f"cache-{attempt}"))
        out = tmp_path / attempt / "out.png"
        assert style("transfer", content, "-s", look, "-o", out, "-r", recipe, "-q").status == 0
        made.append(out.read_bytes())
    assert made[0] == made[1]


def test_a_result_keeps_the_aspect_ratio_and_compare_shows_three_pictures(
    style: Style, recipe: Path, look: Path, tmp_path: Path
) -> None:
    wide = draw(tmp_path / "wide.png", size=(150, 50))
    out = tmp_path / "out.png"
    done = style("transfer", wide, "-s", look, "-o", out, "-r", recipe, "-q", "--compare")
    assert done.status == 0, done.err
    assert Image.open(out).size == (96, 32)
    assert Image.open(tmp_path / "out.compare.png").size[0] > 2 * 96


def test_one_bad_picture_does_not_stop_the_others(
    style: Style, recipe: Path, lora: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    draw(folder / "a.png", seed=3)
    (folder / "b.png").write_bytes(draw(folder / "c.png", seed=4).read_bytes()[:200])
    done = style("transfer", folder, "-l", lora, "-o", tmp_path / "out", "-r", recipe, "--json")
    assert done.status == 3
    assert done.summary["counts"] == {"done": 2, "failed": 1, "items": 3}
    failed = next(row for row in done.rows if row.get("status") == "failed")
    assert failed["error"]["code"] == "image"
    assert "b.png" in failed["error"]["what"]
    assert sorted(file.name for file in (tmp_path / "out").glob("*.png")) == [
        "a__painting.png",
        "c__painting.png",
    ]


def test_shards_meet_and_do_not_overlap(
    style: Style, recipe: Path, lora: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    for i in range(5):
        draw(folder / f"{i}.png", seed=i)
    made = []
    for part in ("1/2", "2/2"):
        done = style("transfer", folder, "-l", lora, "-o", tmp_path / "out", "-r", recipe,
                     "--shard", part, "--json")  # fmt: skip
        assert done.status == 0
        made.append({Path(row["output"]).name for row in done.rows if "output" in row})
    assert not made[0] & made[1]
    assert made[0] | made[1] == {f"{i}__painting.png" for i in range(5)}


def test_a_manifest_names_content_look_and_output(
    style: Style, recipe: Path, lora: Path, look: Path, content: Path, tmp_path: Path
) -> None:
    rows = [
        {"content": "photo.png", "lora": "painting.safetensors", "output": "x.png"},
        {"content": "photo.png", "style": "painting.png", "output": "y.png"},
    ]
    manifest = tmp_path / "jobs.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    done = style("transfer", "--manifest", manifest, "-o", tmp_path / "out", "-r", recipe, "-q")
    assert done.status == 0, done.err
    assert (
        Image.open(tmp_path / "out/x.png").tobytes() == Image.open(tmp_path / "out/y.png").tobytes()
    )


def test_what_cannot_be_is_refused_before_any_work(
    style: Style, recipe: Path, content: Path, look: Path, lora: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    twin = draw(tmp_path / "other" / "photo.png", seed=5)
    torn = tmp_path / "torn.png"
    torn.write_bytes(look.read_bytes()[:100])
    cases: list[tuple[list[object], int, str]] = [
        (["transfer", content, "-o", out], 2, "no style was named"),
        (["transfer", "-s", look, "-o", out], 2, "no content"),
        (["transfer", tmp_path / "absent.png", "-s", look, "-o", out], 2, "absent.png"),
        (["transfer", content, twin, "-s", look, "-o", out], 2, "would both write"),
        (["transfer", content, twin, "-s", look, "-o", tmp_path / "x.png"], 2, "is a file"),
        (["transfer", content, "-s", look, "-o", tmp_path / "x.gif"], 2, ".png, .jpg"),
        (["transfer", content, "-s", look, "-o", out, "--name", "{content}.bmp"], 2, ".webp"),
        (["invert", content, "-o", tmp_path / "x.png"], 2, ".safetensors"),
        (["transfer", content, "-s", torn, "-o", out], 2, "torn.png"),
        (["train-lora", look, torn, "-o", tmp_path / "x.safetensors"], 2, "torn.png"),
        (["train-lora", look, "-o", tmp_path / "x.safetensors", "--format", "peft"], 2, "folder"),
        (["transfer", content, "-l", lora, "-o", out, "--set", "sampling.start=adain"], 2, "adain"),
        (["transfer", content, "-l", look, "-o", out], 2, "is a picture"),
        (["transfer", content, "-s", look, "-o", content], 2, "is one of the inputs"),
        (["transfer", content, "-s", look, "-o", out, "--name", "{who}.png"], 2, "who"),
        (["transfer", content, "-s", look, "-o", out, "--shard", "3/2"], 2, "3/2"),
        (["transfer", content, "-l", tmp_path / "no.safetensors", "-o", out], 2, "no.safetensors"),
        (["train-lora", look, "-o", tmp_path / "x.png"], 2, ".safetensors"),
        (["transfer", content, "-s", look, "-o", out, "--set", "injection.feature_steps=7"], 2,
         "feature_steps"),
    ]  # fmt: skip
    with counted_rows() as rows:
        for arguments, status, words in cases:
            done = style(*arguments, "-r", recipe)
            assert (done.status, words in done.err) == (status, True), done.err
            assert "Traceback" not in done.err
    assert not rows
    assert not out.exists()


def test_weights_that_are_not_there_exit_4_with_the_command_that_gets_them(
    style: Style, content: Path, look: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    done = style("transfer", content, "-s", look, "-o", tmp_path / "o.png", "--backbone", "sd15")
    assert done.status == 4
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in done.err
    assert "unet/diffusion_pytorch_model.safetensors" in done.err
    assert "style models pull sd15" in done.err


def test_a_missing_tensor_exits_4_and_is_named(
    style: Style, recipe: Path, tiny_folder: Path, content: Path, look: Path, tmp_path: Path
) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["mid_block.resnets.0.conv1.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    done = style("transfer", content, "-s", look, "-o", tmp_path / "o.png", "-r", recipe,
                 "--backbone", broken)  # fmt: skip
    assert done.status == 4
    assert "mid_block.resnets.0.conv1.weight" in done.err


def test_a_lora_of_another_model_is_refused(
    style: Style, recipe: Path, content: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.safetensors"
    key = "unet.down_blocks.9.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.weight"
    save_file({key.format("A"): torch.zeros(4, 8), key.format("B"): torch.zeros(8, 4)}, foreign)
    for plan in ((), ("--dry-run",)):
        done = style("transfer", content, "-l", foreign, "-o", tmp_path / "o.png", "-r", recipe,
                     *plan)  # fmt: skip
        assert done.status == 2
        assert "fits 0 of" in done.err


def test_weights_that_were_cut_off_are_told_before_anything_is_planned(
    style: Style, tiny_folder: Path, content: Path, look: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    file = next((copy / "vae").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])
    done = style("transfer", content, "-s", look, "-o", tmp_path / "o.png", "--backbone", copy,
                 "--dry-run")  # fmt: skip
    assert done.status == 4
    assert f"copy/vae: {file.name}" in done.err


def test_dry_run_shows_the_plan_and_does_nothing(
    style: Style, recipe: Path, content: Path, look: Path, tmp_path: Path
) -> None:
    with counted_rows() as rows:
        done = style("transfer", content, "-s", look, "-o", tmp_path / "out", "-r", recipe,
                     "--dry-run", "--json")  # fmt: skip
    assert done.status == 0, done.err
    plan = done.rows[0]
    assert plan["todo"] == 1
    assert plan["estimate"]["seconds"] > 0
    assert plan["recipe"]["sampling"]["steps"] == 6
    assert rows == []
    assert not (tmp_path / "out").exists()


def test_invert_keeps_a_trajectory_that_transfer_reuses(
    style: Style, recipe: Path, content: Path, lora: Path, tmp_path: Path
) -> None:
    done = style("invert", content, "-o", tmp_path / "tr", "-r", recipe, "--verify", "--json")
    assert done.status == 0, done.err
    figures = done.rows[0]["details"]
    assert figures["psnr_against_vae"] > 0
    assert f"{figures['psnr_reconstruction']} dB of the picture" in done.err
    tensors = load_file(tmp_path / "tr" / "photo.safetensors")
    assert tensors["latents"].shape == (7, 4, 16, 24)
    assert tensors["timesteps"].shape == (6,)
    assert (tmp_path / "tr" / "photo.verify.png").exists()
    with counted_rows() as rows:
        assert style("transfer", content, "-l", lora, "-o", tmp_path / "o.png", "-r", recipe,
                     "-q").status == 0  # fmt: skip
    assert sum(rows) == 6 * 2 + 5, "inverted again"


def test_a_folder_may_have_a_dot_in_its_name(
    style: Style, recipe: Path, content: Path, lora: Path, tmp_path: Path
) -> None:
    out = f"{tmp_path}/2026.01.31/"
    assert style("transfer", content, "-l", lora, "-o", out, "-r", recipe, "-q").status == 0
    assert (tmp_path / "2026.01.31" / "photo__painting.png").is_file()


def test_what_a_run_made_is_no_content_of_the_next_though_it_lies_among_them(
    style: Style, recipe: Path, lora: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    draw(folder / "a.png", seed=3)
    for where in (folder / "out", folder):
        command = ("transfer", folder, "-l", lora, "-o", where, "-r", recipe, "--json")
        assert style(*command).summary["counts"] == {"done": 1, "items": 1}
        assert style(*command).summary["counts"] == {"skipped": 1, "items": 1}
        for made in (*folder.rglob("*__*.png"), *folder.rglob("runs.jsonl")):
            made.unlink()


def test_a_sheet_asked_for_later_is_made_later(
    style: Style, recipe: Path, content: Path, lora: Path, tmp_path: Path
) -> None:
    out, trajectory = tmp_path / "out.png", tmp_path / "photo.safetensors"
    for command, made, flag in (
        (("transfer", content, "-l", lora, "-o", out), out, "--compare"),
        (("invert", content, "-o", trajectory), trajectory, "--verify"),
    ):
        assert style(*command, "-r", recipe, "-q").status == 0
        before = made.read_bytes()
        again = style(*command, "-r", recipe, flag, "--json")
        assert again.summary["counts"] == {"done": 1, "items": 1}
        assert made.read_bytes() == before
        assert made.with_name(f"{made.stem}.{flag[2:]}.png").is_file()
        assert style(*command, "-r", recipe, flag, "--json").summary["counts"]["skipped"] == 1


def test_the_caption_beside_a_style_is_part_of_what_made_a_picture(
    style: Style, recipe: Path, content: Path, look: Path, tmp_path: Path
) -> None:
    command = ("transfer", content, "-s", look, "-o", tmp_path / "out.png", "-r", recipe, "--json")
    assert style(*command).status == 0
    look.with_suffix(".txt").write_text("a red cat in <sss> style")
    assert style(*command).rows[0]["error"]["code"] == "output_differs"
    assert style(*command, "--overwrite").status == 0
    look.with_suffix(".txt").write_bytes(b"\xff\xfe\x00")
    assert style(*command, "--overwrite").status == 2


def test_a_lora_that_does_not_fit_is_refused_before_another_is_used(
    style: Style, recipe: Path, content: Path, lora: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.safetensors"
    key = "unet.down_blocks.9.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.weight"
    out = tmp_path / "out"
    for seed in range(4):  # whatever order their digests put them in
        tensors = {key.format("A"): torch.full((4, 8), float(seed)),
                   key.format("B"): torch.zeros(8, 4)}  # fmt: skip
        save_file(tensors, foreign)
        done = style("transfer", content, "-l", lora, "-l", foreign, "-o", out, "-r", recipe)
        assert done.status == 2
        assert not list(out.glob("*.png"))


def test_the_journal_says_what_failed_without_saying_where_it_was(
    style: Style, recipe: Path, lora: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "torn.png").write_bytes(b"\x89PNG")
    out = tmp_path / "out"
    done = style("transfer", folder, "-l", lora, "-o", out, "-r", recipe, "--json")
    assert str(folder / "torn.png") in done.rows[0]["error"]["what"]
    assert done.rows[0]["output"] == str(out / "torn__painting.png")
    (row,) = journal.rows(out)
    assert row["error"]["what"].startswith("torn.png: ")
    assert str(tmp_path) not in json.dumps(row)


def test_a_trajectory_says_nothing_about_the_machine(
    style: Style, recipe: Path, content: Path, tmp_path: Path
) -> None:
    out = tmp_path / "photo.safetensors"
    assert style("invert", content, "-o", out, "-r", recipe, "-q").status == 0
    with safe_open(out, framework="pt") as stream:
        assert "/" not in json.dumps(stream.metadata()).replace("\\/", "")


def test_a_picture_too_large_for_the_memory_fails_alone_and_the_run_ends_with_6(
    style: Style, recipe: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylecli.engine.painter import Painter

    tried: list[str] = []
    paint = Painter.paint_together

    def short_of_memory(self: Painter, canvases: Any, *given: Any) -> Any:
        tried.append(canvases[0].name)
        if canvases[0].name == "large.png":
            raise torch.OutOfMemoryError
        return paint(self, canvases, *given)

    monkeypatch.setattr(Painter, "paint_together", short_of_memory)
    folder = tmp_path / "in"
    for i, name in enumerate(("a.png", "large.png", "z.png")):
        draw(folder / name, seed=i)
    done = style("transfer", folder, "-l", lora, "-o", tmp_path / "out", "-r", recipe, "--json")
    assert (done.status, done.summary["error"]["code"]) == (6, "memory")
    assert done.summary["counts"] == {"done": 2, "failed": 1, "items": 3}
    # Once as it was asked for, then after each step that spares memory.
    assert tried == ["a.png", "large.png", "large.png", "large.png", "z.png"]


def test_an_output_folder_that_cannot_be_made_is_refused(
    style: Style, recipe: Path, content: Path, lora: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"
    done = style("transfer", content, "-l", lora, "-o", out, "-r", recipe, "--json")
    assert (done.status, done.summary["error"]["code"]) == (2, "usage")
    assert "cannot be written" in done.err


def test_invert_takes_names_and_no_styles(
    style: Style, recipe: Path, content: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    named = style("invert", content, "-o", out, "-r", recipe, "--name", "{key}.safetensors", "-q")
    assert named.status == 0
    assert len(list(out.glob("?????????*.safetensors"))) == 1
    manifest = tmp_path / "jobs.jsonl"
    manifest.write_text('{"content": "photo.png", "style": "painting.png"}')
    refused = style("invert", "--manifest", manifest, "-o", out, "-r", recipe)
    assert (refused.status, "style is a column" in refused.err) == (2, True)


def test_a_local_model_without_a_recipe_is_used_at_its_own_size(
    style: Style, tiny_folder: Path, content: Path, look: Path, tmp_path: Path
) -> None:
    done = style("transfer", content, "-s", look, "-o", tmp_path / "o.png", "--backbone",
                 tiny_folder, "--dry-run", "--json")  # fmt: skip
    assert done.status == 0, done.err
    plan = done.rows[0]
    assert plan["recipe"]["sampling"]["size"] == plan["recipe"]["lora"]["resolution"] == 32
    assert plan["origin"]["sampling.size"] == f"model {tiny_folder}"
    assert done.err.splitlines() == [
        f"recipe  built-in settings at 32 px for {tiny_folder}; --recipe chooses another"
    ]
    assert not style("recipes", "list").err


def test_a_row_that_a_killed_run_owed_is_written_by_the_next(
    style: Style, recipe: Path, content: Path, lora: Path, tmp_path: Path
) -> None:
    command = ("transfer", content, "-l", lora, "-o", tmp_path / "out/", "-r", recipe, "--json")
    assert style(*command).status == 0
    out = tmp_path / "out"
    (before,) = journal.rows(out)
    (out / "runs.jsonl").unlink()
    for _ in range(2):
        assert style(*command).summary["counts"] == {"skipped": 1, "items": 1}
        (row,) = journal.rows(out)
        assert (row["key"], row["status"]) == (before["key"], "done")


def test_a_lora_brings_its_colours_where_the_start_is_the_palette(
    style: Style, recipe: Path, content: Path, look: Path, lora: Path, tmp_path: Path
) -> None:
    """From the header, so `--lora` and `--style` agree; without it the content's own are kept."""
    palette = ("-r", recipe, "-q", "--set", "sampling.start=palette")

    def made(name: str, *arguments: object) -> bytes:
        outcome = style("transfer", content, *arguments, "-o", tmp_path / f"{name}.png")
        assert outcome.status == 0, outcome.err
        messages.append(outcome.err)
        with Image.open(tmp_path / f"{name}.png") as picture:
            return picture.tobytes()

    messages: list[str] = []
    plain = made("plain", "-l", lora, "-r", recipe, "-q")
    by_lora, by_style = made("lora", "-l", lora, *palette), made("style", "--style", look, *palette)
    assert by_lora == by_style != plain
    with safe_open(lora, framework="pt") as stream:
        header = {key: value for key, value in stream.metadata().items() if key != "style.colours"}
    colourless = tmp_path / "colourless.safetensors"
    save_file(load_file(lora), colourless, metadata=header)
    assert made("colourless", "-l", colourless, *palette) == plain
    assert "colourless.safetensors does not say which colours" in messages[-1]


@pytest.mark.parametrize("command", ["transfer", "invert"])
def test_a_manifest_cannot_write_outside_the_output_folder(
    style: Style, recipe: Path, content: Path, lora: Path, tmp_path: Path, command: str
) -> None:
    manifest = tmp_path / "rows.jsonl"
    suffix = "png" if command == "transfer" else "safetensors"
    manifest.write_text(json.dumps({"content": str(content), "output": f"../escaped.{suffix}"}))
    looks = ("-l", lora) if command == "transfer" else ()
    outcome = style(
        command, "--manifest", manifest, *looks, "-o", tmp_path / "out", "-r", recipe, "-q"
    )
    assert outcome.status == 2
    assert "leaves the output folder" in outcome.err
    assert not (tmp_path / f"escaped.{suffix}").exists()


def test_damage_in_the_cache_is_noticed_and_made_good(
    style: Style, recipe: Path, content: Path, look: Path, tmp_path: Path
) -> None:
    """One flipped byte in a trajectory, half a LoRA: the same pixels come out."""

    def made(name: str) -> bytes:
        file = tmp_path / name
        outcome = style("transfer", content, "--style", look, "-o", file, "-r", recipe, "-q")
        assert outcome.status == 0, outcome.err
        with Image.open(file) as picture:
            return picture.tobytes()

    cache = Path(os.environ["STYLE_CACHE_DIR"])
    first = made("first.png")
    (trajectory,) = (cache / "trajectories").rglob("*.safetensors")
    data = bytearray(trajectory.read_bytes())
    data[-200] ^= 0x40
    trajectory.write_bytes(data)
    (cached_lora,) = (cache / "loras").rglob("*.safetensors")
    cached_lora.write_bytes(cached_lora.read_bytes()[:3000])
    assert made("second.png") == first


def test_a_cache_that_cannot_be_written_is_found_before_the_work(
    style: Style,
    recipe: Path,
    content: Path,
    lora: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with counted_rows() as rows:
        outcome = style("transfer", content, "-l", lora, "-o", tmp_path / "x.png", "-r", recipe)
    assert (outcome.status, rows) == (2, [])
    assert "STYLE_CACHE_DIR" in outcome.err
