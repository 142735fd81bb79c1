"""The settings in force: the recipe's, then less and less of what costs memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stylecli.backbone import registry, tuning
from stylecli.engine.context import RunContext
from stylecli.engine.runs import local
from stylecli.engine.runs.making import OneByOne
from stylecli.engine.session import Session
from stylecli.errors import UsageError
from stylecli.recipe.schema import Backbone, Device, Recipe
from tests import tiny, tiny_flow
from tests.engine.jobs import Listener, jobs
from tests.small import folder


def session(device: Device, kind: str = "cpu") -> Session:
    recipe = Recipe(backbone=Backbone(id=str(folder())), device=device)
    context = RunContext(torch.device(kind), torch.float32, Listener())
    return Session(recipe, context, registry.find(str(folder())), folder())


@pytest.mark.slow
def test_a_cpu_has_two_steps_and_the_model_follows() -> None:
    opened = session(Device())
    assert opened.backbone.tuned == {}
    assert opened.step_down() == "one row at a time"
    assert (opened.backbone.max_rows, opened.backbone.vae.use_tiling) == (1, False)
    assert opened.step_down() == "large pictures in tiles"
    assert (opened.backbone.max_rows, opened.backbone.vae.use_tiling) == (1, True)
    assert opened.device == Device(max_rows=1, tiling=True)
    assert opened.backbone.tuned == {"max_rows": 1, "tiling": True}
    assert opened.step_down() is None
    assert opened.recipe.device == Device()


@pytest.mark.slow
def test_of_a_unet_i2l_sees_the_very_model_that_others_see() -> None:
    opened = session(Device(max_rows=1))
    assert opened.denoiser.model is opened.backbone.unet
    assert opened.backbone.tuned == {"max_rows": 1}


def test_a_transformer_is_opened_for_those_who_ask_for_its_kind(tmp_path: Path) -> None:
    local = tiny_flow.save_folder("z-image", tmp_path / "local")
    recipe = Recipe(backbone=Backbone(id=str(local)), device=Device(name="cpu"))
    with pytest.raises(UsageError, match="is a transformer"):
        Session.open(recipe, Listener())
    opened = Session.open(recipe, Listener(), kinds=("unet", "z-image"))
    assert opened.denoiser.kind == "z-image"


@pytest.mark.parametrize(
    "device", [Device(max_rows=1), Device(tiling=True), Device(offload="parts")], ids=str
)
def test_a_transformer_refuses_settings_that_would_do_nothing(
    device: Device, tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "ZImagePipeline"}')
    recipe = Recipe(backbone=Backbone(id=str(tmp_path)), device=device)
    opened = Session.open(recipe, Listener(), kinds=("z-image",))
    with pytest.raises(UsageError, match=r"device\.(max_rows|tiling|offload) is for UNets"):
        _ = opened.denoiser


@pytest.mark.slow
def test_what_is_on_already_is_no_step() -> None:
    opened = session(Device(max_rows=1))
    assert [opened.step_down(), opened.step_down()] == ["large pictures in tiles", None]
    opened = session(Device(max_rows=4, tiling=True))
    assert [opened.step_down(), opened.step_down()] == ["one row at a time", None]


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("offload", "wanted"), [("none", ["parts", "blocks"]), ("parts", ["blocks"]), ("blocks", [])]
)
def test_a_gpu_then_lets_weights_wait(
    monkeypatch: pytest.MonkeyPatch, offload: str, wanted: list[str]
) -> None:
    opened = session(Device(offload=offload), "cuda")
    tuned: list[Device] = []
    monkeypatch.setattr(
        "stylecli.engine.session.tune", lambda _model, device, **_: tuned.append(device)
    )
    model = tiny.backbone(folder())
    monkeypatch.setattr("stylecli.engine.session.load", lambda *_, **__: model)
    said = []
    while how := opened.step_down():
        said.append(how)
    assert [one.offload for one in tuned[3:]] == wanted
    assert len(said) == 2 + len(wanted)


@pytest.mark.slow
def test_of_the_steps_only_those_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylecli.engine.session.tune", lambda *_, **__: None)
    model = tiny.backbone(folder())
    monkeypatch.setattr("stylecli.engine.session.load", lambda *_, **__: model)
    opened = session(Device(), "cuda")
    assert opened.step_down(among=("parts",)) == "with only the part at work on the GPU"
    assert opened.step_down(among=("parts",)) is None
    assert opened.device == Device(offload="parts")


@pytest.mark.slow
def test_what_waits_is_not_loaded_onto_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, model = [], tiny.backbone(folder())

    def load(*_: object, is_resident: bool, **__: object) -> object:
        asked.append(is_resident)
        return model

    monkeypatch.setattr("stylecli.engine.session.load", load)
    monkeypatch.setattr("stylecli.engine.session.tune", lambda *_, **__: None)
    for offload, kind in (("none", "cuda"), ("parts", "cuda"), ("parts", "cpu")):
        _ = session(Device(offload=offload), kind).backbone
    assert asked == [True, False, True]


@pytest.mark.slow
def test_the_recipe_is_in_force_from_the_start() -> None:
    opened = session(Device(max_rows=2, tiling=True, channels_last=False))
    model = opened.backbone
    assert (model.max_rows, model.vae.use_tiling, model.channels_last) == (2, True, False)
    weight = model.unet.conv_in.weight
    assert weight.is_contiguous()
    tuning.tune(model, Device())
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert (model.max_rows, model.vae.use_tiling, model.tuned) == (None, False, {})


@pytest.mark.gpu
def test_a_gpu_with_little_room_is_met_in_tiles(tmp_path: Path) -> None:
    opened, listener = session(Device(), "cuda"), Listener()
    latents = torch.randn(1, 4, 550, 550, device="cuda")
    opened.backbone.decode(latents[..., :32, :32])
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 150 * 2**20
    torch.cuda.set_per_process_memory_fraction(
        room / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        maker = OneByOne(
            lambda _: {"side": opened.backbone.decode(latents).shape[-1]}, opened.step_down
        )
        (result,) = local.work(jobs(tmp_path, 1), lambda: maker, listener)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (result.status, result.details) == ("done", {"side": 1100})
    assert opened.device.tiling
