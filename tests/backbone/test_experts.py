"""Experts of one frozen model: one learns, the others and the base stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from stylecli.backbone import lora
from stylecli.backbone.experts import Experts, Init
from stylecli.errors import RecipeError, UsageError, WeightsError

ENDS = ("to_q", "to_k", "to_v", "to_out.0")


def unet(seed: int = 0) -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=12,
            attention_head_dim=4,
        ).eval()


def every_linear(model: nn.Module) -> list[str]:
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]


def targets(model: nn.Module) -> list[str]:
    return [name for name in every_linear(model) if name.endswith(ENDS)]


def answer(model: nn.Module, *, seed: int = 3) -> Tensor:
    chance = Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    noisy = torch.randn(2, 8, 8, 8, generator=chance).to(dtype)
    text = torch.randn(2, 5, 12, generator=chance).to(dtype)
    out: Tensor = model(noisy, torch.tensor([3, 500]), text, return_dict=False)[0]
    return out


def experts(*ids: str, model: nn.Module | None = None, trained: bool = True) -> Experts:
    found = Experts(unet() if model is None else model)
    for place, style_id in enumerate(ids):
        add(found, style_id, seed=place)
        if trained:
            train(found, style_id, seed=place)
    return found


def add(
    found: Experts, style_id: str, *, seed: int = 0, rank: int = 2, init: Init = "gaussian"
) -> None:
    paths = [path.removesuffix(".base_layer") for path in every_linear(found._model)]
    names = [path for path in dict.fromkeys(paths) if path.endswith(ENDS)]
    found.new(style_id, names, rank=rank, init=init, generator=Generator().manual_seed(seed))


def train(found: Experts, style_id: str, *, seed: int = 0) -> None:
    """Numbers as after some steps."""
    chance = Generator().manual_seed(100 + seed)
    for name, value in found.parameters(style_id).items():
        if ".lora_B." in name:
            value.data.copy_(torch.randn(value.shape, generator=chance) * 0.2)


@torch.no_grad()
def out(found: Experts, weights: dict[str, float] | None = None) -> Tensor:
    with found.mixed(weights or {}):
        return answer(found._model)


@pytest.mark.slow
def test_a_new_expert_and_none_at_all_are_the_base() -> None:
    model = unet()
    with torch.no_grad():
        base = answer(model)
    found = experts("a", model=model, trained=False)
    assert torch.equal(out(found, {"a": 1.0}), base)
    assert torch.equal(out(found), base)
    train(found, "a")
    assert not torch.allclose(out(found, {"a": 1.0}), base)
    with found.only("a"), found.none(), torch.no_grad():
        assert torch.equal(answer(model), base)
    with torch.no_grad():
        assert torch.equal(answer(model), base)


@pytest.mark.slow
def test_gradients_and_steps_change_the_active_expert_alone() -> None:
    found = experts("a", "b")
    base = {k: v.clone() for k, v in found._model.state_dict().items() if ".lora_" not in k}
    other = {k: v.detach().clone() for k, v in found.parameters("b").items()}
    own = {k: v.detach().clone() for k, v in found.parameters("a").items()}
    optimisers = {
        style_id: torch.optim.AdamW(found.parameters(style_id).values(), lr=0.1)
        for style_id in ("a", "b")
    }
    for _ in range(2):
        for optimiser in optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        with found.learning("a"):
            answer(found._model).square().mean().backward()
        assert all(value.grad is not None for value in found.parameters("a").values())
        assert all(value.grad is None for value in found.parameters("b").values())
        for optimiser in optimisers.values():
            optimiser.step()
    learned = {id(value) for value in found.parameters("a").values()}
    for parameter in found._model.parameters():
        assert parameter.grad is None or id(parameter) in learned
        assert not parameter.requires_grad, "outside the block nothing learns"
    assert all(not torch.equal(v, own[k]) for k, v in found.parameters("a").items())
    assert all(torch.equal(v, other[k]) for k, v in found.parameters("b").items())
    now = found._model.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in base.items())


@pytest.mark.slow
def test_adding_training_and_removing_one_leaves_the_others_bits_alone() -> None:
    found = experts("a")
    before = out(found, {"a": 1.0})
    add(found, "b", seed=7, rank=3)
    assert torch.equal(out(found, {"a": 1.0}), before)
    with found.learning("b"):
        answer(found._model).square().mean().backward()
    for value in found.parameters("b").values():
        value.data.add_(1.0)
    found.tensors("b")
    assert torch.equal(out(found, {"a": 1.0}), before)
    found.remove("b")
    assert found.ids == ("a",)
    assert torch.equal(out(found, {"a": 1.0}), before)
    add(found, "b")
    assert torch.equal(out(found, {"a": 1.0}), before)


def test_a_mix_is_the_sum_and_leaves_no_scale_behind() -> None:
    found = experts("a", "b")
    alone = out(found, {"a": 1.0})
    mixed = out(found, {"a": 0.25, "b": 0.75})
    assert torch.equal(out(found, {"a": 1.0}), alone)
    with pytest.raises(ZeroDivisionError), found.mixed({"a": 0.5}):
        raise ZeroDivisionError
    assert torch.equal(out(found, {"a": 1.0}), alone)
    model = unet()
    for path in targets(model):
        layer = model.get_submodule(path)
        for style_id, weight in (("a", 0.25), ("b", 0.75)):
            down, up = (
                found.parameters(style_id)[f"{path}.lora_{half}.weight"] for half in ("A", "B")
            )
            layer.weight.data += weight * (up @ down).detach()
    with torch.no_grad():
        assert torch.allclose(answer(model), mixed, atol=1e-5)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("kind", ["unet", "transformer"])
def test_what_is_saved_the_stock_pipeline_loads_to_the_same_answer(
    kind: str, tmp_path: Path
) -> None:
    build, asked = (unet, answer) if kind == "unet" else (transformer, flux_answer)
    found = Experts(build())
    found.new("a", targets(found._model), rank=2, alpha=3.0, generator=Generator().manual_seed(0))
    train(found, "a")
    tensors, header = found.tensors("a"), found.header("a")
    assert all(key.startswith(f"{kind}.") for key in tensors)
    save_file(tensors, tmp_path / "a.safetensors", header)
    with torch.no_grad(), found.only("a"):
        expected = asked(found._model)
    fresh = Experts(build())
    fresh.load("mine", *lora.opened(tmp_path / "a.safetensors")[:2])
    with torch.no_grad(), fresh.only("mine"):
        assert torch.equal(asked(fresh._model), expected)
    assert all(torch.equal(value, tensors[key]) for key, value in fresh.tensors("mine").items())
    stock = build()
    load_as_stock(kind, stock, tmp_path)
    for name, value in stock.named_parameters():
        if ".lora_" in name:
            assert torch.equal(value, tensors[f"{kind}.{name.replace('.a.weight', '.weight')}"])
    with torch.no_grad():
        # Where memory lies decides the last bits of a product.
        assert torch.allclose(asked(stock), expected, atol=1e-6)


def load_as_stock(kind: str, model: nn.Module, folder: Path) -> None:
    from diffusers import FluxKontextPipeline, StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline if kind == "unet" else FluxKontextPipeline
    more = {} if kind == "unet" else {"return_alphas": True}
    state, alphas, metadata = pipeline.lora_state_dict(
        folder, weight_name="a.safetensors", return_lora_metadata=True, **more
    )
    load = getattr(pipeline, f"load_lora_into_{kind}")
    load(state, alphas, model, adapter_name="a", metadata=metadata)


def transformer() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            pooled_projection_dim=6,
            guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        )
    return model.eval()


def flux_answer(model: nn.Module) -> Tensor:
    chance = Generator().manual_seed(3)
    hidden, text = (torch.randn(1, n, w, generator=chance) for n, w in ((6, 16), (4, 12)))
    out: Tensor = model(
        hidden,
        text,
        torch.randn(1, 6, generator=chance),
        torch.tensor([0.5]),
        torch.arange(18.0).view(6, 3),
        torch.zeros(4, 3),
        torch.tensor([2.5]),
        return_dict=False,
    )[0]
    return out


@pytest.mark.slow
def test_loras_are_float32_on_a_bfloat16_base_and_learn_steps_it_would_round_away() -> None:
    found = experts("a", model=unet().bfloat16())
    own = found.parameters("a")
    assert {value.dtype for value in own.values()} == {torch.float32}
    assert all(v.dtype == torch.bfloat16 for k, v in found._model.state_dict().items()
               if ".lora_" not in k)  # fmt: skip
    optimiser = torch.optim.AdamW(own.values(), lr=1e-5, weight_decay=0)
    before = {name: value.detach().clone() for name, value in own.items()}
    seen: list[torch.dtype] = []
    path = next(iter(own)).removesuffix(".lora_A.weight")
    layer = found._model.get_submodule(f"{path}.lora_A.a")
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with found.learning("a"):
        answer(found._model).float().square().mean().backward()
    optimiser.step()
    assert seen == [torch.bfloat16], "no copy of every layer's input in float32"
    moved = {name: (value.detach() - before[name]).abs().max() for name, value in own.items()}
    assert all(0 < float(one) < 2e-5 for one in moved.values())
    with torch.no_grad(), found.only("a"):
        assert answer(found._model).dtype == torch.bfloat16


@pytest.mark.parametrize(("init", "size"), [("gaussian", 0.25), ("kaiming", 1 / 16 / 3**0.5)])
def test_a_begins_as_large_as_asked_and_is_always_the_same(init: Init, size: float) -> None:
    paths = ["mid_block.attentions.0.transformer_blocks.0.ff.net.2"]
    global_state = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        found = Experts(unet())
        width = found._model.get_submodule(paths[0]).in_features
        found.new("a", paths, rank=4, init=init, generator=Generator().manual_seed(5))
        drawn.append(found.parameters("a")[f"{paths[0]}.lora_A.weight"].detach())
    assert torch.equal(*drawn)
    wanted = size if init == "gaussian" else 1 / (3 * width) ** 0.5
    assert float(drawn[0].std()) == pytest.approx(wanted, rel=0.15)
    assert torch.equal(torch.get_rng_state(), global_state)


def test_it_changes_the_layers_it_was_asked_for_and_no_others() -> None:
    model = unet()
    some = [path for path in targets(model) if "attn2" in path and path.endswith(("to_q", "to_k"))]
    found = Experts(model)
    found.new("a", some, rank=2, generator=Generator())
    changed = {
        name.removesuffix(".lora_A") for name, _ in model.named_modules() if name.endswith("lora_A")
    }
    assert changed == set(some)
    assert {name.partition(".lora_")[0] for name in found.parameters("a")} == set(some)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    found = experts("a")
    before = out(found, {"a": 1.0})
    with pytest.raises(RecipeError, match="conv_in is no linear layer"):
        found.new("b", ["conv_in"], rank=2, generator=Generator())
    good, header = found.tensors("a"), found.header("a")
    key = next(iter(good))

    def refused(tensors: dict[str, Tensor], words: str) -> None:
        with pytest.raises(WeightsError, match=words):
            found.load("b", tensors, header)

    refused({k.replace("unet.", "transformer."): v for k, v in good.items()}, "has no place")
    refused({k: v for k, v in good.items() if k != key}, "has no place")
    refused(good | {key: good[key][:, :-1]}, "of the wrong size")
    up = key.replace("lora_A", "lora_B")
    refused(good | {key: good[key][:1], up: good[up][:, :1]}, "of 2 ranks")
    refused({}, "of 0 ranks")
    with pytest.raises(WeightsError, match="there already"):
        found.load("a", good, header)
    with pytest.raises(WeightsError, match="header of an expert is damaged"):
        found.load("b", good, {lora.METADATA: "[]"})
    with pytest.raises(UsageError, match="no LoRA named 'c'"), found.only("c"):
        pass
    assert found.ids == ("a",)
    assert torch.equal(out(found, {"a": 1.0}), before)


def test_a_style_may_be_called_like_a_method_of_dictionaries() -> None:
    found = experts("pop", "keys.2")
    train(found, "pop")
    assert not torch.equal(out(found, {"pop": 1.0}), out(found, {"keys.2": 1.0}))


def test_a_header_of_another_kind_of_lora_is_refused() -> None:
    found = experts("a")
    said = json.loads(found.header("a")[lora.METADATA]) | {"unet.use_rslora": True}
    with pytest.raises(WeightsError, match="use_rslora"):
        Experts(unet()).load("b", found.tensors("a"), {lora.METADATA: json.dumps(said)})


@pytest.mark.slow
def test_alpha_is_kept_and_is_the_rank_where_nobody_says() -> None:
    found = Experts(unet())
    found.new("a", targets(found._model), rank=2, alpha=5.0, generator=Generator())
    train(found, "a")
    said = json.loads(found.header("a")[lora.METADATA])
    assert (said["unet.r"], said["unet.lora_alpha"]) == (2, 5.0)
    whole = out(found, {"a": 1.0})
    for header, weight in ((found.header("a"), 1.0), ({}, 2.5)):
        other = Experts(unet())
        other.load("b", found.tensors("a"), header)
        assert torch.allclose(out(other, {"b": weight}), whole, atol=1e-6)
