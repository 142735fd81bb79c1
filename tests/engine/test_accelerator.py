"""A LoRA for few steps beside every look: what it changes, what counts it, and what refuses it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stylecli.artifacts import store
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.lora import LoraFile
from stylecli.engine import figures, generate, painting, restyle
from stylecli.engine.again.origins import Origins
from stylecli.engine.again.readings import Machine
from stylecli.engine.again.rerun import locator_for, rerun
from stylecli.engine.painter import Painter
from stylecli.engine.painting import Painting
from stylecli.engine.plan import Input
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.session import Session
from stylecli.engine.wardrobe import MAX_LOADED, Wardrobe
from stylecli.errors import InputError, UsageError
from stylecli.recipe.load import load
from stylecli.recipe.schema import Recipe
from tests import accelerators, small, tiny
from tests.cli.conftest import draw
from tests.engine.jobs import Listener

STEPS = 2


class Desk:
    """A content, a mask, LoRAs and an accelerator in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = draw(folder / "photo.png", seed=1, size=(32, 32))
        mask = np.zeros((32, 32), np.uint8)
        mask[:, 12:] = 255
        Image.fromarray(mask).save(folder / "half.png")
        unet = small.base_unet()
        self.fast = accelerators.save(folder / "fast.safetensors", accelerators.pairs(unet))
        self.loras = [
            accelerators.save(
                folder / f"look{i}.safetensors", small.lora(unet, seed=i), "diffusers"
            )
            for i in range(MAX_LOADED + 1)
        ]
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

    def places(self) -> tuple[Contents, Destination]:
        self.out += 1
        folder = f"{self.folder / str(self.out)}/"
        return Contents(arguments=[str(self.content)]), Destination(output=folder)

    def transfer(self, **more: Any) -> Prepared:
        return restyle.transfer(
            self.recipe(**more), *self.places(), Listener(), loras=self.loras[:1]
        )

    def switch(self, **more: Any) -> Prepared:
        """Half of it under a look, half under none."""
        schedule = f"{self.loras[0]}:0%-50%,base:50%-"
        return restyle.switch(
            self.recipe(sampling__schedule=schedule, **more), *self.places(), Listener()
        )

    def mask_transfer(self, **more: Any) -> Prepared:
        regions = [f"{self.folder / 'half.png'}={self.loras[0]}"]
        return restyle.mask_transfer(
            self.recipe(sampling__regions=regions, **more), *self.places(), Listener()
        )

    def generate(self, **more: Any) -> Prepared:
        _, destination = self.places()
        words = generate.Words(("a red cat",))
        return generate.generate(self.recipe(**more), words, destination, Listener())


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def painter(desk: Desk) -> Painter:
    return Painter(Session.open(desk.recipe(), Listener()))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The LoRAs of every pass of the model but inversions', and their strengths."""
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


def differs(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max() > 1)


def asked(desk: Desk, command: str, **more: Any) -> tuple[Painting, Recipe]:
    """What a command would have painted."""
    if command == "transfer":
        recipe = desk.recipe(**more)
        look = [Input.of("lora", desk.loras[0])]
        return painting.in_one_look(look, recipe.sampling), recipe
    if command == "switch":
        recipe = desk.recipe(sampling__schedule=f"{desk.loras[0]}:0%-50%,base:50%-", **more)
        return painting.over_time(recipe.sampling.schedule or (), recipe.sampling), recipe
    region = f"{desk.folder / 'half.png'}={desk.loras[0]}"
    recipe = desk.recipe(sampling__regions=[region], **more)
    return painting.of_regions(recipe, None), recipe


SITUATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "transfer": ("transfer", {}),
    "switch, half of it without a look": ("switch", {}),
    "mask-transfer": ("mask_transfer", {}),
    "repainted background": ("mask_transfer", {"sampling__background": "denoise"}),
    "background let go": ("mask_transfer", {"sampling__pin_until": "50%"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_pass_but_the_contents_own_has_it_and_at_strength_nought_none(
    desk: Desk, painter: Painter, passes: list[dict[str, float]], situation: str
) -> None:
    command, more = SITUATIONS[situation]

    def painted(**fast: Any) -> tuple[np.ndarray, list[dict[str, float]]]:
        passes.clear()
        wanted, recipe = asked(desk, command, **more, **fast)
        result = painter.paint_each(Input.of_content(desk.content), [wanted], recipe=recipe)[0]
        return result.pixels.numpy().astype(int), list(passes)

    plain, without = painted()
    on, full = painted(sampling__accelerator=str(desk.fast), sampling__accelerator_weight=0.7)
    nought = {"sampling__accelerator": str(desk.fast), "sampling__accelerator_weight": 0.0}
    off, same = painted(**nought)
    assert differs(on, plain)
    assert (off == plain).all()
    assert same == without
    name = painter.wardrobe.name(asked(desk, command, **nought)[0].accelerators[0])
    # The content looks first, but in the last step, where nothing is taken from it any more.
    sources = sum(name not in weights for weights in full)
    assert full[0] == {}
    assert sources == STEPS - 1
    targets = len(full) - sources
    per_step = 2 if situation == "repainted background" else 1
    assert targets == (3 if situation == "background let go" else per_step * STEPS)
    assert all(weights.get(name, 0.7) == 0.7 for weights in full)
    assert [{k: v for k, v in weights.items() if k != name} for weights in full] == without


@pytest.mark.slow
def test_words_are_drawn_with_it(desk: Desk) -> None:
    on, off = (
        pixels(
            made(
                desk.generate(
                    sampling__accelerator=str(desk.fast), sampling__accelerator_weight=weight
                )
            )
        )
        for weight in (1.0, 0.0)
    )
    assert differs(on, off)


@pytest.mark.slow
def test_it_counts_as_an_input_and_older_keys_are_as_they_were(desk: Desk) -> None:
    def key(**more: Any) -> str:
        return desk.transfer(**more).plan.jobs[0].key

    plain = key()
    assert key(sampling__accelerator_weight=0.3) == plain
    one = key(sampling__accelerator=str(desk.fast))
    moved = desk.folder / "elsewhere" / "other-name.safetensors"
    moved.parent.mkdir(exist_ok=True)
    moved.write_bytes(desk.fast.read_bytes())
    assert key(sampling__accelerator=str(moved)) == one != plain
    assert key(sampling__accelerator=str(desk.loras[1])) not in (one, plain)
    assert key(sampling__accelerator=str(desk.fast), sampling__accelerator_weight=0.3) != one
    assert key(sampling__timesteps="trailing") != plain
    assert key(injection__attn_steps="50%") == key(injection__attn_steps=1) == plain
    assert key(injection__attn_steps=2) != plain
    (job,) = desk.transfer(sampling__accelerator=str(desk.fast)).plan.jobs
    assert [item.role for item in job.inputs] == ["content", "lora", "accelerator"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        *("transfer", "generate"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("switch", "mask_transfer")),
    ],
)
def test_what_it_made_names_it_and_is_made_again(
    desk: Desk, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"sampling__accelerator": str(desk.fast), "sampling__timesteps": "lcm"}
    file = made(getattr(desk, command)(**settings))
    said = store.read_provenance(file)
    assert said is not None
    assert said["recipe"]["sampling"]["accelerator"] == "fast.safetensors"
    named = [(item["role"], item["name"]) for item in said["inputs"]]
    assert ("accelerator", "fast.safetensors") in named
    assert str(desk.folder) not in str(said)
    monkeypatch.setenv("STYLE_CACHE_DIR", str(desk.folder / f"cache of {command}"))
    locator = locator_for([file], [desk.folder])
    machine = Machine(backbone=str(small.folder()))
    assert not rerun(file, Origins(), locator, machine, Listener()).differences


@pytest.mark.slow
def test_a_figure_is_painted_with_it_and_made_again(desk: Desk) -> None:
    recipe = desk.recipe(sampling__accelerator=str(desk.fast))
    contents, destination = desk.places()
    prepared = restyle.transfer(
        recipe,
        contents,
        destination,
        Listener(),
        loras=desk.loras[:1],
        figure=figures.chosen(recipe, ["features=0%,50%,100%"]),
    )
    (result,) = prepared.run()
    assert result.status == "done", result.error
    assert [trend["axis"] for trend in result.row()["details"]["trends"]][:1] == ["features"]
    locator = locator_for([result.job.output], [desk.folder])
    machine = Machine(backbone=str(small.folder()))
    again = rerun(result.job.output, Origins(), locator, machine, Listener())
    assert not again.differences


@pytest.mark.slow
def test_it_stays_in_the_model_while_looks_come_and_go(
    desk: Desk, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    wardrobe = Wardrobe(tiny.backbone(small.folder()), painter.recipe, painter.context)
    added: list[str] = []
    add = wardrobe.adapters.add

    def noted(name: str, file: LoraFile) -> None:
        added.append(name)
        add(name, file)

    monkeypatch.setattr(wardrobe.adapters, "add", noted)
    sampling = desk.recipe(sampling__accelerator=str(desk.fast)).sampling
    for path in desk.loras:
        look = painting.in_one_look([Input.of("lora", path)], sampling)
        assert len(wardrobe.fetch(look.parts)) == 2
    assert len(added) == len(set(added)) == len(desk.loras) + 1


@pytest.mark.slow
def test_one_that_does_not_fit_is_refused_before_any_work(desk: Desk) -> None:
    wide = {
        name: torch.cat([tensor, tensor], dim=1) if ".lora_A." in name else tensor
        for name, tensor in accelerators.pairs(small.base_unet()).items()
    }
    path = accelerators.save(desk.folder / "xl.safetensors", wide)
    prepared = desk.transfer(sampling__accelerator=str(path))
    with pytest.raises(UsageError, match=r"xl\.safetensors: the LoRA fits 0 of the") as caught:
        list(prepared.run())
    assert "\n" not in caught.value.what


@pytest.mark.parametrize(
    ("name", "said"), [("nothing.safetensors", "does not exist"), ("photo.png", "is a picture")]
)
def test_one_that_is_none_is_refused_as_a_lora_is(desk: Desk, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        desk.transfer(sampling__accelerator=str(desk.folder / name))
    assert "\n" not in caught.value.what
