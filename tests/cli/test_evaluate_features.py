"""Feature metrics as users meet them: files of tiny networks, from the command to the report."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stylecli.artifacts import images
from stylecli.evaluation import csd, dino
from stylecli.evaluation.layout import content_distance, structure_distance
from stylecli.evaluation.metrics import gram_rel
from stylecli.evaluation.pixels import PREPROCESS
from tests.conftest import Style
from tests.engine.scoring.conftest import CONTENTS, STYLES, World, world

# isort: split
# Behind the package, which makes the import of torchvision safe.
import open_clip
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

pytestmark = pytest.mark.slow

__all__ = ["world"]  # the fixture

SHAPE = {"hidden_size": 24, "num_attention_heads": 2}
DINOV2 = {**SHAPE, "num_hidden_layers": 10, "mlp_ratio": 2, "image_size": 224, "patch_size": 28}
VIT = {**SHAPE, "num_hidden_layers": 2, "intermediate_size": 40, "patch_size": 28}
CSD = {
    **{"image_size": 224, "patch_size": 56, "width": 32, "layers": 1, "heads": 2},
    **{"mlp_ratio": 2.0, "output_dim": 12},
}
CLIP = {
    "embed_dim": 12,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 336, "layers": 1, "width": 32, "head_width": 16, "patch_size": 84},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NAMES = (
    *("csd", "csd_max", "csd_csls", "dinov2_gram", "dino_structure", "dinov2_content", "cas"),
    *("cmmd", "cmmd_u", "fd_dinov2"),
)


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files under the published names, of networks of the published kinds, only smaller."""
    monkeypatch.setattr(dino, "BASE", DINOV2)
    monkeypatch.setattr(dino, "LARGE", DINOV2)
    monkeypatch.setattr(dino, "VIT_B8", VIT)
    monkeypatch.setattr(csd, "LARGE", CSD)
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: copy.deepcopy(CLIP))
    made = tmp_path / "weights"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name in ("dinov2-base", "dinov2-large"):
            shaken(Dinov2Model(Dinov2Config(**DINOV2))).save_pretrained(made / "dino" / name)
        vit = ViTModel(ViTConfig(**VIT), add_pooling_layer=False)
        shaken(vit).save_pretrained(made / "dino" / "dino-vitb8")
        (made / "clip").mkdir()
        clip = shaken(open_clip.model.CLIP(**copy.deepcopy(CLIP)))
        save_file(clip.state_dict(), made / "clip" / "ViT-L-14-336-quickgelu.safetensors")
        backbone = open_clip.transformer.VisionTransformer(
            **CSD, act_layer=open_clip.transformer.QuickGELU
        )
        backbone.proj = None
        style = shaken(csd.Csd(backbone, 32, 12))
        style.last_layer_style.data = torch.randn(32, 12)  # type: ignore[union-attr]
        style.last_layer_content.data = torch.randn(32, 12)  # type: ignore[union-attr]
    (made / "csd").mkdir()
    state = {f"module.{key}": tensor for key, tensor in style.state_dict().items()}
    torch.save({"model_state_dict": state, "iter": 3}, made / "csd" / "csd-vit-l.pth")
    return made


def shown(path: Path, how: str) -> torch.Tensor:
    return PREPROCESS[how].apply(images.read(path).pixels)[None]


def mean_of_largest(cosines: torch.Tensor) -> torch.Tensor:
    return cosines.sort(dim=1, descending=True).values[:, :10].mean(dim=1)


@pytest.fixture
def families(world: World, tmp_path: Path) -> Path:
    """The manifest, with a family for each style."""
    rows = [json.loads(line) for line in world.manifest.read_text().splitlines()]
    for row in rows:
        row |= {key: str(world.root / row[key]) for key in ("output", "content")}
        family = Path(row["style"]).stem
        # Two references of each: the other is a content, so that a family is no single picture.
        other = CONTENTS[STYLES.index(family)]
        row["style"] = [str(world.root / row["style"]), str(world.root / f"contents/{other}.png")]
        row["style_family"] = family
    manifest = tmp_path / "families.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def test_every_metric_is_that_of_its_network(
    style: Style, world: World, families: Path, folder: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    command = (
        "evaluate", "--manifest", families, "--metrics", ",".join(NAMES), "--weights-dir", folder,
        "--compare", "near", "far", "--set", "evaluate.resamples=200", "-o", report,
    )  # fmt: skip
    done = style(*command)
    assert done.status == 0, done.err
    found = json.loads((report / "aggregate.json").read_text())
    rows = [json.loads(line) for line in (report / "per_image.jsonl").read_text().splitlines()]
    assert {row["method"] for row in rows} >= {"near", "far", "content_copy", "style_copy"}
    assert all(name in row for row in rows for name in NAMES[:7])
    header, *lines = (report / "per_image.csv").read_text().splitlines()
    column = header.split(",").index("csd_csls")
    assert [float(line.split(",")[column]) for line in lines] == [row["csd_csls"] for row in rows]

    tensors = torch.load(folder / "csd" / "csd-vit-l.pth")["model_state_dict"]
    network = csd.csd_network(tensors, file="f")
    with torch.no_grad():
        _check_style(rows, world, lambda path: network(shown(path, "clip224"))[0])
        _check_maps(rows[0], world, folder)

    for method in ("near", "far"):
        figures = found["methods"][method]
        mean = sum(r["csd_csls"] for r in rows if r["method"] == method) / 6
        assert figures["csd_csls"]["value"] == pytest.approx(mean)
        assert figures["csd_csls"]["ci_low"] < mean < figures["csd_csls"]["ci_high"]
        assert figures["csd_csls"]["n_references"] == 4
        assert figures["cmmd"]["value"] > figures["cmmd_u"]["value"]
        assert figures["fd_dinov2"]["rank_deficient"]
        assert "rank_deficient" not in figures["csd_csls"]
    assert {"csd_csls", "csd"} <= {one["metric"] for one in found["comparisons"]}
    told = found["discrimination"]
    assert set(told) == {"csd", "csd_max", "csd_csls"}
    for of_metric in told.values():
        gaps = {name: family["gap"] for name, family in of_metric["families"].items()}
        assert set(gaps) == set(STYLES)
        assert of_metric["undecidable"] == [name for name, gap in gaps.items() if gap <= 0]
        assert all(family["n"] == 2 for family in of_metric["families"].values())
    if told["csd"]["undecidable"]:
        assert "csd: undecided for" in (report / "table.md").read_text()
    again = style(*command)
    assert again.status == 0
    assert json.loads((report / "aggregate.json").read_text()) == found


def _check_style(
    rows: list[dict[str, Any]], world: World, embed: Callable[[Path], torch.Tensor]
) -> None:
    """Cosines to both references, and freed of hubs by brute force."""
    own = [row for row in rows if row["method"] == "near"]
    outputs = torch.stack([embed(world.root / "near" / row["output"]) for row in own])
    names = sorted({name for row in own for name in row["style"]})
    places = {path.name: path for path in world.root.rglob("*.png") if path.parent.name[-1] == "s"}
    references = torch.stack([embed(places[name]) for name in names])
    cosines = outputs @ references.T
    freed = 2 * cosines - mean_of_largest(cosines)[:, None] - mean_of_largest(cosines.T)
    for index, row in enumerate(own):
        of_row = [names.index(name) for name in row["style"]]
        assert row["csd"] == pytest.approx(float(cosines[index, of_row].mean()), abs=1e-5)
        assert row["csd_max"] == pytest.approx(float(cosines[index, of_row].max()), abs=1e-5)
        assert row["csd_csls"] == pytest.approx(float(freed[index, of_row].mean()), abs=1e-5)


def _check_maps(row: dict[str, Any], world: World, folder: Path) -> None:
    output = world.root / row["method"] / row["output"]
    content = world.root / "contents" / row["content"]
    vit = ViTModel.from_pretrained(folder / "dino" / "dino-vitb8", add_pooling_layer=False)
    tensors = dict(vit.state_dict())
    keys = [
        dino.dino(tensors, file="f").taps(shown(path, "dino224"), ("keys",))["keys"]
        for path in (output, content)
    ]
    assert row["dino_structure"] == pytest.approx(1000 * float(structure_distance(*keys)), rel=1e-4)
    model = Dinov2Model.from_pretrained(folder / "dino" / "dinov2-base").eval()
    styles = [next(world.root.rglob(name)) for name in row["style"]]
    seen = [
        model(pixel_values=shown(path, "dinov2_224"), output_hidden_states=True)
        for path in (output, content, *styles)
    ]
    tokens = [one.last_hidden_state[0, 0] for one in seen[:2]]
    cosine = float(torch.cosine_similarity(*tokens, dim=0))
    assert row["dinov2_content"] == pytest.approx(cosine, abs=1e-5)

    def as_map(states: torch.Tensor) -> torch.Tensor:
        return states[:, 1:].transpose(1, 2).unflatten(2, (8, 8))

    last = [as_map(one.last_hidden_state) for one in seen[:2]]
    assert row["cas"] == pytest.approx(float(content_distance(*last)), rel=1e-4)
    blocks = [[as_map(one.hidden_states[block]) for block in (3, 6, 9)] for one in seen]
    distances = [float(gram_rel(blocks[0], theirs)) for theirs in blocks[2:]]
    assert row["dinov2_gram"] == pytest.approx(sum(distances) / 2, rel=1e-4)


def test_what_lacks_its_file_names_file_and_place(
    style: Style, world: World, tmp_path: Path
) -> None:
    done = style(
        "evaluate", "--manifest", world.manifest, "--metrics",
        "csd_csls,dino_structure,cmmd,fd_dinov2", "-o", tmp_path / "r",
    )  # fmt: skip
    assert done.status == 4
    for name in ("csd-vit-l.pth", "dino-vitb8/", "ViT-L-14-336-quickgelu", "dinov2-large/"):
        assert name in done.err
    assert not (tmp_path / "r").exists()


def test_a_style_alone_has_no_neighbours_and_that_is_no_failure(
    style: Style, world: World, folder: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in world.manifest.read_text().splitlines()]
    kept = [row for row in rows if row["style"] == "styles/ink.png" and row["method"] == "near"]
    for row in kept:
        row |= {key: str(world.root / row[key]) for key in ("output", "content", "style")}
    manifest = tmp_path / "one.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in kept))
    done = style(
        "evaluate", "--manifest", manifest, "--metrics", "csd,csd_csls", "--weights-dir", folder,
        "-o", tmp_path / "r", "--no-anchors",
    )  # fmt: skip
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "r" / "aggregate.json").read_text())["methods"]["near"]
    assert found["csd"]["value"] is not None
    assert found["csd_csls"]["value"] is None
    assert "3 outputs and 1 styles" in found["csd_csls"]["reason"]
    row = json.loads((tmp_path / "r" / "per_image.jsonl").read_text().splitlines()[0])
    assert "neighbours need two" in row["reasons"]["csd_csls"]
