"""Many LoRAs in one run, and one LoRA by several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from stylecli.cli.app import main
from stylecli.engine import session
from stylecli.engine.training import lora_state
from tests.cli.conftest import draw, finish, start
from tests.conftest import ROOT, Outcome, Style

pytestmark = pytest.mark.slow

FEW = ("--set", "lora.steps=2", "--set", "lora.save_every=1")


@pytest.fixture(autouse=True)
def _few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a short training is being judged, which no test here looks at."""
    monkeypatch.setattr("stylecli.engine.training.draws.EVAL_PAIRS", 2)


@pytest.fixture
def paintings(tmp_path: Path) -> Path:
    return drawn(tmp_path / "paintings")


def drawn(folder: Path) -> Path:
    for i, name in enumerate("abc"):
        draw(folder / f"{name}.png", seed=i)
    return folder


Train = Callable[..., Outcome]


@pytest.fixture
def train(style: Style, recipe: Path) -> Train:
    def run(*arguments: object) -> Outcome:
        return style("train-lora", *arguments, "-r", recipe, *FEW, "--json")

    return run


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The LoRAs of the paintings, each of a run of its own."""
    place = tmp_path_factory.mktemp("alone")
    drawn(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stylecli.engine.training.draws.EVAL_PAIRS", 2)
        patch.setenv("STYLE_CACHE_DIR", str(place / "cache"))
        for name in "abc":
            files = (place / f"{name}.png", "-o", place / f"{name}.safetensors")
            assert main(["train-lora", *map(str, files), "-r", str(recipe), *FEW]) == 0
    return loras(place)


def loras(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.rglob("*.safetensors"))
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in files
        if not file.name.startswith(".")
    }


def listed(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


# One of each


def test_each_picture_becomes_the_lora_that_a_run_of_its_own_makes(
    train: Train, paintings: Path, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    draw(paintings / "old" / "a.png", seed=9)
    done = train(paintings, "--each", "-o", tmp_path / "loras")
    assert done.summary["counts"] == {"done": 4, "items": 4}
    found = loras(tmp_path / "loras")
    assert found.pop("old/a.safetensors") not in found.values()
    assert found == alone


def test_what_is_done_is_skipped_and_a_bad_picture_fails_alone(
    train: Train, paintings: Path, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    good = (paintings / "b.png").read_bytes()
    (paintings / "b.png").write_bytes(good[:100])
    (paintings / "c.txt").write_bytes(b"\xff\xfe\xff")
    out = tmp_path / "loras"
    first = train(paintings, "--each", "-o", out)
    assert first.status == 3
    failed = {row["inputs"][0]["name"]: row["error"] for row in first.rows[:-1] if row["error"]}
    assert failed.keys() == {"b.png", "c.png"}
    assert "b.png" in failed["b.png"]["what"]
    assert "c.txt cannot be read" in failed["c.png"]["what"]
    assert [row["status"] for row in first.rows[:-1]] == ["done", "failed", "failed"]

    (paintings / "b.png").write_bytes(good)
    (paintings / "c.txt").unlink()
    again = train(paintings, "--each", "-o", out)
    assert again.summary["counts"] == {"done": 2, "skipped": 1, "items": 3}
    assert loras(out) == alone


def test_a_lora_that_was_interrupted_goes_on_where_it_was(
    train: Train,
    paintings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alone: dict[str, bytes],
) -> None:
    save = lora_state.save
    saved: list[Path] = []

    def stop_at_the_second(file: Path, *rest: Any) -> None:
        save(file, *rest)
        saved.append(file)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(lora_state, "save", stop_at_the_second)
    out = tmp_path / "loras"
    assert train(paintings, "--each", "-o", out).status == 130
    assert list(loras(out)) == ["a.safetensors"]
    assert [file.name for file in out.glob(".*.state*")] == [".b.safetensors.state.safetensors"]
    assert train(paintings, "--each", "-o", out).summary["counts"]["skipped"] == 1
    # The first step of b was not learned again, so that it was not saved again.
    assert [file.name[1] for file in saved] == ["a", "b", "c"]
    assert not list(out.glob(".*.state*"))
    assert loras(out) == alone


def test_a_state_in_the_way_is_that_loras_failure_and_overwrite_forgets_it(
    train: Train, paintings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "loras"
    out.mkdir()
    (out / ".b.safetensors.state.safetensors").write_bytes(b"damaged")
    two = (paintings / "a.png", paintings / "b.png", "--each", "-o", out)
    first = train(*two)
    assert first.summary["counts"] == {"done": 1, "failed": 1, "items": 2}
    assert "not a checkpoint" in first.rows[1]["error"]["what"]
    assert train(*two, "--overwrite").status == 0
    assert len(loras(out)) == 2


def test_the_model_is_loaded_once_and_only_for_work(
    train: Train, paintings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loaded = session.load, []

    def count(*arguments: Any, **options: Any) -> Any:
        loaded.append(arguments)
        return load(*arguments, **options)

    monkeypatch.setattr(session, "load", count)
    every = (paintings, "--each", "-o", tmp_path / "loras")
    some = train(*every, "--limit", 2)
    assert some.summary["counts"] == {"done": 2, "pending": 1, "items": 3}
    assert len(loaded) == 1
    rest = train(*every, "--shard", "1/1")
    assert rest.summary["counts"] == {"done": 1, "skipped": 2, "items": 3}
    assert train(*every).summary["counts"] == {"skipped": 3, "items": 3}
    assert len(loaded) == 2


def planned(outcome: Outcome) -> list[tuple[str, str]]:
    """Name and key of every LoRA that ``--dry-run`` shows."""
    return [(Path(job["output"]).name, job["key"]) for job in outcome.rows[0]["jobs"]]


def test_shards_part_the_work(train: Train, paintings: Path, tmp_path: Path) -> None:
    every = (paintings, "--each", "-o", tmp_path / "loras", "--dry-run")
    parts = [planned(train(*every, "--shard", f"{i}/2")) for i in (1, 2)]
    assert sorted(parts[0] + parts[1]) == planned(train(*every))


def test_peft_makes_a_folder_of_each(train: Train, paintings: Path, tmp_path: Path) -> None:
    two = (paintings / "a.png", paintings / "b.png", "--each", "-o", tmp_path / "loras")
    for status in ("done", "skipped"):
        made = train(*two, "--format", "peft")
        assert made.summary["counts"] == {status: 2, "items": 2}
    for name in "ab":
        names = {file.name for file in (tmp_path / "loras" / name).iterdir()}
        assert names == {"adapter_config.json", "adapter_model.safetensors"}


# Rows of a manifest


def test_rows_have_their_own_pictures_words_and_settings(
    train: Train, paintings: Path, tmp_path: Path
) -> None:
    """As `--set` would have it for one alone; a folder lends its name."""
    rows = (
        {"style": "paintings"},
        {"style": "paintings/a.png", "prompt": "a red cat", "lora.rank": 2},
        {"style": ["paintings/b.png", "paintings/c.png"], "output": "sub/both.safetensors"},
        {"style": "paintings/a.png", "output": "kohya.safetensors", "lora.format": "kohya"},
    )
    out = tmp_path / "loras"
    assert train("--manifest", listed(tmp_path / "styles.jsonl", *rows), "-o", out).status == 0
    a, b, c = (paintings / f"{name}.png" for name in "abc")
    own = {
        "paintings": (paintings,),
        "a": (a, "--prompt", "a red cat", "--rank", 2),
        "sub/both": (b, c),
        "kohya": (a, "--format", "kohya"),
    }
    for name, arguments in own.items():
        assert train(*arguments, "-o", tmp_path / "own" / f"{name}.safetensors").status == 0
    assert loras(out) == loras(tmp_path / "own")
    with safe_open(out / "a.safetensors", "pt") as file:
        assert file.metadata()["modelspec.trigger_phrase"] == "a red cat"


def test_a_spreadsheet_does_as_well(train: Train, paintings: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "styles.csv"
    sheet.write_text("style,prompt,lora.rank\npaintings/a.png,a red cat,2\npaintings/b.png,,\n")
    rows = ({"style": "paintings/a.png", "prompt": "a red cat", "lora.rank": 2},
            {"style": "paintings/b.png"})  # fmt: skip
    lines = listed(tmp_path / "styles.jsonl", *rows)
    found = [
        planned(train("--manifest", file, "-o", tmp_path / "loras", "--dry-run"))
        for file in (sheet, lines)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"style": "none.png"}, "none.png does not exist"),
        ({"style": 7}, "style is not a file"),
        ({"style": []}, "style is not a file"),
        ({"style": "empty"}, "holds no pictures"),
        ({"styles": "paintings"}, "unknown column 'styles'"),
        ({"style": "paintings", "lora.rnak": 2}, "lora.rnak"),
        ({"style": "paintings", "lora.rank": "many"}, "lora.rank"),
        ({"style": "paintings", "sampling.steps": 2}, "counts for the whole run"),
        ({"style": "paintings", "output": "../x.safetensors"}, "leaves the output folder"),
        ({"style": "paintings", "output": "x.png"}, "not a .safetensors file"),
    ],
)
def test_a_row_that_cannot_be_is_refused_before_any_work(
    train: Train, paintings: Path, tmp_path: Path, row: dict[str, Any], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    rows = listed(tmp_path / "styles.jsonl", {"style": "paintings/a.png"}, row)
    refused = train("--manifest", rows, "-o", tmp_path / "loras")
    assert refused.status == 2
    error = refused.summary["error"]
    assert said in error["what"]
    assert error["fix"]
    if "output" not in row:
        assert "styles.jsonl:2" in error["what"]
    assert not (tmp_path / "loras").exists()


@pytest.mark.parametrize(
    ("arguments", "said", "fix"),
    [
        (("-o", "loras/"), "no style was named", "--manifest"),
        (("paintings", "-o", "loras/"), "not a .safetensors file", "--each"),
        (("paintings", "--each", "-o", "x.safetensors"), "there are 3 results", "x.safetensors/"),
        (("paintings", "--each", "-o", "x/", "--name", "{content}.safetensors"),
         "unknown field", "{style}"),
        (("paintings", "--each", "-o", "x/", "--name", "x.safetensors"), "both write", "{style}"),
        (("paintings", "--manifest", "rows.jsonl", "-o", "x/"), "one style or many", "--each"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(
    train: Train,
    paintings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
    fix: str,
) -> None:
    listed(tmp_path / "rows.jsonl", {"style": "paintings/a.png"})
    monkeypatch.chdir(tmp_path)
    refused = train(*arguments)
    assert refused.status == 2
    assert said in refused.summary["error"]["what"]
    assert fix in refused.summary["error"]["fix"]
    assert not list(tmp_path.rglob("runs.jsonl"))


def test_each_goes_with_a_manifest(train: Train, paintings: Path, tmp_path: Path) -> None:
    row = {"style": ["paintings/a.png", "paintings/b.png"], "output": "both.safetensors"}
    rows = listed(tmp_path / "rows.jsonl", row)
    both = train(paintings / "c.png", "--each", "--manifest", rows, "-o", "loras/", "--dry-run")
    assert [name for name, _ in planned(both)] == ["both.safetensors", "c.safetensors"]


# Several processes


def launch(count: int, *arguments: object) -> subprocess.Popen[str]:
    """What `torchrun --standalone --nproc-per-node COUNT -m stylecli train-lora` starts."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
         str(count), "-m", "stylecli", "train-lora", *map(str, arguments), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def children(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a launcher started, in the order of their places."""
    file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(word) for word in file.read_text().split()]


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_launcher_makes_many_loras_as_one_process_does(
    paintings: Path, recipe: Path, tmp_path: Path
) -> None:
    """Only one process writes and speaks, and a failure in the middle is no end."""
    (paintings / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rest = ("--each", "-r", recipe, *FEW, "--set", "lora.batch=2")
    done = finish(launch(2, paintings, "-o", tmp_path / "two", *rest))
    assert done.summary["exit_status"] == 3
    assert done.summary["counts"] == {"done": 2, "failed": 1, "items": 3}
    assert len(done.rows) == 4
    assert done.err.count("b.png: ") == 1
    one = finish(start("train-lora", paintings, "-o", tmp_path / "one", *rest))
    assert one.status == 3
    assert loras(tmp_path / "two") == loras(tmp_path / "one")
    assert len(loras(tmp_path / "two")) == 2


def test_a_launcher_with_more_processes_than_rows_is_refused_once(
    paintings: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    refused = finish(launch(2, paintings / "a.png", "-o", out, "-r", recipe))
    assert refused.status != 0
    assert refused.summary["exit_status"] == 2
    assert refused.err.count("lora.batch 1 leaves some of 2 processes without work") == 1
    assert "--set lora.batch=2" in refused.err
    assert not out.exists()


@pytest.mark.parametrize(("victim", "count"), [(0, 2), (1, 1)])
def test_a_killed_process_ends_the_others_and_any_number_goes_on(
    paintings: Path, recipe: Path, tmp_path: Path, victim: int, count: int
) -> None:
    """No hang, no half file; the bytes are those of one process that nobody disturbed."""
    rest = (paintings / "a.png", "-r", recipe, "--steps", "20", "--set", "lora.batch=2")
    out, whole = tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"
    killed = launch(2, "-o", out, *rest)
    wait_for((tmp_path / ".killed.safetensors.state.safetensors").exists, killed)
    os.kill(children(killed)[victim], signal.SIGKILL)
    began = time.monotonic()
    assert finish(killed).status != 0
    assert time.monotonic() - began < 60
    assert not out.exists()
    assert not list(tmp_path.glob(".*.part"))
    assert finish(launch(count, "-o", out, *rest)).status == 0
    assert not list(tmp_path.glob(".*.state*"))
    assert finish(start("train-lora", "-o", whole, *rest)).status == 0
    assert out.read_bytes() == whole.read_bytes()
