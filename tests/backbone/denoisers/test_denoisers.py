"""What i2L relies on in every kind of model: rows of their own, gradients, times, orientation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from typing import Any, cast

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import CheckpointError

from stylecli.backbone import denoisers
from stylecli.backbone.denoisers import Denoiser
from stylecli.backbone.denoisers.stable_diffusion import StableDiffusion
from stylecli.backbone.registry import find
from stylecli.backbone.row_loras import Factors, Shape, applied, numbers
from stylecli.errors import RecipeError
from tests import tiny_flow
from tests.small import folder as unet_folder
from tests.small import noise, relative

CPU = torch.device("cpu")
KINDS = ("unet", "z-image", "flux2")
PROMPTS = ["a cat", "a red dog , in the picture of a cat", "dog"]
TIMES = {"unet": [20.0, 500.0, 990.0]}
SIGMAS = [0.1, 0.5, 0.95]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Denoiser]:
    folders = {"unet": unet_folder()}
    for kind in KINDS[1:]:
        folders[kind] = tiny_flow.save_folder(kind, tmp_path_factory.mktemp(kind))
    return {
        kind: denoisers.open(find(str(folder)), folder, device=CPU)
        for kind, folder in folders.items()
    }


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, opened: dict[str, Denoiser]) -> Iterator[Denoiser]:
    """Put back to no checkpointing; of its weights nothing ever changes."""
    yield opened[request.param]
    opened[request.param].checkpointing(on=False)


@pytest.fixture
def transformer(request: pytest.FixtureRequest, opened: dict[str, Denoiser]) -> Denoiser:
    return opened[request.param]


def factors_for(model: Denoiser, loras: int = 3, *, rank: int = 2, up: float = 0.3) -> Factors:
    """LoRAs of every layer of the model's usual set, each different from the others."""
    shapes = tuple(Shape(path, rank, i, o) for path, i, o in model.layers("auto"))
    packed = noise(loras, numbers(shapes), seed=9)
    factors = Factors(shapes, packed)
    for path in factors.down:
        factors.down[path].mul_(factors.down[path].shape[-1] ** -0.5)
        factors.up[path].mul_(up)
    packed.requires_grad_(True)
    return factors


def rows_of(model: Denoiser, count: int = 3) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Targets, times and prompts of unequal length."""
    pixels = torch.rand(count, 3, 48, 32, generator=Generator().manual_seed(1))
    times = torch.tensor(TIMES.get(model.kind, SIGMAS)[:count])
    return model.encode_target(pixels), times, model.encode_prompt(PROMPTS[:count])


@pytest.mark.mostly_slow
def test_a_batch_of_three_styles_is_three_runs_of_one(model: Denoiser) -> None:
    factors = factors_for(model)
    clean, times, prompts = rows_of(model)
    with torch.no_grad():
        with applied(model.model, factors, [2, 0, 1]):
            together = model.predict(clean, times, prompts)
        base = model.predict(clean, times, prompts)
        for row, slot in enumerate([2, 0, 1]):
            with applied(model.model, factors, [slot]):
                one = slice(row, row + 1)
                alone = model.predict(clean[one], times[one], prompts[one])
            assert relative(together[one], alone) < 1e-5
    assert relative(together, base) > 1e-3


@pytest.mark.parametrize("transformer", ["z-image"], indirect=True)
def test_rows_keep_their_loras_where_pictures_differ_in_size(transformer: Denoiser) -> None:
    net: Any = transformer.model
    factors = factors_for(transformer)
    pictures = [noise(4, 1, *size, seed=k) for k, size in enumerate([(16, 16), (24, 8), (8, 12)])]
    words, times = transformer.encode_prompt(PROMPTS), torch.tensor(SIGMAS)
    assert len({len(word) for word in words}) > 1
    with torch.no_grad():
        with applied(net, factors, [0, 1, 2]):
            together = net(pictures, times, words, return_dict=False)[0]
        for row, own in enumerate(together):
            with applied(net, factors, [row]):
                (alone,) = net([pictures[row]], times[row : row + 1], [words[row]]).sample
            assert relative(own, alone) < 1e-5


@pytest.mark.mostly_slow
def test_a_lora_of_nothing_changes_not_a_bit(model: Denoiser) -> None:
    clean, times, prompts = rows_of(model)
    with torch.no_grad():
        before = model.predict(clean, times, prompts)
        with applied(model.model, factors_for(model, up=0.0), [0, 1, 2]):
            assert torch.equal(model.predict(clean, times, prompts), before)


def test_rows_without_a_lora_of_their_own_are_an_error(model: Denoiser) -> None:
    """One LoRA is never spread over rows that it was not given to."""
    clean, times, prompts = rows_of(model)
    paths = "|".join(layer.path for layer in model.layers("auto"))
    for slots in ([0], [0, 1]):
        with (
            pytest.raises(ValueError, match=rf"^({paths}) sees 3 rows of a pass of {len(slots)}"),
            applied(model.model, factors_for(model), slots),
        ):
            model.predict(clean, times, prompts)


def gradient(model: Denoiser, factors: Factors) -> Tensor:
    clean, times, prompts = rows_of(model)
    factors.packed.grad = None
    with applied(model.model, factors, [1, 0, 2]):
        model.predict(clean, times, prompts).square().mean().backward()
    found: Tensor | None = factors.packed.grad
    assert found is not None
    return found.clone()


@pytest.mark.mostly_slow
def test_checkpointing_changes_no_gradient(model: Denoiser) -> None:
    factors = factors_for(model)
    plain = gradient(model, factors)
    model.checkpointing(on=True)
    # In eval mode, where the frozen model always is.
    assert not model.model.training
    assert relative(gradient(model, factors), plain) < 1e-6
    assert all(views.abs().sum() > 0 for views in plain)


@pytest.mark.mostly_slow
def test_leaving_before_the_way_back_is_an_error_with_checkpointing(model: Denoiser) -> None:
    model.checkpointing(on=True)
    clean, times, prompts = rows_of(model)
    with applied(model.model, factors_for(model), [0, 1, 2]):
        loss = model.predict(clean, times, prompts).square().mean()
    with pytest.raises(CheckpointError):
        loss.backward()


@pytest.mark.mostly_slow
def test_other_loras_on_the_way_back_are_an_error_with_checkpointing(model: Denoiser) -> None:
    """They have the same shapes, so nothing else would tell that gradients are wrong."""
    model.checkpointing(on=True)
    clean, times, prompts = rows_of(model)
    factors = factors_for(model)
    with applied(model.model, factors, [0, 1, 2]):
        loss = model.predict(clean, times, prompts).square().mean()
    with applied(model.model, factors, [0, 2, 1]), pytest.raises(CheckpointError):
        loss.backward()


@pytest.mark.mostly_slow
def test_a_block_within_a_block_is_refused(model: Denoiser) -> None:
    factors = factors_for(model)
    clean, times, prompts = rows_of(model)
    with torch.no_grad(), applied(model.model, factors, [0, 1, 2]):
        first = model.predict(clean, times, prompts)
        with (
            pytest.raises(RuntimeError, match="has LoRAs by the row already"),
            applied(model.model, factors, [2, 1, 0]),
        ):
            pytest.fail("the block was entered")
        assert torch.equal(model.predict(clean, times, prompts), first)


@pytest.mark.mostly_slow
def test_after_a_block_the_model_is_what_it_was(model: Denoiser) -> None:
    clean, times, prompts = rows_of(model)
    keys = list(model.model.state_dict())
    with torch.no_grad():
        before = model.predict(clean, times, prompts)
        with pytest.raises(ZeroDivisionError), applied(model.model, factors_for(model), [0, 1, 2]):
            raise ZeroDivisionError
        assert torch.equal(model.predict(clean, times, prompts), before)
    assert list(model.model.state_dict()) == keys
    assert not any(module._forward_hooks for module in model.model.modules())


def parts(model: Denoiser) -> list[nn.Module]:
    """The denoiser, the autoencoder and the text encoder."""
    if isinstance(model, StableDiffusion):
        own = model._backbone
        return [own.unet, own.vae, own.text_encoder]
    kept: Any = model
    return [kept.model, kept.vae, kept.text.model]


@pytest.mark.mostly_slow
def test_three_steps_of_training_touch_nothing_but_the_loras(model: Denoiser) -> None:
    before = [{k: v.clone() for k, v in part.state_dict().items()} for part in parts(model)]
    factors = factors_for(model)
    for _ in range(3):
        slope = gradient(model, factors)
        with torch.no_grad():
            factors.packed.sub_(0.1 * slope)
        factors = Factors(factors.shapes, factors.packed.detach().requires_grad_(True))
    for part, kept in zip(parts(model), before, strict=True):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())
        assert all(parameter.grad is None for parameter in part.parameters())
        assert all(torch.equal(value, kept[name]) for name, value in part.state_dict().items())


@pytest.mark.slow
def test_a_gradient_is_the_slope_of_finite_differences(opened: dict[str, Denoiser]) -> None:
    """In float64 through the whole UNet, along one direction."""
    import copy

    unet: Any = copy.deepcopy(opened["unet"].model).double()
    latents, words = noise(2, 4, 8, 8).double(), noise(2, 5, 32, seed=1).double()
    shapes = factors_for(opened["unet"]).shapes
    start = factors_for(opened["unet"], 2).packed.detach().double()
    way = noise(*start.shape, seed=4).double()

    def value(packed: Tensor) -> Tensor:
        with applied(unet, Factors(shapes, packed), [0, 1]):
            seen = unet(latents, 500, encoder_hidden_states=words, return_dict=False)[0]
        loss: Tensor = seen.square().mean()
        return loss

    packed = start.clone().requires_grad_(True)
    value(packed).backward()
    assert packed.grad is not None
    slope = float((packed.grad * way).sum())
    step = 1e-5
    with torch.no_grad():
        measured = float(value(start + step * way) - value(start - step * way)) / (2 * step)
    assert measured == pytest.approx(slope, rel=1e-6)


class Rigged(nn.Module):
    """Stands for a network: answers as told, and keeps what it was told of the time."""

    def __init__(self, answer: Tensor, config: Any) -> None:
        super().__init__()
        self.answer, self.config, self.told = answer, config, torch.empty(0)

    def forward(self, *inputs: Any, **named: Any) -> tuple[Any]:
        if isinstance(inputs[0] if inputs else None, list):  # Z-Image: a list of one-frame films
            self.told = inputs[1]
            return (list(self.answer.unsqueeze(2)),)
        if "timestep" in named:  # klein: tokens
            self.told = named["timestep"]
            assert named["guidance"] is None
            return (self.answer.flatten(2).mT,)
        self.told = inputs[1]
        return (self.answer,)


@contextmanager
def rigged(model: Denoiser, answer: Tensor) -> Iterator[Rigged]:
    real: Any = model.model
    stand_in = Rigged(answer, real.config)
    owner: Any = model._backbone if isinstance(model, StableDiffusion) else model
    name = "unet" if isinstance(model, StableDiffusion) else "model"
    setattr(owner, name, stand_in)
    try:
        yield stand_in
    finally:
        setattr(owner, name, real)


def direction(model: Denoiser, clean: Tensor, eps: Tensor) -> Tensor:
    return clean - eps if model.kind == "z-image" else eps - clean


@pytest.mark.mostly_slow
def test_the_exact_answer_has_no_loss_and_its_opposite_much(model: Denoiser) -> None:
    clean, times, prompts = rows_of(model)
    eps = model.draw_noise(clean, Generator().manual_seed(5))
    exact = eps if model.kind == "unet" else direction(model, clean, eps)
    place = model.noised(clean, eps, times)
    target = model.target(clean, eps, times)
    for answer, low, high in ((exact, 0.0, 1e-9), (-exact, 1.0, 1e9)):
        with rigged(model, answer):
            loss = (model.predict(place, times, prompts) - target).square().mean()
        assert low <= float(loss) <= high


def test_the_line_runs_from_the_picture_to_noise(opened: dict[str, Denoiser]) -> None:
    for model in (opened["z-image"], opened["flux2"]):
        clean = noise(3, 2, 4, 4)
        eps = noise(3, 2, 4, 4, seed=1)
        place = model.noised(clean, eps, torch.tensor([0.25, 0.5, 1.0]))
        assert torch.allclose(place[0], 0.75 * clean[0] + 0.25 * eps[0])
        assert torch.equal(place[2], eps[2])


@pytest.mark.slow
def test_a_velocity_model_is_taught_the_velocity() -> None:
    folder = unet_folder("v_prediction")
    model = denoisers.open(find(str(folder)), folder, device=CPU)
    clean, eps = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1)
    own: Any = model
    alpha = torch.tensor([own._backbone.schedule.alphas_cumprod[t] for t in (20, 500)])
    signal, spread = (x.sqrt().float().view(-1, 1, 1, 1) for x in (alpha, 1 - alpha))
    times = torch.tensor([20.0, 500.0])
    assert torch.allclose(model.target(clean, eps, times), signal * eps - spread * clean)
    assert torch.allclose(model.noised(clean, eps, times), signal * clean + spread * eps)


def test_each_network_is_told_the_time_in_its_own_words(model: Denoiser) -> None:
    clean, times, prompts = rows_of(model)
    with rigged(model, torch.zeros_like(clean)) as network:
        model.predict(clean, times, prompts)
    if model.kind == "unet":
        assert network.told.tolist() == [20, 500, 990]
        assert not network.told.is_floating_point()
    else:
        wanted = 1 - times if model.kind == "z-image" else times
        assert torch.allclose(network.told, wanted)


@pytest.mark.parametrize("transformer", KINDS[1:], indirect=True)
def test_the_exact_answer_leads_to_the_picture(transformer: Denoiser) -> None:
    """Every seed begins with noise of its own, which `draw_noise` draws."""
    model = transformer
    clean = model.encode_target(torch.rand(1, 3, 32, 32, generator=Generator().manual_seed(1)))
    eps = model.draw_noise(clean, Generator().manual_seed(7))
    with rigged(model, direction(model, clean, eps)):
        drawn = model.sample(
            model.encode_prompt(PROMPTS[:1]),
            model.encode_prompt([""]),
            seeds=[7],
            steps=4,
            guidance=1,
            applied=lambda _branch: nullcontext(),
            size=(32, 32),
        )
    assert torch.allclose(drawn, model.decode(clean), atol=1e-4)


def drawn_with(model: Denoiser, factors: Factors, sides: dict[str, Sequence[int | None]]) -> Tensor:
    return model.sample(
        model.encode_prompt(PROMPTS[:2]),
        model.encode_prompt([model.negative_prompt] * 2),
        seeds=[1, 2],
        steps=3,
        guidance=3.0,
        applied=lambda branch: applied(model.model, factors, sides[branch]),
        size=(32, 32),
    )


@pytest.mark.slow
def test_each_side_of_guidance_has_its_own_loras(model: Denoiser) -> None:
    factors = factors_for(model)
    both = drawn_with(model, factors, {"pos": [0, 1], "neg": [2, 2]})
    assert both.shape == (2, 3, 32, 32)
    assert 0 <= float(both.min()) <= float(both.max()) <= 1
    for other in ({"pos": [0, 1], "neg": [0, 1]}, {"pos": [2, 2], "neg": [0, 1]}):
        assert relative(drawn_with(model, factors, other), both) > 1e-4
    assert torch.equal(drawn_with(model, factors, {"pos": [0, 1], "neg": [2, 2]}), both)


def test_times_are_drawn_from_the_whole_range(model: Denoiser) -> None:
    drawn = model.sample_times(4000, Generator().manual_seed(0))
    assert torch.equal(drawn, model.sample_times(4000, Generator().manual_seed(0)))
    if model.kind == "unet":
        assert torch.equal(drawn, drawn.round())
        assert 0 <= float(drawn.min()) < 5
        assert 995 <= float(drawn.max()) < 1000
        return
    plain = model.sample_times(4000, Generator().manual_seed(0), shift=1.0)
    assert torch.allclose(plain * 1000, (plain * 1000).round(), atol=1e-3)
    assert float(plain.min()) > 0
    assert float(plain.max()) <= 1
    assert float(plain.mean()) == pytest.approx(0.5, abs=0.02)
    shift = {"z-image": 3.0, "flux2": 2.718281828459045**0.8}[model.kind]
    assert torch.allclose(drawn, shift * plain / (1 + (shift - 1) * plain))


@pytest.mark.parametrize("shift", [None, 1.0])
@pytest.mark.parametrize("transformer", KINDS[1:], indirect=True)
def test_a_bell_counts_the_middle_most_and_one_on_average(
    transformer: Denoiser, shift: float | None
) -> None:
    own = {"z-image": 3.0, "flux2": 2.718281828459045**0.8}[transformer.kind]
    by = shift or own
    grid = torch.tensor([by * (k / 1000) / (1 + (by - 1) * (k / 1000)) for k in range(1, 1001)])
    weights = transformer.weight(grid, "bell", shift=shift)
    assert float(weights.mean()) == pytest.approx(1, abs=1e-4)
    assert float(weights.min()) == pytest.approx(0, abs=1e-5)
    assert abs(float(grid[weights.argmax()]) - 0.5) < 0.01
    assert torch.equal(transformer.weight(grid, "none"), torch.ones(1000))


def test_little_noise_counts_less_and_one_on_average(opened: dict[str, Denoiser]) -> None:
    model = cast(StableDiffusion, opened["unet"])
    kept = torch.tensor(model._backbone.schedule.alphas_cumprod)
    weights = model.weight(torch.arange(len(kept)).float(), "min-snr").double()
    assert float(weights.mean()) == pytest.approx(1, abs=1e-5)
    # Every level with more noise than signal counts alike, the others by their error in pixels.
    noisy = kept < 0.5
    assert weights[noisy].std() < 1e-5
    clear = weights[~noisy] * kept[~noisy] / (1 - kept[~noisy])
    assert torch.allclose(clear, weights[noisy][0].expand_as(clear), rtol=1e-4)


def test_settings_of_flow_matching_are_refused_by_unets(opened: dict[str, Denoiser]) -> None:
    model = opened["unet"]
    assert torch.equal(model.weight(torch.tensor([3.0]), "none"), torch.ones(1))
    with pytest.raises(RecipeError, match=r"i2l\.train\.loss_weight"):
        model.weight(torch.tensor([3.0]), "bell")
    with pytest.raises(RecipeError, match=r"i2l\.train\.loss_weight"):
        opened["z-image"].weight(torch.tensor([0.5]), "min-snr")
    with pytest.raises(RecipeError, match=r"i2l\.train\.time_shift"):
        model.sample_times(1, Generator(), shift=3.0)


def test_noise_is_the_same_whatever_it_lies_beside(model: Denoiser) -> None:
    one = model.draw_noise(torch.empty(1, 2, 3, 3), Generator().manual_seed(2))
    assert torch.equal(one, noise(1, 2, 3, 3, seed=2))


def test_what_each_kind_says_of_itself(opened: dict[str, Denoiser]) -> None:
    assert {kind: model.multiple_px for kind, model in opened.items()} == {
        "unet": 16, "z-image": 4, "flux2": 4,
    }  # fmt: skip
    assert opened["unet"].native_px == 32
    assert list(accumulate(opened[kind].negative_prompt for kind in KINDS)) == ["", "", ""]
