"""What every side is given: one model, one picture, LoRAs of random numbers, a recipe's settings.

Nothing here looks like anything. What a pass costs does not depend on what it shows.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.hollow import without_words
from stylecli.backbone.layers import decoder_layers
from stylecli.backbone.levels import Levels
from stylecli.backbone.lora import LoraFile
from stylecli.backbone.lora_trial import part_of
from stylecli.backbone.model import Backbone
from stylecli.errors import UsageError
from stylecli.methods.diffstyler import Look
from stylecli.recipe.schema import Lora, Recipe
from stylecli.tensors.seeds import generator

# Small enough that 50 steps of random LoRAs stay finite under any guidance in use.
LORA_DEVIATION = 0.02


@dataclass(eq=False, kw_only=True)
class Scene:
    """One content and some styles on one model.

    Attributes:
        base: The UNet as it was loaded, without LoRAs; `backbone.unet` has them beside it.
        loras: ``<module>.lora_A.weight`` and ``.lora_B.weight`` of each style.
        picture: In [0, 1]; None on the meta device, where there is no VAE.
        clean: Its latents.
        recipe: Settings of sampling and injection.
    """

    backbone: Backbone
    adapters: Adapters
    base: Any
    loras: Sequence[Mapping[str, Tensor]]
    picture: Float[Tensor, "1 3 height width"] | None
    clean: Float[Tensor, "1 c h w"]
    recipe: Recipe

    @property
    def has_reference(self) -> bool:
        """Whether the plain implementation of the paper knows this kind of model."""
        if type(self.backbone) is not Backbone:
            return False
        return all(
            layer.number == 3 * layer.block + layer.index for layer in decoder_layers(self.base)
        )

    def bare(self, latents: Tensor, timestep: int, prompt_embeds: Tensor) -> object:
        """One call of the model without LoRAs."""
        if self.base is not self.backbone.unet:
            return self.base(
                latents, timestep, encoder_hidden_states=prompt_embeds, return_dict=False
            )
        with self.adapters.use({}):
            return self.backbone.call(latents, timestep, prompt_embeds)

    @property
    def levels(self) -> Levels:
        sampling = self.recipe.sampling
        return self.backbone.schedule.levels(sampling.steps, sampling.timesteps)

    @property
    def looks(self) -> list[Look]:
        """One for each style, all with the same words."""
        sampling, caption = self.recipe.sampling, self.recipe.lora.prompt
        prompt = caption if sampling.prompt is None else sampling.prompt
        return [
            Look(
                weights={_name(i): sampling.weight},
                prompt=prompt.replace("{trigger}", caption),
                negative=sampling.negative,
                guidance=sampling.guidance,
            )
            for i in range(len(self.loras))
        ]

    def conditions(self) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of no words, of the negative prompt and of the prompt."""
        look = self.looks[0]
        embeds = self.backbone.encode_prompt(["", look.negative, look.prompt])
        null, uncond, cond = embeds.chunk(3)
        return null, uncond, cond


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The same method in fewer steps, every kind of step still in it.

    What is injected to the end, or never, is so still; a tail keeps at least two steps, because
    the last one mixes nothing (`kappa` is 1 there).
    """
    own = recipe.sampling.steps
    if steps >= own:
        return recipe

    def fewer(active: int) -> int:
        left = own - active
        kept = max(min(left, 2), round(left * steps / own))
        return max(0, steps - min(kept, steps - min(active, 1)))

    injection = recipe.injection
    return recipe.model_copy(
        update={
            "sampling": recipe.sampling.model_copy(update={"steps": steps}),
            "injection": injection.model_copy(
                update={
                    "feature_steps": fewer(injection.feature_steps),
                    "attn_steps": fewer(injection.attn_steps),
                }
            ),
        }
    )


def real(backbone: Backbone, recipe: Recipe, size: tuple[int, int], *, styles: int = 1) -> Scene:
    """A scene on a loaded model, which must have no LoRAs yet.

    Args:
        size: Width and height in pixels.

    Raises:
        UsageError: A side that this model cannot have, or a LoRA target it lacks.
    """
    width, height = size
    unit = backbone.multiple_px
    if width % unit or height % unit or not (width and height):
        raise UsageError(
            f"--size {width}x{height} does not fit {backbone.name}",
            fix=f"use multiples of {unit}",
        )
    # The reference wants one of its own; others are too large to have twice.
    base = copy.deepcopy(backbone.unet) if type(backbone) is Backbone else backbone.unet
    loras = [_lora(base, recipe.lora, i) for i in range(styles)]
    adapters = Adapters(backbone.unet)
    part = part_of(backbone.unet)
    for i, tensors in enumerate(loras):
        state = {f"{part}.{key}": value for key, value in tensors.items()}
        adapters.add(_name(i), LoraFile(state, {}, {}, {}))
    picture = torch.rand(1, 3, height, width, generator=generator("bench", "picture"))
    return Scene(
        backbone=backbone,
        adapters=adapters,
        base=base,
        loras=loras,
        picture=picture,
        clean=backbone.encode_image(picture).clone(),
        recipe=recipe,
    )


def hollow(backbone: Backbone, recipe: Recipe, cells: tuple[int, int]) -> Scene:
    """The same on the meta device: any size of model, to count what would be computed.

    Args:
        backbone: From `stylecli.backbone.hollow`.
        recipe: Settings of sampling and injection.
        cells: Width and height of the latents.
    """
    without_words(backbone)
    is_plain = type(backbone) is Backbone
    base = copy.deepcopy(backbone.unet) if is_plain else backbone.unet
    loras = [_lora(base, recipe.lora, 0)] if is_plain else [{}]
    adapters = _worn(backbone.unet, recipe.lora, len(loras))
    with torch.device("meta"):
        clean = torch.empty(1, backbone.latent_channels, cells[1], cells[0])
    return Scene(
        backbone=backbone,
        adapters=adapters,
        base=base,
        loras=loras,
        picture=None,
        clean=clean,
        recipe=recipe,
    )


def _worn(unet: Any, settings: Lora, styles: int) -> Adapters:
    """LoRAs without numbers."""
    from peft import LoraConfig

    adapters = Adapters(unet)
    pairs = LoraConfig(r=settings.rank, target_modules=list(settings.targets))
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        for i in range(styles):
            unet.add_adapter(pairs, adapter_name=_name(i))
            adapters.adopt(_name(i))
    return adapters


def _name(style: int) -> str:
    return f"bench_{style}"


def _lora(unet: Any, settings: Lora, style: int) -> dict[str, Tensor]:
    """Random pairs for every target, alpha equal to the rank."""
    found: dict[str, Tensor] = {}
    for name, layer in unet.named_modules():
        suffixes = any(f".{name}".endswith(f".{target}") for target in settings.targets)
        if not (suffixes and isinstance(layer, torch.nn.Linear)):
            continue
        shapes = {
            "A": (settings.rank, layer.in_features),
            "B": (layer.out_features, settings.rank),
        }
        for half, shape in shapes.items():
            key = f"{name}.lora_{half}.weight"
            drawn = torch.randn(*shape, generator=generator("bench", key, style), device="cpu")
            spread = 1 / settings.rank if half == "A" else LORA_DEVIATION
            found[key] = (drawn * spread).to(layer.weight.device)
    if not found:
        raise UsageError(
            f"lora.targets {', '.join(settings.targets)} are no linear layers of this UNet",
            fix="use to_q, to_k, to_v, to_out.0",
        )
    return found
