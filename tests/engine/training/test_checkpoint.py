"""Checkpoints: what comes back is what went in, or nothing does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from stylecli.engine.training import checkpoint
from stylecli.errors import WeightsError


def test_tensors_and_state_come_back_bit_for_bit(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(4, 3, generator=generator)
    tensors = {
        "half": shared.half(),
        "view": shared.T,
        "twin": shared,
        "image": torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(3.0),
        "generator": generator.get_state(),
    }
    state = {"step": 3, "nested": {"list": [1, 2.5, None, True, "é"]}}
    checkpoint.save(tmp_path / "deep" / "run.safetensors", tensors, state)
    found, found_state = checkpoint.load(tmp_path / "deep" / "run.safetensors")
    assert found_state == state
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_failed_save_leaves_the_old_checkpoint_and_no_litter(tmp_path: Path):
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, {"a": torch.ones(2)}, {"step": 1})
    with pytest.raises(TypeError):
        checkpoint.save(path, {"a": torch.zeros(2)}, {"step": object()})  # type: ignore[dict-item]
    assert checkpoint.load(path)[1] == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_missing_file_and_a_damaged_one_are_told_apart(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.safetensors")
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, {"a": torch.ones(64)}, {"step": 1})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(WeightsError, match=r"run\.safetensors is not a checkpoint"):
        checkpoint.load(path)


def test_adamw_resumes_bit_for_bit(tmp_path: Path):
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, index: int) -> None:
        batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(index))
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for index in range(3):
        step(model, optimizer, index)
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    checkpoint.save(tmp_path / "a", weights | checkpoint.optimizer_tensors(optimizer), {})
    tensors, _ = checkpoint.load(tmp_path / "a")

    other.load_state_dict({name: tensors.pop(f"model.{name}") for name in model.state_dict()})
    resumed = torch.optim.AdamW(other.parameters(), lr=0.1)
    checkpoint.restore_optimizer(resumed, tensors)
    for index in range(3, 6):
        step(model, optimizer, index)
        step(other, resumed, index)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_moments_of_another_model_are_refused():
    small, large = nn.Linear(2, 2), nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(small.parameters())
    small(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with pytest.raises(WeightsError, match="does not fit"):
        checkpoint.restore_optimizer(
            torch.optim.AdamW(large.parameters()), checkpoint.optimizer_tensors(optimizer)
        )
