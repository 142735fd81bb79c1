"""`style lora info`, `mix` and `convert`: files in, files out, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from stylecli.artifacts import store
from stylecli.backbone import lora_algebra, lora_layouts
from stylecli.backbone.row_loras import Pairs
from stylecli.engine.i2l import header
from stylecli.engine.i2l.header import Header
from tests.conftest import Outcome, Style

pytestmark = pytest.mark.slow

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
SIZES = {f"{ATTENTION}.to_k": (128, 32), f"{ATTENTION}.to_q": (32, 32)}
Z_IMAGE = {"layers.0.attention.to_q": (3840, 3840)}


def made(seed: int, sizes: dict[str, tuple[int, int]] = SIZES, rank: int = 2) -> Pairs:
    random = torch.Generator().manual_seed(seed)
    return {
        path: (
            torch.randn(rank, width_in, generator=random),
            torch.randn(width_out, rank, generator=random),
        )
        for path, (width_in, width_out) in sizes.items()
    }


def saved(path: Path, pairs: Pairs, **entries: str) -> Path:
    prefix = "unet" if next(iter(pairs)).startswith("down") else "transformer"
    tensors, said = lora_layouts.write(
        pairs, prefix=prefix, layout="diffusers", dtype=torch.float32
    )
    store.save_tensors(path, tensors, said | entries)
    return path


def predicted(path: Path, seed: int, *, predictor: str = "f" * 64, refs: int = 1) -> Path:
    said = Header(
        kind="style",
        predictor_sha256=predictor,
        backbone="pocket",
        backbone_revision=None,
        rank=2,
        scale_folded=2.0,
        n_refs=refs,
        refs=tuple(f"{seed}{number}" for number in range(refs)),
    )
    made_by = {"schema_version": 1, "command": "i2l-predict", "key": str(seed),
               "model": {"id": "pocket", "fingerprint": "abc"}}  # fmt: skip
    entries = said.entries() | {store.KEY: json.dumps(made_by)}
    entries |= {"modelspec.trigger_phrase": f"style {seed}"}
    return saved(path, made(seed), **entries)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return (
        predicted(tmp_path / "a.safetensors", 1, refs=3),
        predicted(tmp_path / "b.safetensors", 2),
    )


def entries(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as stream:
        return dict(stream.metadata())


def change(path: Path) -> dict[str, Tensor]:
    return {name: b.float() @ a.float() for name, (a, b) in lora_layouts.read(path).pairs.items()}


def near(path: Path, wanted: dict[str, Tensor]) -> bool:
    found = change(path)
    return found.keys() == wanted.keys() and all(
        torch.allclose(found[name], value, rtol=1e-3, atol=1e-3) for name, value in wanted.items()
    )


def refused(outcome: Outcome, words: str, status: int = 2) -> None:
    assert outcome.status == status, outcome.err
    assert words in outcome.err
    assert "Traceback" not in outcome.err


# What a file is.


def test_info_tells_what_a_lora_is(style: Style, two: tuple[Path, Path]) -> None:
    done = style("lora", "info", two[0], "--json")
    assert done.status == 0
    row = done.rows[0]
    assert (row["layout"], row["flaw"], row["rank"], row["dtype"]) == (
        "diffusers",
        None,
        2,
        "float32",
    )
    assert (row["backbone"], row["fits"], row["command"]) == ("pocket", "pocket", "i2l-predict")
    assert (row["trigger"], row["i2l"]["n_refs"]) == ("style 1", 3)
    of_layer = {one["path"]: one for one in row["layers"]}
    for path, whole in change(two[0]).items():
        assert of_layer[path]["norm"] == pytest.approx(float(whole.norm()), rel=1e-4)
        assert (of_layer[path]["width_in"], of_layer[path]["width_out"]) == SIZES[path]
        values = torch.linalg.svdvals(whole)
        shares = values / values.sum()
        wanted = float(torch.exp(-(shares * shares.clamp_min(1e-12).log()).sum()))
        assert of_layer[path]["effective_rank"] == pytest.approx(wanted, rel=1e-3)
    page = style("lora", "info", two[0]).out
    for words in ("diffusers, of a unet", "pocket", "rank 2, 2 layers", "attn2.to_k", "3 ref"):
        assert words in page


def test_info_names_a_layout_that_would_load_as_nothing(style: Style, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    tensors = {
        f"{p}.lora_{s}.weight": t
        for p, ab in made(1).items()
        for s, t in zip("AB", ab, strict=True)
    }
    save_file(tensors, path)
    page = style("lora", "info", path).out
    assert "bare" in page
    assert "diffusers loads nothing of it" in page
    mended = tmp_path / "good.safetensors"
    assert style("lora", "convert", path, "-o", mended).status == 0
    assert lora_layouts.read(mended).flaw is None
    assert near(mended, change(path))


def test_one_bad_file_of_several_fails_alone(
    style: Style, two: tuple[Path, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing")
    done = style("lora", "info", two[0], bad, two[1], "--json")
    assert done.status == 3
    assert [row["status"] for row in done.rows[:3]] == ["done", "failed", "done"]
    refused(style("lora", "info", bad), "cannot be read", 4)
    refused(style("lora", "info", tmp_path / "none.safetensors"), "does not exist", 4)


def test_folders_and_globs_stand_for_the_loras_in_them(
    style: Style, two: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "of-peft" / "one"
    assert style("lora", "convert", two[0], "--format", "peft", "-o", folder).status == 0
    names = [str(folder), str(two[1])]
    found = style("lora", "info", tmp_path / "of-peft", two[1], "--json").rows
    assert [row["file"] for row in found[:2]] == names
    assert len(style("lora", "info", f"{tmp_path}/[ab].safetensors", "--json").rows) == 3
    refused(style("lora", "info", f"{tmp_path}/*.nothing"), "matches no LoRA")
    (tmp_path / "empty").mkdir()
    refused(style("lora", "convert", tmp_path / "empty", "-o", "x/"), "matches no LoRA")


# Sums.


def test_mix_writes_the_sum_and_where_it_comes_from(
    style: Style, two: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out" / "both.safetensors"
    done = style("lora", "mix", *two, "-o", out, "--weights", "0.25,0.5", "--json")
    assert done.status == 0, done.err
    wanted = {
        path: 0.25 * change(two[0])[path] + 0.5 * change(two[1])[path] for path in change(two[0])
    }
    assert near(out, wanted)
    assert lora_layouts.read(out).rank == 4
    said = store.read_provenance(out)
    assert said is not None
    assert (said["command"], said["mix"]["weights"]) == ("lora mix", [0.25, 0.5])
    assert [item["sha256"] for item in said["inputs"]] == [store.file_sha256(p) for p in two]
    assert [one["key"] for one in said["sources"]] == ["1", "2"]
    assert said["model"] == {"id": "pocket", "fingerprint": "abc"}
    assert str(tmp_path) not in json.dumps(entries(out))
    assert entries(out)["modelspec.trigger_phrase"] == "style 1, style 2"
    i2l = header.read(out)
    assert i2l is not None
    assert (i2l.kind, i2l.predictor_sha256, i2l.n_refs) == ("mix", "f" * 64, 3)
    assert i2l.scale_folded == pytest.approx(1.5)
    assert i2l.refs == ("10", "11", "12", "20")
    assert (tmp_path / "out" / "runs.jsonl").is_file()
    assert style("show", out).status == 0


def test_mix_again_skips_what_is_there_and_refuses_what_differs(
    style: Style, two: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "both.safetensors"
    assert style("lora", "mix", *two, "-o", out, "--json").summary["counts"]["done"] == 1
    before = out.read_bytes()
    again = style("lora", "mix", *two, "-o", out, "--json")
    assert again.summary["counts"] == {"skipped": 1, "items": 1}
    other = style("lora", "mix", *two, "-o", out, "--weights", "1,0")
    refused(other, "made from something else", 3)
    assert out.read_bytes() == before
    assert style("lora", "mix", *two, "-o", out, "--weights", "1,0", "--overwrite").status == 0
    assert near(out, change(two[0]))


def test_points_between_two_are_files_of_a_folder(
    style: Style, two: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "between"
    done = style("lora", "mix", *two, "-o", f"{out}/", "--t", "0,0.25,1")
    assert done.status == 0, done.err
    names = [f"a__b__t{point}.safetensors" for point in ("0", "0.25", "1")]
    assert sorted(file.name for file in out.glob("*.safetensors")) == sorted(names)
    assert near(out / names[0], change(two[0]))
    assert near(out / names[2], change(two[1]))
    assert near(
        out / names[1],
        {p: 0.75 * change(two[0])[p] + 0.25 * change(two[1])[p] for p in change(two[0])},
    )
    refused(style("lora", "mix", *two, "-o", tmp_path / "x.safetensors", "--t", "0,1"), "is a file")
    refused(style("lora", "mix", *two, two[0], "-o", f"{out}/", "--t", "0,1"), "3 were given")
    both = style("lora", "mix", *two, "-o", f"{out}/", "--t", "0", "--weights", "1,1")
    refused(both, "leave one of them out")


def test_a_rank_compresses_and_factors_keep_theirs(
    style: Style, two: tuple[Path, Path], tmp_path: Path
) -> None:
    small = tmp_path / "small.safetensors"
    assert style("lora", "mix", *two, "-o", small, "--rank", 3).status == 0
    assert lora_layouts.read(small).rank == 3
    whole = lora_algebra.delta([(lora_layouts.read(path).pairs, 0.5) for path in two])
    assert max(lora_algebra.distances(lora_layouts.read(small).pairs, whole).values()) < 0.9
    assert near(small, {p: b @ a for p, (a, b) in lora_algebra.compressed(whole, 3).items()})
    apart = tmp_path / "apart.safetensors"
    assert style("lora", "mix", *two, "-o", apart, "--mode", "factors").status == 0
    assert lora_layouts.read(apart).rank == 2
    said = store.read_provenance(apart)
    assert said is not None
    assert said["mix"]["mode"] == "factors"


def test_weights_far_out_are_warned_of(
    style: Style, two: tuple[Path, Path], tmp_path: Path
) -> None:
    far = style("lora", "mix", *two, "-o", tmp_path / "x.safetensors", "--weights=-1.5,2.5")
    assert far.status == 0
    assert "weight -1.5 is far outside" in far.err
    near_ = style("lora", "mix", *two, "-o", tmp_path / "y.safetensors", "--weights=-1,2")
    assert "outside" not in near_.err
    for text in ("1", "1,2,3", "1,x", "1,nan", ""):
        bad = style("lora", "mix", *two, "-o", tmp_path / "z.safetensors", f"--weights={text}")
        refused(bad, "--weights")


def test_loras_of_different_backbones_are_not_mixed(
    style: Style, two: tuple[Path, Path], tmp_path: Path
) -> None:
    """Their layers have other names, so a sum of both would look as if it had worked."""
    other = saved(tmp_path / "z.safetensors", made(3, Z_IMAGE))
    bad = style("lora", "mix", two[0], other, "-o", tmp_path / "x.safetensors")
    refused(bad, "LoRA of pocket and z.safetensors one of z-image")
    wide = saved(tmp_path / "w.safetensors", made(3, {f"{ATTENTION}.to_q": (64, 32)}))
    bad = style("lora", "mix", two[0], wide, "-o", tmp_path / "x.safetensors")
    refused(bad, "has sizes")
    refused(style("lora", "mix", two[0], "-o", tmp_path / "x.safetensors"), "alone")
    assert not (tmp_path / "x.safetensors").exists()


def test_sums_of_two_predictors_name_neither(style: Style, tmp_path: Path) -> None:
    a = predicted(tmp_path / "a.safetensors", 1)
    b = predicted(tmp_path / "b.safetensors", 2, predictor="e" * 64)
    out = tmp_path / "x.safetensors"
    assert style("lora", "mix", a, b, "-o", out).status == 0
    assert header.read(out) is None


# Layouts.


def test_convert_keeps_the_numbers_and_the_past(
    style: Style, two: tuple[Path, Path], tmp_path: Path
) -> None:
    kohya, back = tmp_path / "k.safetensors", tmp_path / "d.safetensors"
    assert style("lora", "convert", two[0], "--format", "kohya", "-o", kohya).status == 0
    assert all(key.startswith("lora_unet_") for key in load_file(kohya))
    assert style("lora", "convert", kohya, "--format", "diffusers", "-o", back).status == 0
    first, last = load_file(two[0]), load_file(back)
    assert first.keys() == last.keys()
    assert all(torch.equal(last[key], value) for key, value in first.items())
    assert entries(back)["modelspec.trigger_phrase"] == "style 1"
    assert header.read(back) == header.read(two[0])
    said = store.read_provenance(back)
    assert said is not None
    assert said["convert"] == {"from": "kohya", "to": "diffusers"}
    assert said["sources"][0]["sources"][0]["key"] == "1"


def test_convert_to_a_folder_and_many_at_once(
    style: Style, two: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "peft"
    assert style("lora", "convert", two[0], "--format", "peft", "-o", folder).status == 0
    assert near(folder, change(two[0]))
    many = tmp_path / "many"
    done = style("lora", "convert", *two, "--format", "comfy", "-o", f"{many}/")
    assert done.out.split() == [str(many / "a.safetensors"), str(many / "b.safetensors")]
    (tmp_path / "torn.safetensors").write_bytes(two[0].read_bytes()[:900])
    done = style("lora", "convert", tmp_path / "torn.safetensors", *two, "-o", f"{tmp_path}/on/")
    assert (done.status, len(done.out.split())) == (3, 2)
    assert "torn.safetensors" in done.err
    bad = style("lora", "convert", two[0], "--format", "peft", "-o", tmp_path / "x.safetensors")
    refused(bad, "not a folder's name")
    refused(style("lora", "convert", two[0], "-o", tmp_path / "x.png"), "not a .safetensors file")


def test_a_layout_without_names_for_a_model_is_refused_before_anything_is_written(
    style: Style, tmp_path: Path
) -> None:
    path = saved(tmp_path / "z.safetensors", made(3, Z_IMAGE))
    out = tmp_path / "out.safetensors"
    refused(style("lora", "convert", path, "--format", "kohya", "-o", out), "kohya layout")
    assert not out.exists()
    assert style("lora", "convert", path, "--format", "comfy", "-o", out).status == 0
    assert set(load_file(out)) == {
        f"diffusion_model.layers.0.attention.to_q.lora_{side}.weight" for side in "AB"
    }


def test_stripped_files_say_nothing_of_their_past(
    style: Style, two: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    assert style("lora", "mix", *two, "-o", out, "--strip-metadata").status == 0
    assert store.KEY not in entries(out)
    assert header.KEY not in entries(out)
    assert entries(out)["ss_network_dim"] == "4"


def test_text_encoders_are_left_out_with_a_word(style: Style, tmp_path: Path) -> None:
    tensors, said = lora_layouts.write(
        made(1), prefix="unet", layout="diffusers", dtype=torch.float32
    )
    tensors["text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight"] = torch.zeros(2, 4)
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata=said)
    done = style("lora", "convert", path, "--format", "kohya", "-o", tmp_path / "y.safetensors")
    assert done.status == 0
    assert "1 tensors of text encoders are left out" in done.err
