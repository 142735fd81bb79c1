"""Pocket's autoencoder: f=4, four channels; colour is asked for first, then detail.

Group norm with two channels a group turns a flat field into signs and loses its colour, so the
norms here have four groups; three latent channels match the 4x4-averaged picture at first and are
let go; flat patches and every hue are in each batch.
"""

from __future__ import annotations

import colorsys
import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from stylecli.pocket.data import World, photo_crop
from stylecli.pocket.loop import Losses
from stylecli.tensors import grounds

LATENT_NOISE = 0.08
ANCHOR_UNTIL = 0.12  # share of the budget; the anchor fades linearly until twice this
FLAT_HUES = 64

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (32, 64, 128),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
    "sample_size": 128,
}

Pictures = Float[Tensor, "b 3 h w"]


def create() -> AutoencoderKL:
    vae: AutoencoderKL = AutoencoderKL(**CONFIG)
    return vae


def picture(world: World, indices: list[int], px: int, generator: Generator) -> Pictures:
    """One training picture (1, 3, px, px) in [0, 1]: icon on a ground, photograph, or flat."""
    lot = grounds.uniform(generator)
    if lot < 0.25:
        result = photo_crop(grounds.one_of(list(world.photos.values()), generator), px, generator)
    elif lot < 0.33:
        make = grounds.plain if grounds.flip(0.6, generator) else grounds.gradient
        result, _ = make(px, generator)
    else:
        icon = world.icon(grounds.one_of(indices, generator))
        if grounds.flip(0.5, generator):
            scale = grounds.interval(0.8, 1.0, generator)
        else:
            scale = grounds.interval(1.0, 2.4, generator)
        reach = abs(scale - 1) / 2
        shift = (
            grounds.interval(-reach, reach, generator),
            grounds.interval(-reach, reach, generator),
        )
        result = grounds.compose(
            grounds.place(icon, px, scale, shift, 0.0), _ground(world, px, generator)
        )
    if grounds.flip(0.3, generator):
        result = grounds.shake_colours(result, generator)
    return result[None]


class VaePart:
    """Trains the whole autoencoder, or only its decoder once others depend on the latents."""

    def __init__(
        self,
        vae: AutoencoderKL,
        world: World,
        *,
        batch: int,
        px: int = 64,
        decoder_only: bool = False,
    ) -> None:
        self.vae = vae.to(memory_format=torch.channels_last)
        self.world = world
        self.batch = batch
        self.px = px
        self.decoder_only = decoder_only
        self._train = world.indices()
        self._examples = held_out_pictures(world)
        if decoder_only:
            self._module: nn.Module = nn.ModuleList([vae.post_quant_conv, vae.decoder])
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        else:
            self._module = vae

    @property
    def module(self) -> nn.Module:
        return self._module

    def losses(self, progress: float, generator: Generator) -> Losses:
        pictures = torch.cat(
            [picture(self.world, self._train, self.px, generator) for _ in range(self.batch)]
        )
        device = self.vae.device
        with torch.autocast(device.type, torch.bfloat16):
            with torch.set_grad_enabled(not self.decoder_only):
                mean = encode(self.vae, pictures)
            noise = torch.randn(mean.shape, generator=generator).to(device)
            result = self.vae.decode(mean + LATENT_NOISE * noise).sample.float()
        target = pictures.to(device) * 2 - 1
        terms = reconstruction(result, target)
        if not self.decoder_only:
            terms |= latent_terms(mean, target, progress)
        return terms

    @torch.no_grad()
    def figures(self) -> Mapping[str, float]:
        return {
            **{name: psnr(self.vae, rows) for name, rows in self._examples.items()},
            "colour": colour_error(self.vae),
            **latent_statistics(self.vae, self._examples["icons"]),
        }


def reconstruction(result: Pictures, target: Pictures) -> Losses:
    """L1 on pixels, on chroma, on differences between neighbours, and on coarse averages."""
    error = result - target
    chroma = error - error.mean(dim=1, keepdim=True)
    return {
        "pixels": error.abs().mean() + 2 * error.square().mean(),
        "chroma": chroma.abs().mean(),
        "edges": 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()),
        "coarse": 2 * F.avg_pool2d(error, 8).abs().mean() + F.avg_pool2d(error, 2).abs().mean(),
    }


def latent_terms(mean: Float[Tensor, "b 4 y x"], target: Pictures, progress: float) -> Losses:
    """Pull each channel to mean 0 and deviation 1, and at first towards the averaged picture."""
    deviation = mean.std(dim=(0, 2, 3))
    terms = {
        "moments": 0.1 * mean.mean(dim=(0, 2, 3)).square().sum()
        + 0.1 * (deviation - 1).square().sum()
    }
    weight = max(0.0, min(1.0, 2 - progress / ANCHOR_UNTIL))
    if weight > 0:
        averaged = F.avg_pool2d(target, 4)
        terms["anchor"] = weight * (mean[:, :3] - 1.6 * averaged).abs().mean()
    return terms


def held_out_pictures(world: World, px: int = 64) -> dict[str, Pictures]:
    """Fixed sets: unseen contents of train families, photographs trained on, photographs unseen."""
    generator = torch.Generator().manual_seed(1)
    held_out = world.indices(held_out_content=True)
    icons = []
    for index in held_out[:: max(1, len(held_out) // 64)][:64]:
        ground, _ = grounds.plain(128, generator)
        if grounds.flip(0.5, generator):
            ground = torch.ones(3, 128, 128)
        icons.append(grounds.compose(world.icon(index), ground))
    seen = [photo_crop(p, px, generator) for p in world.photos.values() for _ in range(4)]
    unseen = [photo_crop(p, px, generator) for p in world.unseen.values() for _ in range(16)]
    return {
        "icons": torch.stack(icons),
        "photos": torch.stack(seen),
        "unseen": torch.stack(unseen),
    }


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: Pictures) -> Pictures:
    parts = []
    for chunk in pictures.split(16):
        decoded = vae.decode(encode(vae, chunk)).sample.float().cpu()
        parts.append(decoded.div(2).add(0.5).clamp(0, 1))
    return torch.cat(parts)


def psnr(vae: AutoencoderKL, pictures: Pictures) -> float:
    """Mean over pictures of each one's PSNR in dB."""
    errors = (reconstruct(vae, pictures) - pictures).square().mean(dim=(1, 2, 3))
    return float((-10 * errors.clamp_min(1e-8).log10()).mean())


def flat_patches(px: int = 64) -> Pictures:
    """Every hue at four mixes of saturation and value."""
    mixes = ((1.0, 1.0), (0.5, 1.0), (1.0, 0.6), (0.6, 0.75))
    rgb = [
        colorsys.hsv_to_rgb(index / FLAT_HUES, *mixes[index % len(mixes)])
        for index in range(FLAT_HUES)
    ]
    return torch.tensor(rgb)[:, :, None, None].expand(-1, 3, px, px).contiguous()


def colour_error(vae: AutoencoderKL) -> float:
    """Mean CIELAB distance (1976) between flat patches and their reconstructions."""
    patches = flat_patches()
    difference = to_lab(reconstruct(vae, patches)) - to_lab(patches)
    return float(difference.square().sum(dim=1).sqrt().mean())


def to_lab(pictures: Pictures) -> Pictures:
    """SRGB in [0, 1] to CIELAB under D65."""
    linear = torch.where(
        pictures <= 0.04045, pictures / 12.92, ((pictures + 0.055) / 1.055).pow(2.4)
    )
    to_xyz = torch.tensor(
        [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    )
    white = torch.tensor([0.9505, 1.0, 1.089])
    xyz = torch.einsum("ij,bjhw->bihw", to_xyz / white[:, None], linear)
    cut = (6 / 29) ** 3
    f = torch.where(xyz > cut, xyz.clamp_min(cut).pow(1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


@torch.no_grad()
def latent_statistics(vae: AutoencoderKL, pictures: Pictures) -> dict[str, float]:
    """The deviation that `scaling_factor` inverts, and the largest channel mean."""
    mean = torch.cat([encode(vae, rows) for rows in pictures.split(16)])
    return {
        "latent_std": float(mean.std()),
        "latent_bias": float(mean.mean(dim=(0, 2, 3)).abs().max()),
    }


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderKL, world: World) -> None:
    """One over the latents' deviation on training pictures."""
    generator, indices = torch.Generator().manual_seed(3), world.indices()
    batches = [
        torch.cat([picture(world, indices, 64, generator) for _ in range(32)]) for _ in range(12)
    ]
    mean = torch.cat([encode(vae, batch) for batch in batches])
    vae.register_to_config(scaling_factor=round(1 / float(mean.std()), 4))


def encode(vae: AutoencoderKL, pictures: Pictures) -> Float[Tensor, "b 4 y x"]:
    """The posterior's mean for pictures in [0, 1], not scaled, on the VAE's device."""
    target = (pictures * 2 - 1).to(vae.device, memory_format=torch.channels_last)
    mean: Tensor = vae.encode(target).latent_dist.mean
    return mean.float()


def export(vae: AutoencoderKL, folder: Path) -> None:
    """float16 safetensors and the configuration, as diffusers keeps them."""
    half = copy.deepcopy(vae).to(memory_format=torch.contiguous_format).half()
    half.save_pretrained(folder)


def _ground(world: World, px: int, generator: Generator) -> Float[Tensor, "3 px px"]:
    lot = grounds.uniform(generator)
    if lot < 0.35:
        return torch.ones(3, px, px)
    if lot < 0.7:
        return grounds.plain(px, generator)[0]
    if lot < 0.85:
        return grounds.gradient(px, generator)[0]
    return photo_crop(grounds.one_of(list(world.photos.values()), generator), px, generator)
