"""Commands on SDXL, Z-Image and FLUX.2-klein: tiny models of their classes, real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests import flows, tiny_sdxl
from tests.cli.conftest import draw, finish, start
from tests.conftest import Style

KINDS = ("flux2", "z-image", "sdxl")
SMALL = (
    "sampling.size=32",
    "sampling.steps=4",
    "inversion.steps=4",
    "injection.feature_steps=3",
    "injection.attn_steps=2",
    "lora.steps=3",
    "lora.resolution=32",
)


def settings(kind: str, *more: str) -> list[str]:
    folder = tiny_sdxl.folder() if kind == "sdxl" else flows.folder(kind)
    return [
        "--backbone",
        str(folder),
        *(word for one in (*SMALL, *more) for word in ("--set", one)),
    ]


def learned(style: Style, painting: Path, own: list[str], *, seed: int = 2) -> Path:
    """A LoRA of a picture that is drawn for it; its caption is the picture's name."""
    lora = painting.with_suffix(".safetensors")
    words = ("--prompt", painting.stem, "-o", lora)
    done = style("train-lora", draw(painting, seed=seed), *words, *own)
    assert done.status == 0, done.err
    return lora


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return draw(tmp_path / "photo.png", seed=1)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_style_is_learned_worn_and_taken_up_again(kind: str, photo: Path, tmp_path: Path) -> None:
    own = settings(kind)
    lora, out = tmp_path / "ink.safetensors", tmp_path / "out.png"
    painting = draw(tmp_path / "ink.png", seed=2)
    made = finish(start("train-lora", painting, "--prompt", "red ink", "-o", lora, *own))
    assert made.status == 0, made.err
    command = ["transfer", photo, "--lora", lora, "--guidance", "2", "-o", out, *own]
    first = finish(start(*command, "--json"))
    assert first.status == 0, first.err
    with Image.open(out) as picture:
        assert picture.size == (38, 32)
    before = out.read_bytes()
    again = finish(start(*command, "--json"))
    assert json.loads(again.out.splitlines()[-1])["counts"] == {"skipped": 1, "items": 1}
    assert out.read_bytes() == before
    plain = tmp_path / "plain.png"
    none = ("injection.feature_steps=0", "injection.attn_steps=0", "injection.attn_tail=hard")
    weak = [*command[: -len(own) - 1], plain, *settings(kind, *none)]
    assert finish(start(*weak)).status == 0
    assert plain.read_bytes() != before


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_regions_switching_inversion_and_plans(
    kind: str, photo: Path, tmp_path: Path, style: Style
) -> None:
    own = settings(kind)
    loras = []
    for seed, name in enumerate(("one", "two")):
        loras.append(learned(style, tmp_path / f"{name}.png", own, seed=seed + 5))
    mask = Image.new("L", Image.open(photo).size, 0)
    mask.paste(255, (0, 0, 24, 40))
    mask.save(tmp_path / "mask.png")
    regional = tmp_path / "regional.png"
    region = f"{tmp_path / 'mask.png'}={loras[0]}"
    assert style("mask-transfer", photo, "--region", region, "-o", regional, *own).status == 0
    kept, was = (
        Image.open(path).convert("RGB").crop((24, 0, 48, 40)) for path in (regional, photo)
    )
    assert kept.tobytes() == was.tobytes()
    switched = tmp_path / "switched.png"
    schedule = f"{loras[0]}:0-50%,{loras[1]}:50%-100%"
    done = style("switch", photo, "--schedule", schedule, "-o", switched, *own)
    assert done.status == 0, done.err
    path = tmp_path / "path.safetensors"
    assert style("invert", photo, "-o", path, "--verify", *own).status == 0
    assert path.is_file()
    plan = style("transfer", photo, "--lora", loras[0], "-o", tmp_path / "x.png", "-n", *own)
    assert plan.status == 0, plan.err
    assert "4 inversion" in plan.out


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "sampling.timesteps=trailing"), "sampling.timesteps trailing is for models"),
        (("--set", "inversion.steps=8"), "inversion.steps 8: a flow is inverted at the levels"),
        (("--set", "injection.attn_cross=all"), "injection.attn_cross: words and picture share"),
        (("--set", "injection.attn_layers=[7]"), "injection.attn_layers: layer 7 does not exist"),
        (("--set", "device.compile=default"), "device.compile is for UNets"),
        (("--method", "styleid"), "is a transformer (flux2), and this command works with UNets"),
    ],
)
def test_what_a_transformer_has_not_is_refused_in_a_line(
    words: tuple[str, ...], told: str, photo: Path, tmp_path: Path, style: Style
) -> None:
    painting = draw(tmp_path / "ink.png", seed=2)
    own = settings("flux2")
    if "--method" not in words:
        own += ["--prompt", "ink"]
    done = style("transfer", photo, "--style", painting, "-o", tmp_path / "o.png", *own, *words)
    assert done.status == 2
    assert told in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "o.png").exists()


def test_a_layout_without_names_for_transformers_is_refused(tmp_path: Path, style: Style) -> None:
    painting = draw(tmp_path / "ink.png", seed=2)
    own = settings("flux2", "lora.format=kohya")
    done = style("train-lora", painting, "--prompt", "a", "-o", tmp_path / "a.safetensors", *own)
    assert done.status == 2
    assert "the kohya layout has names for the UNet" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd21-base", "z-image"])
def test_a_model_that_is_not_here_is_planned(
    name: str, photo: Path, tmp_path: Path, style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    command = ["transfer", photo, "--style", photo, "--prompt", "a", "-o", tmp_path / "o.png"]
    own = ["--backbone", name, "--set", "sampling.size=256", "--dtype", "bfloat16"]
    plan = style(*command, *own, "--dry-run")
    assert plan.status == 0, plan.err
    assert "planned from the published configuration" in plan.err
    assert "# memory" in plan.out
    assert style(*command, *own).status == 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_random_weights_are_timed(kind: str, tmp_path: Path, style: Style) -> None:
    report = tmp_path / "report.json"
    own = settings(kind)
    done = style(
        "bench", "--quick", "--weights", "random", "--cases", "transfer", "-o", report, *own
    )
    assert done.status == 0, done.err
    found = json.loads(report.read_bytes())
    names = {row["name"] for row in (*found["sides"], *found["ratios"])}
    assert {"ours", "vae", "ours / rows x one row"} <= names
    assert found["setting"]["fingerprint"] == "random"


@pytest.mark.slow
def test_rows_of_another_size_are_refused_where_levels_depend_on_it(
    photo: Path, tmp_path: Path, style: Style
) -> None:
    """Their levels would be the run's, and the file would say otherwise."""
    own = settings("flux2")
    lora = learned(style, tmp_path / "ink.png", own)
    rows = tmp_path / "rows.jsonl"
    one = {"content": str(photo), "lora": str(lora)}
    rows.write_text(json.dumps({**one, "sampling.size": 64}) + "\n" + json.dumps(one) + "\n")
    done = style("transfer", "--manifest", rows, "-o", f"{tmp_path / 'out'}/", *own)
    assert done.status == 2, done.err
    assert "sampling.size 64 for some: levels of" in done.err


@pytest.mark.slow
def test_a_mask_backend_that_looks_through_unets_is_refused(
    photo: Path, tmp_path: Path, style: Style
) -> None:
    own = settings("z-image")
    lora = learned(style, tmp_path / "ink.png", own)
    region = f"text:cat={lora}"
    command = ["mask-transfer", photo, "--region", region, "-o", tmp_path / "o.png", *own]
    done = style(*command, "--set", "masks.backend=clusters")
    assert done.status == 2, done.err
    assert "masks.backend clusters looks through a UNet" in done.err
