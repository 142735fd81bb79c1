"""Held-out figures of the models, and the ratchet: worse weights do not ship."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import glyphs
from stylecli.artifacts.store import file_sha256
from stylecli.backbone import hashes, inversion, loading, sampling
from stylecli.backbone.model import Backbone
from stylecli.errors import UsageError
from stylecli.evaluation.perceptual import (
    PocketClip,
    PocketLpips,
    load_pocket_clip,
    load_pocket_lpips,
)
from stylecli.pocket import vae as autoencoder
from stylecli.pocket import yardsticks
from stylecli.pocket.data import World

CHOICES = 50
BEST = 5
STEPS = 25
GUIDANCE = 4.0
MAX_WEIGHT_BYTES = 32_000_000
MAX_FILE_BYTES = 15_000_000
# Figures that may fall by this much before new weights are called worse: what a repetition moves.
TOLERANCE: Mapping[str, float] = {
    "vae_psnr_icons": 0.05,
    "vae_psnr_photos": 0.05,
    "vae_psnr_unseen_photos": 0.05,
    "vae_colour_error": 0.05,
    "text_content_top5_of_50": 0.03,
    "text_family_top1": 0.03,
    "inversion_psnr": 0.3,
    "clip_top5_of_50": 0.02,
    "lpips_family_top1": 0.02,
    "transfer_wins": 0.03,
    "i2l_easy_match_over_mis": 0.03,
    "edit_whole_over_source": 0.03,
    "edit_local_over_source": 0.05,
    "edit_identity_psnr": 0.5,
}
# What a model is loaded from; the rest of the folder is read by people.
LOADED = ("*.safetensors", "*/*.json", "model_index.json", "merges.txt")
LOWER_IS_BETTER = frozenset(
    {
        "vae_colour_error",
        "i2l_easy_match_over_mis",
        "edit_whole_over_source",
        "edit_local_over_source",
    }
)


@dataclass(frozen=True, slots=True)
class Models:
    """Everything that ships, loaded."""

    backbone: Backbone
    clip: PocketClip
    lpips: PocketLpips


def load(folder: Path) -> Models:
    """Raises `WeightsError` where a part is missing or damaged."""
    backbone = loading.load(
        "pocket", folder, fingerprint=loading.fingerprint(folder), device=torch.device("cpu")
    )
    return Models(backbone, load_pocket_clip(folder / "clip"), load_pocket_lpips(folder / "lpips"))


def figures(models: Models, world: World) -> dict[str, float]:
    """All figures; about three minutes on two cores.

    `text_*` are on contents that were trained on, `unseen_text_*` on contents that were not, and
    `real_*` what the same yardsticks say of real drawings, which bounds the others.
    """
    found = vae_figures(models.backbone, world)
    found |= yardstick_figures(models, world)
    found |= text_figures(models, world, held_out_content=False)
    unseen = text_figures(models, world, held_out_content=True)
    found |= {f"unseen_{name}": value for name, value in unseen.items()}
    found["inversion_psnr"] = inversion_psnr(models.backbone, world)
    return {name: round(value, 4) for name, value in found.items()}


def vae_figures(backbone: Backbone, world: World) -> dict[str, float]:
    pictures = autoencoder.held_out_pictures(world)
    return {
        "vae_psnr_icons": autoencoder.psnr(backbone.vae, pictures["icons"]),
        "vae_psnr_photos": autoencoder.psnr(backbone.vae, pictures["photos"]),
        "vae_psnr_unseen_photos": autoencoder.psnr(backbone.vae, pictures["unseen"]),
        "vae_colour_error": autoencoder.colour_error(backbone.vae),
    }


@torch.no_grad()
def yardstick_figures(models: Models, world: World) -> dict[str, float]:
    """Real drawings: what the yardsticks can tell at all."""
    generator = torch.Generator().manual_seed(11)
    found = {}
    for name, held_out in (("real", False), ("real_unseen", True)):
        sample = yardsticks.views(world, 256, 0.0, generator, held_out_content=held_out)
        pictures = sample.batch(torch.arange(256))
        contents = [words[0] for words in sample.words]
        styles = [words[1] for words in sample.words]
        found[f"{name}_content_top5_of_50"] = content_share(models.clip, pictures, contents, world)
        found[f"{name}_family_top1"] = family_share(models.lpips, pictures, styles)
    found["clip_top5_of_50"] = found["real_content_top5_of_50"]
    found["lpips_family_top1"] = found["real_unseen_family_top1"]
    return found


def text_figures(models: Models, world: World, *, held_out_content: bool) -> dict[str, float]:
    """Text to image for ten contents in each train family, scored by the yardsticks."""
    common = _common_contents(world, held_out_content=held_out_content)
    contents = common[:: max(1, len(common) // 10)][:10]
    styles = [f.style for f in glyphs.FAMILIES.values() if not f.is_held_out]
    asked = [(content, style) for content in contents for style in styles]
    pictures = generate(models.backbone, [f"{content}, {style}" for content, style in asked])
    return {
        "text_content_top5_of_50": content_share(
            models.clip, pictures, [content for content, _ in asked], world
        ),
        "text_family_top1": family_share(models.lpips, pictures, [style for _, style in asked]),
    }


@torch.no_grad()
def generate(
    backbone: Backbone, prompts: list[str], *, px: int = 64, seed: int = 0
) -> Float[Tensor, "b 3 px px"]:
    """Pictures in [0, 1]: DDIM, guided."""
    generator = torch.Generator().manual_seed(seed)
    side = px // backbone.latent_px
    levels = backbone.schedule.levels(STEPS)
    empty = backbone.encode_prompt([""])
    pictures = []
    for start in range(0, len(prompts), 18):
        chunk = prompts[start : start + 18]
        rows = torch.cat([empty.expand(len(chunk), -1, -1), backbone.encode_prompt(chunk)])

        def predict(latents: Tensor, step: sampling.Step, rows: Tensor = rows) -> Tensor:
            both = backbone.predict(torch.cat([latents, latents]), step.timestep, rows)
            uncond, cond = both.chunk(2)
            return sampling.guided(uncond, cond, GUIDANCE)

        noise = torch.randn(len(chunk), 4, side, side, generator=generator)
        *_, (_, latents) = sampling.denoise(noise, predict, backbone.schedule, levels)
        pictures.append(backbone.decode(latents))
    return torch.cat(pictures)


@torch.no_grad()
def content_share(
    clip: PocketClip, pictures: Float[Tensor, "b 3 h w"], contents: list[str], world: World
) -> float:
    """Share of pictures whose own content is among the five best of fifty."""
    choices = sorted({*contents, *_common_contents(world, held_out_content=False)})
    scores = clip.image_features(pictures) @ clip.text_features(choices).T
    own = torch.tensor([choices.index(content) for content in contents])
    return yardsticks.top_share(scores, own, choose=CHOICES, best=BEST)


@torch.no_grad()
def family_share(
    lpips: PocketLpips, pictures: Float[Tensor, "b 3 h w"], styles: list[str]
) -> float:
    """Share of pictures whose family the classifier names rightly."""
    chosen = lpips.logits(pictures)[1].argmax(dim=1).tolist()
    named = [glyphs.FAMILIES[lpips.families[index]].style for index in chosen]
    return sum(a == b for a, b in zip(named, styles, strict=True)) / len(styles)


@torch.no_grad()
def inversion_psnr(backbone: Backbone, world: World, steps: int = 50) -> float:
    """Unseen photographs and drawings at 128 px, to noise and back, against the VAE's own."""
    pictures = autoencoder.held_out_pictures(world, px=128)
    images = torch.cat([pictures["icons"][::16], pictures["unseen"][::8]])
    clean = backbone.encode_image(images)
    predict = inversion.null_prediction(backbone, len(images))
    trajectory = inversion.invert(
        clean, predict, backbone.schedule, backbone.schedule.levels(steps)
    )
    back = backbone.decode(inversion.reconstruct(trajectory, predict, backbone.schedule))
    errors = (back - backbone.decode(clean)).square().mean(dim=(1, 2, 3))
    return float((-10 * errors.clamp_min(1e-8).log10()).mean())


def worse(new: Mapping[str, float], old: Mapping[str, float]) -> list[str]:
    """Sentences about the figures that fell by more than their tolerance."""
    found = []
    for name, tolerance in TOLERANCE.items():
        if name not in old:
            continue
        if name not in new:
            found.append(f"{name} was {old[name]} and is not measured")
            continue
        loss = old[name] - new[name]
        if (-loss if name in LOWER_IS_BETTER else loss) > tolerance:
            found.append(f"{name} was {old[name]} and is {new[name]}")
    return found


def ship(candidate: Path, found: Mapping[str, float], shipped: Path) -> None:
    """Put the candidate's files over the shipped ones, and its figures beside them.

    Raises:
        UsageError: A figure is worse or a file too large; the shipped files are as they were.
    """
    record = shipped / "figures.json"
    old = json.loads(record.read_text(encoding="utf-8"))["figures"] if record.exists() else {}
    faults = [*worse(found, old), *oversized(candidate)]
    if faults:
        raise UsageError("; ".join(faults), fix="train longer, or keep what ships")
    shutil.copytree(candidate, shipped, dirs_exist_ok=True)
    for config in shipped.rglob("config.json"):
        # The library notes where it read a model from: a folder of the machine that trained it.
        kept = json.loads(config.read_text(encoding="utf-8"))
        if kept.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in shipped.rglob("*"):
        # safetensors writes files that only their owner may read; a wheel would keep that.
        file.chmod(0o755 if file.is_dir() else 0o644)
    record.write_text(json.dumps({"figures": dict(found)}, indent=1) + "\n", encoding="utf-8")
    write_sums(shipped)


def write_sums(folder: Path) -> None:
    """Record the SHA-256 of every file that a model is loaded from, as `sha256sum` prints them."""
    files = sorted(path for kind in LOADED for path in folder.rglob(kind))
    lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / hashes.SUMS).write_text("".join(lines), encoding="utf-8")


def oversized(folder: Path) -> list[str]:
    """Sentences about weights beyond what the package may carry."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*.safetensors")}
    found = [
        f"{path.relative_to(folder)} has {size} bytes, at most {MAX_FILE_BYTES}"
        for path, size in sizes.items()
        if size > MAX_FILE_BYTES
    ]
    if sum(sizes.values()) > MAX_WEIGHT_BYTES:
        found.append(f"all weights have {sum(sizes.values())} bytes, at most {MAX_WEIGHT_BYTES}")
    return found


def _common_contents(world: World, *, held_out_content: bool) -> list[str]:
    """Words for contents that at least six train families draw."""
    families: dict[str, set[str]] = {}
    for index in world.indices(held_out_content=held_out_content):
        row = world.rows[index]
        families.setdefault(row.content, set()).add(row.family)
    return [glyphs.words(c) for c in sorted(families) if len(families[c]) >= 6]
