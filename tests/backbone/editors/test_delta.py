"""Changes that make an editor: what is read is what was written, and nothing else is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stylecli.backbone.editors import delta as deltas
from stylecli.backbone.editors.delta import Delta
from stylecli.errors import WeightsError
from tests.small import assert_same_state, base_unet, noise, state

BASE = "0123456789abcdef"
LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
CONVOLUTION = "down_blocks.1.resnets.0.conv1"
# Of which nothing changes here.
ENCODER = nn.Module()


def made(unet: Any, *, size: float = 0.1) -> Delta:
    """Changes of the entry, of a matrix and of a convolution."""
    weight = unet.conv_in.weight
    tensors = {
        "conv_in.weight": torch.cat([weight, noise(*weight.shape, seed=1) * size], dim=1),
        "conv_in.bias": unet.conv_in.bias + size,
    }
    for seed, name in enumerate((LINEAR, CONVOLUTION), start=2):
        changed = unet.get_submodule(name).weight
        tensors[f"{name}.lora_A"] = noise(3, changed[0].numel(), seed=seed) * size
        tensors[f"{name}.lora_B"] = noise(len(changed), 3, seed=seed + 9)
    return Delta(tensors, base="tiny", base_fingerprint=BASE, rank=3, native_px=24)


def written(delta: Delta, folder: Path) -> Path:
    file = folder / "delta.safetensors"
    file.write_bytes(delta.packed())
    return file


def applied(unet: Any, delta: Delta) -> Any:
    deltas.apply(unet, ENCODER, delta, Path("delta.safetensors"), base_fingerprint=BASE)
    return unet


def answer(unet: nn.Module, seen: Tensor) -> Tensor:
    with torch.inference_mode():
        out: Tensor = unet(seen, 500, noise(len(seen), 4, 32, seed=5), return_dict=False)[0]
    return out


@pytest.mark.slow
def test_a_file_says_what_was_written(tmp_path: Path) -> None:
    delta = replace(made(base_unet()), reference="unscaled")
    read = deltas.read(written(delta, tmp_path))
    assert read.tensors.keys() == delta.tensors.keys()
    for name, tensor in delta.tensors.items():
        assert torch.equal(read.tensors[name], tensor.half()), name
    assert replace(read, tensors=delta.tensors) == delta


@pytest.mark.slow
def test_weights_are_the_base_plus_the_product() -> None:
    base, changed = base_unet(), base_unet()
    delta = made(base)
    applied(changed, delta)
    for name in (LINEAR, CONVOLUTION):
        weight = base.get_submodule(name).weight
        product = torch.einsum(
            "or,ri->oi", delta.tensors[f"{name}.lora_B"], delta.tensors[f"{name}.lora_A"]
        )
        expected = weight + product.reshape(weight.shape)
        torch.testing.assert_close(changed.get_submodule(name).weight, expected)
    assert torch.equal(changed.conv_in.weight, delta.tensors["conv_in.weight"])
    assert changed.config.in_channels == changed.conv_in.in_channels == 8
    untouched = state(base).keys() - {
        "conv_in.weight",
        "conv_in.bias",
        f"{LINEAR}.weight",
        f"{CONVOLUTION}.weight",
    }
    assert all(torch.equal(state(base)[name], state(changed)[name]) for name in untouched)


def learned(**ranks: int) -> dict[str, Tensor]:
    """Changes as a training leaves them: the later a singular value, the smaller."""
    found = {"conv_in.weight": noise(8, 8, 3, 3), "conv_in.bias": noise(8)}
    for seed, (name, rank) in enumerate(ranks.items()):
        decay = torch.arange(rank, dtype=torch.float32).neg().exp()
        found[f"{name}.lora_A"] = noise(rank, 20 + 20 * seed, seed=seed)
        found[f"{name}.lora_B"] = noise(24, rank, seed=seed + 9) * decay
    return found


def product(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    return tensors[f"{name}.lora_B"] @ tensors[f"{name}.lora_A"]


def test_changes_that_have_room_lose_nothing() -> None:
    whole = learned(one=6, two=3)
    again = deltas.compressed(whole, 10**6)
    assert again.keys() == whole.keys()
    for name in ("one", "two"):
        torch.testing.assert_close(product(again, name), product(whole, name))
    assert torch.equal(again["conv_in.weight"], whole["conv_in.weight"])


@pytest.mark.parametrize("most_bytes", [4_000, 5_000, 6_000])
def test_what_is_kept_of_changes_is_the_nearest_of_its_size(most_bytes: int) -> None:
    whole = learned(one=12, two=12, three=12)
    cut = deltas.compressed(whole, most_bytes)
    assert len(Delta(cut, "tiny", BASE, 12, 24).packed()) <= most_bytes
    assert len(deltas.compressed(whole, most_bytes + 2_000)["one.lora_A"]) > len(cut["one.lora_A"])
    least_kept, most_lost = [], []
    for name in ("one", "two", "three"):
        left, values, right = torch.linalg.svd(product(whole, name), full_matrices=False)
        rank = len(cut[f"{name}.lora_A"])
        nearest = left[:, :rank] * values[:rank] @ right[:rank]
        torch.testing.assert_close(product(cut, name), nearest, atol=1e-5, rtol=1e-4)
        size = len(left) + right.shape[1]
        least_kept.append(float(values[rank - 1]) ** 2 / size)
        most_lost.append(float(values[rank]) ** 2 / size)
    assert min(least_kept) >= max(most_lost)


def test_a_change_that_is_nothing_beside_the_others_is_left_out() -> None:
    whole = learned(large=4, small=4)
    whole["small.lora_B"] *= 1e-6
    cut = deltas.compressed(whole, 2_800)
    assert "large.lora_A" in cut
    assert "small.lora_A" not in cut


def test_a_product_of_zeros_is_left_out_whatever_the_room() -> None:
    whole = learned(one=4, none=4)
    whole["none.lora_B"].zero_()
    assert deltas.compressed(whole, 10**6).keys() == whole.keys() - {"none.lora_A", "none.lora_B"}


def test_what_is_kept_whole_must_have_room() -> None:
    with pytest.raises(ValueError, match="do not fit 1000 bytes"):
        deltas.compressed(learned(one=4), 1_000)


@pytest.mark.slow
def test_a_widened_model_takes_no_notice_of_the_second_picture_yet() -> None:
    base, wide = base_unet(), base_unet()
    deltas.widen(wide)
    z = noise(2, 4, 8, 8)
    seen = torch.cat([z, 100 * noise(2, 4, 8, 8, seed=1)], dim=1)
    torch.testing.assert_close(answer(wide, seen), answer(base, z))
    assert not any(parameter.requires_grad for parameter in wide.parameters())


def test_what_may_change_is_neither_end_nor_clock() -> None:
    names = deltas.changeable(base_unet(), ENCODER)
    assert {LINEAR, CONVOLUTION} <= names.keys()
    assert not [name for name in names if "time_emb" in name or name in ("conv_in", "conv_out")]


Spoil = Callable[[dict[str, Tensor]], object]
FAULTS: dict[str, tuple[Spoil, str]] = {
    "missing entry": (lambda t: t.pop("conv_in.bias"), r"conv_in\.bias is missing"),
    "half a pair": (lambda t: t.pop(f"{LINEAR}.lora_B"), r"to_k\.lora_B is missing"),
    "other half": (lambda t: t.pop(f"{LINEAR}.lora_A"), r"to_k\.lora_A is missing"),
    "unknown": (lambda t: t.update(extra=torch.ones(1)), "tensor extra is unknown"),
    "of no module": (
        lambda t: t.update(
            {"nowhere.lora_A": torch.ones(1, 2), "nowhere.lora_B": torch.ones(2, 1)}
        ),
        r"nowhere\.lora_A is unknown \(and 1 more\)",
    ),
    "of what stays": (
        lambda t: t.update({"conv_out.lora_A": torch.ones(1, 2)}),
        r"conv_out\.lora_A is unknown",
    ),
    "width": (
        lambda t: t.update({f"{LINEAR}.lora_A": torch.ones(3, 5)}),
        r"to_k\.lora_A is of another shape",
    ),
    "ranks": (
        lambda t: t.update({f"{LINEAR}.lora_B": torch.ones(len(t[f"{LINEAR}.lora_B"]), 2)}),
        r"to_k\.lora_B is of another shape",
    ),
    "entry": (
        lambda t: t.update({"conv_in.weight": t["conv_in.weight"][:, :4]}),
        r"conv_in\.weight is of another shape",
    ),
}


@pytest.mark.mostly_slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_tensor_too_many_too_few_or_misshapen_changes_nothing(fault: str) -> None:
    unet = base_unet()
    before = state(unet)
    tensors = dict(made(unet).tensors)
    spoil, said = FAULTS[fault]
    spoil(tensors)
    with pytest.raises(WeightsError, match=said):
        applied(unet, replace(made(unet), tensors=tensors))
    assert_same_state(unet, before)
    assert unet.config.in_channels == 4


def test_changes_of_another_model_are_refused() -> None:
    unet = base_unet()
    before = state(unet)
    with pytest.raises(WeightsError, match="changes tiny fedc, and what is here is 0123"):
        applied(unet, replace(made(unet), base_fingerprint="fedc"))
    assert_same_state(unet, before)


def test_a_file_that_is_no_delta_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "delta.safetensors"
    with pytest.raises(WeightsError, match=r"delta\.safetensors is missing"):
        deltas.read(file)
    file.write_bytes(b"torn")
    with pytest.raises(WeightsError, match="cannot be read"):
        deltas.read(file)
    save_file({"a": torch.ones(1)}, file)
    with pytest.raises(WeightsError, match="is not style-delta 1 but no format"):
        deltas.read(file)
    for header, said in (
        ({"version": "2"}, "is not style-delta 1 but style-delta 2"),
        ({"version": "1"}, "its header is no delta's: 'reference'"),
        ({"version": "1", "reference": "upside down"}, "reference upside down"),
    ):
        save_file({"a": torch.ones(1)}, file, metadata={"format": "style-delta", **header})
        with pytest.raises(WeightsError, match=said):
            deltas.read(file)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    delta = made(base_unet())
    broken = {**delta.tensors, f"{LINEAR}.lora_A": torch.full((3, 32), torch.nan)}
    with pytest.raises(WeightsError, match=r"to_k\.lora_A holds no finite numbers"):
        deltas.read(written(replace(delta, tensors=broken), tmp_path))
