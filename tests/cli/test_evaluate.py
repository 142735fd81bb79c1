"""`style evaluate` as users meet it: tables, files, statuses, and what happens without weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lpips as lpips_package
import pytest
import torch
from torchvision.models import alexnet

from stylecli.artifacts import images
from stylecli.evaluation import published
from tests.cli.conftest import finish, start
from tests.conftest import Style
from tests.engine.scoring.conftest import World, world

pytestmark = pytest.mark.slow

__all__ = ["world"]  # the fixture

FREE = "ssim,psnr,edge_correlation,color_sw"


def read(folder: Path, name: str = "aggregate.json") -> Any:
    return json.loads((folder / name).read_text())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "per_image.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def report(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One evaluation by everything that ships, in a process of its own."""
    folder = tmp_path_factory.mktemp("report")
    cache = tmp_path_factory.mktemp("cache")
    before = os.environ.get("STYLE_CACHE_DIR")
    os.environ["STYLE_CACHE_DIR"] = str(cache)
    done = finish(
        start("evaluate", "--manifest", world.manifest, "--compare", "near", "far", "-o", folder)
    )
    assert done.status == 0, done.err
    (folder / "stdout.md").write_text(done.out)
    yield folder
    if before is not None:
        os.environ["STYLE_CACHE_DIR"] = before


def test_every_output_and_every_anchor_has_a_row(report: Path) -> None:
    found = rows(report)
    methods = [row["method"] for row in found]
    assert {m: methods.count(m) for m in methods} == dict.fromkeys(
        ("near", "far", "content_copy", "style_copy", "palette_transfer"), 6
    )
    assert {row["status"] for row in found} == {"done"}
    assert all("/" not in json.dumps(row["output"]) for row in found)
    csv = (report / "per_image.csv").read_text().splitlines()
    assert len(csv) == 1 + len(found)


def test_the_means_are_those_of_the_rows(report: Path) -> None:
    record = read(report)
    for method in ("near", "far"):
        own = [row["ssim"] for row in rows(report) if row["method"] == method]
        figures = record["methods"][method]["ssim"]
        assert figures["value"] == pytest.approx(sum(own) / 6)
        assert figures["n"] == 6
        assert figures["ci_low"] <= figures["value"] <= figures["ci_high"]
        assert figures["ci_method"] == "crossed bootstrap"


def test_copies_are_zero_and_one_of_the_relative_scale(report: Path) -> None:
    methods = read(report)["methods"]
    for metric in ("color_sw", "pocket-gram", "pocket-clip-style"):
        assert methods["content_copy"][metric]["rel"] == pytest.approx(0)
        assert methods["style_copy"][metric]["rel"] == pytest.approx(1)
        near, far = (methods[name][metric]["rel"] for name in ("near", "far"))
        assert near < far


def test_copies_are_far_from_all_styles(report: Path) -> None:
    """A content is left alone in every style it was asked for, not in the first of them."""
    methods = read(report)["methods"]
    assert methods["content_copy"]["pocket-fid"]["n"] == 3
    assert {own["pocket-fid"]["n_references"] for own in methods.values()} == {2}


def test_what_lacks_its_weights_is_a_line_and_not_a_failure(report: Path) -> None:
    record = read(report)
    why = record["metrics"]["fid"]["unavailable"]
    assert why == "unavailable: needs weights-inception-2015-12-05-6726825d.pth"
    assert "fid" not in record["methods"]["near"]
    printed = (report / "stdout.md").read_text()
    assert "unavailable: needs weights-inception" in printed
    assert "pocket-fid" in record["methods"]["near"]


def test_the_comparison_is_paired_and_adjusted(report: Path) -> None:
    found = {one["metric"]: one for one in read(report)["comparisons"]}
    assert found["ssim"]["n"] == 6
    assert found["ssim"]["win_rate"] == 1
    for one in found.values():
        if one["p"] is not None:
            assert one["p_holm"] >= one["p"]
    assert "near minus far" in (report / "table.md").read_text()


def test_tables_hold_the_same_figures_in_every_format(report: Path) -> None:
    value = read(report)["methods"]["near"]["ssim"]["value"]
    for name in ("table.md", "table.tex"):
        assert f"{value:.3f}" in (report / name).read_text(), name
    assert repr(value) in (report / "table.csv").read_text()
    assert r"\toprule" in (report / "table.tex").read_text()
    printed = (report / "stdout.md").read_text()
    assert (report / "table.md").read_text().rstrip() == printed.rstrip()


def test_a_page_of_it_has_charts_and_pictures_and_can_be_made_again(
    report: Path, world: World, style: Style, tmp_path: Path
) -> None:
    page = (report / "report.html").read_text()
    assert page.count("<circle") > 20
    assert page.count("data:image/webp") >= 6
    assert "near against far" in page
    # From the rows alone, as when the results lie elsewhere by now.
    bare = style("report", report, "-o", tmp_path / "bare.html", "--title", "Again")
    assert bare.status == 0, bare.err
    assert "not found" in bare.err
    whole = style("report", report, world.root, "-o", tmp_path / "page.html", "--json")
    assert whole.status == 0, whole.err
    assert json.loads(whole.out.splitlines()[0])["not_found"] == []
    with_scores = style("report", report, "--scores", report)
    assert with_scores.status == 2
    assert "is an evaluation itself" in with_scores.err


def test_a_preset_none_of_whose_files_are_here_says_how_to_get_them(
    world: World, style: Style, tmp_path: Path
) -> None:
    done = style("evaluate", "--manifest", world.manifest, "--preset", "i2l",
                 "--set", "evaluate.metrics=[-clip_style]", "-o", tmp_path / "r")  # fmt: skip
    assert done.status == 4
    assert "style models pull metrics/clip-h14" in done.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("paper", ["diffstyler", "stylegallery"])
def test_a_papers_protocol_is_one_recipe(
    paper: str, world: World, style: Style, tmp_path: Path
) -> None:
    words = ("evaluate", "--manifest", world.manifest, "--recipe", f"eval-{paper}")
    done = style(*words, "--baseline", f"paper:{paper}", "--metrics", "ssim,color_sw", "-q",
                 "-o", tmp_path / "r")  # fmt: skip
    assert done.status == 0, done.err
    assert "Reported by" in (tmp_path / "r" / "table.md").read_text()
    (row,) = [json.loads(line) for line in (tmp_path / "r" / "runs.jsonl").read_text().splitlines()]
    assert row["settings"]["pair_size"] == "512"
    # Without the weights that the paper's own metrics need it says which, and stops at none.
    dry = style(*words, "--dry-run", "--json")
    assert dry.status == 0, dry.err
    why = {one["metric"]: one["why_not"] for one in dry.rows if "metric" in one}
    assert "art_inception.pth" in why["artfid"]


def test_what_made_it_is_kept_without_any_folder(report: Path) -> None:
    (row,) = [json.loads(line) for line in (report / "runs.jsonl").read_text().splitlines()]
    assert row["command"] == "evaluate"
    assert len(row["weights"]["pocket-lpips"]) == 64
    assert not any(isinstance(v, str) and "/" in v for v in row.values())


def test_a_second_run_computes_nothing_and_writes_the_same_bytes(
    style: Style, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylecli.engine.scoring.networks import Networks

    command = ("evaluate", "--manifest", world.manifest, "--preset", "pocket", "-q")
    assert style(*command, "-o", tmp_path / "a").status == 0
    monkeypatch.setattr(Networks, "get", lambda *_: pytest.fail("computed again"))
    assert style(*command, "-o", tmp_path / "b").status == 0
    for name in ("per_image.jsonl", "aggregate.json", "table.md", "table.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_metric_asked_for_by_name_must_have_its_weights(
    style: Style, world: World, tmp_path: Path
) -> None:
    done = style(
        "evaluate", "--manifest", world.manifest, "--metrics", "artfid,fid", "-o", tmp_path / "r"
    )
    assert done.status == 4
    assert "artfid needs art_inception.pth" in done.err
    assert "fid needs weights-inception" in done.err
    assert "style models pull metrics/" in done.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "metric", ["lpips", "lpips_vgg", "fid", "kid", "artfid", "gram", "style_match", "clip_i_style"]
)
def test_no_published_metric_runs_without_its_file(
    style: Style, world: World, tmp_path: Path, metric: str
) -> None:
    done = style("evaluate", "--manifest", world.manifest, "--metrics", metric, "-o", tmp_path)
    assert done.status == 4
    assert metric in done.err


def test_a_published_metric_runs_through_its_real_file(
    style: Style, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AlexNet of random weights, saved under its published name: only its hash is let through."""
    torch.manual_seed(0)
    trunk = alexnet(weights=None)
    file = tmp_path / "weights" / "lpips" / "alexnet-owt-7be5be79.pth"
    file.parent.mkdir(parents=True)
    torch.save(trunk.state_dict(), file)
    command = (
        "evaluate", "--manifest", world.manifest, "--metrics", "lpips", "--no-anchors",
        "--baseline", "paper:diffstyler",
    )  # fmt: skip
    refused = style(*command, "--weights-dir", tmp_path / "weights", "-o", tmp_path / "r")
    assert refused.status == 4
    assert "has SHA-256" in refused.err
    known = replace(published.WEIGHTS["alexnet"], sha256="")
    monkeypatch.setattr(published, "WEIGHTS", {**published.WEIGHTS, "alexnet": known})
    done = style(*command, "--weights-dir", tmp_path / "weights", "-o", tmp_path / "r")
    assert done.status == 0, done.err
    assert "Reported by" in done.out
    assert "StyleID (reported)" in done.out
    theirs = lpips_package.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    slices = [getattr(theirs.net, f"slice{k}") for k in range(1, 6)]
    for part in slices:
        for name, layer in part.named_children():
            if isinstance(layer, torch.nn.Conv2d):
                layer.load_state_dict(trunk.features[int(name)].state_dict())
    for row in rows(tmp_path / "r"):
        pair = [
            images.to_tensor(images.read(world.root / path).pixels) * 2 - 1
            for path in (f"{row['method']}/{row['output']}", f"contents/{row['content']}")
        ]
        with torch.no_grad():
            assert row["lpips"] == pytest.approx(float(theirs(*pair)), abs=1e-5)


@pytest.mark.parametrize(
    ("bound", "status"),
    [("ssim=0.1", 0), ("ssim=0.999", 1), ("color_sw=0.001", 1), ("near:ssim=0.1", 0)],
)
def test_a_bound_decides_the_exit_status(
    style: Style, world: World, tmp_path: Path, bound: str, status: int
) -> None:
    command = (
        "evaluate",
        "--manifest",
        world.manifest,
        "--metrics",
        FREE,
        "-o",
        tmp_path,
        "--json",
    )
    done = style(*command, "--fail-under", bound)
    assert done.status == status
    assert (tmp_path / "aggregate.json").exists()
    if status:
        assert done.summary["error"]["code"] == "below_threshold"
        assert bound.partition("=")[0].split(":")[-1] in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fail-under", "ssim"), "is not METRIC=VALUE"),
        (("--fail-under", "sim=1"), "no metric is called 'sim'"),
        (("--metrics", "sim"), "did you mean ssim?"),
        (("--compare", "near", "fra"), "did you mean far?"),
        (("--preset", "corr"), "evaluate.preset"),
        (("--baseline", "paper:difstyler"), "diffstyler"),
        (("--metrics", "rsm"), "rsm needs 'mask'"),
        (("--fail-under", "ssim=nan"), "is not METRIC=VALUE"),
        (("--content", "nowhere"), "are for folders of results"),
        (("--compare", "near", "mid_blend"), "no method is called 'mid_blend'"),
        (("--set", "evaluate.anchor=x"), "evaluate.anchors"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_work(
    style: Style, world: World, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    folder = tmp_path / "report"
    done = style("evaluate", "--manifest", world.manifest, "-o", folder, *arguments)
    assert done.status == 2
    assert said in done.err
    assert not folder.exists()


def test_a_bad_picture_is_one_failed_row(style: Style, world: World, tmp_path: Path) -> None:
    results = shutil.copytree(world.root / "near", tmp_path / "near")
    (results / "cow__ink.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    done = style(
        "evaluate", results, "--content", world.root / "contents", "--style",
        world.root / "styles", "--metrics", FREE, "-o", tmp_path / "r", "--json",
    )  # fmt: skip
    assert done.status == 3
    failed = [row for row in done.rows if row.get("status") == "failed"]
    assert [(row["method"], row["id"]) for row in failed] == [("near", "cow__ink")]
    assert done.summary["counts"] == {"done": 5, "failed": 1, "items": 6}
    assert "cow__ink.png" in failed[0]["error"]["what"]
    assert read(tmp_path / "r")["methods"]["near"]["ssim"]["n"] == 5


def test_published_figures_stand_beside_ours_marked_as_such(
    style: Style, world: World, tmp_path: Path
) -> None:
    done = style(
        "evaluate", "--manifest", world.manifest, "--metrics", "ssim,color_hist,pocket-artfid",
        "--baseline", "paper:stylegallery", "-o", tmp_path,
    )  # fmt: skip
    assert done.status == 0
    assert "24.536" in done.out
    assert "its scale is not known" in done.out
    listed = style("evaluate", "--metrics", "list")
    assert listed.status == 0
    assert "pocket-artfid" in listed.out


def test_one_metric_can_be_looked_up(style: Style) -> None:
    done = style("evaluate", "--metrics", "list:artfid")
    assert done.status == 0
    assert "needs metrics/artfid" in done.out


def test_a_dry_run_says_what_is_ready_and_writes_nothing(
    style: Style, world: World, tmp_path: Path
) -> None:
    done = style("evaluate", "--manifest", world.manifest, "-o", tmp_path / "r", "-n")
    assert done.status == 0
    assert "12 items of 2 methods: near, far" in done.out
    assert "ready" in done.out
    assert not (tmp_path / "r").exists()


def test_masks_split_a_picture_into_what_may_change_and_what_may_not(
    style: Style, world: World, tmp_path: Path
) -> None:
    from PIL import Image

    content = world.root / "contents" / "apple.png"
    with Image.open(content) as opened:
        picture = opened.convert("RGB")
    mask = Image.new("L", picture.size)
    mask.paste(255, (10, 10, 30, 30))
    edited = picture.copy()
    edited.paste((255, 0, 0), (10, 10, 30, 30))
    edited.save(tmp_path / "edited.png")
    mask.save(tmp_path / "mask.png")
    row = {
        "method": "edit", "output": "edited.png", "content": str(content), "mask": "mask.png",
        "style": str(world.root / "styles" / "ink.png"), "style_text": "red",
    }  # fmt: skip
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    done = style(
        "evaluate", "--manifest", tmp_path / "m.jsonl", "-o", tmp_path / "r", "--metrics",
        "mse_bg,psnr_bg,bg_shift,palette_leak,pocket-lpips-bg,pocket-rsm,mse",
    )  # fmt: skip
    assert done.status == 0, done.err
    figures = next(r for r in rows(tmp_path / "r") if r["method"] == "edit")
    assert figures["mse_bg"] == 0
    assert figures["pocket-lpips-bg"] == 0
    assert figures["palette_leak"] == 0
    assert figures["mse"] > 0
    assert figures["psnr_bg"] == 100
    assert 0 < figures["pocket-rsm"] < 1


def test_artfid_brings_its_factors_along(style: Style, world: World, tmp_path: Path) -> None:
    command = ("evaluate", "--manifest", world.manifest, "-q", "-o")
    assert style(*command, tmp_path / "a", "--metrics", "pocket-artfid").status == 0
    figures = read(tmp_path / "a")["methods"]["near"]
    assert set(figures) == {"pocket-artfid"}
    both = "pocket-artfid,pocket-lpips,pocket-fid"
    assert style(*command, tmp_path / "b", "--metrics", both).status == 0
    factors = read(tmp_path / "b")["methods"]["near"]
    wanted = (1 + factors["pocket-lpips"]["value"]) * (1 + factors["pocket-fid"]["value"])
    assert figures["pocket-artfid"]["value"] == pytest.approx(wanted)
    named = style("evaluate", "--manifest", world.manifest, "--metrics", "artfid", "-o", tmp_path)
    assert "alexnet-owt" in named.err


def test_a_set_does_not_depend_on_what_else_was_asked(
    style: Style, world: World, tmp_path: Path
) -> None:
    from PIL import Image

    results = shutil.copytree(world.root / "near", tmp_path / "near")
    Image.new("RGB", (10, 10), "red").save(results / "cow__ink.png")
    command = (
        "evaluate", results, "--content", world.root / "contents", "--style",
        world.root / "styles", "-q", "--set", "evaluate.aspect=squash",
    )  # fmt: skip
    found = []
    for name, metrics in (("alone", "pocket-fid"), ("with", "pocket-fid,ssim")):
        style(*command, "--metrics", metrics, "-o", tmp_path / name)
        found.append(read(tmp_path / name)["methods"]["near"]["pocket-fid"])
    assert found[0] == found[1]
    assert found[0]["n"] == 6


def test_two_methods_need_the_same_items(style: Style, world: World, tmp_path: Path) -> None:
    lines = world.manifest.read_text().splitlines()
    manifest = world.root / "less.jsonl"
    manifest.write_text("\n".join(lines[:9]))
    command = (
        "evaluate", "--manifest", manifest, "--metrics", "ssim", "--compare", "near", "far", "-o",
        tmp_path / "r",
    )  # fmt: skip
    refused = style(*command)
    assert refused.status == 2
    assert "share 3 of 6 items" in refused.err
    assert not (tmp_path / "r").exists()
    assert style(*command, "--set", "evaluate.allow_partial=true").status == 0


def test_a_bound_on_what_was_not_measured_is_not_kept(
    style: Style, world: World, tmp_path: Path
) -> None:
    from PIL import Image

    results = tmp_path / "small"
    results.mkdir()
    for path in (world.root / "near").iterdir():
        Image.new("RGB", (8, 8)).save(results / path.name)
    done = style(
        "evaluate", results, "--content", world.root / "contents", "--metrics", "ssim,psnr",
        "--set", "evaluate.aspect=squash", "--fail-under", "ssim=0", "-o", tmp_path / "r",
    )  # fmt: skip
    assert "ssim of small is nan" in done.err
    assert "8x8 is too small for SSIM" in (tmp_path / "r" / "table.md").read_text()


def test_what_was_looked_for_and_not_found_is_said(
    style: Style, world: World, tmp_path: Path
) -> None:
    results = shutil.copytree(world.root / "near", tmp_path / "near")
    contents = shutil.copytree(world.root / "contents", tmp_path / "contents")
    (contents / "cow.png").unlink()
    command = ("evaluate", results, "--content", contents, "--metrics", "ssim", "-o", tmp_path)
    assert "its name fits no content" in style(*command).err
    inside = style(*command[:2], "--content", world.root / "contents", "-o", results)
    assert inside.status == 2
    assert "is a folder of results" in inside.err


def test_one_content_in_one_style_says_nothing_of_others(
    style: Style, world: World, tmp_path: Path
) -> None:
    rows = [
        {"id": str(k), "method": "m", "output": f"{folder}/apple__ink.png",
         "content": "contents/apple.png", "style": "styles/ink.png"}
        for k, folder in enumerate(("near", "far"))
    ]  # fmt: skip
    manifest = world.root / "seeds.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = style("evaluate", "--manifest", manifest, "--metrics", "ssim", "-o", tmp_path, "-q")
    assert "one content in one style" in done.out


def test_few_clusters_cannot_be_significant_and_that_is_said(
    style: Style, world: World, tmp_path: Path
) -> None:
    done = style(
        "evaluate", "--manifest", world.manifest, "--metrics", "ssim", "--compare", "near", "far",
        "-o", tmp_path, "-q",
    )  # fmt: skip
    # Two styles: signs agree by chance in one case of two.
    assert "p cannot fall below 0.5" in done.out


def test_a_bare_512_is_a_size(style: Style, world: World, tmp_path: Path) -> None:
    command = ("evaluate", "--manifest", world.manifest, "--metrics", "psnr", "-q", "-o", tmp_path)
    assert style(*command, "--set", "evaluate.pair_size=512").status == 0


def test_a_killed_evaluation_goes_on_where_it_was(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("evaluate", "--manifest", world.manifest, "--preset", "pocket", "-q", "-o")
    process = start(*command, tmp_path / "killed")
    store = Path(os.environ["STYLE_CACHE_DIR"]) / "features" / "features.sqlite"
    deadline = time.monotonic() + 120
    while not (store.exists() and store.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (tmp_path / "killed" / "per_image.jsonl").exists()
    assert finish(start(*command, tmp_path / "killed")).status == 0
    monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / "empty"))
    assert finish(start(*command, tmp_path / "whole")).status == 0
    for name in ("per_image.jsonl", "aggregate.json", "table.md"):
        ours, theirs = (tmp_path / folder / name for folder in ("killed", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()
