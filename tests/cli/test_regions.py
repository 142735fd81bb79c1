"""`style mask-transfer`, `switch` and `generate` on a tiny model, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylecli.artifacts import store
from tests.cli.conftest import draw
from tests.cli.test_transfer import counted_rows
from tests.conftest import Style
from tests.masks import plugs

pytestmark = pytest.mark.slow

# The tiny model halves pictures and wants multiples of 16 px; 50 x 37 is neither.
SIZE = (50, 37)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    return draw(tmp_path / "photo.png", seed=1, size=SIZE)


@pytest.fixture(scope="module")
def loras(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from stylecli.cli.app import main

    folder = tmp_path_factory.mktemp("loras")
    files = []
    for seed, name in ((2, "oil"), (3, "ink")):
        look = draw(folder / f"{name}.png", seed=seed, size=(70, 66))
        file = folder / f"{name}.safetensors"
        # Strong ones, so that a few steps show them.
        command = ["train-lora", look, "-o", file, "-r", recipe, "-q", "--set", "lora.lr=0.05"]
        assert main([str(word) for word in command]) == 0
        files.append(file)
    return files


def mask(path: Path, left: float, right: float, size: tuple[int, int] = SIZE) -> Path:
    """White between two shares of the width."""
    values = np.zeros(size[::-1], np.uint8)
    values[:, round(left * size[0]) : round(right * size[0])] = 255
    Image.fromarray(values).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def at_37(recipe: Path) -> tuple[Any, ...]:
    """The recipe with the content's own size, so that nothing is scaled."""
    return ("-r", recipe, "--set", "sampling.size=37")


# Regions


def test_what_no_region_touches_is_the_contents_own_bytes(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    """Test 17, on a picture that is neither square nor a multiple of anything."""
    half = mask(tmp_path / "half.png", 0, 0.5)
    for size in (37, 32, 48):
        out = tmp_path / f"out{size}.png"
        done = style(
            "mask-transfer", content, "--region", f"{half}={loras[0]}", "-o", out, "-r", recipe,
            "--set", f"sampling.size={size}", "-q",
        )  # fmt: skip
        assert done.status == 0, done.err
        before, after = pixels(content), pixels(out)
        assert after.shape == before.shape
        assert (after[:, 25:] == before[:, 25:]).all()
        assert (after[:, :25] != before[:, :25]).mean() > 0.5


def test_a_mask_of_ones_is_a_transfer_and_of_zeros_the_content(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    ones, zeros = mask(tmp_path / "ones.png", 0, 1), mask(tmp_path / "zeros.png", 0, 0)
    results = {}
    for name, file in (("ones", ones), ("zeros", zeros)):
        results[name] = tmp_path / f"{name}-out.png"
        with counted_rows() as rows:
            done = style("mask-transfer", content, "--region", f"{file}={loras[0]}", "-o",
                         results[name], "-q", *at_37(recipe))  # fmt: skip
        assert done.status == 0, done.err
        # Inverted once; all zeros then ask the model nothing.
        assert sum(rows) == {"ones": 6 + 5 + 12, "zeros": 0}[name]
    plain = tmp_path / "plain.png"
    assert style("transfer", content, "-l", loras[0], "-o", plain, "-q", *at_37(recipe)).status == 0
    assert (pixels(results["ones"]) == pixels(plain)).all()
    assert (pixels(results["zeros"]) == pixels(content)).all()


def test_without_composite_nothing_is_the_reconstruction(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    """All zeros, decoded: what the autoencoder makes of the content, as `invert --verify` shows."""
    zeros = mask(tmp_path / "zeros.png", 0, 0)
    out = tmp_path / "out.png"
    done = style("mask-transfer", content, "--region", f"{zeros}={loras[0]}", "-o", out, "-q",
                 "--no-composite", *at_37(recipe))  # fmt: skip
    assert done.status == 0, done.err
    done = style("invert", content, "-o", tmp_path / "t.safetensors", "--verify", *at_37(recipe))
    assert done.status == 0, done.err
    panels = pixels(tmp_path / "t.verify.png")
    width = pixels(out).shape[1]
    assert (pixels(out) == panels[:, width : 2 * width]).all()


def test_two_loras_swapped_are_two_regions_swapped(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    left, right = mask(tmp_path / "l.png", 0, 0.5), mask(tmp_path / "r.png", 0.5, 1)
    oil, ink = loras
    results = []
    for name, (a, b) in {"one": (oil, ink), "other": (ink, oil)}.items():
        out = tmp_path / f"{name}.png"
        done = style("mask-transfer", content, "--region", f"{left}={a}", "--region",
                     f"{right}={b}", "-o", out, "-q", *at_37(recipe))  # fmt: skip
        assert done.status == 0, done.err
        results.append(pixels(out).astype(float))
    whole = []
    for lora in loras:
        out = tmp_path / f"{lora.stem}-whole.png"
        assert style("transfer", content, "-l", lora, "-o", out, "-q", *at_37(recipe)).status == 0
        whole.append(pixels(out).astype(float))

    def distance(a: np.ndarray, b: np.ndarray, side: slice) -> float:
        return float(np.abs(a[:, side] - b[:, side]).mean())

    first, last = slice(0, 20), slice(30, 50)
    for result, (a, b) in zip(results, ((0, 1), (1, 0)), strict=True):
        assert distance(result, whole[a], first) < distance(result, whole[b], first)
        assert distance(result, whole[b], last) < distance(result, whole[a], last)


def test_a_region_over_the_whole_schedule_is_a_plain_one_bit_for_bit(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    half = mask(tmp_path / "half.png", 0, 0.5)
    made = []
    for name, lora in (("plain", f"{loras[0]}"), ("timed", f"{loras[0]}:0-2,{loras[0]}:2-")):
        out = tmp_path / f"{name}.png"
        done = style("mask-transfer", content, "--region", f"{half}={lora}", "-o", out, "-q",
                     *at_37(recipe))  # fmt: skip
        assert done.status == 0, done.err
        made.append(pixels(out))
    assert (made[0] == made[1]).all()


def test_every_control_of_regions_changes_the_picture(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    """No flag that does nothing."""
    a, b = mask(tmp_path / "a.png", 0, 0.6), mask(tmp_path / "b.png", 0.4, 0.8)
    changes: dict[str, tuple[str, ...]] = {
        "plain": (),
        "feather": ("--feather", "2"),
        "dilate": ("--set", "masks.dilate_px=3"),
        "invert": ("--set", "masks.invert=true"),
        "normalise": ("--overlap", "normalise"),
        "denoise": ("--background", "denoise", "--no-composite"),
        "decoded": ("--no-composite",),
        "pinned": ("--no-composite", "--set", "sampling.pin_until=3"),
        "words behind": ("--background", "denoise", "--no-composite", "--set",
                         "sampling.background_prompt=the dog"),
        "any": ("--set", "masks.resize=any"),
        "guidance": ("--guidance", "5"),
    }  # fmt: skip
    made: dict[str, bytes] = {}
    for name, flags in changes.items():
        out = tmp_path / f"{name}-out.png"
        done = style("mask-transfer", content, "--region", f"{a}={loras[0]}", "--region",
                     f"{b}={loras[1]}@the cat", "-o", out, "-q", *at_37(recipe),
                     *flags)  # fmt: skip
        assert done.status == 0, done.err
        made[name] = pixels(out).tobytes()
    assert len(set(made.values())) == len(made)


def test_masks_by_the_name_of_the_content_fail_one_by_one(
    style: Style, recipe: Path, loras: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    for number, name in enumerate(("one", "two", "three")):
        draw(folder / f"{name}.png", seed=number, size=SIZE)
    (tmp_path / "masks").mkdir()
    mask(tmp_path / "masks" / "one.png", 0, 0.5)
    mask(tmp_path / "masks" / "three.png", 0, 0.5, size=(40, 40))
    command = ("mask-transfer", folder, "--region", f"{tmp_path}/masks/{{content}}.png={loras[0]}",
               "-o", f"{tmp_path}/out/", "--json", *at_37(recipe))  # fmt: skip
    done = style(*command)
    assert done.status == 3
    rows = {Path(row["output"]).name: row for row in done.rows[:-1]}
    assert rows["one__oil.png"]["status"] == "done"
    assert "two.png is missing" in rows["two__oil.png"]["error"]["what"]
    assert "of another shape" in rows["three__oil.png"]["error"]["what"]
    mask(tmp_path / "masks" / "two.png", 0, 0.5)
    mask(tmp_path / "masks" / "three.png", 0, 0.5)
    assert style(*command).status == 0


def test_a_changed_mask_is_another_result_and_an_equal_one_is_not(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    half = mask(tmp_path / "half.png", 0, 0.5)
    command = ("mask-transfer", content, "--region", f"{half}={loras[0]}", "-o",
               tmp_path / "out.png", "--json", *at_37(recipe))  # fmt: skip
    assert style(*command).status == 0
    assert style(*command).summary["counts"] == {"skipped": 1, "items": 1}
    mask(tmp_path / "half.png", 0, 0.6)
    assert style(*command).status == 3
    assert style(*command, "--overwrite").status == 0


def test_the_sheet_shows_all_parts_and_says_whose_look_each_region_has(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    left, right = mask(tmp_path / "l.png", 0, 0.5), mask(tmp_path / "r.png", 0.5, 1)
    done = style("mask-transfer", content, "--region", f"{left}={loras[0]}", "--region",
                 f"{right}={loras[1]}", "-o", tmp_path / "out.png", "--sheet", "--json",
                 *at_37(recipe))  # fmt: skip
    assert done.status == 0, done.err
    assert (tmp_path / "out.sheet.png").exists()
    distances = done.rows[0]["details"]["distance_inside"]
    assert distances["l"][0] < distances["l"][1]
    assert distances["r"][1] < distances["r"][0]


def test_files_say_what_made_them_and_not_where_it_lay(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    half = mask(tmp_path / "half.png", 0, 0.5)
    out = tmp_path / "out.png"
    assert style("mask-transfer", content, "--region", f"{half}={loras[0]}@the cat", "-o", out,
                 "-q", *at_37(recipe)).status == 0  # fmt: skip
    made_by = store.read_provenance(out)
    assert made_by is not None
    assert made_by["recipe"]["sampling"]["regions"][0]["mask"] == "half.png"
    assert {item["role"] for item in made_by["inputs"]} == {"content", "lora", "mask"}
    assert str(tmp_path) not in json.dumps(made_by)
    assert str(loras[0].parent) not in json.dumps(made_by)


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        ([], 2, "no region was named"),
        (["--region", "half.png"], 2, "is not MASK=LORA"),
        (["--region", "gone.png=LORA"], 2, "gone.png"),
        (["--region", "half.png=gone.safetensors"], 2, "LoRA gone.safetensors does not exist"),
        (["--region", "half.png=LORA:0-3"], 2, "no entry covers steps 3 to 5"),
        (["--region", "half.png=LORA", "--overlap", "under"], 2, "one of over, normalise, error"),
        (["--region", "text:=LORA"], 2, "has no words"),
        (["--region", "{photo}.png=LORA"], 2, "only {content} is known"),
        (["--region", "half.png=half.safetensors"], 4, "LoRA half.safetensors cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused_before_work(
    style: Style,
    recipe: Path,
    content: Path,
    loras: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    status: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    mask(tmp_path / "half.png", 0, 0.5)
    (tmp_path / "half.safetensors").write_bytes(loras[0].read_bytes()[:100])
    named = [flag.replace("LORA", str(loras[0])) for flag in flags]
    done = style("mask-transfer", content, *named, "-o", tmp_path / "out.png", *at_37(recipe))
    assert done.status == status
    assert said in " ".join(done.err.split())
    assert not (tmp_path / "out.png").exists()


# Time


def test_a_switch_of_one_is_a_transfer_bit_for_bit(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    switched, plain = tmp_path / "switched.png", tmp_path / "plain.png"
    done = style("switch", content, "--schedule", f"{loras[0]}:0%-50%,{loras[0]}:50%-", "-o",
                 switched, "-r", recipe)  # fmt: skip
    assert done.status == 0, done.err
    assert "steps   0 to   2 (0% to 50%)  oil.safetensors x 1" in done.err
    assert style("transfer", content, "-l", loras[0], "-o", plain, "-q", "-r", recipe).status == 0
    assert (pixels(switched) == pixels(plain)).all()


def test_a_switch_costs_no_rows_and_order_counts(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    oil, ink = loras
    made = {}
    for name, schedule in {
        "ab": f"{oil}:0-3,{ink}:3-",
        "ba": f"{ink}:0-3,{oil}:3-",
        "sum": f"{oil}*0.7+{ink}*0.3",
        "base": f"{oil}:0-3,base:3-",
        "weak": f"{oil}*0.5:0-3,{ink}:3-",
    }.items():
        out = tmp_path / f"{name}.png"
        with counted_rows() as rows:
            done = style("switch", content, "--schedule", schedule, "-o", out, "-q", "-r", recipe,
                         "--set", "sampling.size=48")  # fmt: skip
        assert done.status == 0, done.err
        unguided = 3 if name == "base" else 0  # both prompts are empty there
        assert sum(rows) == (6 if name == "ab" else 0) + 5 + 12 - unguided
        made[name] = pixels(out).tobytes()
    assert len(set(made.values())) == len(made)


def test_the_sheet_of_a_switch_has_four_different_cells_and_says_so(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    done = style("switch", content, "--schedule", f"{loras[0]}:0-3,{loras[1]}:3-", "-o",
                 tmp_path / "out.png", "--sheet", "--json", "-r", recipe)  # fmt: skip
    assert done.status == 0, done.err
    assert (tmp_path / "out.sheet.png").exists()
    assert done.rows[0]["details"]["least difference of two cells"] > 0


def test_no_schedule_and_a_lora_that_does_not_fit_are_refused(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    done = style("switch", content, "-o", out, "-r", recipe)
    assert done.status == 2
    assert "no schedule was given" in done.err
    done = style(
        "switch", content, "--schedule", f"{loras[0]}:0-3,nobody:3-", "-o", out, "-r", recipe
    )
    assert done.status == 2
    assert "LoRA nobody does not exist" in done.err


# Words


def test_pictures_of_words_are_different_and_always_the_same(
    style: Style, recipe: Path, loras: list[Path], tmp_path: Path
) -> None:
    command = ("generate", "-p", "the cat", "-p", "a dog, {trigger}", "--count", "2", "-l",
               loras[0], "--size", "50x37", "--json", "-r", recipe)  # fmt: skip
    made = []
    for folder in ("one", "two"):
        done = style(*command, "-o", f"{tmp_path / folder}/")
        assert done.status == 0, done.err
        made.append({file.name: file.read_bytes() for file in (tmp_path / folder).glob("*.png")})
    assert made[0] == made[1]
    assert set(made[0]) == {
        f"{p}-{n}__oil.png" for p in ("the-cat", "a-dog-trigger") for n in (1, 2)
    }
    assert len(set(made[0].values())) == 4
    assert {row["details"]["prompt"] for row in done.rows[:-1]} == {
        "the cat",
        "a dog, a picture in <sss> style",
    }
    assert all(pixels(tmp_path / "one" / name).shape == (37, 50, 3) for name in made[0])
    assert style(*command, "-o", f"{tmp_path / 'one'}/").summary["counts"]["skipped"] == 4


def test_the_trigger_in_a_prompt_is_the_loras_caption(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    made = []
    for number, prompt in enumerate(("x {trigger}", "x a picture in <sss> style", "x")):
        out = tmp_path / f"{number}.png"
        done = style("transfer", content, "--prompt", prompt, "-l", loras[0], "-o", out, "-q",
                     "-r", recipe)  # fmt: skip
        assert done.status == 0, done.err
        made.append(pixels(out))
    assert (made[0] == made[1]).all()
    assert not (made[0] == made[2]).all()


def test_regions_lie_on_what_is_drawn_and_schedules_draw_it(
    style: Style, recipe: Path, loras: list[Path], tmp_path: Path
) -> None:
    half = mask(tmp_path / "half.png", 0, 0.5)
    made = {}
    for name, flags in {
        "plain": (),
        "lora": ("-l", loras[0]),
        "region": ("--region", f"{half}={loras[0]}"),
        "both": ("-l", loras[1], "--region", f"{half}={loras[0]}"),
        "schedule": ("--schedule", f"{loras[0]}:0-3,{loras[1]}:3-"),
    }.items():
        out = tmp_path / f"{name}-out.png"
        done = style("generate", "-p", "the cat", "--size", "50x37", "-o", out, "-q", "-r", recipe,
                     *flags)  # fmt: skip
        assert done.status == 0, done.err
        made[name] = pixels(out).tobytes()
    assert len(set(made.values())) == len(made)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "no prompt was given"),
        (["-p", "x", "--size", "big"], "--size 'big' is not WxH"),
        (["-p", "x", "--region", "text:sky=LORA"], "there is no picture to find it in"),
        (["-p", "x", "-l", "LORA", "--schedule", "LORA"], "a schedule names its own LoRAs"),
        (["--prompts", "gone.txt"], "gone.txt cannot be read"),
        (["-p", "x", "--region", "MASK=LORA"], "of another shape than 32x32"),
        (["-p", "x", "--count", "0"], "'--count'"),
    ],
)
def test_words_that_cannot_be_drawn_are_refused(
    style: Style, recipe: Path, loras: list[Path], tmp_path: Path, flags: list[str], said: str
) -> None:
    wide = str(mask(tmp_path / "wide.png", 0, 0.5))
    named = [flag.replace("LORA", str(loras[0])).replace("MASK", wide) for flag in flags]
    done = style("generate", *named, "-o", tmp_path / "out.png", "-r", recipe)
    assert done.status == 2
    assert said in " ".join(done.err.split())


def test_prompts_come_from_a_file_too(style: Style, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("the cat\n\na dog\n")
    done = style("generate", "--prompts", tmp_path / "prompts.txt", "-o", f"{tmp_path}/out/", "-r",
                 recipe, "-q")  # fmt: skip
    assert done.status == 0, done.err
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {"the-cat.png", "a-dog.png"}


# Regions from words


@pytest.fixture
def by_words(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    plugs.install(monkeypatch, fake="tests.masks.plugs:Fake")
    return (*at_37(recipe), "--set", "masks.backend=fake")


def test_words_are_the_mask_that_masks_would_write(
    style: Style,
    by_words: tuple[Any, ...],
    content: Path,
    loras: list[Path],
    tmp_path: Path,
) -> None:
    written = tmp_path / "deer.png"
    done = style("masks", content, "--text", "deer", "-o", written, "-q", *by_words)
    assert done.status == 0, done.err
    made = []
    for name, place in (("words", "text:deer"), ("file", str(written))):
        out = tmp_path / f"{name}.png"
        done = style("mask-transfer", content, "--region", f"{place}={loras[0]}", "-o", out, "-q",
                     *by_words)  # fmt: skip
        assert done.status == 0, done.err
        made.append(pixels(out))
    assert (made[0] == made[1]).all()


def test_words_are_looked_for_once(
    style: Style,
    by_words: tuple[Any, ...],
    content: Path,
    loras: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    segment = plugs.Fake.segment

    def counting(self: plugs.Fake, image: Any, prompts: Any) -> Any:
        asked.extend(prompts)
        return segment(self, image, prompts)

    monkeypatch.setattr(plugs.Fake, "segment", counting)
    made = []
    for number, lora in enumerate((loras[0], loras[1], loras[0])):
        out = tmp_path / f"{number}.png"
        done = style("mask-transfer", content, "--region", f"text:deer={lora}", "-o", out,
                     "--json", *by_words)  # fmt: skip
        assert done.status == 0, done.err
        assert done.rows[0]["details"]["masks"]["deer"] == {"score": 0.9, "backend": "fake"}
        made.append(pixels(out))
    assert asked == ["deer"]
    assert (made[0] == made[2]).all()


def test_words_that_match_nothing_fail_their_item_or_are_left_out(
    style: Style, by_words: tuple[Any, ...], content: Path, loras: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    command = ("mask-transfer", content, "--region", f"text:cow={loras[0]}", "-o", out, *by_words)
    done = style(*command)
    assert done.status == 3
    assert "nothing matches 'cow'" in done.err
    assert not out.exists()
    assert style(*command, "--set", "masks.on_empty=skip").status == 0
    assert (pixels(out) == pixels(content)).all()
    done = style(*command, "--set", "masks.on_empty=full", "--overwrite")
    assert done.status == 0, done.err
    assert not (pixels(out) == pixels(content)).any(axis=2).all()


# Words from a style picture


def test_words_of_a_style_are_found_once_printed_and_stored(
    style: Style, tiny_folder: Path, recipe: Path, content: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from stylecli.engine import style_words

    look = draw(tmp_path / "look.png", seed=5)
    monkeypatch.setattr(style_words.StyleWords, "_clip", lambda _self: "pocket-clip")
    # The tiny model knows these three words, and few of those that are found.
    short = ("--set", "words.steps=3", "--set", "words.length=2", "--set",
             "words.template=the dog {}", "--guidance", "9", "--prompt", "a")  # fmt: skip
    made = []
    for name, flags in (("plain", short[-4:]), ("worded", ("--prompt-from-style", *short)),
                        ("again", ("--prompt-from-style", *short))):  # fmt: skip
        out = tmp_path / f"{name}.png"
        done = style("transfer", content, "-s", look, "-o", out, "-r", recipe, "--json", *flags)
        assert done.status == 0, done.err
        row = done.rows[0]
        made.append((row["details"]["prompts"], pixels(out).tobytes(), done.err))
        provenance = store.read_provenance(out)
        assert provenance is not None
        assert provenance["prompts"] == row["details"]["prompts"]
    (plain, one, _), (worded, two, told), (again, three, silent) = made
    assert plain == ["a"]
    assert worded[0].startswith("a, the dog ")
    assert len(worded[0].split()) >= 5
    assert worded[0].removeprefix("a, ") in told
    assert (again, three) == (worded, two)
    assert "looking for the words" in told
    assert "looking for the words" not in silent
    assert one != two


def test_words_need_a_picture_to_be_found_from(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    done = style("transfer", content, "-l", loras[0], "-o", tmp_path / "o.png", "-r", recipe,
                 "--prompt-from-style")  # fmt: skip
    assert done.status == 2
    assert "found from a style picture, and none is named" in done.err


def test_a_picture_in_a_schedule_is_one_that_words_are_found_from(
    style: Style, recipe: Path, tmp_path: Path
) -> None:
    look = draw(tmp_path / "look.png", seed=5)
    done = style("generate", "-p", "a", "--schedule", look, "-o", tmp_path / "o.png", "-r", recipe,
                 "--set", "sampling.prompt_from_style=true")  # fmt: skip
    assert "no CLIP is known" in done.err, "not that no picture was named"
    done = style("generate", "-p", "a", "-o", tmp_path / "o.png", "-r", recipe,
                 "--set", "sampling.prompt_from_style=true")  # fmt: skip
    assert done.status == 2
    assert "none is named" in done.err


def test_only_what_a_command_runs_is_in_its_table(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    half = mask(tmp_path / "half.png", 0, 0.5)
    region = f"{half}={loras[0]}:0-3,{loras[1]}:3-"
    both = ("--set", f"sampling.schedule={loras[0]}:0-2,{loras[1]}:2-", "-r", recipe, "-n")
    done = style("mask-transfer", content, "--region", region, "-o", tmp_path / "o.png", *both)
    assert done.status == 0, done.err
    assert done.err.count("half.png: steps") == done.err.count("steps ") == 2
    done = style("switch", content, "-o", tmp_path / "o.png", *both)
    assert done.status == 0, done.err
    assert done.err.count("steps ") == 2


def test_a_model_whose_clip_nobody_knows_says_so(
    style: Style, recipe: Path, content: Path, tmp_path: Path
) -> None:
    look = draw(tmp_path / "look.png", seed=5)
    done = style("transfer", content, "-s", look, "-o", tmp_path / "o.png", "-r", recipe,
                 "--prompt-from-style")  # fmt: skip
    assert done.status == 2
    assert "no CLIP is known" in done.err
    assert "give --prompt yourself" in done.err


# What decides a result


def test_overlap_counts_where_colours_are_given_to_regions(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The recoloured content is inverted, so its trajectory must know who lies on top."""
    a, b = mask(tmp_path / "a.png", 0, 0.7), mask(tmp_path / "b.png", 0.3, 1)
    made = []
    for cache, order in (("one", ("over", "normalise")), ("other", ("normalise",))):
        monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / cache))
        for overlap in order:
            out = tmp_path / f"{cache}-{overlap}.png"
            done = style("mask-transfer", content, "--region", f"{a}={loras[0]}", "--region",
                         f"{b}={loras[1]}", "-o", out, "-q", *at_37(recipe), "--overlap", overlap,
                         "--set", "sampling.start=palette")  # fmt: skip
            assert done.status == 0, done.err
            made.append(pixels(out))
    assert (made[1] == made[2]).all()
    assert not (made[0] == made[1]).all()


def test_one_picture_under_two_captions_is_two_loras(
    style: Style, recipe: Path, content: Path, tmp_path: Path
) -> None:
    for folder, caption in (("a", "the cat"), ("b", "the dog")):
        draw(tmp_path / folder / "look.png", seed=4)
        (tmp_path / folder / "look.txt").write_text(caption)
    done = style("transfer", content, "-s", tmp_path / "a" / "look.png", "-s",
                 tmp_path / "b" / "look.png", "-o", f"{tmp_path}/out/", "-r", recipe, "--json",
                 "--name", "{key}.png")  # fmt: skip
    assert done.status == 0, done.err
    assert [row["details"]["prompts"] for row in done.rows[:-1]] in (
        [["the cat"], ["the dog"]],
        [["the dog"], ["the cat"]],
    )
    files = [Path(row["output"]) for row in done.rows[:-1]]
    assert pixels(files[0]).tobytes() != pixels(files[1]).tobytes()


def test_more_loras_than_are_kept_at_once_all_act(
    style: Style, recipe: Path, content: Path, tmp_path: Path
) -> None:
    from stylecli.engine.wardrobe import MAX_LOADED

    few = ("--set", "lora.steps=1", "--set", "lora.lr=0.5")
    looks = [draw(tmp_path / f"{n}.png", seed=n) for n in range(MAX_LOADED + 2)]
    made = []
    for chosen in (looks, looks[:-1]):
        schedule = "+".join(f"{look}*0.2" for look in chosen)
        out = tmp_path / f"out-{len(chosen)}.png"
        done = style("switch", content, "--schedule", schedule, "-o", out, "-q", "-r", recipe, *few)
        assert done.status == 0, done.err
        made.append(pixels(out).tobytes())
    assert made[0] != made[1]


def test_the_files_of_detectors_are_named_without_their_folders(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    half = mask(tmp_path / "half.png", 0, 0.5)
    out = tmp_path / "out.png"
    done = style("mask-transfer", content, "--region", f"{half}={loras[0]}", "-o", out, "-q",
                 *at_37(recipe), "--set", f"masks.model={tmp_path}/secret/sam")  # fmt: skip
    assert done.status == 0, done.err
    assert str(tmp_path) not in json.dumps(store.read_provenance(out))


def test_a_size_is_the_size_however_long(style: Style, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    done = style("generate", "-p", "x", "--size", "160x16", "-o", out, "-q", "-r", recipe)
    assert done.status == 0, done.err
    assert pixels(out).shape == (16, 160, 3)


def test_what_a_prompt_loses_is_told(
    style: Style, recipe: Path, content: Path, loras: list[Path], tmp_path: Path
) -> None:
    done = style("transfer", content, "-l", loras[0], "-o", tmp_path / "o.png", "-r", recipe,
                 "--prompt", "cat " * 40)  # fmt: skip
    assert done.status == 0
    assert "a prompt has 122 tokens, and the model reads 16" in done.err
    done = style("generate", "-p", "a cat, {trigger}", "-o", tmp_path / "g.png", "-r", recipe)
    assert done.status == 0
    assert "so {trigger} in a prompt is nothing" in done.err
