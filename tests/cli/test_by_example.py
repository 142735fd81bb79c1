"""`style transfer --method styleid|attn-distill`: everything a transfer does, with no LoRA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from stylecli.artifacts import journal
from stylecli.artifacts.store import read_provenance
from stylecli.engine.asking import decisive
from stylecli.recipe.schema import Recipe
from tests.cli.conftest import draw, finish, start
from tests.cli.test_transfer import counted_rows
from tests.conftest import Outcome, Style

pytestmark = pytest.mark.slow

METHODS = ("styleid", "attn-distill")
# Six steps of StyleID, as the recipe has it, and as many updates.
FEW = ("--set", "distill.iterations=6")
# With one content and one style: both inverted, then three passes a step.
ROWS = {"styleid": 6 + 6 + 6 * 3, "attn-distill": 6 * 3}


class Desk:
    """A content, two styles and a folder to write to."""

    def __init__(self, style: Style, recipe: Path, folder: Path) -> None:
        self.style = style
        self.recipe = recipe
        self.folder = folder
        self.content = draw(folder / "photo.png", seed=1)
        self.looks = [
            draw(folder / "painting.png", seed=2, size=(70, 66)),
            draw(folder / "sketch.png", seed=3, size=(120, 60)),
        ]

    def transfer(self, method: str, out: str, *more: object, looks: int = 1) -> Outcome:
        styles = [word for look in self.looks[:looks] for word in ("-s", look)]
        return self.style(
            "transfer", self.content, *styles, "--method", method, "-r", self.recipe, "-o",
            f"{self.folder / out}{'/' if out.endswith('/') else ''}", *FEW, *more,
        )  # fmt: skip

    def pixels(self, name: str) -> bytes:
        return Image.open(self.folder / name).tobytes()


@pytest.fixture
def desk(style: Style, recipe: Path, tmp_path: Path) -> Desk:
    return Desk(style, recipe, tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_is_made_without_learning_and_says_how(desk: Desk, method: str) -> None:
    with counted_rows() as rows:
        done = desk.transfer(method, "out.png", "--compare", "-q")
    assert done.status == 0, done.err
    assert sum(rows) == ROWS[method]
    assert Image.open(desk.folder / "out.png").size == (38, 32)
    assert Image.open(desk.folder / "out.compare.png").size[0] > 2 * 38
    made_by = read_provenance(desk.folder / "out.png")
    assert made_by is not None
    assert made_by["recipe"]["sampling"]["method"] == method
    assert [item["role"] for item in made_by["inputs"]] == ["content", "style"]
    text = json.dumps(made_by) + (desk.folder / "runs.jsonl").read_text()
    assert str(desk.folder) not in text
    again = desk.style("rerun", desk.folder / "out.png", "--backbone", _folder(desk.recipe))
    assert again.status == 0, again.err + again.out


def _folder(recipe: Path) -> str:
    return recipe.read_text().split("id: ")[1].split("}")[0]


@pytest.mark.parametrize("method", METHODS)
def test_styles_share_what_is_the_contents_and_come_out_the_same(desk: Desk, method: str) -> None:
    assert desk.transfer(method, "alone.png", "-q").status == 0
    with counted_rows() as rows:
        both = desk.transfer(method, "both/", "-q", looks=2)
    assert both.status == 0, both.err
    assert desk.pixels("both/photo__painting.png") == desk.pixels("alone.png")
    # The content and the first style were inverted before; each step has 1 + 2 * 2 rows.
    assert sum(rows) == 6 * 5 + (6 if method == "styleid" else 0)
    assert desk.pixels("both/photo__sketch.png") != desk.pixels("alone.png")


def test_a_batch_makes_the_same_pictures(desk: Desk) -> None:
    draw(desk.folder / "in" / "other.png", seed=7)
    (desk.folder / "in" / "photo.png").write_bytes(desk.content.read_bytes())
    desk.content = desk.folder / "in"
    for method in METHODS:
        assert desk.transfer(method, f"{method}-1/", "-q").status == 0
        assert desk.transfer(method, f"{method}-2/", "-q", "--batch", "2").status == 0
        # As few rows as `device.max_rows` allows pass together.
        few = desk.transfer(
            method, f"{method}-3/", "-q", "--batch", "2", "--set", "device.max_rows=1"
        )
        assert few.status == 0, few.err
        for name in ("other__painting.png", "photo__painting.png"):
            first = Image.open(desk.folder / f"{method}-1" / name)
            for other in ("2", "3"):
                second = Image.open(desk.folder / f"{method}-{other}" / name)
                pixels = zip(first.tobytes(), second.tobytes(), strict=True)
                assert max(abs(a - b) for a, b in pixels) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_only_its_own_settings_make_another_picture(desk: Desk, method: str) -> None:
    own, other = {
        "styleid": ("styleid.gamma=0.1", "distill.lr=0.2"),
        "attn-distill": ("distill.lr=0.2", "styleid.gamma=0.1"),
    }[method]
    command = (method, "out.png", "--json")
    assert desk.transfer(*command).summary["counts"] == {"done": 1, "items": 1}
    no_matter = ("--set", other, "--set", "sampling.guidance=7", "--set", "lora.rank=2")
    assert desk.transfer(*command, *no_matter).summary["counts"] == {"skipped": 1, "items": 1}
    changed = desk.transfer(*command, "--set", own)
    assert changed.rows[0]["error"]["code"] == "output_differs"


def test_results_of_before_keep_their_keys() -> None:
    sections = decisive(Recipe(), with_masks=False)
    assert not {"styleid", "distill"} & sections.keys()
    assert "method" not in sections["sampling"]


def test_a_manifest_names_styles_and_settings_of_its_rows(desk: Desk) -> None:
    manifest = desk.folder / "jobs.jsonl"
    rows = [
        {"content": "photo.png", "style": "sketch.png", "output": "plain.png"},
        {"content": "photo.png", "style": "sketch.png", "output": "own.png", "styleid.gamma": 0},
    ]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    run = ("transfer", "--manifest", manifest, "-r", desk.recipe, "-o", f"{desk.folder}/out/")
    done = desk.style(*run, "--method", "styleid", "-q")
    assert done.status == 0, done.err
    assert desk.pixels("out/own.png") != desk.pixels("out/plain.png")
    assert len([r for r in journal.rows(desk.folder / "out") if r["status"] == "done"]) == 2
    refused = desk.style(*run, "--method", "attn-distill", "-q")
    assert refused.status == 2
    assert "styleid.gamma" in refused.err


def test_its_settings_can_be_swept(desk: Desk) -> None:
    done = desk.transfer("styleid", "sweep.png", "-q", "--sweep", "styleid.gamma=0,1")
    assert done.status == 0, done.err
    facts = read_provenance(desk.folder / "sweep.png")
    assert facts is not None
    assert [cell[1] for cell in facts["figure"]["cells"]] == [
        {"styleid.gamma": 0},
        {"styleid.gamma": 1},
    ]
    row = next(r for r in journal.rows(desk.folder) if r["status"] == "done")
    assert len(row["details"]["cells"]) == 2


def test_dry_run_counts_its_rows(desk: Desk) -> None:
    for method, wanted in (
        ("styleid", {"inversion": 12, "content": 6, "style": 6, "stylised": 6}),
        ("attn-distill", {"content": 6, "style": 6, "distilled": 6, "gradients": 6}),
    ):
        shown = desk.transfer(method, "out.png", "--dry-run", "--json").rows[0]
        assert shown["unet_rows_per_item"] == wanted
        assert shown["recipe"]["sampling"]["method"] == method


def test_what_it_cannot_do_is_refused_in_one_line(desk: Desk) -> None:
    lora = desk.folder / "ink.safetensors"
    from safetensors.torch import save_file

    save_file({}, lora)
    mask = draw(desk.folder / "mask.png")
    for words, said in (
        (["-l", lora], "a LoRA is none"),
        (["--set", f"sampling.regions=['{mask}={desk.looks[0]}']"], "no regions"),
        (["--set", f"sampling.schedule='{desk.looks[0]}:0-6'"], "no schedule"),
        (["--prompt-from-style"], "no words"),
        (["--set", f"sampling.accelerator={lora}"], "accelerator is a LoRA"),
        (["--prompt", "a cat"], "--prompt does nothing"),
        (["--guidance", "3"], "--guidance does nothing"),
        (["--ablate", "v1"], "--ablate is for the method diffstyler"),
        (["--sweep", "features=0,3"], "cannot be swept with the method styleid"),
        (["--sweep", "distill.lr=0.1,0.2"], "cannot be swept with the method styleid"),
        (["--set", "styleid.gamma=2"], "styleid.gamma"),
    ):
        refused = desk.transfer("styleid", "out.png", *words)
        assert refused.status == 2, (words, refused.err)
        assert said in refused.err, (words, refused.err)
        assert "fix" in refused.err
    steps = desk.transfer("attn-distill", "out.png", "--steps", "6")
    assert "distill.iterations" in steps.err
    unknown = desk.transfer("style-id", "out.png")
    assert unknown.status == 2
    assert "styleid" in unknown.err
    too_many = desk.transfer("attn-distill", "out.png", "--set", "distill.iterations=1000")
    assert too_many.status == 2, too_many.err
    other = ("--set", "sampling.method=styleid", "-r", desk.recipe, "-o", desk.folder / "out.png")
    region = ("mask-transfer", desk.content, "--region", f"{mask}={desk.looks[0]}")
    for command in (region, ("generate", "--prompt", "a cat")):
        refused = desk.style(*command, *other)
        assert refused.status == 2
        assert "sampling.method styleid is for `style transfer`" in refused.err
    assert not (desk.folder / "out.png").exists()


def test_it_works_in_a_process_of_its_own(desk: Desk) -> None:
    out = desk.folder / "out.png"
    words = ("transfer", desk.content, "-s", desk.looks[0], "-o", out, "-r", desk.recipe)
    done = finish(start(*words, "--method", "attn-distill", *FEW, "--json"))
    assert done.status == 0, done.err
    assert done.summary["counts"] == {"done": 1, "items": 1}
    assert out.is_file()
