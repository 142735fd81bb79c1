"""Settings of memory and speed: what they may change of a result, and what they must not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stylecli.backbone import tuning
from stylecli.backbone.model import Backbone
from stylecli.errors import UsageError
from stylecli.recipe.schema import Device
from tests import tiny
from tests.small import lora, noise, outputs, relative, with_loras


@pytest.mark.mostly_slow
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_pictures_in_chunks_are_those_pictures(fresh: Backbone, rows: int) -> None:
    """Each chunk gives what it gives alone, and together they are all there."""
    pictures, latents = noise(5, 3, 32, 24).sigmoid(), noise(5, 4, 16, 12)
    chunks = [slice(at, at + rows) for at in range(0, 5, rows)]
    wanted = [fresh.posterior(pictures[chunk]) for chunk in chunks]
    decoded = torch.cat([fresh.decode(latents[chunk]) for chunk in chunks])
    whole = fresh.decode(latents)
    tuning.tune(fresh, Device(max_rows=rows))
    mean, deviation = fresh.posterior(pictures)
    assert torch.equal(mean, torch.cat([one for one, _ in wanted]))
    assert torch.equal(deviation, torch.cat([one for _, one in wanted]))
    assert torch.equal(fresh.decode(latents), decoded)
    torch.testing.assert_close(decoded, whole)


@pytest.mark.slow
def test_tuning_again_with_the_usual_settings_is_as_if_nothing_had_been(fresh: Backbone) -> None:
    def all_of_it() -> list[torch.Tensor]:
        return [outputs(fresh), fresh.decode(noise(2, 4, 24, 24))]

    before = all_of_it()
    tuning.tune(fresh, Device(max_rows=1, tiling=True, channels_last=False))
    assert fresh.tuned == {"max_rows": 1, "tiling": True, "channels_last": False}
    lowered = all_of_it()
    for _ in range(2):
        tuning.tune(fresh, Device())
        for was, now in zip(before, all_of_it(), strict=True):
            assert torch.equal(was, now)
    assert fresh.tuned == {}
    assert relative(lowered[0], before[0]) < 1e-5


@pytest.mark.slow
def test_the_layout_changes_no_more_than_last_bits(fresh: Backbone) -> None:
    unet = outputs(fresh)
    pictures = fresh.decode(noise(2, 4, 8, 8))
    tuning.tune(fresh, Device(channels_last=False))
    convolution = fresh.vae.decoder.conv_in.weight
    assert convolution.is_contiguous()
    assert not convolution.is_contiguous(memory_format=torch.channels_last)
    assert relative(outputs(fresh), unet) < 1e-5
    torch.testing.assert_close(fresh.decode(noise(2, 4, 8, 8)), pictures)


def tile_px(backbone: Backbone) -> int:
    return int(backbone.vae.tile_sample_min_size)


@pytest.mark.slow
def test_pictures_no_larger_than_a_tile_have_the_same_bits(fresh: Backbone) -> None:
    tuning.tune(fresh, Device(tiling=True))
    side = tile_px(fresh)
    assert side == 32
    small = noise(2, 3, side, side - 8).sigmoid()
    tiled = fresh.encode_image(small), fresh.decode(noise(1, 4, side // 2, side // 2))
    tuning.tune(fresh, Device())
    whole = fresh.encode_image(small), fresh.decode(noise(1, 4, side // 2, side // 2))
    assert all(torch.equal(a, b) for a, b in zip(tiled, whole, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("trained", [8, 20, 32, 44, (64, 48), 4096])
@pytest.mark.parametrize("height", [40, 64, 72, 104])
def test_tiles_fit_together_whatever_size_a_model_was_trained_at(
    fresh: Backbone, trained: int | tuple[int, int], height: int
) -> None:
    """A tile whose quarter is no whole cell would lose rows at every seam."""
    fresh.vae.register_to_config(sample_size=trained)
    tuning.tune(fresh, Device(tiling=True))
    assert tile_px(fresh) % 8 == 0
    assert 0 < tile_px(fresh) <= max(8, tuning.TILE_PX)
    assert fresh.vae.tile_latent_min_size * fresh.latent_px == tile_px(fresh)
    latents = fresh.encode_image(noise(1, 3, height, 40).sigmoid())
    assert latents.shape == (1, 4, height // 2, 20)
    assert fresh.decode(latents).shape == (1, 3, height, 40)


def test_in_tiles_a_large_picture_is_near_what_it_is_whole(fresh: Backbone) -> None:
    """Only what a convolution sees of its surroundings, and how bright those are, is missing."""
    latents = noise(1, 4, 48, 48) * 0.1
    whole = fresh.decode(latents)
    tuning.tune(fresh, Device(tiling=True))
    tiled = fresh.decode(latents)
    assert not torch.equal(tiled, whole)
    assert relative(tiled, whole) < 0.2


# Compiling


@pytest.fixture(scope="module")
def even_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model with few kinds of layers, each of which takes a compiler its time."""
    return tiny.save_folder(tmp_path_factory.mktemp("even"), channels=(16, 16, 16, 16))


@pytest.fixture
def even(even_folder: Path) -> Backbone:
    return tiny.backbone(even_folder)


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With what is compiled by this test alone."""
    torch._dynamo.reset()
    monkeypatch.setattr(tuning, "_refuse_without_compiler", lambda *_: None)
    with torch._dynamo.config.patch():
        yield
    torch._dynamo.reset()


@pytest.fixture
def counted(compiling: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kinds of the regions whose graphs were compiled; they are run as they were captured."""
    made: list[str] = []
    compile_ = torch.compile

    def counting(forward: Any, **given: Any) -> Any:
        kind = type(forward.__self__).__name__

        def backend(graph: torch.fx.GraphModule, _examples: object) -> Any:
            made.append(kind)
            return graph.forward

        return compile_(forward, fullgraph=given["fullgraph"], backend=backend)

    monkeypatch.setattr(torch, "compile", counting)
    return made


@pytest.fixture
def one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the regions around the injected features are compiled."""
    all_of_them = tuning._regions
    monkeypatch.setattr(tuning, "_regions", lambda unet: all_of_them(unet.up_blocks[1]))


def sampled(backbone: Backbone, steps: int, names: list[str], rows: int = 1) -> torch.Tensor:
    """Steps as the sampler makes them: a source pass that ends early, then a pass for each look."""
    from stylecli.backbone.attention import UnetExchange
    from stylecli.backbone.layers import decoder_layers

    adapters = with_loras(
        backbone, **{name: lora(backbone.unet, seed=i) for i, name in enumerate(names)}
    )
    layers = decoder_layers(backbone.unet)
    exchange = UnetExchange(
        features=[layers[4]],
        attention=[name for layer in layers[4:] for name in layer.self_attention],
    )
    prompts = backbone.encode_prompt(["a cat", ""])
    latents = noise(rows, 4, 8, 8)
    with torch.inference_mode(), exchange.installed(backbone.unet):
        for step in range(steps):
            timestep = 1000 - step * 20
            with adapters.use({}), exchange.taking(features=True, attention=True, stop=True):
                backbone.predict(latents, timestep, prompts[:1].expand(rows, -1, -1))
            for name in names:
                with adapters.use({name: 1.0}), exchange.giving(features=step < 9, kappa=0.5):
                    seen = backbone.predict(
                        latents.repeat(2, 1, 1, 1), timestep, prompts.repeat_interleave(rows, 0)
                    )
                latents = latents - 0.01 * seen[:rows]
    for name in names:
        adapters.remove(name)
    return latents


@pytest.mark.slow
def test_steps_looks_and_sizes_of_batches_compile_nothing_new(
    even: Backbone, counted: list[str]
) -> None:
    tuning.tune(even, Device(compile="default"), warn=pytest.fail)
    sampled(even, 2, ["a"])
    few = len(counted)
    assert set(counted) == {"ResnetBlock2D", "FeedForward"}
    sampled(even, 50, ["a", "b", "c"])
    assert len(counted) == few
    sampled(even, 2, ["a"], rows=2)
    bounded = len(counted)
    for rows in (3, 4, 5):
        sampled(even, 1, ["a"], rows=rows)
    assert len(counted) == bounded < tuning.MOST_GRAPHS


@pytest.mark.slow
def test_hooks_gradients_and_injected_features_are_those_of_the_model_as_written(
    even: Backbone, even_folder: Path, one_block: None, counted: list[str]
) -> None:
    plain = tiny.backbone(even_folder)
    tuning.tune(even, Device(compile="default"), warn=pytest.fail)
    assert torch.equal(sampled(even, 3, ["a"]), sampled(plain, 3, ["a"]))
    assert torch.equal(outputs(even), outputs(plain))
    graphs = len(counted)
    seen: list[torch.Tensor] = []
    inside = even.unet.up_blocks[1].resnets[0].conv2
    handle = inside.register_forward_hook(lambda _module, _given, out: seen.append(out))
    assert torch.equal(outputs(even), outputs(plain))
    handle.remove()
    assert len(seen) == 1
    latents = noise(1, 4, 8, 8).requires_grad_()
    even.predict(latents, 5, even.encode_prompt(["a"]).clone()).sum().backward()
    assert latents.grad is not None
    assert len(counted) == graphs


@pytest.mark.slow
def test_what_is_off_again_is_as_it_was(
    even: Backbone, one_block: None, counted: list[str]
) -> None:
    before = outputs(even)
    tuning.tune(even, Device(compile="default"))
    outputs(even)
    tuning.tune(even, Device())
    graphs = len(counted)
    assert torch.equal(outputs(even), before)
    assert len(counted) == graphs > 0
    assert not [m for m in even.unet.modules() if "forward" in m.__dict__]


@pytest.mark.slow
def test_more_shapes_than_are_compiled_are_said_once_and_run_as_written(
    even: Backbone, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = outputs(even)
    monkeypatch.setattr(tuning, "MOST_GRAPHS", 1)
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    said: list[str] = []
    tuning.tune(even, Device(compile="default"), warn=said.append)
    assert torch.equal(outputs(even), before)
    assert torch.equal(outputs(even), before)
    assert sorted({text.split(" ")[1] for text in said}) == ["FeedForward", "ResnetBlock2D"]
    assert len(said) == len(set(said)) == 2


def test_without_a_compiler_it_is_refused_in_one_line_before_any_work(
    fresh: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> Any:
        def fail(_numbers: torch.Tensor) -> None:
            raise RuntimeError("No working C++ compiler found\nin a long story")

        return fail

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(UsageError) as caught:
        tuning.tune(fresh, Device(compile="max-autotune"))
    assert caught.value.what == (
        "device.compile max-autotune: this machine cannot compile: No working C++ compiler found"
    )
    assert "device.compile=none" in caught.value.fix
    assert not [m for m in fresh.unet.modules() if "forward" in m.__dict__]


@pytest.mark.slow
def test_the_compiler_of_this_machine_gives_the_same_to_1e_5(tmp_path: Any) -> None:
    """In a process of its own: a compiler that is missing is refused there too."""
    script = """
import sys, torch
from stylecli.backbone import tuning
from stylecli.errors import UsageError
from stylecli.recipe.schema import Device
from tests import tiny
from tests.backbone.test_tuning import sampled
from tests.small import folder, relative
# A compiler takes its time, so one block stands for all.
regions = tuning._regions
tuning._regions = lambda unet: regions(unet.up_blocks[1])
plain, model = tiny.backbone(folder()), tiny.backbone(folder())
try:
    tuning.tune(model, Device(compile="default"))
except UsageError as error:
    sys.exit(f"refused: {error.what}")
print(relative(sampled(model, 2, ["a", "b"]), sampled(plain, 2, ["a", "b"])))
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        import os

        cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
        return subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, **cache, "TORCHINDUCTOR_COMPILE_THREADS": "1", **environment},
            check=False,
        )

    missing = run(CXX="no-such-compiler", PATH=str(tmp_path))
    assert missing.returncode == 1
    assert "refused: device.compile default: this machine cannot compile" in missing.stderr
    done = run()
    assert done.returncode == 0, done.stderr
    error, graphs = done.stdout.split()
    assert float(error) < 1e-5
    assert int(graphs) > 1
