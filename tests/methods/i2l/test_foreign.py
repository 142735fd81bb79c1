"""Predictors of others: what they seem to be, maps that come out even, and maps that do not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from stylecli.backbone import headers
from stylecli.backbone.denoisers import layers_in
from stylecli.backbone.linears import Layer, natural
from stylecli.backbone.registry import find
from stylecli.engine.i2l import encoders, predictors
from stylecli.engine.i2l.forward import Forward
from stylecli.errors import ForeignPredictorError, RecipeError, WeightsError
from stylecli.methods.i2l import files, foreign, mapping
from stylecli.methods.i2l.files import Config
from stylecli.methods.i2l.mapping import Map
from stylecli.methods.i2l.predictor import Predictor
from stylecli.methods.i2l.sizes import Shape
from stylecli.recipe.i2l import Encoder
from tests.conftest import Outcome, Style

SHAPE = Shape(encoder_width=128, width=16, depth=3, heads=2, hidden=24, bottleneck=8, rank=2)
LAYERS = (Layer("x.2.to_k", 20, 12), Layer("x.10.to_k", 12, 20), Layer("y.to_v", 12, 28))
OTHERS = (Layer("x.2.to_k", 21, 12), Layer("x.10.to_k", 12, 21))
KERNEL = "image_encoder.vision_model.embeddings.patch_embedding.weight"


def predictor(layers: tuple[Layer, ...] = LAYERS) -> Predictor:
    """With numbers everywhere: a fresh one predicts nothing."""
    random = Generator().manual_seed(4)
    made = Predictor(SHAPE, layers)
    made.reset(random)
    for tensor in made.parameters():
        torch.nn.init.normal_(tensor, std=0.2, generator=random)
    return made.requires_grad_(False).eval()


def theirs(own: Predictor) -> dict[str, Tensor]:
    """The same predictor as other people might have written it down."""
    found: dict[str, Tensor] = {
        KERNEL: torch.zeros(6, 3, 4, 4),
        "image_encoder.vision_model.head.weight": torch.zeros(5, 5),
    }
    state = own.state_dict()
    rows = {width: iter(range(99)) for layer in own.layers for width in layer[1:]}
    for number, layer in enumerate(own.layers):
        for side, width in enumerate(layer[1:]):
            stem = f"emb2lora.heads.{layer.path}.{'ab'[side]}"
            found[f"{stem}.in"] = state["heads.down"][2 * number + side].T
            found[f"{stem}.out"] = state[f"heads.up.{width}"][next(rows[width])] / 2
    for name, tensor in state.items():
        if name.startswith("heads."):
            continue
        if name == "queries":
            tensor = tensor.flatten(0, 2)
        found[f"emb2lora.{name}"] = tensor
    for block in range(SHAPE.depth):
        parts = [found.pop(f"emb2lora.blocks.{block}.attn.to_{x}.weight") for x in "qkv"]
        found[f"emb2lora.blocks.{block}.attn.qkv.weight"] = torch.cat(parts)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def said(own: Predictor, **changes: Any) -> dict[str, Any]:
    """The map between the two."""
    rules = [
        {
            "from": r"emb2lora\.blocks\.(\d+)\.attn\.qkv\.weight",
            "to": [rf"blocks.\1.attn.to_{x}.weight" for x in "qkv"],
            "split": 0,
        },
        {
            "from": r"emb2lora\.queries",
            "to": "queries",
            "reshape": [len(own.layers), 2, SHAPE.rank, SHAPE.width],
        },
        {
            "from": r"emb2lora\.heads\..*\.in",
            "to": "heads.down",
            "stack": True,
            "transpose": True,
        },
        {
            "from": r"emb2lora\.heads\..*\.out",
            "to": "heads.up.{rows}",
            "stack": True,
            "scale": 2.0,
        },
        {"from": r"emb2lora\.(.*)", "to": r"\1"},
    ]
    encoder = encoders.opened(
        Encoder(id="random-patch"),
        default="",
        device=torch.device("cpu"),
        dtype=torch.float32,
    ).description
    whole = {
        "backbone": "pocket",
        "layer_set": "attn2",
        "shape": {key: value for key, value in SHAPE.to_json().items() if key != "query_std"},
        "encoder": encoder.to_json(),
        "rules": rules,
        "ignore": [r"image_encoder\..*"],
    }
    return whole | changes


def mapped(tensors: dict[str, Tensor], **changes: Any) -> tuple[dict[str, Tensor], foreign.Faults]:
    map_ = Map.read(said(predictor(), **changes), "map.yaml")
    return mapping.applied(map_, tensors, mapping.targets(SHAPE, LAYERS))


# Maps.


def test_a_whole_map_gives_back_every_number() -> None:
    own = predictor()
    found, faults = mapped(theirs(own))
    assert not faults, [*faults.lines()]
    assert faults.matched == len(own.state_dict())
    assert found.keys() == own.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in own.state_dict().items())


def test_shapes_alone_tell_whether_a_map_is_whole() -> None:
    empty = {name: value.to("meta") for name, value in theirs(predictor()).items()}
    assert not mapped(empty)[1]
    del empty["emb2lora.img_in.bias"]
    assert mapped(empty)[1].missing == ["img_in.bias"]


def test_layers_are_stacked_in_natural_order() -> None:
    """Layer 2 comes before layer 10, as in our own files."""
    names = [f"{layer.path}" for layer in LAYERS]
    assert sorted(names) != names
    assert sorted(names, key=natural) == names


def test_an_alpha_of_theirs_becomes_part_of_b() -> None:
    """By the scale of a rule for the heads of B alone; ours multiply by nothing afterwards."""
    own = predictor()
    usual = said(own)["rules"]
    of_b = {**usual[3], "from": usual[3]["from"].replace(".*", r".*\.b"), "scale": 2.0 * 0.75}
    found, faults = mapped(theirs(own), rules=[*usual[:3], of_b, *usual[3:]])
    assert not faults
    other = Predictor(own.shape, own.layers)
    other.load_state_dict(found)
    tokens = torch.randn(1, 2, 4, SHAPE.encoder_width, generator=Generator().manual_seed(1))
    with torch.no_grad():
        ours, scaled = (one.factors(one(tokens)) for one in (own, other))
    for path in ours.down:
        torch.testing.assert_close(scaled.down[path], ours.down[path])
        torch.testing.assert_close(scaled.up[path], 0.75 * ours.up[path])


def rules(**changes: dict[str, Any] | None) -> dict[str, Any]:
    """The map's rules with one of them, by its place, changed or left out."""
    own = said(predictor())["rules"]
    for place, change in changes.items():
        at = int(place[1:])
        own[at] = None if change is None else {**own[at], **change}
    return {"rules": [rule for rule in own if rule is not None]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"ignore": []}, r"2 unexpected.*unexpected: image_encoder", id="unused"),
        pytest.param(rules(_4=None), r"missing: img_norm.weight", id="incomplete"),
        pytest.param(
            rules(_1={"reshape": [-1, 2, 2, 8]}), r"another shape: queries is \[6, 2", id="shape"
        ),
        pytest.param(rules(_1={"reshape": [5, -1]}), r"emb2lora.queries: .*invalid", id="reshape"),
        pytest.param(rules(_3={"to": "heads.down"}), r"stack differ|filled twice", id="twice"),
        pytest.param(
            rules(_4={"to": "img_in.bias"}), r"img_in.bias is filled twice", id="double use"
        ),
        pytest.param(rules(_0={"split": None}), r"3 targets and no split", id="split"),
        pytest.param(
            rules(_2={"transpose": False}), r"another shape: heads.down is \[6, 16, 8\]", id="axes"
        ),
        pytest.param(rules(_1={"to": "questions"}), r"there is no questions in ours", id="name"),
        pytest.param(
            {"rules": [*rules()["rules"], {"from": "nobody", "to": "queries"}]},
            r"no tensor is called nobody",
            id="idle",
        ),
        pytest.param({"ignore": [".*"]}, r"is used and ignored too", id="ignored"),
    ],
)
def test_a_map_that_does_not_come_out_even_is_refused_with_counts(
    changes: dict[str, Any], words: str
) -> None:
    """Spec 9, converter: total in both directions."""
    tensors = theirs(predictor())
    _, faults = mapped(tensors, **changes)
    assert faults
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    found = foreign.report(shapes, "v2", {("pocket", "attn2"): LAYERS})
    error = foreign.refusal(Path("v2.safetensors"), found, faults, missing="mend the map")
    assert isinstance(error, ForeignPredictorError)
    assert error.exit_status == 2
    assert re.search(words, error.what, re.DOTALL), error.what
    assert re.search(r"\d+ tensors matched, \d+ missing, \d+ unexpected", error.what)
    assert "export LoRAs" in error.fix


@pytest.mark.parametrize(
    "change",
    [
        {"rules": [{"from": "(", "to": "x"}]},
        {"rules": [{"from": "x", "to": "y", "rotate": True}]},
        {"rules": [{"from": "x", "to": [], "split": 0}]},
        {"shape": {"width": 16}},
        {"shape": {**said(predictor())["shape"], "rank": 9}},
        {"encoder": {}},
        {"ignore": ["["]},
    ],
)
def test_what_is_no_map_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"map\.yaml: ") as caught:
        Map.read(said(predictor()) | change, "map.yaml")
    assert "\n" not in caught.value.what
    with pytest.raises(RecipeError):
        Map.read(["a"], "map.yaml")


# What a file seems to be.


def test_sizes_tell_what_a_predictor_is() -> None:
    shapes = {name: tuple(value.shape) for name, value in theirs(predictor()).items()}
    candidates = {("a", "part"): LAYERS[:1], ("a", "all"): LAYERS, ("b", "all"): OTHERS}
    found = foreign.report(shapes, foreign.kind_of(shapes, {}), candidates)
    assert found == foreign.Report(
        kind="v2",
        tensors=len(shapes),
        encoder="image_encoder.",
        encoder_tensors=2,
        width=SHAPE.width,
        depth=SHAPE.depth,
        layer_set=("a", "all"),
        queries=("emb2lora.queries", SHAPE.rank),
    )
    other = foreign.report(shapes, "v2", {("b", "all"): OTHERS})
    assert other.layer_set is None
    assert "no known layer set" in "\n".join(other.lines())


@pytest.mark.parametrize(
    ("names", "header", "kind"),
    [
        (["anything"], {files.CONFIG_KEY: "{}"}, "ours"),
        (["layers_lora.blocks.3.layers.0.proj_a.proj_in.weight"], {}, "first-generation"),
        (["context_refiner_lora.blocks.0.layers.6.proj_b.proj_out.weight"], {}, "first-generation"),
        (["pipe.emb2lora.x.weight"], {}, "v2"),
        (["layers.0.attention.to_q.lora_A.default.weight"], {}, "lora"),
        (["unet.a.lora_A.weight", "unet.a.lora_B.weight"], {}, "lora"),
        (["conv.weight"], {}, "unknown"),
    ],
)
def test_names_tell_what_a_file_is(names: list[str], header: dict[str, str], kind: str) -> None:
    assert foreign.kind_of(names, header) == kind


def test_a_header_is_all_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"emb2lora.a": torch.zeros(2, 3)}, path, metadata={"a": "b"})
    assert headers.read(path) == headers.Header(
        {"emb2lora.a": (2, 3)}, {"emb2lora.a": "F32"}, {"a": "b"}
    )
    (tmp_path / "x.ckpt").write_bytes(b"")
    with pytest.raises(WeightsError, match="pickles can run code"):
        headers.read(tmp_path / "x.ckpt")
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read"):
        headers.read(path)


# From file to file.


@pytest.fixture(scope="module")
def layers() -> tuple[Layer, ...]:
    source = find("pocket")
    assert source.folder is not None
    return layers_in("unet", source.folder, "attn2")


@pytest.fixture
def work(tmp_path: Path, layers: tuple[Layer, ...]) -> dict[str, Path]:
    """A foreign predictor of pocket, its map, and what it predicts."""
    own = predictor(layers)
    paths = {
        name: tmp_path / f"{name}.{'yaml' if name == 'map' else 'safetensors'}"
        for name in ("source", "map", "golden", "out")
    }
    save_file(theirs(own), paths["source"])
    paths["map"].write_text(yaml.safe_dump(said(own)))
    encoder = encoders.opened(
        Encoder(id="random-patch"), default="", device=torch.device("cpu"), dtype=torch.float32
    )
    config = Config(
        shape=SHAPE, layers=layers, layer_set="attn2", backbone="pocket", kind="unet",
        encoder=encoder.description,
    )  # fmt: skip
    forward = Forward(own, encoder, config)
    random = Generator().manual_seed(8)
    pictures = [torch.randint(256, (70, 90, 3), generator=random).to(torch.uint8) for _ in "ab"]
    pairs = forward.pairs([forward.prepared(picture) for picture in pictures])
    golden = {f"references.{number}": picture for number, picture in enumerate(pictures)}
    for path, pair in pairs.items():
        for side, tensor in zip("AB", pair, strict=True):
            golden[f"{path}.lora_{side}.default.weight"] = tensor.contiguous()
    save_file(golden, paths["golden"])
    return paths


def convert(style: Style, work: dict[str, Path], *more: object) -> Outcome:
    return style("lora", "convert", work["source"], "--map", work["map"], "-o", work["out"], *more)


@pytest.mark.slow
def test_a_converted_predictor_is_the_original(
    style: Style, work: dict[str, Path], layers: tuple[Layer, ...]
) -> None:
    done = convert(style, work, "--golden", work["golden"], "--json")
    assert done.status == 0, done.err
    assert done.rows[0]["details"]["verified"] is True
    assert done.rows[0]["details"]["worst"] < 1e-5
    found, config = predictors.load(work["out"])
    own = predictor(layers).state_dict()
    assert all(torch.equal(value, own[name]) for name, value in found.state_dict().items())
    assert (config.backbone, config.layer_set, config.layers) == ("pocket", "attn2", layers)
    foreign.refuse_unverified(work["out"], config.training, accepted=False)
    again = convert(style, work, "--golden", work["golden"], "--json")
    assert again.summary["counts"] == {"skipped": 1, "items": 1}


def test_without_golden_data_every_use_is_asked_about(style: Style, work: dict[str, Path]) -> None:
    done = convert(style, work)
    assert done.status == 0
    assert "--accept-unverified" in done.err
    _, config = predictors.load(work["out"])
    with pytest.raises(ForeignPredictorError, match="never compared") as caught:
        foreign.refuse_unverified(work["out"], config.training, accepted=False)
    assert "--golden" in caught.value.fix
    foreign.refuse_unverified(work["out"], config.training, accepted=True)
    foreign.refuse_unverified(work["out"], {}, accepted=False)  # one that was trained here


@pytest.mark.slow
def test_what_predicts_something_else_is_not_written(style: Style, work: dict[str, Path]) -> None:
    """Spec 5: shapes may fit and the architecture be another one."""
    tensors = load_file(work["source"])
    tensors["emb2lora.norm_out.weight"] *= 1.01
    save_file(tensors, work["source"])
    done = convert(style, work, "--golden", work["golden"])
    assert done.status == 2
    assert "64 of 64 layers are more than 0.001 apart" in done.err
    assert not work["out"].exists()


@pytest.mark.mostly_slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_golden_data_in_halves_is_compared_as_such(
    style: Style, work: dict[str, Path], dtype: torch.dtype
) -> None:
    """A bfloat16 original is 1e-3 apart from itself."""
    tensors = load_file(work["golden"])
    rounded = {
        name: value.bfloat16().to(dtype) if value.is_floating_point() else value
        for name, value in tensors.items()
    }
    save_file(rounded, work["golden"])
    done = convert(style, work, "--golden", work["golden"])
    assert done.status == (0 if dtype == torch.bfloat16 else 2), done.err


def test_golden_data_without_references_are_named(style: Style, work: dict[str, Path]) -> None:
    tensors = load_file(work["golden"])
    save_file({k: v for k, v in tensors.items() if "lora" in k}, work["golden"])
    done = convert(style, work, "--golden", work["golden"])
    assert done.status == 4
    assert "has no references" in done.err


@pytest.mark.slow
def test_an_incomplete_map_tells_what_the_file_is(style: Style, work: dict[str, Path]) -> None:
    whole = yaml.safe_load(work["map"].read_text())
    del whole["rules"][-1]
    work["map"].write_text(yaml.safe_dump(whole))
    done = convert(style, work, "--json")
    assert done.status == 2
    assert done.summary["error"]["code"] == "foreign_predictor"
    for words in (
        "a second-generation predictor",
        "width 16, 3 blocks",
        "attn2 of pocket",
        "matched,",
        "missing: img_norm.weight",
        "unexpected: emb2lora.blocks.0.attn.norm_k.weight",
        "export LoRAs",
    ):
        assert words in done.err, words
    assert not work["out"].exists()


@pytest.mark.slow
def test_a_predictor_without_a_map_is_recognised(style: Style, work: dict[str, Path]) -> None:
    done = style("lora", "convert", work["source"], "-o", work["out"])
    assert done.status == 2
    assert "a second-generation predictor" in done.err
    assert "--map" in done.err
    first = {"layers_lora.blocks.0.layers.0.proj_a.proj_in.weight": torch.zeros(4, 8)}
    save_file(first, work["source"])
    done = style("lora", "convert", work["source"], "-o", work["out"])
    assert done.status == 2
    assert "first-generation" in done.err


@pytest.mark.slow
def test_a_lora_needs_no_map_and_a_map_no_lora(style: Style, work: dict[str, Path]) -> None:
    done = style("lora", "convert", work["golden"], "--map", work["map"], "-o", work["out"])
    assert done.status == 2
    assert "a LoRA" in done.err
    both = style(
        "lora", "convert", work["source"], work["golden"], "--map", work["map"], "-o", "x/"
    )
    assert both.status == 2
    alone = style("lora", "convert", work["golden"], "--golden", work["golden"], "-o", work["out"])
    assert "give --map too" in alone.err
