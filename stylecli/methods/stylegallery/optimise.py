"""Latents are led to the style of their regions (sections RSL and GCL).

Nothing is sampled but in `guided` mode: Adam changes the latents themselves, once or a few times at
every timestep, until every region's attention gives what the same queries would find in the regions
it takes its style from, while the queries stay near the content's. What an update lowers is::

    L = style_weight L_RSL + content_weight L_GCL

of each content by itself; `targets.losses` says what both are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.capture import Capture, Captured, Part
from stylecli.backbone.layers import cells_per_token, self_attention
from stylecli.backbone.model import Backbone
from stylecli.backbone.updates import checkpointing, gradients, loss_scale
from stylecli.errors import ItemError
from stylecli.methods.stylegallery import keysets
from stylecli.methods.stylegallery.keysets import Level
from stylecli.methods.stylegallery.match import Match
from stylecli.methods.stylegallery.starts import recoloured, start
from stylecli.methods.stylegallery.targets import Gathered, gathered, losses
from stylecli.methods.stylegallery.views import Views
from stylecli.methods.stylegallery.visits import Sampled, Visit, visits
from stylecli.recipe.gallery import Dfcc, Gallery
from stylecli.tensors.seeds import generator

# Updates of one content in a row that may give no number; a passing overflow gives one or two.
MAX_SKIPPED = 5


@dataclass(frozen=True, slots=True)
class Subject:
    """A content to restyle.

    Attributes:
        clean: Its latents, scaled.
        noise: The end of its inversion.
        labels: Its regions at latent size.
        matches: Where each takes its style from; what none speaks of is led by its queries alone.
    """

    clean: Float[Tensor, "c h w"]
    noise: Float[Tensor, "c h w"]
    labels: Int[Tensor, "h w"]
    matches: Sequence[Match]


@dataclass(frozen=True, slots=True)
class Reference:
    """A picture that styles are taken from, likewise."""

    clean: Float[Tensor, "c h w"]
    noise: Float[Tensor, "c h w"]
    labels: Int[Tensor, "h w"]


class Watch(Protocol):
    """Told of every update."""

    def __call__(
        self,
        timestep: int,
        style: Tensor,
        content: Tensor,
        gradient: Tensor,
        skipped: Sequence[int],
    ) -> object:
        """Look on.

        Args:
            timestep: What the model was told.
            style: The distance of every content to its style before the update (RSL).
            content: And to its own queries (GCL).
            gradient: Of the weighted sum, ``[b c h w]``.
            skipped: Contents that stay as they are, because their gradient is no number.
        """


def stylise(
    backbone: Backbone,
    subjects: Sequence[Subject],
    references: Sequence[Reference],
    settings: Gallery,
    *,
    seeds: Sequence[int],
    adapters: Adapters | None = None,
    watch: Watch | None = None,
    on_step: Callable[[], object] = lambda: None,
    inversion_steps: int = Dfcc().steps,
) -> Float[Tensor, "b c h w"]:
    """Restyle contents, each by its own matches, sharing the references' passes.

    Every `refresh` timesteps one row of each content and of each reference that some match names
    passes the model, cut short; an update takes a row of each content forwards and backwards, and
    attention of every token to the keys of its match. What weighs nothing is not computed. Each
    result is what it would be without the others, but for its last bits.

    Args:
        backbone: Frozen.
        subjects: Of one size.
        references: Of any sizes; those that no match names cost nothing.
        settings: How latents are led.
        seeds: Of each subject, for what is drawn.
        adapters: Their LoRAs are all on, at full strength, while the latents are led.
        watch: Told of every update.
        on_step: Called after each timestep.
        inversion_steps: Of the subjects' and references' noise, for `guided` mode.

    Raises:
        RecipeError: A layer that this UNet does not have, more timesteps than it knows, or nothing
            to sample from.
        ItemError: More than `MAX_SKIPPED` updates in a row, or the end, were no numbers.
        ValueError: A match names a region that its picture does not have.
    """
    run = _Run(backbone, subjects, references, settings, seeds, inversion_steps)
    with ExitStack() as changed:
        if adapters is not None:
            changed.enter_context(adapters.use(dict.fromkeys(adapters.names, 1.0)))
        changed.enter_context(run.capture.installed(backbone.unet))
        changed.enter_context(checkpointing(backbone.unet, settings.gradient_checkpointing))
        for index, visit in enumerate(run.visits):
            run.sample(visit.step)
            if run.is_led:
                if index % settings.refresh == 0:
                    run.look(visit)
                for _ in range(settings.iterations):
                    run.update(visit.timestep, watch)
            on_step()
    found = torch.stack([leaf.detach() for leaf in run.leaves])
    if not torch.isfinite(found).all():
        raise ItemError("the updates ended in NaN or infinity", fix="lower gallery.lr")
    return found


@dataclass(frozen=True, slots=True)
class _Picture:
    clean: Tensor
    noise: Tensor


class _Run:
    """The latents on their way. References are the first pictures, contents the last."""

    def __init__(
        self,
        backbone: Backbone,
        subjects: Sequence[Subject],
        references: Sequence[Reference],
        settings: Gallery,
        seeds: Sequence[int],
        inversion_steps: int,
    ) -> None:
        self._backbone = backbone
        self._subjects = subjects
        self._seeds = seeds
        self._first = len(references)
        given: list[Subject | Reference] = [*references, *subjects]
        self._labels = [one.labels for one in given]
        self._pictures = [
            _Picture(*(_owned(latents, backbone.device) for latents in (one.clean, one.noise)))
            for one in given
        ]
        layers = self_attention(backbone.unet, settings.layers, section="gallery")
        self.capture = Capture(layers)
        self._plan: dict[str, Level] = keysets.levels(
            [(one.labels, one.matches) for one in subjects],
            [one.labels for one in references],
            {layer: cells_per_token(backbone.unet, layer) for layer in layers},
            settings,
            backbone.device,
        )
        looked_at = keysets.pictures_of(self._plan) if settings.style_weight else []
        if not looked_at:
            settings = settings.model_copy(update={"style_weight": 0.0})
        self._settings = settings
        self.is_led = bool(looked_at or settings.content_weight)
        contents = range(self._first, len(self._pictures)) if settings.content_weight else ()
        self._null = backbone.encode_prompt([""]).clone()
        self._views = Views(backbone, self.capture, self._null, contents, looked_at)
        noise = backbone.schedule.levels(inversion_steps) if inversion_steps else None
        self._noise_alpha = noise.alphas[-1] if noise is not None else 1.0
        self.visits = visits(backbone.schedule, settings, noise)
        self.leaves = [self._start(at).clone().requires_grad_() for at in range(len(subjects))]
        self._optimiser: torch.optim.Optimizer = self._adam()
        self._keys: Gathered = {}
        self._queries: Mapping[tuple[int, str], Tensor] = {}
        self._skipped = [0] * len(subjects)

    def _adam(self) -> torch.optim.Optimizer:
        # A leaf for each content: one whose gradient is left out keeps its own moments.
        return torch.optim.Adam(self.leaves, lr=self._settings.lr)

    def _start(self, at: int) -> Tensor:
        number, settings = self._first + at, self._settings
        own, subject = self._pictures[number], self._subjects[at]
        if settings.mode == "guided":
            return own.noise
        if settings.init == "adain":
            wanted = keysets.key_sets(subject.matches, number, self._first, masks=settings.masks)
            noises = [picture.noise for picture in self._pictures]
            return recoloured(own.noise, subject.labels, wanted, noises, self._labels)
        return start(own.clean, own.noise, settings.init, self._seeds[at])

    @torch.no_grad()
    def sample(self, step: Sampled | None) -> None:
        """Walk a step along what the model predicts, and forget all moments."""
        if step is None:
            return
        latents = torch.stack([leaf.detach() for leaf in self.leaves])
        prompts = self._null.expand(len(latents), -1, -1)
        output = self._backbone.predict(latents, step.timestep, prompts)
        stepped = self._backbone.schedule.step(latents, output, step.start, step.end)
        for leaf, row in zip(self.leaves, stepped, strict=True):
            leaf.copy_(row)
        self._optimiser = self._adam()

    def look(self, visit: Visit) -> None:
        """See contents and references at a timestep."""
        latents = {number: self._at(number, visit) for number in self._views.needed}
        shown = self._views.look(latents, visit.timestep)
        self._queries = shown.queries
        if self._settings.style_weight:
            zeros = self._settings.mask_mode == "zero"
            self._keys = gathered(self._plan, shown.taken, zeros=zeros)

    def _at(self, number: int, visit: Visit) -> Tensor:
        """A picture as it is compared: clean, or with the noise of the step's end."""
        picture = self._pictures[number]
        if visit.step is None:
            return picture.clean
        alpha = visit.step.end
        return math.sqrt(alpha) * picture.clean + math.sqrt(1 - alpha) * self._noise(number, visit)

    def _noise(self, number: int, visit: Visit) -> Tensor:
        picture, alpha = self._pictures[number], self._noise_alpha
        if self._settings.noise == "inversion":
            return (picture.noise - math.sqrt(alpha) * picture.clean) / math.sqrt(1 - alpha)
        # All references have the same, so that neither their order nor the contents beside them
        # change what any of them becomes.
        whose = "references" if number < self._first else self._seeds[number - self._first]
        random = generator("gallery", "noise", whose, visit.timestep)
        return torch.randn(picture.clean.shape, generator=random).to(picture.clean)

    def update(self, timestep: int, watch: Watch | None) -> None:
        """Change every content's latents once."""
        at_once = self._backbone.max_rows or len(self.leaves)
        told: list[tuple[Tensor, Tensor, Tensor]] = []
        skipped: list[int] = []
        for first in range(0, len(self.leaves), at_once):
            contents = range(first, min(first + at_once, len(self.leaves)))
            style, content, gradient, left = self._gradient(timestep, contents)
            skipped += left
            if watch is not None:
                told.append((style.detach(), content.detach(), gradient))
        self._optimiser.step()
        if watch is not None:
            style, content, gradient = (torch.cat(of) for of in zip(*told, strict=True))
            watch(timestep, style, content, gradient, skipped)

    def _gradient(self, timestep: int, contents: range) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        settings = self._settings
        leaves = [self.leaves[at] for at in contents]
        with torch.enable_grad():
            captured = self._seen(torch.stack(leaves), timestep)
            style, content = losses(
                self._plan, captured, self._own_queries(contents), self._keys, settings, contents
            )
            each = settings.style_weight * style + settings.content_weight * content
            scale = loss_scale(self._backbone.dtype)
            found = gradients(each, leaves, scale)
        gradient = torch.stack(found)
        skipped = []
        is_sound = bool(torch.isfinite(gradient).all())
        for at, leaf, own in zip(contents, leaves, found, strict=True):
            if is_sound or bool(torch.isfinite(own).all()):
                leaf.grad, self._skipped[at] = own, 0
                continue
            leaf.grad = None
            skipped.append(at)
            self._skipped[at] += 1
            if self._skipped[at] > MAX_SKIPPED:
                raise _no_number(timestep, captured, at - contents.start)
        return style, content, gradient, skipped

    def _seen(self, latents: Tensor, timestep: int) -> Captured:
        settings = self._settings
        parts: tuple[Part, ...] = ("queries",)
        if settings.style_weight and settings.content_attn == "full":
            parts = "queries", "outputs"
        elif settings.style_weight:
            parts = "queries", "keys", "values"
        prompts = self._null.expand(len(latents), -1, -1)
        stop = not settings.gradient_checkpointing
        with self.capture.recording(*parts, stop=stop) as captured:
            self._backbone.predict(latents, timestep, prompts)
        return captured

    def _own_queries(self, contents: range) -> dict[str, Tensor]:
        numbers = [self._first + at for at in contents]
        layers = self._plan if self._queries else ()
        return {
            layer: torch.cat([self._queries[number, layer] for number in numbers])
            for layer in layers
        }


def _owned(latents: Tensor, device: torch.device) -> Tensor:
    # A copy: what was made in inference mode can be no part of a graph.
    return latents.to(device, torch.promote_types(latents.dtype, torch.float32)).clone()


def _no_number(timestep: int, captured: Captured, row: int) -> ItemError:
    tensors = captured.outputs or captured.queries
    broken = (name for name, of in tensors.items() if not torch.isfinite(of[row]).all())
    layer = next(broken, None)
    where = f"in {layer.removesuffix('.processor')}" if layer else "on the way back"
    return ItemError(
        f"{MAX_SKIPPED + 1} updates in a row were NaN or infinity, at timestep {timestep} {where}",
        fix="use --dtype float32 or bfloat16, or lower gallery.lr",
    )
