"""`style evaluate` asks a judge: a tiny model of the real class, in real files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stylecli.artifacts import images
from stylecli.engine.scoring import negatives
from stylecli.engine.scoring.items import Asked, collect
from stylecli.evaluation import statistics
from stylecli.evaluation.comparison import mcnemar_p
from stylecli.evaluation.judges.questions import question
from stylecli.evaluation.judges.qwen import Judge, judge
from stylecli.recipe.scoring import Evaluate
from tests.cli.conftest import draw
from tests.conftest import Style
from tests.tiny_judges import judge_folder

pytestmark = pytest.mark.slow

STYLES = {"one": "pixel-art", "two": "line art", "three": "cyberpunk", "four": "pixel art"}
OBJECTS = {"one": "cat", "two": "dog", "three": "red car", "four": "cat"}
QUESTIONS = ("vlm_q1", "vlm_q2", "vlm_q3", "vlm_q4")


@pytest.fixture(scope="module")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    judge_folder(root / "vlm" / "Qwen2.5-VL-7B-Instruct", said=("yes", "no"), seed=14)
    return root


@pytest.fixture(scope="module")
def asked(weights_dir: Path) -> Judge:
    return judge(weights_dir / "vlm" / "Qwen2.5-VL-7B-Instruct")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("judged")
    rows = []
    for number, method in enumerate(("ours", "theirs")):
        for index, name in enumerate(STYLES):
            draw(root / method / f"{name}.png", 17 * number + 5 * index, (64, 40))
            rows.append(
                {
                    "id": name,
                    "method": method,
                    "output": f"{method}/{name}.png",
                    "style_text": STYLES[name],
                    "region_text": OBJECTS[name],
                }
            )
    file = root / "all.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def evaluate(style: Style, manifest: Path, weights_dir: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        done = style(
            *("evaluate", "--manifest", manifest, "--weights-dir", weights_dir, "--no-anchors"),
            *("--metrics", ",".join((*QUESTIONS, "vlm_q1_soft", "vlm_q4_soft", "vlm_loc"))),
            *("-o", tmp_path / "r", *arguments),
        )
        assert done.status == 0, done.err
        return done

    return run


def read(folder: Path) -> Any:
    return json.loads((folder / "aggregate.json").read_text())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "per_image.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("wording", ["named", "plain"])
def test_what_is_written_down_is_what_the_judge_says(
    evaluate: Callable[..., Any], manifest: Path, asked: Judge, tmp_path: Path, wording: str
) -> None:
    evaluate("--set", f"evaluate.vlm_questions={wording}", "--compare", "ours", "theirs")
    values: dict[str, dict[str, float]] = {}
    for row in rows(tmp_path / "r"):
        pixels = images.read(manifest.parent / row["method"] / row["output"]).pixels
        text = question(wording, "region", object_=OBJECTS[row["id"]], style=STYLES[row["id"]])
        assert ("cat" in text or "dog" in text or "car" in text) == (wording == "named")
        found = asked.answer(pixels, text)
        assert ("vlm_q1_soft" in row) != found.is_missing
        if found.is_missing:
            continue
        assert row["vlm_q1_soft"] == pytest.approx(found.yes, abs=1e-5)
        assert row["vlm_q1"] == float(found.is_yes)
        behind = asked.answer(
            pixels, question(wording, "background", object_="", style=STYLES[row["id"]])
        )
        assert row["vlm_loc"] == float(found.is_yes and not behind.is_yes)
        values.setdefault(row["method"], {})[row["id"]] = row["vlm_q1"]
    every = [value for own in values.values() for value in own.values()]
    assert 0 < sum(every) < len(every)
    report = read(tmp_path / "r")
    for method, own in values.items():
        figures = report["methods"][method]["vlm_q1"]
        assert figures["value"] == pytest.approx(sum(own.values()) / len(own))
        assert figures["ci_method"] == "wilson"
        limits = statistics.wilson(int(sum(own.values())), len(own))
        assert (figures["ci_low"], figures["ci_high"]) == pytest.approx(limits)
    one = next(c for c in report["comparisons"] if c["metric"] == "vlm_q1")
    ours, theirs = values["ours"], values["theirs"]
    pairs = [ours[name] - theirs[name] for name in ours.keys() & theirs.keys()]
    assert one["p"] == pytest.approx(mcnemar_p(pairs))
    assert "Asked of a judge" in (tmp_path / "r" / "table.md").read_text()


def test_the_other_style_is_drawn_alike_for_all_methods_and_said_to_the_judge(
    evaluate: Callable[..., Any], manifest: Path, asked: Judge, tmp_path: Path
) -> None:
    evaluate("--set", "evaluate.seed=3")
    drawn = negatives.drawn(collect(Asked(manifest=manifest), Evaluate()), 3)
    by_key = {(item.method, item.id): item for item in drawn}
    for row in rows(tmp_path / "r"):
        item = by_key[row["method"], row["id"]]
        assert item.negative_style == by_key["ours", row["id"]].negative_style
        text = question("named", "background", object_="", style=item.negative_style)
        found = asked.answer(images.read(item.output).pixels, text)
        if not found.is_missing:
            assert row["vlm_q4_soft"] == pytest.approx(found.yes, abs=1e-5)


def test_a_judge_that_says_yes_to_everything_is_not_to_be_believed(
    evaluate: Callable[..., Any], weights_dir: Path, tmp_path: Path, style: Style, manifest: Path
) -> None:
    eager = tmp_path / "eager"
    judge_folder(eager / "vlm" / "Qwen2.5-VL-7B-Instruct", said=("yes", "Yes"))
    done = evaluate("--weights-dir", str(eager))
    assert "vlm_q3 + vlm_q4: ours 2.00, theirs 2.00" in " ".join(done.err.split())
    assert "do not go by it" in (tmp_path / "r" / "table.md").read_text()
    assert read(tmp_path / "r")["methods"]["ours"]["vlm_q3"]["value"] == 1


def test_who_says_neither_gives_no_number_and_no_failure(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    mute = tmp_path / "mute"
    judge_folder(mute / "vlm" / "Qwen2.5-VL-7B-Instruct")
    evaluate("--weights-dir", str(mute))
    figures = read(tmp_path / "r")["methods"]["ours"]["vlm_q1"]
    assert (figures["value"], figures["n_missing"]) == (None, 4)
    assert figures["reason"] == "the judge would say neither yes nor no"


def test_it_is_missing_with_its_place_and_a_damaged_folder_is_refused(
    style: Style, manifest: Path, weights_dir: Path, tmp_path: Path
) -> None:
    command = ("evaluate", "--manifest", manifest, "--metrics", "vlm_q1", "-o", tmp_path / "r")
    done = style(*command)
    assert done.status == 4
    assert "Qwen2.5-VL-7B-Instruct" in done.err
    assert "metrics/qwen2.5-vl-7b" in done.err
    folder = tmp_path / "weights" / "vlm" / "Qwen2.5-VL-7B-Instruct"
    folder.mkdir(parents=True)
    for file in (weights_dir / "vlm" / "Qwen2.5-VL-7B-Instruct").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    done = style(*command, "--weights-dir", tmp_path / "weights")
    assert done.status == 4
    assert "cannot be loaded" in done.err
    assert "Traceback" not in done.err
