"""LoRAs as few-step distillations publish them: for Linear and Conv layers, attention or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

# What latent-consistency/lcm-lora-sdv1-5 holds.
TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
    "time_emb_proj",
)
ALPHA = 3.0


def pairs(unet: Any, *, rank: int = 2, seed: int = 5, size: float = 0.1) -> dict[str, Tensor]:
    """``<module>.lora_A.weight`` and ``.lora_B.weight``, both random, of every target."""
    random = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for path, module in unet.named_modules():
        if not path.endswith(tuple(f".{target}" for target in TARGETS)):
            continue
        weight = module.weight
        down = torch.randn((rank, *weight.shape[1:]), generator=random) / rank
        up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=random) * size
        found |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
    kinds = {name.partition(".lora")[0].rpartition(".")[2] for name in found}
    assert kinds >= {target.rpartition(".")[2] for target in TARGETS}
    return found


def save(path: Path, tensors: dict[str, Tensor], layout: str = "kohya") -> Path:
    """A file in that naming; kohya's carries an alpha, so its scale is alpha over rank."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if layout == "diffusers":
        save_file({f"unet.{name}": tensor for name, tensor in tensors.items()}, path)
        return path
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, pair = name.rpartition(".lora_")
        key = f"lora_unet_{module.replace('.', '_')}"
        named[f"{key}.lora_{'down' if pair.startswith('A') else 'up'}.weight"] = tensor
        named[f"{key}.alpha"] = torch.tensor(ALPHA)
    save_file(named, path)
    return path


def merged(unet: Any, *scaled: tuple[dict[str, Tensor], float]) -> Any:
    """A second UNet whose weights have the products of all these LoRAs in them."""
    import copy

    twin = copy.deepcopy(unet)
    for tensors, scale in scaled:
        for name, down in tensors.items():
            if ".lora_A." not in name:
                continue
            up = tensors[name.replace(".lora_A.", ".lora_B.")]
            weight = twin.get_submodule(name.partition(".lora_A.")[0]).weight
            product = torch.einsum("or,ri...->oi...", up.flatten(1), down)
            weight.data += scale * product
    return twin
