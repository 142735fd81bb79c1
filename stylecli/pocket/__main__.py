"""`python -m stylecli.pocket PART --hours H --profile cpu|gpu --data DIR --work DIR`.

Run the same command again to resume. Parts train a candidate in the work folder, which begins as a
copy of what ships; `judge` measures it and draws sheets, `ship` measures it and replaces the
shipped files if no figure is worse.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.multiprocessing.spawn import spawn
from transformers import CLIPTextModel, CLIPTokenizer

from stylecli.artifacts import glyphs
from stylecli.errors import StyleError
from stylecli.evaluation.perceptual import PocketLpips, load_pocket_clip, load_pocket_lpips
from stylecli.pocket import (
    data,
    diffusion,
    judge,
    latents,
    loop,
    sheets,
    trial,
    vae,
    words,
    yardsticks,
)

SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "pocket"
# Share of `--hours` each part gets under `all`.
PARTS = {"vae": 0.25, "clip": 0.08, "lpips": 0.1, "unet": 0.57}
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


def _judge(job: Job, *, ship: bool) -> None:
    world = data.load(job.data, job.work)
    models = judge.load(job.candidate)
    found = judge.figures(models, world)
    trials = trial.run(models.backbone, models.lpips, world)
    found["transfer_wins"] = round(trial.share_won(trials), 4)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    sheets.draw(models, world, trials, job.work / "sheets")
    if ship:
        judge.ship(job.candidate, found, SHIPPED)
        record = json.dumps(glyphs.split_record(), indent=1)
        (SHIPPED / "split.json").write_text(record + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stylecli.pocket", description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "all", "judge", "ship"])
    parser.add_argument("--hours", type=float, default=1.0, help="of training, over all restarts")
    parser.add_argument("--steps", type=int, help="instead of hours")
    parser.add_argument("--profile", choices=PROFILES, default="cpu")
    parser.add_argument("--data", type=Path, default=Path("pocket-data"))
    parser.add_argument("--work", type=Path, default=Path("pocket-work"))
    parser.add_argument("--fresh", action="store_true", help="from new weights, not the shipped")
    return parser.parse_args()


def main() -> int:
    """Returns the exit status."""
    asked = _arguments()
    torch.set_flush_denormal(True)
    trainers = {"vae": train_vae, "clip": train_clip, "lpips": train_lpips, "unet": train_unet}
    names = list(PARTS) if asked.part == "all" else [asked.part]
    if not (asked.work / "candidate").exists():
        shutil.copytree(SHIPPED, asked.work / "candidate", dirs_exist_ok=True)
    try:
        for name in names:
            share = PARTS[name] if asked.part == "all" else 1.0
            job = Job(
                PROFILES[asked.profile],
                asked.hours * share,
                asked.steps,
                asked.data,
                asked.work,
                asked.fresh,
            )
            if name in trainers:
                trainers[name](job)
            else:
                _judge(job, ship=name == "ship")
    except StyleError as failure:
        sys.stderr.write(f"error  {failure.what}\nfix    {failure.fix}\n")
        return failure.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
