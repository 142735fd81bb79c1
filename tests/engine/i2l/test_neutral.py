"""The neutral LoRA in what commands paint and draw: when it is there, what counts, what is said."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylecli.artifacts import cache, store
from stylecli.backbone import lora_layouts
from stylecli.backbone.adapters import Adapters
from stylecli.engine import generate, painting, restyle
from stylecli.engine.again.origins import Origins
from stylecli.engine.again.readings import Machine
from stylecli.engine.again.rerun import locator_for, rerun
from stylecli.engine.i2l import neutral
from stylecli.engine.i2l.maker import Fuse
from stylecli.engine.i2l.predict import predict
from stylecli.engine.i2l.references import References
from stylecli.engine.lora_files.work import Mixing, mix
from stylecli.engine.painting import Painting
from stylecli.engine.plan import Input
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.session import Session
from stylecli.engine.tasks import Task, side_by_side
from stylecli.errors import UsageError, WeightsError
from stylecli.recipe.load import load
from stylecli.recipe.schema import Device, Recipe
from tests import accelerators, predictors, small
from tests.cli.conftest import draw
from tests.engine.jobs import Listener

pytestmark = pytest.mark.slow

STEPS = 2


class Desk:
    """A predicted LoRA, one that was not predicted, a predictor, and what to paint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = draw(folder / "photo.png", seed=1, size=(32, 32))
        self.predictor = predictors.save(folder / "far" / "p.safetensors", small.folder())
        self.refs = [str(draw(folder / f"{i}.png", seed=i + 3)) for i in range(2)]
        self.predicted = self.predict("predicted", *self.refs)
        self.trained = accelerators.save(
            folder / "trained.safetensors", small.lora(small.base_unet()), "diffusers"
        )
        self.out = 0

    def recipe(self, **more: Any) -> Recipe:
        values = {
            "backbone.id": str(small.folder()),
            "device.name": "cpu",
            "sampling.size": 32,
            "sampling.steps": STEPS,
            "sampling.guidance": 3.0,
            "sampling.composite": "none",
        }
        return load(flags={**values, **{k.replace("__", "."): v for k, v in more.items()}}).recipe

    def predict(
        self,
        name: str,
        *refs: str,
        predictor: Path | None = None,
        fuse: Fuse = "tokens",
        **more: Any,
    ) -> Path:
        prepared = predict(
            self.recipe(i2l__dtype="float32", **more),
            References.of(refs, fuse=fuse),
            Destination(output=str(self.folder / name / f"{name}.safetensors")),
            Listener(),
            predictor=predictor or self.predictor,
        )
        return made(prepared)

    def place(self) -> Destination:
        self.out += 1
        return Destination(output=f"{self.folder / str(self.out)}/")

    def transfer(self, *loras: Path, listener: Listener | None = None, **more: Any) -> Prepared:
        return restyle.transfer(
            self.recipe(**more),
            Contents(arguments=[str(self.content)]),
            self.place(),
            listener or Listener(),
            loras=loras or [self.predicted],
        )

    def generate(self, *loras: Path, listener: Listener | None = None, **more: Any) -> Prepared:
        return generate.generate(
            self.recipe(**more),
            generate.Words(("a red cat",)),
            self.place(),
            listener or Listener(),
            loras=loras or [self.predicted],
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    # The cache is another one in every test, and with it who remembers predictors.
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def known(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The predictor is among the user's weights."""
    home = desk.folder / "weights"
    kept = home / "predictors" / "p.safetensors"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(desk.predictor.read_bytes())
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(home))
    return kept


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The LoRAs of every pass of the model."""
    found: list[dict[str, float]] = []
    use = Adapters.use

    def noted(self: Adapters, weights: Mapping[str, float]) -> AbstractContextManager[None]:
        found.append(dict(weights))
        return use(self, weights)

    monkeypatch.setattr(Adapters, "use", noted)
    return found


def made(prepared: Prepared) -> Path:
    (result,) = prepared.run()
    assert result.status == "done", result.error
    return result.job.output


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path)).astype(int)


def key(prepared: Prepared) -> str:
    return prepared.plan.jobs[0].key


def painted(desk: Desk, path: Path, **more: Any) -> Painting:
    return painting.in_one_look([Input.of("lora", path)], desk.recipe(**more).sampling)


def negative(painted: Painting) -> Any:
    return painted.areas[0].stretches[0].negative


def test_it_is_what_the_predictor_makes_of_as_many_grey_pictures_and_is_kept(
    desk: Desk, known: Path
) -> None:
    folder = desk.folder / "greys"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(np.full((20, 30 + i, 3), 128, np.uint8)).save(folder / f"{i}.png")
    wanted = lora_layouts.read(desk.predict("grey", str(folder))).pairs
    (part,) = negative(painted(desk, desk.predicted))
    context = Session.open(desk.recipe(), Listener()).context
    settings = desk.recipe().i2l.encoder
    fresh = neutral.file_of(part.look, settings, context)
    first = fresh.read_bytes()
    found = lora_layouts.read(fresh).pairs
    assert found.keys() == wanted.keys()
    for path, (down, up) in found.items():
        assert small.relative(up @ down, wanted[path][1] @ wanted[path][0]) < 1e-5
    known.unlink()
    # Where it was used for the grey pictures.
    cache.cached("predictors", store.file_sha256(desk.predictor), ".safetensors").unlink()
    other = predictors.save(known.with_name("other.safetensors"), small.folder(), seed=4)
    assert neutral.file_of(part.look, settings, context) == fresh
    fresh.unlink()
    with pytest.raises(WeightsError, match="the predictor that made it is not on this machine"):
        neutral.file_of(part.look, settings, context)
    other.unlink()
    known.write_bytes(desk.predictor.read_bytes())
    assert neutral.file_of(part.look, settings, context).read_bytes() == first


def test_a_damaged_one_in_the_cache_is_made_anew(desk: Desk, known: Path) -> None:
    usual = pixels(made(desk.generate()))
    (kept,) = (cache.cache_dir() / neutral.SHELF).rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:200])
    listener = Listener()
    assert (pixels(made(desk.generate(listener=listener))) == usual).all()
    assert [text for text in listener.said if "is damaged" in text]


def test_margins_are_no_grey_so_sizes_count_where_references_get_them(
    desk: Desk, known: Path
) -> None:
    padding = predictors.save(known.with_name("pad.safetensors"), small.folder(), fit="pad")
    wide = str(draw(desk.folder / "wide.png", seed=9, size=(64, 16)))
    looks = {}
    for name, refs in (("square", desk.refs), ("mixed", [desk.refs[0], wide])):
        for predictor in (desk.predictor, padding):
            path = desk.predict(f"{name}-{predictor.stem}", *refs, predictor=predictor)
            (part,) = negative(painted(desk, path))
            looks[name, predictor] = part.look.sha256
    assert looks["square", desk.predictor] == looks["mixed", desk.predictor]
    assert looks["square", padding] != looks["mixed", padding]


def test_both_sides_of_guidance_see_their_own_lora_at_one_strength(
    desk: Desk, known: Path, uses: list[dict[str, float]]
) -> None:
    half = desk.predict("half", *desk.refs, i2l__scale=0.5)
    made(desk.generate(half, sampling__weight=0.6))
    sides = [use for use in uses if use]
    assert len(sides) == 2 * STEPS
    assert [list(use.values()) for use in sides[:2]] == [[0.3], [0.6]]
    assert sides[0].keys() != sides[1].keys()


def test_an_accelerator_works_on_both_sides(
    desk: Desk, known: Path, uses: list[dict[str, float]]
) -> None:
    fast = str(desk.trained)
    made(desk.generate(sampling__accelerator=fast, sampling__negative_lora="none"))
    sides = [use for use in uses if use]
    assert [len(use) for use in sides[:2]] == [1, 2]
    assert set(sides[0].items()) < set(sides[1].items())


def test_pictures_differ_by_what_the_negative_prompt_is_seen_under(desk: Desk, known: Path) -> None:
    other = str(desk.trained)
    shown = {
        name: pixels(made(desk.transfer(sampling__negative_lora=name)))
        for name in (None, "neutral", "same", "none", other)
    }
    assert (shown[None] == shown["neutral"]).all()
    names = ["neutral", "same", "none", other]
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            assert np.abs(shown[one] - shown[two]).max() > 1, (one, two)


@pytest.mark.parametrize("mode", ["rows", pytest.param("fused", marks=pytest.mark.slow)])
def test_every_way_of_applying_loras_draws_the_same(desk: Desk, known: Path, mode: str) -> None:
    usual = pixels(made(desk.generate()))
    other = pixels(made(desk.generate(device__adapters=mode)))
    assert np.abs(usual - other).max() <= 1
    assert np.abs(usual - pixels(made(desk.generate(sampling__negative_lora="same")))).max() > 1


def test_keys_change_only_where_it_changes_the_picture(desk: Desk, known: Path) -> None:
    trained = key(desk.transfer(desk.trained))
    assert key(desk.transfer(desk.trained, sampling__negative_lora="same")) == trained
    assert key(desk.transfer(desk.trained, sampling__negative_lora="none")) != trained
    plain = key(desk.transfer(sampling__negative_lora="same"))
    eq_9 = key(desk.transfer())
    assert key(desk.transfer(sampling__negative_lora="neutral")) == eq_9 != plain
    unguided = {"sampling__guidance": 1.0}
    keys = {
        key(desk.transfer(sampling__negative_lora=name, **unguided))
        for name in (None, "neutral", "none", str(desk.trained))
    }
    assert len(keys) == 1
    moved = desk.folder / "moved" / "other.safetensors"
    moved.parent.mkdir(exist_ok=True)
    moved.write_bytes(desk.trained.read_bytes())
    by_file = [
        key(desk.transfer(sampling__negative_lora=str(path))) for path in (desk.trained, moved)
    ]
    assert by_file[0] == by_file[1] not in (plain, eq_9)


def test_where_the_predictor_is_not_here_null_is_same_and_says_so_once(desk: Desk) -> None:
    listener = Listener()
    twin = desk.folder / "twin.safetensors"
    twin.write_bytes(desk.predicted.read_bytes())
    prepared = desk.transfer(desk.predicted, twin, listener=listener)
    assert key(prepared) == key(desk.transfer(sampling__negative_lora="same"))
    told = [text for text in listener.said if "the predictor that made it" in text]
    assert len(told) == 1
    assert store.file_sha256(desk.predictor)[:12] in told[0]
    quiet = Listener()
    desk.transfer(desk.trained, listener=quiet)
    desk.transfer(sampling__guidance=1.0, listener=quiet)
    desk.transfer(sampling__negative_lora="same", listener=quiet)
    assert not [text for text in quiet.said if "predictor" in text]


def test_neutral_by_name_is_refused_where_there_is_none(desk: Desk) -> None:
    with pytest.raises(WeightsError, match=store.file_sha256(desk.predictor)):
        desk.transfer(sampling__negative_lora="neutral")
    with pytest.raises(UsageError, match=r"trained\.safetensors has no neutral LoRA"):
        desk.transfer(desk.trained, sampling__negative_lora="neutral")
    with pytest.raises(UsageError, match=r"sampling\.negative_lora: LoRA nobody does not exist"):
        desk.transfer(sampling__negative_lora="nobody")


def test_a_predictor_is_found_beside_the_lora_or_where_it_was_used(desk: Desk) -> None:
    assert negative(painted(desk, desk.predicted)) is None
    beside = desk.predicted.with_name("beside.safetensors")
    beside.write_bytes(desk.predictor.read_bytes())
    assert negative(painted(desk, desk.predicted)) is not None
    beside.unlink()
    assert negative(painted(desk, desk.predicted)) is None
    desk.predict("again", *desk.refs)
    assert negative(painted(desk, desk.predicted)) is not None
    assert not [entry for entry in cache.prunable(cache.cache_dir()) if "predictor" in str(entry)]


def test_of_several_loras_each_predicted_one_has_its_own(desk: Desk, known: Path) -> None:
    schedule = f"{desk.predicted}*0.5+{desk.trained}*0.7:0%-50%,base:50%-"
    sampling = desk.recipe(sampling__schedule=schedule).sampling
    first, second = painting.over_time(sampling.schedule or (), sampling).areas[0].stretches
    assert first.negative is not None
    assert [(part.look.role, part.weight) for part in first.negative] == [
        ("neutral", 0.5),
        ("lora", 0.7),
    ]
    assert second.negative is None


def test_a_mix_of_one_predictors_loras_has_that_of_the_part_with_most_references(
    desk: Desk, known: Path
) -> None:
    pair = desk.folder / "both"
    pair.mkdir()
    for ref in desk.refs:
        (pair / Path(ref).name).write_bytes(Path(ref).read_bytes())
    alone = desk.predict("alone", desk.refs[0], i2l__scale=0.5)
    fused = desk.predict("fused", str(pair), desk.refs[1], fuse="delta")
    (own,) = negative(painted(desk, desk.predicted))
    for name, mixing, strength in (
        ("mean", Mixing(weights=(0.5, 0.5)), 0.5 * 1 + 0.5 * 0.5),
        ("factors", Mixing(weights=(2.0, 1.0), mode="factors"), 3 * (2 * 1 + 1 * 0.5)),
    ):
        place = Destination(output=str(desk.folder / "mixed" / f"{name}.safetensors"))
        (result,) = mix([desk.predicted, alone], mixing, place, Listener()).run()
        (part,) = negative(painted(desk, result.job.output, sampling__weight=1.0))
        assert part.look.sha256 == own.look.sha256
        assert part.weight == pytest.approx(strength)
    (part,) = negative(painted(desk, fused))
    assert part.look.sha256 == own.look.sha256


def test_a_region_without_guidance_has_none(desk: Desk, known: Path) -> None:
    mask = desk.folder / "half.png"
    Image.fromarray(np.repeat(np.uint8([[0, 255]]), 32, 0).repeat(16, 1)).save(mask)
    recipe = desk.recipe(
        sampling__regions=[
            {"mask": str(mask), "schedule": str(desk.predicted), "guidance": 1.0},
            {"mask": str(mask), "schedule": str(desk.predicted)},
        ]
    )
    unguided, guided = painting.of_regions(recipe, None).areas
    assert unguided.stretches[0].negative is None
    assert guided.stretches[0].negative is not None


@pytest.mark.parametrize(
    "name", ["FILE", *(pytest.param(name, marks=pytest.mark.slow) for name in (None, "none"))]
)
def test_what_was_made_with_it_is_made_again(desk: Desk, known: Path, name: str | None) -> None:
    chosen = str(desk.trained) if name == "FILE" else name
    file = made(desk.generate(sampling__negative_lora=chosen))
    said = store.read_provenance(file)
    assert said is not None
    assert str(desk.folder) not in str(said)
    roles = [item["role"] for item in said["inputs"]]
    assert roles == ["prompt", "lora", *(["negative"] if name == "FILE" else [])]
    locator = locator_for([file], [desk.folder])
    machine = Machine(backbone=str(small.folder()))
    assert not rerun(file, Origins(), locator, machine, Listener()).differences


def test_one_made_without_its_predictor_is_made_again_where_that_is(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = made(desk.generate())
    home = desk.folder / "late"
    (home / "predictors").mkdir(parents=True)
    (home / "predictors" / "p.safetensors").write_bytes(desk.predictor.read_bytes())
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(home))
    locator = locator_for([file], [desk.folder])
    machine = Machine(backbone=str(small.folder()))
    assert not rerun(file, Origins(), locator, machine, Listener()).differences


def test_half_as_many_looks_fit_side_by_side_when_each_has_two_fused_copies(
    desk: Desk, known: Path
) -> None:
    content = Input.of_content(desk.content)
    device = Device(adapters="fused", looks=8)
    for name, fitting in (("same", 8), ("neutral", 4)):
        recipe = desk.recipe(sampling__negative_lora=name)
        one = painting.in_one_look([Input.of("lora", desk.predicted)], recipe.sampling)
        assert side_by_side([Task(content, one, recipe)] * 12, device) == fitting


def test_methods_that_take_no_lora_refuse_one(desk: Desk) -> None:
    recipe = desk.recipe(sampling__method="styleid", sampling__negative_lora="none")
    with pytest.raises(UsageError, match="no negative prompt is seen under a LoRA"):
        restyle.transfer(
            recipe,
            Contents(arguments=[str(desk.content)]),
            desk.place(),
            Listener(),
            styles=[desk.refs[0]],
        )
