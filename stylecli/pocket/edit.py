"""Pocket's editor: its UNet, shown a second picture and taught to change that by instruction.

It belongs to its base to the bit, so it is trained on the one that ships, after that did.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import distributed
from torch.multiprocessing.spawn import spawn
from transformers import CLIPTextModel

from stylecli.artifacts.files import write_atomic
from stylecli.backbone.editors import delta as deltas
from stylecli.backbone.editors import unet_edit
from stylecli.backbone.editors.delta import Delta
from stylecli.backbone.loading import fingerprint, load_part
from stylecli.backbone.registry import ASSETS, DELTA, THINGS
from stylecli.errors import UsageError
from stylecli.evaluation.perceptual import PocketLpips
from stylecli.pocket import data, edits, loop, words
from stylecli.pocket.asking import KINDS, Asked, asked
from stylecli.pocket.changes import Changes
from stylecli.pocket.edit_part import EditPart, Speaker
from stylecli.pocket.judge import write_sums

if TYPE_CHECKING:
    from stylecli.pocket.parts import Job

BASE, SHIPPED = ASSETS / "pocket", ASSETS / "editors" / "pocket"
FOLDER = "editor"
RANK = 32
# Of the file that ships.
MAX_BYTES = 3_000_000
BATCH = 16
SEED = 1000
# How the judge asks: scenes, and the settings of sampling.
JUDGED, STEPS, GUIDANCE, IMAGE_GUIDANCE = 24, 20, 2.0, 1.5
SETTINGS = loop.Settings(learning_rate=2e-3, final_share=0.03, ema_decay=0.998, weight_decay=1e-4)


def train(job: Job) -> None:
    """Make the shards that are missing, then train on all workers; again to go on."""
    data.load(job.data, job.work)
    if job.profile.workers == 1:
        _edit_worker(0, job, None)
        return
    rendezvous = job.work / f"rendezvous-{os.getpid()}"
    spawn(_edit_worker, args=(job, rendezvous), nprocs=job.profile.workers)
    rendezvous.unlink(missing_ok=True)


def _edit_worker(rank: int, job: Job, rendezvous: Path | None) -> None:
    torch.set_flush_denormal(True)
    if rendezvous is not None:
        loop.join(rank, job.profile.workers, rendezvous)
    named, others = _shards(rank, job)
    unet = load_part(UNet2DConditionModel, BASE, "unet", torch.float32)
    encoder = load_part(CLIPTextModel, BASE, "text_encoder", torch.float32).eval()
    changes = Changes(unet, encoder, RANK, torch.Generator().manual_seed(0))
    if (SHIPPED / DELTA).is_file() and not job.is_fresh:
        changes.take_up(deltas.read(SHIPPED / DELTA).tensors)
    unet.to(job.profile.device, memory_format=torch.channels_last)
    speaker = Speaker(words.load(BASE / "tokenizer"), encoder.to(job.profile.device))
    batch = BATCH * job.profile.scale
    part = EditPart(unet, changes, speaker, named, batch=batch, others=others)

    def export(run: loop.Run) -> None:
        with loop.averaged(run):
            write(changes, job.work / FOLDER, base_fingerprint=fingerprint(BASE))

    settings = replace(SETTINGS, hours=job.hours, steps=job.steps)
    run = job.train("edit", part, settings)
    loop.train(run, export=export, log=job.work / "edit.jsonl")


def write(changes: Changes, folder: Path, *, base_fingerprint: str) -> None:
    """The delta, cut to its size, and its hash."""
    tensors = deltas.compressed(changes.tensors(), MAX_BYTES)
    made = Delta(
        tensors,
        base=BASE.name,
        base_fingerprint=base_fingerprint,
        rank=max(
            (len(each) for name, each in tensors.items() if name.endswith(deltas.DOWN)), default=0
        ),
        native_px=edits.PX,
    )
    write_atomic(folder / DELTA, made.packed())
    write_atomic(folder / THINGS, "".join(f"{name}\n" for name in sorted(edits.KNOWN)).encode())
    write_sums(folder)


def editor_in(work: Path) -> Path | None:
    """The one trained in a work folder, else the one that ships; None where there is neither."""
    folders = (work / FOLDER, SHIPPED)
    return next((folder for folder in folders if (folder / DELTA).is_file()), None)


@torch.no_grad()
def figures(lpips: PocketLpips, folder: Path, world: data.World) -> dict[str, float]:
    """How far edits of held-out contents are from the truth, over how far the source is.

    Below one an edit is worth more than none; `identity` is what "change nothing" leaves, in dB
    against the VAE's reconstruction.

    Raises:
        WeightsError: The editor is of another model than the one that ships.
    """
    editor = unet_edit.load(
        "pocket-edit",
        BASE,
        delta=folder,
        fingerprint=unet_edit.fingerprint(BASE, folder),
        device=torch.device("cpu"),
    )
    stage, generator = edits.Stage(world, held_out=True), torch.Generator().manual_seed(3)
    examples: dict[str, list[Asked]] = {kind: [] for kind in KINDS}
    for _ in range(JUDGED):
        row, pictures, _ = stage.scene(generator)
        for kind in KINDS:
            if (one := asked(row, pictures[0], pictures, kind, generator)) is not None:
                examples[kind].append(one)
    found = {}
    for kind, some in examples.items():
        source, truth = (
            torch.stack([getattr(one, name) for one in some]) for name in ("reference", "target")
        )
        prompts = [one.sentence.text for one in some]
        latents = editor.encode_image(source)
        edited = editor.edit(
            latents,
            editor.encode_prompt(prompts),
            seeds=range(len(prompts)),
            steps=STEPS,
            guidance=GUIDANCE,
            image_guidance=IMAGE_GUIDANCE,
        )
        result = editor.decode(edited)
        if kind == "identity":
            error = (result - editor.decode(latents)).square().mean()
            found["edit_identity_psnr"] = float(-10 * error.clamp(min=1e-10).log10())
            continue
        far, near = (float(lpips.distance(one, truth).mean()) for one in (source, result))
        found[f"edit_{kind}_over_source"] = near / far
    return found


def ship(work: Path) -> None:
    """Put the trained editor in the place of the shipped one.

    Raises:
        UsageError: It is of another model than the one that ships.
    """
    file = work / FOLDER / DELTA
    if not file.is_file():
        return
    if (base := deltas.read(file).base_fingerprint) != (ships := fingerprint(BASE)):
        raise UsageError(
            f"{file} changes {base}, and what ships is {ships}",
            fix="train the part edit again, on what ships now",
        )
    shutil.copytree(work / FOLDER, SHIPPED, dirs_exist_ok=True)
    for file in SHIPPED.iterdir():
        file.chmod(0o644)


def _shards(rank: int, job: Job) -> tuple[list[edits.Shard], list[edits.Shard]]:
    """Of things that have names, and of all; workers share the making."""
    world = data.load(job.data, job.work)
    vae = load_part(AutoencoderKL, BASE, "vae", torch.float32).eval()
    vae.to(memory_format=torch.channels_last)

    def some(stage: edits.Stage, name: str, count: int, seed: int) -> list[edits.Shard]:
        paths = [job.work / f"{name}-{edits.VERSION}-{k}.safetensors" for k in range(count)]

        def read(place: int) -> edits.Shard:
            return edits.shard(paths[place], stage, vae, count=edits.SCENES, seed=seed + place)

        for place in range(rank, count, job.profile.workers):
            read(place)
        if distributed.is_initialized():
            distributed.barrier()
        return [read(place) for place in range(count)]

    return (
        some(edits.Stage(world, among=edits.KNOWN), "named", edits.NAMED_SHARDS, 2 * SEED),
        some(edits.Stage(world), "edits", edits.SHARDS, SEED),
    )
