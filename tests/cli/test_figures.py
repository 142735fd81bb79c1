"""`style transfer --sweep` and `--ablate` on a tiny model, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stylecli.artifacts import journal
from tests.cli.conftest import draw
from tests.cli.test_transfer import counted_rows
from tests.conftest import Outcome, Style

pytestmark = pytest.mark.slow

RECIPE = """\
backbone: {{id: {folder}}}
sampling: {{size: 32, steps: 4, guidance: 3}}
inversion: {{steps: 4}}
injection: {{feature_steps: 2, attn_steps: 2}}
lora: {{resolution: 64, crop: random, crop_px: 32, steps: 1, rank: 4}}
"""


class Desk:
    """A photograph, a painting, a recipe of four steps, and a command that takes them."""

    def __init__(self, style: Style, folder: Path, model: Path) -> None:
        self.folder = folder
        self.content = draw(folder / "photo.png", seed=1)
        self.look = draw(folder / "painting.png", seed=2, size=(70, 66))
        self.recipe = folder / "quick.yaml"
        self.recipe.write_text(RECIPE.format(folder=model))
        self._style = style

    def transfer(self, output: str, *arguments: object, look: Path | None = None) -> Outcome:
        chosen = ("-l", look) if look else ("-s", self.look)
        return self._style(
            "transfer", self.content, *chosen, "-o", f"{self.folder}/{output}",
            "-r", self.recipe, "--json", *arguments,
        )  # fmt: skip

    def lora(self) -> Path:
        file = self.folder / "ink.safetensors"
        assert self._style("train-lora", self.look, "-o", file, "-r", self.recipe).status == 0
        return file

    def picture(self, name: str) -> Image.Image:
        with Image.open(self.folder / name) as picture:
            return picture.convert("RGB")


@pytest.fixture
def desk(style: Style, tmp_path: Path, tiny_folder: Path) -> Desk:
    return Desk(style, tmp_path, tiny_folder)


def details(done: Outcome) -> dict[str, Any]:
    assert done.status == 0, done.err
    found: dict[str, Any] = done.rows[0]["details"]
    return found


def test_a_sweep_is_one_picture_with_its_figures_and_is_made_once(desk: Desk) -> None:
    sweep = ("--sweep", "features=0,2,4 attention=0,3")
    found = details(desk.transfer("grid.png", *sweep))
    assert [one["cell"] for one in found["cells"]] == [
        f"features {f} | attention {a}" for f in (0, 2, 4) for a in (0, 3)
    ]
    assert {(one["axis"], tuple(one["values"])) for one in found["trends"]} == {
        ("features", (0, 2, 4)),
        ("attention", (0, 3)),
    }
    assert desk.picture("grid.png").size == (found["width"], found["height"])
    (row,) = journal.rows(desk.folder)
    assert row["details"] == found
    before = (desk.folder / "grid.png").read_bytes()
    with counted_rows() as rows:
        again = desk.transfer("grid.png", *sweep)
    assert again.summary["counts"] == {"skipped": 1, "items": 1}
    for other in (["--sweep", "features=0,2,3 attention=0,3"], []):
        assert desk.transfer("grid.png", *other).rows[0]["error"]["code"] == "output_differs"
    assert not rows
    assert (desk.folder / "grid.png").read_bytes() == before


def test_two_thresholds_that_do_the_same_are_found(desk: Desk) -> None:
    found = details(
        desk.transfer("out/", "--sweep", "features=0,3", "--sweep", "weight=0.5,1",
                      "--set", "injection.feature_layers=none")
    )  # fmt: skip
    assert found["equal_cells"] == [
        ["features 0 | weight 0.5", "features 3 | weight 0.5"],
        ["features 0 | weight 1", "features 3 | weight 1"],
    ]
    assert found["least_difference"]["largest_pixel_difference"] == 0
    assert found["trends"][0]["course"] == "does not change"
    assert (desk.folder / "out" / "photo__painting.sweep.png").is_file()


def test_a_cell_is_the_picture_that_its_settings_make_at_no_more_than_its_cost(
    desk: Desk,
) -> None:
    """Pixels of the single result stand in the grid once, in the column of that cell."""
    cells = {
        start: ("--set", f"sampling.start={start}", "--set", "injection.attn_tail=full")
        for start in ("inversion", "palette")
    }
    for start, settings in cells.items():
        details(desk.transfer(f"{start}.png", *settings))
    with counted_rows() as apart:
        for start, settings in cells.items():
            details(desk.transfer(f"{start}-again.png", *settings))
    with counted_rows() as together:
        details(
            desk.transfer("grid.png", "--sweep", "sampling.start=inversion,palette",
                          "--set", "injection.attn_tail=full")
        )  # fmt: skip
    assert sum(together) == sum(apart)
    sheet = desk.picture("grid.png")
    lefts = [left for start in cells for left in places(sheet, desk.picture(f"{start}.png"))]
    assert len(lefts) == 2
    assert sheet.width / 3 < lefts[0] < lefts[1]


def places(sheet: Image.Image, picture: Image.Image) -> list[int]:
    """The left edges of all that looks exactly so."""
    width, height = picture.size
    return [
        left
        for top in range(sheet.height - height + 1)
        for left in range(sheet.width - width + 1)
        if sheet.getpixel((left, top)) == picture.getpixel((0, 0))
        and sheet.crop((left, top, left + width, top + height)).tobytes() == picture.tobytes()
    ]


def test_the_ablation_of_the_first_version_shows_sixteen_pictures_and_judges_two_claims(
    desk: Desk,
) -> None:
    found = details(desk.transfer("out/", "--ablate", "v1"))
    assert found["equal_cells"] == []
    assert len(found["cells"]) == 16
    assert [claim["holds"] in (True, False) for claim in found["claims"]] == [True, True]
    assert (desk.folder / "out" / "photo__painting.v1.png").is_file()


def test_a_lora_has_no_picture_to_be_near_to_or_to_start_from(desk: Desk) -> None:
    lora = desk.lora()
    kept, near = details(desk.transfer("a.png", "--ablate", "adaptive", look=lora))["claims"]
    assert kept["holds"] in (True, False)
    assert near["holds"] is None
    refused = desk.transfer("b.png", "--sweep", "sampling.start=inversion,adain", look=lora)
    assert (refused.status, "needs a style picture" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sweep", "feature=0,2"], "did you mean features?"),
        (["--sweep", "features=0,7"], "allowed 0 to 4"),
        (["--sweep", "features=0,2", "--compare"], "leave out --compare"),
        (["--sweep", "features=0,2", "--ablate", "v1"], "exclude each other"),
        (["--ablate", "v2"], "known: aaai, v1, adaptive"),
        (["--ablate", "v1", "--compare"], "leave out --compare"),
    ],
)
def test_a_figure_that_cannot_be_is_refused_before_any_work(
    desk: Desk, arguments: list[str], words: str
) -> None:
    with counted_rows() as rows:
        done = desk.transfer("out/", *arguments)
    assert (done.status, words in done.err) == (2, True), done.err
    assert not rows
    assert not (desk.folder / "out").exists()


def test_a_plan_counts_every_cell(desk: Desk) -> None:
    def seconds(*arguments: str) -> float:
        done = desk.transfer("a.png", "--dry-run", *arguments)
        assert done.status == 0, done.err
        parts = done.rows[0]["estimate"]["parts"]
        return sum(part["seconds"] for part in parts if part["name"] != "start")

    assert seconds("--sweep", "features=0,1,..,4 attention=0,1,..,4") > 5 * seconds()
