"""One step of an expert: pairs answered as they should be, and attention where it should be.

Only the active expert learns. Another's parameters have no gradient at all, not one of zeros, so
no optimiser can move them (RegionRoute eq. 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from stylecli.backbone.editors.base import Editor
from stylecli.backbone.experts import Experts
from stylecli.backbone.probe.base import Probe
from stylecli.engine.route.training import draws
from stylecli.engine.route.training.caches import Encoded
from stylecli.engine.route.training.draws import Batch, Draws, Lesson
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.training import optimising
from stylecli.methods.regionroute import measures
from stylecli.methods.regionroute.losses import LEAST_CELLS, Attention, Forms, attention
from stylecli.recipe.route import Loss, Route

BETAS = (0.9, 0.999)
# Of maps and their masks, a number for each row.
Measure: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Material:
    """What experts learn with; nothing of it changes."""

    editor: Editor
    encoded: Encoded
    settings: Route

    @property
    def forms(self) -> Forms:
        loss = self.settings.loss
        return Forms(
            tau=loss.tau,
            focus=loss.focus,
            gamma=loss.gamma,
            kappa=loss.kappa,
            cover=loss.cover,
            balance=loss.balance,
        )

    def batch(self, lessons: Sequence[Lesson]) -> Batch:
        """Pairs of one size, as tensors."""
        is_even = self.settings.train.times == "even"
        return draws.batch(self.editor, self.encoded, lessons, is_even=is_even)

    def attended(self, lessons: Sequence[Lesson]) -> int:
        """How many of these pairs have attention to be compared with."""
        return sum(one.has_text and self._has_object(one) for one in lessons)

    def _has_object(self, lesson: Lesson) -> bool:
        grid = self.editor.grid(self.encoded.target(lesson.sample))
        return any(
            float(self.encoded.mask(lesson.sample, phrase.edits, grid).sum()) >= LEAST_CELLS
            for phrase in self.encoded.asked(lesson.sample)
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """What is to be said of a step, of all processes.

    Attributes:
        loss: What was learned from; the other three are its parts before they were weighed.
        inside: Share of the attention that is on the object.
        skipped: Objects of less than a cell.
        norm: Of the gradient, before it was cut.
    """

    loss: float
    pixels: float
    focus: float
    cover: float
    inside: float
    skipped: int
    norm: float
    lr: float


class Trainer:
    """An expert, its optimiser and how far it is.

    Attributes:
        done: Steps.
        averages: None; experts are not averaged.
        is_torn: A step was cut off while it changed the parameters.
    """

    def __init__(
        self,
        style_id: str,
        experts: Experts,
        material: Material,
        lessons: Draws,
        *,
        team: Team = ALONE,
        at_once: int | None = None,
    ) -> None:
        """Begin with the expert as it is.

        Args:
            at_once: Pairs that pass the model together; default: a micro-batch.
        """
        self.style_id, self.experts, self.material = style_id, experts, material
        self.settings = material.settings.train
        self.done = 0
        self.averages: dict[str, Tensor] | None = None
        self.is_torn = False
        self._lessons, self._team = lessons, team
        self._at_once = at_once or self.settings.micro_batch
        self.optimiser = torch.optim.AdamW(
            list(self.parameters().values()),
            lr=self.settings.lr,
            betas=BETAS,
            weight_decay=self.settings.weight_decay,
            fused=material.editor.device.type == "cuda",
        )

    def parameters(self) -> dict[str, nn.Parameter]:
        """All that learn, in the optimiser's order."""
        return self.experts.parameters(self.style_id)

    def step(self) -> Figures:
        """Learn once.

        Raises:
            ItemError: The loss or the gradient is no number; nothing was learned from it.
        """
        pixels, focus, cover, inside, skipped = self.gradients()
        wanted = self.material.settings.loss
        loss = pixels + wanted.focus_weight * focus + wanted.cover_weight * cover
        rate = optimising.learning_rate(self.settings, self.done)
        norm = optimising.prepare(
            self.optimiser,
            self.parameters().values(),
            loss=loss,
            rate=rate,
            clip=self.settings.clip,
            step=self.done,
            section="route",
        )
        self.is_torn = True
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.done += 1
        self.is_torn = False
        return Figures(loss, pixels, focus, cover, inside, int(skipped), norm, rate)

    def gradients(self) -> list[float]:
        """Of the next step, added up over all processes; and what `Figures` says of it.

        What fails here, such as for lack of memory, leaves everything that is kept as it was.
        """
        self.optimiser.zero_grad(set_to_none=True)
        groups = self._lessons.at(self.done)
        rows = sum(map(len, groups))
        attended = self.material.attended([one for group in groups for one in group])
        said = torch.zeros(5, dtype=torch.float64)
        with (
            self.experts.learning(self.style_id),
            looking(self.material.editor, self.material.settings.loss) as probe,
        ):
            for group in self._team.share(groups):
                for at in range(0, len(group), self._at_once):
                    some = group[at : at + self._at_once]
                    said += self._backward(some, probe, rows, attended)
        optimising.add_up(self._team, self.parameters().values())
        self._team.add_up([said])
        return [float(one) for one in said]

    def _backward(
        self, lessons: Sequence[Lesson], probe: Probe | None, rows: int, attended: int
    ) -> Float[Tensor, " said"]:
        """Add the gradient of some pairs of a step; their part of what is said of it."""
        settings = self.material.settings.loss
        some = self.material.batch(lessons)
        errors, found = answered(self.material, some, probe)
        loss = errors.sum() / rows
        said = [loss.detach()]
        if found is not None:
            usable = some.usable.any(dim=1)
            share = int(usable.sum()) / max(1, attended)
            loss = loss + share * (
                settings.focus_weight * found.losses.focus
                + settings.cover_weight * found.losses.cover
            )
            said += [
                share * found.losses.focus.detach(),
                share * found.losses.cover.detach(),
                measured(found.maps, some, measures.inside_mass)[usable].sum() / max(1, attended),
                torch.tensor(float(found.losses.skipped)),
            ]
        loss.backward()
        said += [torch.zeros(())] * (5 - len(said))
        return torch.stack([one.double().cpu() for one in said])


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Attention of a pass.

    Attributes:
        maps: Means over layers, without gradients.
    """

    losses: Attention
    maps: Float[Tensor, "b n e"]


@contextmanager
def looking(editor: Editor, loss: Loss, *, always: bool = False) -> Iterator[Probe | None]:
    """A probe on the supervised layers; None where no loss asks for it.

    Args:
        always: Whatever is asked for.
    """
    if always or loss.focus_weight or loss.cover_weight:
        with editor.probing(loss.layers) as probe:
            yield probe
    else:
        yield None


def answered(
    material: Material, some: Batch, probe: Probe | None
) -> tuple[Float[Tensor, " b"], Seen | None]:
    """Error of each row's answer, and the losses on attention (RegionRoute eq. 2 and 3).

    The probe stays as it is until the way back has ended.
    """
    editor, settings = material.editor, material.settings
    if probe is not None:
        probe.watch(some.phrases, some.grid)
    noisy = editor.noised(some.clean, some.noise, some.times)
    answer = editor.predict(noisy, some.times, some.text, some.reference)
    # Losses are float32, also where the model computes in less.
    with torch.autocast(editor.device.type, enabled=False):
        wanted = editor.target(some.clean, some.noise, some.times)
        errors = (answer.float() - wanted.float()).square()
        errors = (errors * _shares(some, errors, settings.loss)).flatten(1).mean(dim=1)
        if settings.train.times == "model":
            errors = errors * editor.weight(some.times)
        if probe is None:
            return errors, None
        if settings.loss.per_layer:
            layers = probe.per_layer()
            each = [attention(one, some.masks, some.valid, material.forms) for one in layers]
            losses = Attention(
                torch.stack([one.focus for one in each]).mean(),
                torch.stack([one.cover for one in each]).mean(),
                each[0].skipped,
            )
            maps = torch.stack([one.detach() for one in layers]).mean(dim=0)
        else:
            maps = probe.maps()
            losses = attention(maps, some.masks, some.valid, material.forms)
        return errors, Seen(losses, maps.detach())


def measured(maps: Float[Tensor, "b n e"], some: Batch, measure: Measure) -> Float[Tensor, " b"]:
    """A measure of each row: the mean over its usable phrases, 0 where it has none."""
    usable = some.usable
    each = torch.stack(
        [
            measure(maps[..., place], some.masks[..., place]).float()
            for place in range(maps.shape[2])
        ],
        dim=1,
    )
    return (each * usable).sum(dim=1) / usable.sum(dim=1).clamp(min=1)


def _shares(
    some: Batch, errors: Float[Tensor, "b c lh lw"], loss: Loss
) -> Float[Tensor, "b 1 lh lw"] | float:
    """What each place of a row counts for; 1 on average."""
    if not loss.background_weight:
        return 1.0
    objects = some.masks.amax(dim=2).view(len(errors), 1, *some.grid)
    size = (errors.shape[2], errors.shape[3])
    outside = 1 - F.interpolate(objects, size, mode="bilinear", align_corners=False)
    counted = 1 + loss.background_weight * outside
    return counted / counted.mean(dim=(1, 2, 3), keepdim=True)
