"""LoRAs that are learned side by side: rows of each see its factors alone, passes are shared.

Each has an optimiser of its own, draws of its own and a count of its own steps, so that what it
learns depends on its neighbours no more than a row of a pass on the rows beside it: in the last
bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.backbone.model import Backbone
from stylecli.backbone.objective import diffusion_loss
from stylecli.backbone.row_loras import Factors, applied
from stylecli.engine.runs.processes import Team
from stylecli.engine.training import factors, lora_state
from stylecli.engine.training.draws import Draw
from stylecli.errors import ItemError
from stylecli.recipe.schema import Lora

# Passes whose losses are looked at together: where a look makes a device wait, more than one.
LOOKS_AT_ONCE = {"cpu": 1}


@dataclass(frozen=True, slots=True)
class Material:
    """What one LoRA is learned from.

    Attributes:
        latents: Mean and deviation of the posterior of every picture.
        captions: Of the pictures.
        embeds: Of all captions, and of none.
        fixed: The rows it is judged on.
        state_file: Where it is kept between sessions.
        key: Of all that decides its values.
    """

    latents: Sequence[tuple[Tensor, Tensor]]
    captions: Sequence[str]
    embeds: Mapping[str, Tensor]
    fixed: Sequence[Draw]
    state_file: Path
    key: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a pass, of the LoRA in a slot; its place tells it from others of that LoRA."""

    slot: int
    place: int
    draw: Draw
    embed: Float[Tensor, "tokens width"]


class Pupils:
    """Some LoRAs of equal settings, and how far each of them is."""

    def __init__(
        self,
        backbone: Backbone,
        materials: Sequence[Material],
        settings: Lora,
        *,
        seed: int,
        rows: int,
        team: Team,
    ) -> None:
        """Begin where the states on the disk left off.

        Raises:
            UsageError: `settings` do not fit the model, or a state is of another run.
            WeightsError: A state is damaged.
        """
        self._shapes = factors.layout(backbone.unet, settings)
        self._backbone = backbone
        self._materials = materials
        self._settings = settings
        self._seed = seed
        self._rows = rows
        self._team = team
        self._cells = cells(settings, backbone)
        device = backbone.device
        first = factors.first(self._shapes, seed).to(device)
        self._all = nn.Parameter(first.repeat(len(materials), 1))
        scale = factors.scales(self._shapes, settings)
        self._scale = None if scale is None else scale.to(device)
        # Rows of the same memory: one tensor for the model, one each for the optimisers.
        self._numbers = [nn.Parameter(row) for row in self._all.detach()]
        self._optimisers = [
            torch.optim.AdamW(
                [numbers],
                lr=settings.lr,
                weight_decay=settings.weight_decay,
                # One kernel, and no wait for the scaler's verdict.
                fused=device.type == "cuda",
            )
            for numbers in self._numbers
        ]
        self._scalers = [
            torch.amp.GradScaler(device.type, enabled=backbone.dtype == torch.float16)
            for _ in materials
        ]
        self._unseen: list[tuple[list[tuple[int, int]], Tensor]] = []
        self.done = [
            lora_state.resume(material.state_file, material.key, *self._kept(slot))
            for slot, material in enumerate(materials)
        ]

    def losses(self, *, base: bool = False) -> list[Float[Tensor, " pairs"]]:
        """The loss of every fixed row of each LoRA, as it is now or of the base model."""
        found = [torch.zeros(len(one.fixed), dtype=torch.float64) for one in self._materials]
        rows = [
            Row(slot, pair, one.fixed[pair], one.embeds[one.captions[one.fixed[pair].index]])
            for slot, one in enumerate(self._materials)
            for pair in self._team.share(range(len(one.fixed)))
        ]
        for some in self._passes(rows):
            with torch.no_grad(), self._in_model(some, base=base):
                values = self._losses(some).tolist()
            for row, value in zip(some, values, strict=True):
                found[row.slot][row.place] = value
        self._team.add_up(found)
        return found

    def step(self) -> int:
        """One step of each that has any left; how many those were.

        Raises:
            ItemError: A loss is NaN or infinite, at this step or one shortly before.
        """
        active = [slot for slot, done in enumerate(self.done) if done < self._settings.steps]
        if not active:
            return 0
        batch = self._settings.batch
        self._all.grad = None
        for some in self._passes([row for slot in active for row in self._drawn(slot)]):
            # Checkpointed layers are computed once more on the way back.
            with self._in_model(some):
                losses = self._losses(some)
                scaled = [
                    self._scalers[row.slot].scale(loss)
                    for row, loss in zip(some, losses.unbind(), strict=True)
                ]
                (torch.stack(scaled).sum() / batch).backward()
            places = [(row.slot, self.done[row.slot]) for row in some]
            self._unseen.append((places, losses.detach()))
        grads = cast(Tensor, self._all.grad)
        self._team.add_up([grads])
        for slot in active:
            self._numbers[slot].grad = grads[slot]
            self._scalers[slot].step(self._optimisers[slot])
            self._scalers[slot].update()
            self.done[slot] += 1
        if len(self._unseen) >= LOOKS_AT_ONCE.get(self._backbone.device.type, 10):
            self.look()
        return len(active)

    def look(self) -> None:
        """See that the losses so far are numbers.

        Raises:
            ItemError: One is not; its step is named.
        """
        unseen, self._unseen = self._unseen, []
        places = [place for some, _ in unseen for place in some]
        values = torch.cat([losses for _, losses in unseen]).tolist() if unseen else []
        for (_, step), value in zip(places, values, strict=True):
            if value - value != 0:  # NaN, as of infinities
                raise ItemError(
                    f"the loss is {value} at step {step}",
                    fix="lower lora.lr, or use --dtype float32",
                )

    def save(self) -> None:
        """Keep those whose turn it is.

        Raises:
            ItemError: A loss is no number, or the disk is full.
        """
        steps, every = self._settings.steps, self._settings.save_every
        due = [slot for slot, n in enumerate(self.done) if n < steps and n % every == 0]
        if due:
            self.look()
        for slot in due if self._team.leads else ():
            one = self._materials[slot]
            lora_state.save(one.state_file, one.key, self.done[slot], *self._kept(slot))

    def tensors(self) -> list[Mapping[str, Tensor]]:
        """Each LoRA by the names of PEFT."""
        return [factors.named(self._shapes, numbers.detach()) for numbers in self._numbers]

    def _kept(self, slot: int) -> tuple[Tensor, torch.optim.Optimizer, torch.amp.GradScaler]:
        return self._numbers[slot], self._optimisers[slot], self._scalers[slot]

    def _drawn(self, slot: int) -> Iterator[Row]:
        """This process's rows of the next step of one LoRA."""
        one = self._materials[slot]
        step, batch = self.done[slot], self._settings.batch
        drawn = Draw.of_step(self._backbone, one.latents, self._seed, step, batch, self._cells)
        for place, draw in enumerate(self._team.share(drawn)):
            words = "" if draw.drops_caption(self._settings) else one.captions[draw.index]
            yield Row(slot, place, draw, one.embeds[words])

    def _passes(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Rows of one size, as many as pass together."""
        most = min(self._rows, self._backbone.max_rows or self._rows)
        alike: dict[torch.Size, list[Row]] = {}
        for row in rows:
            alike.setdefault(row.draw.clean.shape, []).append(row)
        for same in alike.values():
            yield from (same[at : at + most] for at in range(0, len(same), most))

    def _in_model(self, rows: Sequence[Row], *, base: bool = False) -> AbstractContextManager[None]:
        packed = self._all if self._scale is None else self._all * self._scale
        slots = [None if base else row.slot for row in rows]
        return applied(self._backbone.unet, Factors(self._shapes, packed), slots)

    def _losses(self, rows: Sequence[Row]) -> Float[Tensor, " rows"]:
        return diffusion_loss(
            self._backbone,
            torch.cat([row.draw.clean for row in rows]),
            torch.cat([row.draw.noise for row in rows]),
            torch.cat([row.draw.timestep for row in rows]),
            torch.stack([row.embed for row in rows]),
        )


def cells(settings: Lora, backbone: Backbone) -> int | None:
    """Side of a random square in latent cells; None is the whole picture."""
    return settings.crop_px // backbone.latent_px if settings.crop == "random" else None
