"""Is this installation well, and does a backbone do here what the method needs of it?

Each check is a measurement with a bound; the figures are printed whether it passes or not.
"""

from __future__ import annotations

import math
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylecli import __version__
from stylecli.artifacts import store
from stylecli.backbone import lora as lora_files
from stylecli.backbone import registry
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.inversion import Trajectory, invert, null_prediction, reconstruct
from stylecli.backbone.model import Backbone
from stylecli.engine.session import Session
from stylecli.errors import StyleError
from stylecli.evaluation.metrics import psnr
from stylecli.methods import diffstyler
from stylecli.recipe.schema import Injection
from stylecli.tensors.compat import ensure_torchvision
from stylecli.tensors.seeds import generator

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "lpips",
    "open-clip-torch",
    "typer",
)
STEPS = 50
# Against the VAE's own decoding, so that the VAE is not blamed on the inversion.
MIN_PSNR_AGAINST_VAE = 20.0
MAX_IDENTITY_ERROR = {torch.float32: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.05}
MIN_FREE_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        is_ok: None for a plain fact.
        figure: What was measured or found.
        fix: What to do when it is not well.
    """

    name: str
    is_ok: bool | None
    figure: object
    fix: str = ""

    def row(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"check": self.name, "ok": self.is_ok, "figure": self.figure, "fix": self.fix}


def installation() -> Iterator[Check]:
    """Versions, devices, caches and weights: nothing is loaded."""
    yield Check("style", None, __version__)
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Check("python", supported, platform.python_version(), "use Python 3.11 to 3.13")
    yield Check("system", None, f"{platform.system()} {platform.machine()}")
    for package in PACKAGES:
        try:
            yield Check(package, True, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Check(package, package == "torchvision", "absent", f"pip install {package}")
    state = ensure_torchvision()
    yield Check(
        "torchvision operators",
        True,
        {
            "native": "its own",
            "shimmed": "stand-ins: its binary does not fit this torch build",
            "absent": "not installed",
        }[state],
        "install torch and torchvision from one index for the real ones",
    )
    yield Check("cpu threads", None, torch.get_num_threads())
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield Check(
            f"cuda:{i}", None, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        )
    cache = store.cache_dir()
    free = shutil.disk_usage(_existing(cache)).free
    yield Check(
        "cache",
        free > MIN_FREE_BYTES,
        f"{cache}, {free / 2**30:.0f} GiB free",
        "free some disk, or point STYLE_CACHE_DIR elsewhere",
    )
    for source in registry.SOURCES.values():
        try:
            registry.snapshot(source)
            yield Check(f"weights {source.name}", None, f"present, {source.licence}")
        except StyleError as error:
            yield Check(f"weights {source.name}", None, "not here", error.fix)


def backbone(session: Session) -> Iterator[Check]:
    """Measure a backbone on this machine, in about a minute.

    Raises:
        WeightsError: It cannot be loaded.
    """
    started = time.monotonic()
    model = session.backbone
    yield Check("load", True, f"{time.monotonic() - started:.1f} s")
    image = _test_picture(session.source.size_px, model.multiple_px).to(model.device)
    levels = model.schedule.levels(STEPS)

    started = time.monotonic()
    trajectory = invert(
        model.encode_image(image), null_prediction(model, 1), model.schedule, levels
    )
    seconds_per_row = (time.monotonic() - started) / STEPS
    yield Check("seconds per UNet row", None, round(seconds_per_row, 4))
    replayed = reconstruct(trajectory, null_prediction(model, 1), model.schedule)
    ceiling, result = model.decode(trajectory.latents[0]), model.decode(replayed)
    yield Check("VAE PSNR (ceiling)", None, round(psnr(ceiling, image), 2))
    figure = psnr(result, ceiling)
    yield Check(
        "inversion PSNR against the VAE",
        figure >= MIN_PSNR_AGAINST_VAE,
        round(figure, 2),
        "wrong prediction_type or scheduler config? try --set inversion.refine_iters=3",
    )
    yield _identity_injection(model, trajectory)
    yield from _lora_round_trip(model, trajectory)
    yield _row_count(model, trajectory)
    peak = (
        torch.cuda.max_memory_allocated(model.device)
        if model.device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    yield Check("peak memory", None, f"{peak / 2**30:.2f} GiB")


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
    return Check("identity injection", error <= bound, f"{error:.1e} (at most {bound:.0e})")


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
        "LoRA round trip",
        changed > 0 and error <= 1e-2 * changed,
        f"changes {changed:.1e}, differs {error:.1e} after reading back",
    )
    trace = float((output() - base).abs().max())
    yield Check("base model after LoRA", trace == 0, f"differs by {trace:.1e} (must be 0)")


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
    return Check("UNet rows of 4 steps", rows == wanted, f"{rows} (must be {wanted})")


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


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
