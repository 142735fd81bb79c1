"""`style evaluate --preset i2l` from a manifest to its tables, on small networks in real files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stylecli.artifacts import images
from stylecli.evaluation import published
from stylecli.evaluation.clip import clip_network
from stylecli.evaluation.networks import NETWORKS
from stylecli.evaluation.pixels import PREPROCESS
from stylecli.evaluation.taste.hpsv2 import hpsv2
from stylecli.evaluation.taste.imagereward import imagereward
from stylecli.evaluation.taste.pickscore import pickscore
from tests.cli.conftest import draw
from tests.conftest import Style
from tests.evaluation.taste import tiny
from tests.tiny_judges import RewardFiles

pytestmark = pytest.mark.slow

METHODS = ("ours", "theirs", "others")
PROMPTS = {"one": "a cat", "two": "a red dog, painting", "three": "cat " * 76}
NAMES = ("clip_text", "clip_style", "aesthetic", "pickscore", "imagereward", "hpsv2", "hpsv3")
H14, L14 = tiny.clip_config(), tiny.clip_config(quick_gelu=True, width=768)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("i2l")
    rows = []
    for number, method in enumerate(METHODS):
        for index, (name, prompt) in enumerate(PROMPTS.items()):
            # Twice as wide as high, so that cropping and letterboxing differ.
            draw(root / method / f"{name}.png", 7 * number + index, (64, 32))
            row = {"id": name, "method": method, "output": f"{method}/{name}.png"}
            rows.append(row | {"prompt": prompt, "style_text": "oil"})
    file = root / "all.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def weights_dir(tmp_path_factory: pytest.TempPathFactory, reward: RewardFiles) -> Path:
    root = tmp_path_factory.mktemp("weights")

    def place(name: str) -> Path:
        row = published.WEIGHTS[name]
        path = root / row.family / row.file
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    save_file(tiny.clip_model(H14).state_dict(), place("clip-h14"))
    save_file(tiny.clip_model(L14).state_dict(), place("clip-l14"))
    save_file(tiny.transformers_clip().state_dict(), place("pickscore"))
    torch.save({"state_dict": tiny.clip_model(H14, seed=9).state_dict()}, place("hpsv2"))
    torch.save(tiny.head().state_dict(), place("aesthetic"))
    torch.save(tiny.published_keys(), place("imagereward"))
    place("bert-vocabulary").write_text("\n".join(tiny.WORDS) + "\n", encoding="utf-8")
    reward.save(place("hpsv3"), place("qwen2-vl-7b-words"), place("hpsv3-instruction"))
    return root


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> RewardFiles:
    return RewardFiles(tmp_path_factory.mktemp("hpsv3"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real rows of both tables, but for the sizes of networks and the hashes of files."""
    sizes: dict[str, Callable[[Any, str], Any]] = {
        "clip-h14": lambda t, f: clip_network("clip-h14", t[0], file=f, config=H14),
        "clip-l14": lambda t, f: clip_network("clip-l14", t[0], file=f, config=L14),
        "pickscore": lambda t, f: pickscore(t[0], file=f, config=H14),
        "hpsv2": lambda t, f: hpsv2(t[0], file=f, config=H14),
        "imagereward": lambda t, f: imagereward(
            t[0], t[1], file=f, vision=tiny.TINY_VISION, text=tiny.TINY_TEXT
        ),
    }
    for name, load in sizes.items():
        monkeypatch.setitem(NETWORKS, name, replace(NETWORKS[name], load=load))  # type: ignore[arg-type]
    for name in ("aesthetic", "bert-vocabulary", "hpsv3-instruction"):
        known = replace(published.WEIGHTS[name], sha256="")
        monkeypatch.setitem(published.WEIGHTS, name, known)  # type: ignore[arg-type]


def read(folder: Path) -> Any:
    return json.loads((folder / "aggregate.json").read_text())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "per_image.jsonl").read_text().splitlines()]


def by_hand(
    manifest: Path, row: Mapping[str, Any], words: str, liked: RewardFiles
) -> dict[str, float]:
    """The preset's numbers of one output, from the libraries' own networks."""
    pixels = images.read(manifest.parent / row["method"] / row["output"]).pixels
    shown = {name: PREPROCESS[name].apply(pixels)[None] for name in ("clip224", "letter224")}
    import open_clip

    def tokens(text: str) -> Tensor:
        found: Tensor = open_clip.tokenize([text])
        return found

    def cosine(model: Any, image: Tensor, text: str) -> float:
        picture = model.encode_image(image, normalize=True)
        return float((picture * model.encode_text(tokens(text), normalize=True)).sum())

    with torch.no_grad():
        h14 = tiny.clip_model(H14)
        mark = tiny.head()(tiny.clip_model(L14).encode_image(shown["clip224"], normalize=True))
        pick = tiny.transformers_clip()(
            input_ids=tokens(words), pixel_values=shown["clip224"]
        ).logits_per_image
        reward = imagereward(
            tiny.published_keys(),
            tiny.VOCABULARY,
            file="f",
            vision=tiny.TINY_VISION,
            text=tiny.TINY_TEXT,
        )(shown["clip224"], [words])
        return {
            "clip_text": cosine(h14, shown["clip224"], PROMPTS[row["id"]]),
            "clip_style": cosine(h14, shown["clip224"], "oil"),
            "aesthetic": float(mark),
            "pickscore": float(pick),
            "imagereward": float(reward),
            "hpsv2": 100 * cosine(tiny.clip_model(H14, seed=9), shown["letter224"], words),
            "hpsv3": liked.plainly(pixels, words),
        }


@pytest.mark.parametrize("asked", ["content", "content+style"])
def test_the_preset_gives_the_libraries_own_numbers(
    style: Style,
    manifest: Path,
    weights_dir: Path,
    reward: RewardFiles,
    small: None,
    tmp_path: Path,
    asked: str,
) -> None:
    done = style(
        *("evaluate", "--manifest", manifest, "--preset", "i2l", "--weights-dir", weights_dir),
        *("--set", f"evaluate.pref_prompt={asked}", "-o", tmp_path / "r"),
    )
    assert done.status == 0, done.err
    for row in rows(tmp_path / "r"):
        words = PROMPTS[row["id"]] + (", oil" if asked != "content" else "")
        wanted = by_hand(manifest, row, words, reward)
        assert {name: row[name] for name in NAMES} == pytest.approx(wanted, abs=2e-4, rel=2e-4)


def test_overall_hangs_on_who_is_there_and_says_so(
    style: Style, manifest: Path, weights_dir: Path, small: None, tmp_path: Path
) -> None:
    command = ("evaluate", "--preset", "i2l", "--metrics", "+overall_z")
    command += ("--weights-dir", str(weights_dir))
    assert style(*command, "--manifest", manifest, "-o", tmp_path / "three").status == 0
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        line["output"] = str(manifest.parent / line["output"])
    # Its pictures are those of the third, for other prompts.
    theirs = [line["output"] for line in lines[6:]]
    more = [
        line | {"method": "more", "output": theirs[index - 1]}
        for index, line in enumerate(lines[:3])
    ]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(x) + "\n" for x in (*lines, *more)))
    done = style(*command, "--manifest", tmp_path / "all.jsonl", "-o", tmp_path / "four")
    assert done.status == 0, done.err
    three, four = read(tmp_path / "three"), read(tmp_path / "four")
    changed = [
        three["methods"][m]["overall"]["value"] != four["methods"][m]["overall"]["value"]
        for m in METHODS
    ]
    assert any(changed)
    about = three["overall"]["overall"]
    assert about["depends_on"] == list(METHODS)
    assert set(about["parts"]) == set(NAMES)
    for method in METHODS:
        mean = sum(about["parts"][name][method] for name in NAMES) / len(NAMES)
        assert three["methods"][method]["overall"]["value"] == pytest.approx(mean)
    assert set(about["rank_correlations"]["hpsv2"]) == set(NAMES)
    z = [three["methods"][m]["overall_z"]["value"] for m in METHODS]
    assert sum(z) == pytest.approx(0, abs=1e-9)
    table = (tmp_path / "four" / "table.md").read_text()
    assert "depends on the methods present (ours, theirs, others, more)" in table


def test_texts_that_are_cut_are_told_once_and_kept(
    style: Style, manifest: Path, weights_dir: Path, small: None, tmp_path: Path
) -> None:
    command = ("evaluate", "--manifest", manifest, "--preset", "i2l", "--weights-dir", weights_dir)
    # What is known already is not computed again, and no less cut off.
    for _ in range(2):
        done = style(*command, "-o", tmp_path / "r")
        assert done.err.count("longer than a network reads") == 1
    said = " ".join(done.err.split())
    assert "1 of 3 for clip_text, pickscore, hpsv2 (77 tokens)" in said
    assert "1 of 3 for imagereward (35 tokens)" in said
    about = read(tmp_path / "r")["metrics"]
    assert about["clip_text"]["truncated"] == {"truncated": 1, "texts": 3, "context": 77}
    assert about["clip_style"]["truncated"] is None


def test_without_weights_the_preset_says_what_is_missing(
    style: Style, manifest: Path, tmp_path: Path
) -> None:
    dry = style("evaluate", "--manifest", manifest, "--preset", "i2l", "--dry-run")
    assert dry.status == 0
    assert "needs HPS_v2.1_compressed.pt" in dry.out
    assert "needs ImageReward.pt, bert-base-uncased/vocab.txt" in dry.out
    for name in NAMES:
        done = style("evaluate", "--manifest", manifest, "--metrics", name, "-o", tmp_path)
        assert done.status == 4
        assert name in done.err


FREE = ("evaluate", "--metrics", "ssim,edge_correlation,overall,overall_z", "--no-anchors")


@pytest.fixture
def compared(manifest: Path, tmp_path: Path) -> Callable[..., Path]:
    """A manifest with contents, of as many methods as asked for; one may lack an item."""

    def make(methods: int, lacking: int = 0) -> Path:
        lines = [json.loads(line) for line in manifest.read_text().splitlines()]
        for line in lines:
            line["output"] = str(manifest.parent / line["output"])
            line["content"] = str(manifest.parent / "ours" / f"{line['id']}.png")
        lines = [line for line in lines if line["method"] in METHODS[:methods]]
        lines = lines[: len(lines) - lacking]
        file = tmp_path / "compared.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return file

    return make


@pytest.mark.parametrize(
    ("methods", "lacking", "why"),
    [
        (2, 0, "needs 3 methods, this run has 2"),
        (3, 1, "needs the same items of every method; there are 3 of ours, 3 of theirs, 2 of"),
    ],
)
def test_it_is_absent_with_the_reason(
    style: Style,
    compared: Callable[..., Path],
    tmp_path: Path,
    methods: int,
    lacking: int,
    why: str,
) -> None:
    done = style(*FREE, "--manifest", compared(methods, lacking), "-o", tmp_path / "r")
    assert done.status == 0, done.err
    found = read(tmp_path / "r")
    assert why in found["metrics"]["overall"]["unavailable"]
    assert "overall" not in found["methods"]["ours"]
    assert found["overall"] == {}


def test_fixed_ranges_need_no_others(
    style: Style, compared: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "ref.json").write_text('{"ssim": [0, 1]}')
    done = style(
        *(*FREE, "--manifest", compared(2), "-o", tmp_path / "r"),
        *("--set", f"evaluate.overall_ref={tmp_path / 'ref.json'}"),
    )
    assert done.status == 0, done.err
    found = read(tmp_path / "r")
    assert found["methods"]["ours"]["overall"]["value"] == pytest.approx(1)
    about = found["overall"]["overall"]
    assert about["left_out"] == {"edge_correlation": "has no fixed range"}
    assert about["fixed_ranges"] == {"ssim": [0.0, 1.0]}
    assert "needs 3 methods" in found["metrics"]["overall_z"]["unavailable"]
    run = (tmp_path / "r" / "runs.jsonl").read_text()
    assert str(tmp_path) not in run
    assert json.loads(run)["settings"]["overall_ref"] == {"ssim": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--metrics", "overall"), "is a mean over other metrics, and there is none"),
        (("--set", "evaluate.overall_ref=gone.json"), "gone.json: No such file"),
        (("--set", "evaluate.pref_prompt=style"), "evaluate.pref_prompt"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    style: Style, manifest: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = style("evaluate", "--manifest", manifest, "-o", tmp_path / "r", *arguments)
    assert done.status == 2
    assert said in done.err
    assert not (tmp_path / "r").exists()


def test_a_bound_can_be_set_on_it(
    style: Style, compared: Callable[..., Path], tmp_path: Path
) -> None:
    command = (*FREE, "--manifest", compared(3), "-o", tmp_path / "r")
    # The outputs of ours are the contents themselves.
    assert style(*command, "--fail-under", "ours:overall=0.99").status == 0
    assert style(*command, "--fail-under", "theirs:overall=0.99").status == 1
