"""References to LoRA files: one pass, whatever the order, and a header that says what it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from stylecli.artifacts import images, store
from stylecli.backbone import lora_layouts, registry, row_loras
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.lora import read
from stylecli.engine.again.origins import Origins
from stylecli.engine.again.readings import Machine
from stylecli.engine.again.rerun import locator_for, rerun
from stylecli.engine.i2l import encoders, header, neutral
from stylecli.engine.i2l import predictors as predictor_files
from stylecli.engine.i2l.forward import Forward
from stylecli.engine.i2l.predict import predict
from stylecli.engine.i2l.preview import previews
from stylecli.engine.i2l.references import References
from stylecli.engine.plan import Input
from stylecli.engine.request import Destination, Prepared
from stylecli.errors import ForeignPredictorError, InputError, UsageError, WeightsError
from stylecli.recipe.i2l import MAX_REFERENCES, Encoder
from stylecli.recipe.load import load
from stylecli.recipe.schema import Recipe
from tests import predictors, small, tiny, tiny_flow
from tests.cli.conftest import draw
from tests.engine.jobs import Listener

pytestmark = pytest.mark.slow

Pairs = dict[str, tuple[Tensor, Tensor]]


class Desk:
    """References, a predictor, and places for what comes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refs = [
            str(draw(folder / "refs" / f"{name}.png", seed=i, size=(30 + 9 * i, 40)))
            for i, name in enumerate(("ape", "bee", "cow"))
        ]
        self.predictor = predictors.save(folder / "p.safetensors", small.folder())
        self.made = 0

    def recipe(self, **more: Any) -> Recipe:
        usual = {"backbone.id": str(small.folder()), "device.name": "cpu", "i2l.dtype": "float32"}
        return load(flags=usual | {k.replace("__", "."): v for k, v in more.items()}).recipe

    def place(self, name: str = "lora.safetensors") -> str:
        self.made += 1
        return str(self.folder / str(self.made) / name)

    def prepared(
        self,
        *refs: str,
        output: str | None = None,
        listener: Listener | None = None,
        predictor: Path | None = None,
        neutral_out: Path | None = None,
        overwrite: bool = False,
        recipe: Recipe | None = None,
        strip: bool = False,
        **asked: Any,
    ) -> Prepared:
        return predict(
            recipe or self.recipe(),
            References.of(refs or self.refs, **asked),
            Destination(output=output or self.place(), overwrite=overwrite, strip=strip),
            listener or Listener(),
            predictor=predictor or self.predictor,
            neutral_out=neutral_out,
        )

    def lora(self, *refs: str, **asked: Any) -> Path:
        return made(self.prepared(*refs, **asked))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


def made(prepared: Prepared) -> Path:
    (result,) = prepared.run()
    assert result.status == "done", result.error
    return result.job.output


def pairs(path: Path) -> Pairs:
    return dict(lora_layouts.read(path).pairs)


def products(path: Path) -> Tensor:
    """Every ``B A`` of a file, one after another."""
    return torch.cat([(up @ down).flatten() for down, up in pairs(path).values()])


def by_hand(predictor: Path, refs: list[str]) -> Tensor:
    """Written out: tokens of each reference, one forward, products of the factors."""
    model, config = predictor_files.load(predictor)
    settings = Encoder(id="random-patch", pool_tokens=config.encoder.pool)
    encoder = encoders.opened(
        settings, default="random-patch", device=torch.device("cpu"), dtype=torch.float32
    )
    tokens = [encoder(encoder.prepared(images.read(Path(ref)).pixels)[None])[0] for ref in refs]
    with torch.no_grad():
        factors = model.factors(model(torch.stack(tokens)[None]))
    return torch.cat([(factors.up[p][0] @ factors.down[p][0]).flatten() for p in factors.up])


def test_the_file_holds_what_one_forward_of_the_predictor_says(desk: Desk) -> None:
    found = products(desk.lora())
    assert small.relative(found, by_hand(desk.predictor, desk.refs)) < 1e-5
    assert small.relative(products(desk.lora(*desk.refs[:2])), found) > 1e-3


def test_order_changes_no_byte_and_nothing_is_made_twice(desk: Desk) -> None:
    first, second = desk.prepared(), desk.prepared(*desk.refs[::-1])
    assert [job.key for job in first.plan.jobs] == [job.key for job in second.plan.jobs]
    assert made(first).read_bytes() == made(second).read_bytes()
    again = desk.prepared(*desk.refs[::-1], output=str(first.plan.jobs[0].output))
    assert [result.status for result in again.run()] == ["skipped"]


@pytest.mark.parametrize("layout", ["diffusers", "kohya", "comfy", "peft"])
def test_every_layout_loads_and_does_what_hooks_do(desk: Desk, layout: str) -> None:
    name = "lora" if layout == "peft" else "lora.safetensors"
    output = desk.lora(output=desk.place(name), recipe=desk.recipe(i2l__format=layout))
    backbone = tiny.backbone(small.folder())
    wanted = row_loras.Factors.stacked([pairs(desk.lora())])
    prompts = backbone.encode_prompt(["a cat"])
    with torch.inference_mode():
        with row_loras.applied(backbone.unet, wanted, [0]):
            hooked = backbone.predict(small.noise(1, 4, 8, 8), 500, prompts)
        adapters = Adapters(backbone.unet)
        adapters.add("it", read(output, backbone.unet))
        with adapters.use({"it": 1.0}):
            loaded = backbone.predict(small.noise(1, 4, 8, 8), 500, prompts)
        with adapters.use({}):
            base = backbone.predict(small.noise(1, 4, 8, 8), 500, prompts)
    assert small.relative(loaded, hooked) < 1e-5
    assert small.relative(loaded, base) > 1e-3


def test_the_header_tells_of_the_prediction_and_of_no_folder(desk: Desk) -> None:
    path = desk.lora(recipe=desk.recipe(i2l__scale=0.5))
    said = header.read(path)
    assert said is not None
    assert (said.kind, said.n_refs, said.rank, said.scale_folded) == ("style", 3, 2, 0.5)
    assert said.predictor_sha256 == store.file_sha256(desk.predictor)
    assert sorted(said.refs) == sorted(store.file_sha256(Path(ref)) for ref in desk.refs)
    assert said.norms.keys() == pairs(path).keys()
    with safe_open(path, framework="pt") as stream:
        text = json.dumps(stream.metadata())
    assert str(desk.folder) not in text
    assert "lora_adapter_metadata" not in text
    roles = [item["role"] for item in (store.read_provenance(path) or {})["inputs"]]
    assert roles == ["style"] * 3 + ["predictor"]
    stripped = header.read(desk.lora(strip=True))
    assert stripped is not None
    assert (stripped.refs, stripped.n_refs) == ((), 3)


def test_scale_is_folded_once_and_ranks_are_what_was_asked_for(desk: Desk) -> None:
    whole = products(desk.lora())
    half = products(desk.lora(recipe=desk.recipe(i2l__scale=0.5)))
    assert small.relative(half, whole / 2) < 1e-6
    less, full = pairs(desk.lora(recipe=desk.recipe(i2l__compress_rank=1))), pairs(desk.lora())
    for path, (down, up) in less.items():
        left, values, right = torch.linalg.svd(full[path][1] @ full[path][0])
        assert len(down) == 1
        assert small.relative(up @ down, values[0] * left[:, :1] @ right[:1]) < 1e-4


def test_layers_too_narrow_for_a_rank_keep_their_own(desk: Desk) -> None:
    refs = [str(draw(desk.folder / "more" / f"{i}.png", seed=20 + i)) for i in range(9)]
    whole = desk.lora(*refs, fuse="delta")
    widths = {path: min(up.shape[0], down.shape[1]) for path, (down, up) in pairs(whole).items()}
    narrow = min(widths.values())
    assert len({min(width, 2 * len(refs)) for width in widths.values()}) > 1
    recipe = desk.recipe(i2l__compress_rank=narrow + 1)
    less = desk.lora(*refs, fuse="delta", recipe=recipe)
    assert {len(down) for down, _ in pairs(less).values()} == {narrow + 1}
    for path, (down, up) in pairs(less).items():
        full = pairs(whole)[path]
        left, values, right = torch.linalg.svd(full[1] @ full[0], full_matrices=False)
        kept = slice(min(narrow + 1, widths[path]))
        nearest = left[:, kept] * values[kept] @ right[kept]
        assert small.relative(up @ down, nearest) < 1e-4
    said = header.read(less)
    assert said is not None
    assert said.rank == narrow + 1


@pytest.mark.parametrize("strip", [False, True])
def test_the_colours_are_those_of_all_references_each_counting_the_same(
    desk: Desk, strip: bool
) -> None:
    pixels = [np.array(Image.open(ref)).reshape(-1, 3) / 255 for ref in desk.refs]
    mean = np.mean([one.mean(axis=0) for one in pixels], axis=0)
    spread = np.mean([(one - mean).T @ (one - mean) / len(one) for one in pixels], axis=0)
    for refs, fuse in ((desk.refs, "tokens"), (desk.refs[::-1], "delta")):
        path = desk.lora(*refs, fuse=fuse, strip=strip)
        colours = read(path, small.base_unet()).colours
        assert colours is not None
        assert np.allclose(colours.mean, mean, atol=1e-5)
        assert np.allclose(colours.covariance, spread, atol=1e-5)


def test_each_picture_gets_the_lora_it_gets_alone(desk: Desk) -> None:
    folder = desk.place("out/")
    results = list(desk.prepared(*desk.refs, output=folder, each=True).run())
    assert sorted(result.job.output.name for result in results) == [
        "ape.safetensors",
        "bee.safetensors",
        "cow.safetensors",
    ]
    alone = desk.lora(desk.refs[1])
    assert torch.equal(products(Path(folder) / "bee.safetensors"), products(alone))


def test_styles_are_averaged_exactly_or_by_their_factors(desk: Desk) -> None:
    folder, third = str(desk.folder / "pair"), desk.refs[2]
    for ref in desk.refs[:2]:
        (desk.folder / "pair").mkdir(exist_ok=True)
        (desk.folder / "pair" / Path(ref).name).write_bytes(Path(ref).read_bytes())
    one, other = pairs(desk.lora(*desk.refs[:2])), pairs(desk.lora(third))
    delta, factors = (
        desk.lora(folder, third, fuse="delta"),
        desk.lora(third, folder, fuse="factors"),
    )
    for path, (down, up) in pairs(delta).items():
        (a, b), (c, d) = one[path], other[path]
        assert small.relative(up @ down, (b @ a + d @ c) / 2) < 1e-5
        assert len(down) == len(a) + len(c)
    for path, (down, up) in pairs(factors).items():
        (a, b), (c, d) = one[path], other[path]
        assert small.relative(up @ down, (b + d) / 2 @ (a + c) / 2) < 1e-5
    said = header.read(delta)
    assert said is not None
    # Its neutral LoRA is that of the larger one.
    assert (said.kind, said.n_refs) == ("mix", 2)


def test_tokens_see_all_references_of_all_styles_in_one_pass(desk: Desk) -> None:
    flat = desk.lora(*desk.refs)
    assert torch.equal(products(desk.lora(str(desk.folder / "refs"))), products(flat))


def manifest(desk: Desk, *rows: dict[str, Any]) -> Path:
    desk.made += 1
    path = desk.folder / f"styles{desk.made}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_a_manifest_are_loras_and_one_that_cannot_be_read_fails_alone(desk: Desk) -> None:
    (desk.folder / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    listed = manifest(
        desk,
        {"id": "two", "refs": ["refs/ape.png", "refs/bee.png"]},
        {"id": "gone", "refs": ["refs/ape.png", "refs/nobody.png"]},
        {"id": "torn", "refs": "torn.png"},
        {"id": "x", "refs": ["refs/cow.png"], "output": "deep/er.safetensors"},
    )
    folder = Path(desk.place("out/"))
    prepared = predict(
        desk.recipe(),
        References.of([], manifest=listed),
        Destination(output=f"{folder}/"),
        Listener(),
        predictor=desk.predictor,
    )
    results = {result.job.output.name: result for result in prepared.run()}
    statuses = {name: result.status for name, result in results.items()}
    assert statuses == {
        "two.safetensors": "done",
        "gone.safetensors": "failed",
        "torn.safetensors": "failed",
        "er.safetensors": "done",
    }
    assert "nobody.png" in str(results["gone.safetensors"].error)
    assert (folder / "deep" / "er.safetensors").is_file()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "a"}, "refs is not a file"),
        ({"id": "a", "refs": []}, "refs is not a file"),
        ({"refs": ["refs/ape.png"]}, "no 'id'"),
        ({"id": "../a", "refs": ["refs/ape.png"]}, "leaves the output folder"),
        ({"id": "a", "refs": ["none*.png"]}, "matches no file"),
        ({"id": "a", "refs": ["refs/ape.png"], "seed": 3}, "unknown column 'seed'"),
    ],
)
def test_a_row_that_is_none_is_refused_with_its_place(
    desk: Desk, row: dict[str, Any], said: str
) -> None:
    listed = manifest(desk, row)
    asked, destination = References.of([], manifest=listed), Destination(output=desk.place("out/"))
    with pytest.raises(UsageError, match=said) as caught:
        predict(desk.recipe(), asked, destination, Listener(), predictor=desk.predictor)
    assert f"{listed.name}:1  " in caught.value.what


def test_more_references_than_trained_with_are_told_of_and_far_more_refused(desk: Desk) -> None:
    folder = desk.folder / "many"
    for i in range(MAX_REFERENCES + 1):
        draw(folder / f"{i}.png", seed=i)
    names = [str(folder / f"{i}.png") for i in range(MAX_REFERENCES + 1)]
    listener = Listener()
    desk.prepared(*names[: predictors.MAX_REFERENCES], listener=listener)
    assert not listener.said
    made(desk.prepared(*names[:MAX_REFERENCES], listener=listener))
    assert [text for text in listener.said if "trained with 3 at most" in text]
    with pytest.raises(UsageError, match="17 references: a predictor sees 16 at most"):
        desk.prepared(*names)


def test_a_predictor_of_another_backbone_is_refused_and_both_are_named(desk: Desk) -> None:
    recipe = load(flags={"backbone.id": "pocket", "device.name": "cpu"}).recipe
    with pytest.raises(UsageError, match=rf"LoRAs for {small.folder().name}, not for pocket"):
        desk.prepared(recipe=recipe)
    other = tiny.save_folder(desk.folder / "wider", channels=(16, 16, 32, 64))
    with pytest.raises(UsageError, match="not for wider"):
        desk.prepared(recipe=desk.recipe(backbone__id=str(other)))
    listener = Listener()
    twin = tiny.save_folder(desk.folder / "twin", seed=9)
    desk.prepared(recipe=desk.recipe(backbone__id=str(twin)), listener=listener)
    assert [text for text in listener.said if "other weights than twin's" in text]


def test_a_predictor_of_another_revision_is_told_of(desk: Desk) -> None:
    pinned = registry.SOURCES["sd15"].revision
    assert pinned is not None
    other = "0123456789abcdef"
    for trained, asked, told in (
        (pinned, None, False),
        (None, None, False),
        (other, other, False),
        (other, None, True),
        (pinned, other, True),
    ):
        predictor = predictors.save(
            desk.folder / "r.safetensors", small.folder(), backbone="sd15", revision=trained
        )
        listener = Listener()
        named = {"backbone__id": "sd15", "backbone__revision": asked}
        desk.prepared(recipe=desk.recipe(**named), predictor=predictor, listener=listener)
        doubts = [text for text in listener.said if f"for revision {str(trained)[:12]}" in text]
        assert len(doubts) == told, (trained, asked)


def test_what_is_missing_is_said_before_any_work(desk: Desk, monkeypatch: Any) -> None:
    with pytest.raises(InputError, match="no reference was named"):
        predict(desk.recipe(), References.of([]), Destination(output="x.safetensors"), Listener())
    with pytest.raises(UsageError, match="delta takes several styles"):
        References.of(["one/"], fuse="delta")
    with pytest.raises(UsageError, match="--each keeps styles apart"):
        References.of(["a", "b"], fuse="delta", each=True)
    with pytest.raises(WeightsError, match="no predictor that this program wrote"):
        desk.prepared(predictor=desk.lora())
    with pytest.raises(WeightsError, match="no predictor for sd15 is on this machine"):
        predict(
            load(flags={"backbone.id": "sd15"}).recipe,
            References.of(desk.refs),
            Destination(output="x.safetensors"),
            Listener(),
        )
    home = desk.folder / "weights"
    (home / "predictors").mkdir(parents=True)
    name = f"{small.folder().name}.safetensors"
    (home / "predictors" / name).write_bytes(desk.predictor.read_bytes())
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(home))
    prepared = predict(
        desk.recipe(),
        References.of(desk.refs),
        Destination(output=desk.place()),
        Listener(),
    )
    assert small.relative(products(made(prepared)), products(desk.lora())) == 0


@pytest.mark.parametrize("fuse", ["tokens", "delta"])
def test_it_is_made_again_byte_by_byte(desk: Desk, fuse: str) -> None:
    path = desk.lora(*desk.refs[:2], fuse=fuse)
    locator = locator_for([path], [desk.folder])
    machine = Machine(backbone=str(small.folder()))
    again = rerun(path, Origins(), locator, machine, Listener())
    assert not again.differences


def test_the_neutral_lora_beside_it_is_that_of_grey_pictures_and_made_again(desk: Desk) -> None:
    neutral = desk.folder / "neutral" / "n.safetensors"
    output = desk.lora(neutral_out=neutral, recipe=desk.recipe(i2l__scale=2.0))
    said = header.read(neutral)
    assert said is not None
    assert (said.kind, said.n_refs) == ("neutral", 3)
    grey = desk.folder / "grey"
    grey.mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8, 3), 128, np.uint8)).save(grey / f"{i}.png")
    names = [str(path) for path in sorted(grey.iterdir())]
    assert small.relative(products(neutral), 2 * by_hand(desk.predictor, names)) < 1e-5
    assert small.relative(products(neutral), products(output)) > 1e-3
    locator = locator_for([neutral], [desk.folder])
    machine = Machine(backbone=str(small.folder()))
    assert not rerun(neutral, Origins(), locator, machine, Listener()).differences
    with pytest.raises(UsageError, match="--neutral-out is one file"):
        desk.prepared(output=desk.place("o/"), each=True, neutral_out=neutral)


def test_previews_are_pictures_beside_the_loras_drawn_once(desk: Desk) -> None:
    flags = {"sampling__size": 32, "sampling__steps": 2}
    recipe = desk.recipe(**flags)
    prepared = desk.prepared(*desk.refs[:2], output=desk.place("o/"), each=True, recipe=recipe)
    assert previews(prepared, recipe, "a cat", Listener()) is None
    assert len(list(prepared.run())) == 2
    for wanted in ("done", "skipped"):
        drawn = previews(prepared, recipe, "a cat", Listener())
        assert drawn is not None
        results = list(drawn.run())
        assert [result.status for result in results] == [wanted] * 2
    assert sorted(result.job.output.name for result in results) == [
        "ape.preview.png",
        "bee.preview.png",
    ]
    one, other = (np.array(Image.open(result.job.output)) for result in results)
    assert (one != other).any()


def test_a_transformer_is_drawn_with_too_and_guided_from_the_neutral_side(desk: Desk) -> None:
    folder = tiny_flow.save_folder("z-image", desk.folder / "tiny-z")
    predictor = predictors.save(
        desk.folder / "z.safetensors", folder, kind="z-image", layer_set="full", size=0.6
    )
    settings = {"backbone__id": str(folder), "sampling__size": 32, "sampling__steps": 2}
    recipe = desk.recipe(sampling__guidance=3.0, **settings)
    prepared = desk.prepared(
        output=desk.place("o/z.safetensors"), recipe=recipe, predictor=predictor
    )
    lora = made(prepared)
    assert {key.partition(".")[0] for key in lora_layouts.lora.opened(lora)[0]} == {"transformer"}
    shown = {}
    for name in (None, "same", "none"):
        own = desk.recipe(sampling__guidance=3.0, sampling__negative_lora=name, **settings)
        for wanted in ("done", "skipped"):
            drawn = previews(prepared, own, "a cat", Listener())
            assert drawn is not None
            (result,) = drawn.run()
            assert result.status == wanted, result.error
        shown[name] = np.array(Image.open(result.job.output)).astype(int)
        result.job.output.unlink()
    assert np.abs(shown[None] - shown["same"]).max() > 1
    assert np.abs(shown["none"] - shown["same"]).max() > 1


@pytest.fixture(scope="module")
def z_image(desk: Desk) -> tuple[Path, Path]:
    """The folder of a model with refiners, and its predictor."""
    folder = tiny_flow.save_folder("z-image", desk.folder / "z")
    file = desk.folder / "refined.safetensors"
    return folder, predictors.save(file, folder, kind="z-image", layer_set="full", size=0.6)


def test_refiners_are_left_out_on_both_sides_of_guidance(
    desk: Desk, z_image: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, predictor = z_image
    usual = {"backbone__id": str(folder)}
    whole = desk.lora(recipe=desk.recipe(**usual), predictor=predictor)
    recipe = desk.recipe(i2l__exclude_refiners=True, **usual)
    beside = desk.folder / "less" / "n.safetensors"
    output = desk.place()
    less = desk.lora(output=output, recipe=recipe, predictor=predictor, neutral_out=beside)
    kept = {path for path in pairs(whole) if path.startswith("layers.")}
    assert 0 < len(kept) < len(pairs(whole))
    for path in (less, beside):
        assert pairs(path).keys() == kept
    assert all(torch.equal(pairs(less)[path][1], pairs(whole)[path][1]) for path in kept)
    again = desk.prepared(
        output=output, recipe=desk.recipe(**usual), predictor=predictor, neutral_out=beside
    )
    assert [result.status for result in again.run()] == ["failed"]

    looks = [neutral.of(Input.of("lora", path), is_needed=True) for path in (less, whole)]
    assert looks[0] is not None
    assert looks[1] is not None
    assert looks[0].look.sha256 != looks[1].look.sha256
    prepared = desk.prepared(recipe=recipe, predictor=predictor)
    context = prepared.session.context
    found = neutral.file_of(looks[0].look, recipe.i2l.encoder, context)
    assert pairs(found).keys() == kept
    assert small.relative(products(found), products(beside)) < 1e-6

    machine = Machine(backbone=str(folder))
    locator = locator_for([less], [desk.folder])
    assert not rerun(less, Origins(), locator, machine, Listener()).differences

    # Another device computes other last bits.
    load = Forward.load
    loads = []

    def noted(file: Path, settings: Any, there: Any, **more: Any) -> Forward:
        loads.append(there.device.type)
        return load(file, settings, context, **more)

    monkeypatch.setattr(Forward, "load", noted)
    gpu = replace(context, device=torch.device("cuda"))
    for there in (context, gpu, gpu):
        neutral.file_of(looks[0].look, recipe.i2l.encoder, there)
    assert loads == ["cuda"]


def test_settings_that_a_backbone_cannot_have_are_refused_before_any_work(
    desk: Desk, z_image: tuple[Path, Path]
) -> None:
    folder, predictor = z_image
    recipe = desk.recipe(backbone__id=str(folder), i2l__format="kohya")
    with pytest.raises(UsageError, match="kohya layout has names for the UNet"):
        desk.prepared(recipe=recipe, predictor=predictor)
    with pytest.raises(UsageError, match="--exclude-refiners") as caught:
        desk.prepared(recipe=desk.recipe(i2l__exclude_refiners=True))
    assert "only Z-Image has refiners" in str(caught.value.fix)


def test_a_predictor_of_others_is_told_from_a_file_that_is_none(desk: Desk) -> None:
    theirs = desk.folder / "theirs.safetensors"
    store.save_tensors(theirs, {"emb2lora.queries": torch.zeros(2, 4)}, {})
    with pytest.raises(ForeignPredictorError, match="second-generation predictor of other"):
        desk.prepared(predictor=theirs)
    damaged = desk.folder / "damaged.safetensors"
    store.save_tensors(damaged, {"x": torch.zeros(1)}, {"i2l.format": "1", "i2l.config": "{"})
    with pytest.raises(WeightsError, match="header of this predictor is damaged"):
        desk.prepared(predictor=damaged)


@pytest.mark.parametrize(
    ("name", "size"), [("z-image", 1024), ("flux2-klein", 1024), ("hidream-o1", 2048)]
)
def test_transformers_are_drawn_with_at_their_own_size(name: str, size: int) -> None:
    sampling = load(flags={"backbone.id": name}).recipe.sampling
    assert (sampling.size, sampling.guidance, sampling.steps) == (size, 4, 50)


def test_so_are_those_of_local_folders(desk: Desk, z_image: tuple[Path, Path]) -> None:
    flat = desk.folder / "flat"
    flat.mkdir()
    (flat / "config.json").write_text('{"model_type": "qwen3_vl"}')
    for folder, size in ((z_image[0], 1024), (flat, 2048)):
        found = load(flags={"backbone.id": str(folder)})
        assert (found.recipe.sampling.size, found.recipe.sampling.guidance) == (size, 4)
        assert found.origin["sampling.guidance"] == f"model {folder}"
    assert load(flags={"backbone.id": str(small.folder())}).recipe.sampling.guidance == 10.5
