"""Depth by the real classes, as their own pipeline of processor and network has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stylecli.errors import WeightsError
from stylecli.masks import hub
from stylecli.masks.depth import Depth
from tests.masks import finders
from tests.masks.setups import picture, setup


@pytest.mark.slow
def test_the_map_is_the_networks_own_and_covers_the_whole_picture(tmp_path: Path) -> None:
    from transformers import DepthAnythingForDepthEstimation

    folder = finders.depth(tmp_path / "depth")
    image = picture(60, 30)
    found = Depth(hub.Networks(setup()), str(folder)).of(image)
    # The scale closer to one, 28 of 30, is that of both sides; then whole patches.
    assert tuple(found.shape) == (28, 56)
    resized = np.asarray(image.resize((56, 28), 3), dtype=np.float32) / 255
    mean, std = (torch.tensor([v]) for v in (0.5, 0.5))
    pixels = (torch.from_numpy(resized).permute(2, 0, 1)[None] - mean) / std
    network = DepthAnythingForDepthEstimation.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = network(pixel_values=pixels).predicted_depth[0]
    assert found.std() > 0
    assert torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.slow
def test_a_network_that_is_nowhere_names_the_command_that_fetches_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("STYLE_WEIGHTS_DIR", raising=False)
    for missing in (
        lambda: Depth(hub.Networks(setup(), fetch="THAT COMMAND"), "no/such-depth").of(picture()),
        lambda: hub.look_for("no/such-depth", fetch="THAT COMMAND"),
    ):
        with pytest.raises(WeightsError, match="no/such-depth are not on this machine") as caught:
            missing()
        assert "THAT COMMAND fetches them" in caught.value.fix
        assert caught.value.exit_status == 4
    with pytest.raises(WeightsError, match="no folder"):
        hub.look_for("./nowhere")


def test_a_tensor_that_is_missing_is_not_drawn_at_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = finders.depth(tmp_path / "depth")
    tensors = load_file(folder / "model.safetensors")
    name = next(key for key in tensors if key.startswith("head."))
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=name):
        Depth(hub.Networks(setup()), str(folder)).of(picture())


def test_what_lies_in_the_folder_of_weights_is_found_by_its_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finders.depth(tmp_path / "some" / "depth")
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(tmp_path))
    hub.look_for("some/depth")
    assert Depth(hub.Networks(setup()), "some/depth").of(picture()).ndim == 2
