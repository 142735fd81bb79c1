"""Does a backbone do, on this machine, what the method needs of it?

Each check is a measurement with a bound; the figures are given whether it passes or not.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylecli.backbone import lora as lora_files
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.inversion import Trajectory, invert, null_prediction, reconstruct
from stylecli.backbone.model import Backbone
from stylecli.engine.doctor import Check
from stylecli.engine.session import Session
from stylecli.evaluation.metrics import psnr
from stylecli.methods import diffstyler
from stylecli.recipe import native
from stylecli.recipe.schema import Injection
from stylecli.tensors.seeds import generator

STEPS = 50
# Against the VAE's own decoding, so that the VAE is not blamed on the inversion.
MIN_PSNR_AGAINST_VAE = 20.0
MAX_IDENTITY_ERROR = {torch.float32: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.05}
# Of what the LoRA changes: what half precision may cost on the way through a file.
MAX_LORA_ERROR = 1e-2


def examine(session: Session) -> Iterator[Check]:
    """Measure a backbone on this machine, at the size it was trained on.

    Pocket takes a dozen seconds on one core, Stable Diffusion a minute on a GPU.

    Raises:
        WeightsError: It cannot be loaded.
    """
    started = time.monotonic()
    model = session.backbone
    yield Check("load", True, round(time.monotonic() - started, 2), "s")
    size = native.size_px(session.folder) or session.recipe.sampling.size
    image = _test_picture(size, model.multiple_px).to(model.device)
    yield Check("test picture", None, image.shape[-1], "px")
    levels = model.schedule.levels(STEPS)

    started = time.monotonic()
    trajectory = invert(
        model.encode_image(image), null_prediction(model, 1), model.schedule, levels
    )
    seconds_per_row = (time.monotonic() - started) / STEPS
    yield Check("time per UNet row", None, round(seconds_per_row, 5), "s")
    replayed = reconstruct(trajectory, null_prediction(model, 1), model.schedule)
    ceiling, result = model.decode(trajectory.latents[0]), model.decode(replayed)
    yield Check("VAE PSNR (ceiling)", None, round(psnr(ceiling, image), 2), "dB")
    figure = psnr(result, ceiling)
    yield Check(
        "inversion PSNR against the VAE",
        figure >= MIN_PSNR_AGAINST_VAE,
        round(figure, 2),
        "dB",
        f"at least {MIN_PSNR_AGAINST_VAE:g}",
        "look at prediction_type in scheduler/scheduler_config.json",
    )
    yield _identity_injection(model, trajectory)
    yield from _lora_round_trip(model, trajectory)
    yield _row_count(model, trajectory)
    peak = _peak_bytes(model.device)
    if peak is not None:
        yield Check("peak memory", None, round(peak / 2**30, 3), "GiB")


def _identity_injection(model: Backbone, trajectory: Trajectory) -> Check:
    """Injecting a model's own tensors into itself must change nothing (one step, same latent)."""
    top = Trajectory(
        type(trajectory.levels)(trajectory.levels.timesteps[-1:], trajectory.levels.alphas[-2:]),
        trajectory.latents[-2:],
    )
    look = diffstyler.Look(weights={}, prompt="")
    adapters = Adapters(model.unet)
    outputs = [
        diffstyler.transfer(model, adapters, top, look, injection)
        for injection in (
            Injection(feature_steps=0, attn_layers="none", attn_steps=0, attn_tail="hard"),
            Injection(feature_steps=1, attn_steps=1),
        )
    ]
    error = float((outputs[0] - outputs[1]).abs().max())
    bound = MAX_IDENTITY_ERROR[model.dtype]
    return Check(
        "identity injection",
        error <= bound,
        error,
        bound=f"at most {bound:g}",
        fix="report it with your versions: injected tensors are not where they came from",
    )


def _lora_round_trip(model: Backbone, trajectory: Trajectory) -> Iterator[Check]:
    """A LoRA written and read back must act as before, and its removal must leave no trace."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    latents, timestep = trajectory.latents[-1], trajectory.levels.timesteps[-1]
    prompt_embeds = model.encode_prompt([""])

    def output() -> Tensor:
        with torch.inference_mode():
            return model.predict(latents, timestep, prompt_embeds)

    base = output()
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v"])
    model.unet.add_adapter(config, adapter_name="doctor")
    for name, parameter in model.unet.named_parameters():
        if ".doctor." in name:
            drawn = torch.randn(parameter.shape, generator=generator("doctor", name))
            parameter.data.copy_(drawn * 0.05)
    with_lora = output()
    tensors, header = lora_files.export(
        model.unet, "doctor", layout="diffusers", dtype=torch.float32
    )
    model.unet.delete_adapters("doctor")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "doctor.safetensors"
        save_file(tensors, path, metadata={"format": "pt", **header})
        adapters = Adapters(model.unet)
        adapters.add("doctor", lora_files.read(path, model.unet))
    with adapters.use({"doctor": 1.0}):
        again = output()
    adapters.remove("doctor")
    changed = float((with_lora - base).abs().max())
    error = float((with_lora - again).abs().max())
    yield Check(
        "LoRA changes the output by",
        changed > 0,
        changed,
        bound="above 0",
        fix="report it with your versions: the LoRA is not applied",
    )
    yield Check(
        "after writing and reading it",
        error <= MAX_LORA_ERROR * changed,
        error,
        bound=f"at most {MAX_LORA_ERROR:.0%} of that",
        fix="report it with your versions: the file lost something",
    )
    trace = float((output() - base).abs().max())
    yield Check(
        "base model after the LoRA is gone",
        trace == 0,
        trace,
        bound="0",
        fix="report it with your versions: the LoRA left something behind",
    )


def _row_count(model: Backbone, trajectory: Trajectory) -> Check:
    """The UNet must see the method's rows and no more: 1 + 2 a step, the last without source."""
    rows = 0

    def count(_module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal rows
        rows += len(arguments[0])

    handle = model.unet.register_forward_pre_hook(count)
    try:
        steps = 4
        short = model.schedule.levels(steps)
        some = Trajectory(short, trajectory.latents[[0, 1, 2, 3, 4]])
        look = diffstyler.Look(weights={}, prompt="a", guidance=2.0)
        diffstyler.transfer(
            model, Adapters(model.unet), some, look, Injection(feature_steps=2, attn_steps=2)
        )
    finally:
        handle.remove()
    wanted = (steps - 1) + 2 * steps
    return Check(
        "UNet rows of 4 steps",
        rows == wanted,
        rows,
        bound=str(wanted),
        fix="report it with your versions: the model works more, or less, than it should",
    )


def _test_picture(size_px: int, multiple: int) -> Tensor:
    """A smooth picture with edges and colours, always the same: ``(1, 3, size, size)``."""
    side = max(multiple, size_px // multiple * multiple)
    axis = torch.linspace(0, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    channels: list[Callable[[], Tensor]] = [
        lambda: 0.5 + 0.4 * torch.sin(2 * math.pi * x),
        lambda: 0.2 + 0.6 * y,
        lambda: 0.5 + 0.4 * torch.cos(2 * math.pi * (x + y)),
    ]
    picture = torch.stack([channel() for channel in channels])
    disc = ((x - 0.45).square() + (y - 0.55).square()) < 0.06
    picture[:, disc] = torch.tensor([0.9, 0.3, 0.2])[:, None]
    return picture[None].clamp(0, 1)


def _peak_bytes(device: torch.device) -> int | None:
    """The most this process, or its share of a GPU, has held; None where the system keeps none."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
