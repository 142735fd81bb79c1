"""The parts of pocket, each trained by a function of its own.

Apart from the program that calls them: workers of a part are started anew, and find what they are
to do by the name of its module.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.multiprocessing.spawn import spawn
from transformers import CLIPTextModel, CLIPTokenizer

from stylecli.evaluation.perceptual import PocketLpips, load_pocket_clip, load_pocket_lpips
from stylecli.pocket import data, diffusion, latents, loop, vae, words, yardsticks

# px -> how many views, how many of them photographs, how often drawn, rows of a cpu worker's step.
BANKS = {
    64: (24_000, 0.25, 0.78, 16),
    96: (2_500, 0.4, 0.08, 7),
    128: (2_500, 0.5, 0.10, 4),
    256: (240, 0.8, 0.04, 1),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """What a machine is given: `scale` multiplies batches. The gpu profile adds bfloat16."""

    device: str
    workers: int
    scale: int


PROFILES = {
    "cpu": Profile("cpu", workers=max(1, min(4, os.cpu_count() or 1)), scale=1),
    "gpu": Profile("cuda", workers=1, scale=16),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One part's training, as asked for."""

    profile: Profile
    hours: float
    steps: int | None
    data: Path
    work: Path
    is_fresh: bool

    @property
    def candidate(self) -> Path:
        return self.work / "candidate"

    def settings(self, learning_rate: float, ema_decay: float = 0.999) -> loop.Settings:
        return loop.Settings(
            hours=self.hours, steps=self.steps, learning_rate=learning_rate, ema_decay=ema_decay
        )

    def train(self, name: str, part: loop.Part, settings: loop.Settings) -> loop.Run:
        return loop.start(part, settings, self.work / f"{name}.safetensors")


def train_vae(job: Job) -> None:
    """All of it at first; only the decoder once a UNet depends on the latents."""
    world, folder = data.load(job.data, job.work), job.candidate / "vae"
    has_vae = folder.exists() and not job.is_fresh
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _float(AutoencoderKL, folder) if has_vae else vae.create()
    decoder_only = has_vae and (job.candidate / "unet").exists()
    model.to(job.profile.device)
    part = vae.VaePart(model, world, batch=16 * job.profile.scale, decoder_only=decoder_only)

    def export(run: loop.Run) -> None:
        with loop.averaged(run):
            if not decoder_only:
                vae.set_scaling_factor(model, world)
            vae.export(model, folder)

    run = job.train("vae", part, job.settings(1e-3, ema_decay=0.995))
    loop.train(run, export=export, log=job.work / "vae.jsonl")


def train_clip(job: Job) -> None:
    world, folder = data.load(job.data, job.work), job.candidate / "clip"
    generator = torch.Generator().manual_seed(5)
    if folder.exists() and not job.is_fresh:
        loaded = load_pocket_clip(folder)
        model, tokenizer = loaded.model.requires_grad_(True).train(), loaded.tokenizer
    else:
        tokenizer = _tokenizer(job, world)
        model = yardsticks.fresh_clip(tokenizer, folder, generator).train()
    model.to(job.profile.device)
    sample = yardsticks.views(world, 20_000, 0.06, generator)
    part = yardsticks.ClipPart(model, tokenizer, sample, batch=160)

    def export(run: loop.Run) -> None:
        with loop.averaged(run):
            config = yardsticks.clip_config(len(tokenizer))
            yardsticks.export_clip(model, config, tokenizer, folder)

    run = job.train("clip", part, job.settings(1e-3, ema_decay=0.99))
    loop.train(run, export=export, log=job.work / "clip.jsonl")


def train_lpips(job: Job) -> None:
    world, folder = data.load(job.data, job.work), job.candidate / "lpips"
    if folder.exists() and not job.is_fresh:
        model = load_pocket_lpips(folder).requires_grad_(True).train()
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = PocketLpips(*yardsticks.classes(world))
    model.to(job.profile.device)
    sample = yardsticks.views(world, 20_000, 0.06, torch.Generator().manual_seed(5))
    part = yardsticks.LpipsPart(model, sample, batch=48 * job.profile.scale)

    def export(run: loop.Run) -> None:
        with loop.averaged(run):
            yardsticks.export_lpips(model, folder)

    run = job.train("lpips", part, job.settings(2e-3, ema_decay=0.99))
    loop.train(run, export=export, log=job.work / "lpips.jsonl")


def train_unet(job: Job) -> None:
    """Encode the banks once, then train on all workers."""
    world = data.load(job.data, job.work)
    _tokenizer(job, world)
    _banks(job, world)
    if job.profile.workers == 1:
        _unet_worker(0, job, None)
        return
    rendezvous = job.work / f"rendezvous-{os.getpid()}"
    spawn(_unet_worker, args=(job, rendezvous), nprocs=job.profile.workers)
    rendezvous.unlink(missing_ok=True)


def _unet_worker(rank: int, job: Job, rendezvous: Path | None) -> None:
    torch.set_flush_denormal(True)
    if rendezvous is not None:
        loop.join(rank, job.profile.workers, rendezvous)
    world, folder = data.load(job.data, job.work), job.candidate
    tokenizer = words.load(folder / "tokenizer")
    if (folder / "unet").exists() and not job.is_fresh:
        denoiser = diffusion.Denoiser(
            _float(UNet2DConditionModel, folder / "unet"),
            CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        )
    else:
        denoiser = diffusion.create(tokenizer, torch.Generator().manual_seed(0))
    denoiser.train().to(job.profile.device)
    part = diffusion.DiffusionPart(denoiser, tokenizer, _banks(job, world))

    def export(run: loop.Run) -> None:
        with loop.averaged(run):
            diffusion.export(denoiser, tokenizer, folder)

    run = job.train("unet", part, job.settings(8e-4))
    loop.train(run, export=export, log=job.work / "unet.jsonl")


def _banks(job: Job, world: data.World) -> list[diffusion.Share]:
    model = _float(AutoencoderKL, job.candidate / "vae").to(memory_format=torch.channels_last)
    shares = []
    for seed, (px, (count, photos, weight, batch)) in enumerate(BANKS.items(), start=10):
        bank = latents.bank(
            job.work / f"latents-{px}.safetensors",
            world,
            model,
            px=px,
            count=count,
            photo_share=photos,
            seed=seed,
        )
        shares.append(diffusion.Share(bank, weight, batch * job.profile.scale))
    return shares


def _tokenizer(job: Job, world: data.World) -> CLIPTokenizer:
    folder = job.candidate / "tokenizer"
    if folder.exists() and not job.is_fresh:
        return words.load(folder)
    rows = [world.rows[index] for index in world.indices()]
    return words.train(words.corpus([row.caption for row in rows]), folder)


def _float(kind: type, folder: Path) -> AutoencoderKL | UNet2DConditionModel:
    return kind.from_pretrained(folder, torch_dtype=torch.float32)  # type: ignore[attr-defined]
