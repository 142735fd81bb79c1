"""One step of a predictor: LoRAs of references, tried on other pictures of their styles.

Only the predictor learns. The model is frozen and outside of whatever processes share: its hooks
carry gradients from its output to the LoRAs, and the predictor takes them from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.backbone import row_loras
from stylecli.backbone.denoisers.base import Denoiser
from stylecli.engine.i2l.training.caches import Encoded
from stylecli.engine.i2l.training.draws import Batch, Draws, Lesson, batch
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.training import optimising
from stylecli.errors import UsageError
from stylecli.methods.i2l.predictor import Predictor
from stylecli.recipe.i2l import Train

BETAS = (0.9, 0.999)
TIMESTEPS = 1000


@dataclass(frozen=True, slots=True)
class Material:
    """What a predictor learns with; nothing of it changes.

    Attributes:
        shift: Of flow-matching times.
    """

    denoiser: Denoiser
    encoded: Encoded
    draws: Draws
    shift: float | None

    def batch(self, lessons: Sequence[Lesson]) -> Batch:
        """Lessons with equally many references, as tensors."""
        return batch(self.denoiser, self.encoded, lessons, shift=self.shift)

    def shares(self, times: Float[Tensor, " rows"]) -> list[float]:
        """Times as shares of the longest: UNets count in thousands, others in ones."""
        return (times / (TIMESTEPS if self.denoiser.kind == "unet" else 1)).tolist()


@dataclass(frozen=True, slots=True)
class Figures:
    """What is to be said of a step.

    Attributes:
        loss: Of all processes.
        norm: Of the gradient, before it was cut.
        references: N.
        times: Of this process's rows, as shares of the longest.
    """

    loss: float
    norm: float
    lr: float
    references: int
    times: Sequence[float]


class Trainer:
    """A predictor, its optimiser and how far it is.

    Attributes:
        done: Steps.
        averages: Of the parameters, where they are averaged.
        is_torn: A step was cut off while it changed the parameters.
    """

    def __init__(
        self,
        predictor: Predictor,
        material: Material,
        settings: Train,
        *,
        team: Team = ALONE,
        at_once: int | None = None,
    ) -> None:
        """Begin with the predictor as it is.

        Args:
            at_once: Styles that pass the model together; default: all of a step.

        Raises:
            UsageError: Parameters that are not float32, or would never learn.
        """
        refuse_half(predictor)
        refuse_dead(predictor)
        self.predictor = predictor
        self.material = material
        self.settings = settings
        self.done = 0
        self.is_torn = False
        self._team = team
        self._at_once = at_once or settings.global_batch
        self.optimiser = torch.optim.AdamW(
            groups(predictor, settings.weight_decay),
            lr=settings.lr,
            betas=BETAS,
            fused=material.denoiser.device.type == "cuda",
        )
        self.averages: dict[str, Tensor] | None = None
        if settings.ema is not None:
            self.averages = {
                name: value.detach().clone() for name, value in predictor.named_parameters()
            }

    def step(self) -> Figures:
        """Learn once.

        Raises:
            ItemError: The loss or the gradient is no number; nothing was learned from it.
        """
        loss, references, times = self.gradients()
        rate = optimising.learning_rate(self.settings, self.done)
        norm = optimising.prepare(
            self.optimiser,
            self.predictor.parameters(),
            loss=loss,
            rate=rate,
            clip=self.settings.clip,
            step=self.done,
            section="i2l",
        )
        self.is_torn = True
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.done += 1
        self._average()
        self.is_torn = False
        return Figures(loss, norm, rate, references, times)

    def parameters(self) -> dict[str, nn.Parameter]:
        """All that learn, in the optimiser's order."""
        return dict(self.predictor.named_parameters())

    def gradients(self) -> tuple[float, int, list[float]]:
        """Of the next step, added up over all processes; and its loss, N and times.

        What fails here, such as for lack of memory, leaves everything that is kept as it was.
        """
        self.optimiser.zero_grad(set_to_none=True)
        lessons = self.material.draws.at(self.done)
        rows = sum(len(one.targets) for one in lessons)
        own = self._team.share(lessons)
        total = torch.zeros(1, dtype=torch.float64)
        times: list[float] = []
        for at in range(0, len(own), self._at_once):
            some = self.material.batch(own[at : at + self._at_once])
            total += self._backward(some, rows)
            times += self.material.shares(some.times)
        optimising.add_up(self._team, self.predictor.parameters())
        self._team.add_up([total])
        return float(total), len(lessons[0].references), times

    @contextmanager
    def averaged(self) -> Iterator[Predictor]:
        """The predictor as it is written: with averaged weights, where it has them."""
        if self.averages is None:
            yield self.predictor
            return
        own = {name: value.detach().clone() for name, value in self.predictor.named_parameters()}
        _copy(self.predictor, self.averages)
        try:
            yield self.predictor
        finally:
            _copy(self.predictor, own)

    def _backward(self, some: Batch, rows: int) -> float:
        """Add the gradient of some rows of a step; their part of its loss."""
        denoiser = self.material.denoiser
        packed = predicted(self.predictor, some.tokens, denoiser)
        # Within the block: checkpointed layers are computed once more on the way back.
        with in_model(self.predictor, packed, some.slots, denoiser):
            weights = denoiser.weight(
                some.times, self.settings.loss_weight, shift=self.material.shift
            )
            loss = (losses(denoiser, some) * weights.to(some.clean.device)).sum() / rows
            loss.backward()
        return float(loss.detach())

    def _average(self) -> None:
        if self.averages is None:
            return
        assert self.settings.ema is not None  # noqa: S101 - averages follow from it
        # Young averages forget where they began sooner.
        decay = min(self.settings.ema, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.averages.values()),
                [value.detach() for value in self.predictor.parameters()],
                1 - decay,
            )


def predicted(
    predictor: Predictor, tokens: Float[Tensor, "b n t e"], denoiser: Denoiser
) -> Float[Tensor, "b numbers"]:
    """LoRAs, packed; the trunk computes in the model's type, its parameters are float32."""
    device = denoiser.device.type
    is_mixed = denoiser.dtype == torch.bfloat16
    with torch.autocast(device, dtype=torch.bfloat16, enabled=is_mixed):
        packed: Tensor = predictor(tokens)
    return packed


def in_model(
    predictor: Predictor,
    packed: Float[Tensor, "b numbers"] | None,
    slots: Sequence[int | None],
    denoiser: Denoiser,
) -> AbstractContextManager[None]:
    """The model whose row r has LoRA `slots[r]`; none at all where nothing is packed."""
    if packed is None:
        return nullcontext()
    # Or the layers of a model in half precision would compute in full.
    factors = predictor.factors(packed.to(denoiser.dtype))
    return row_loras.applied(denoiser.model, factors, slots)


def losses(denoiser: Denoiser, some: Batch) -> Float[Tensor, " rows"]:
    """Mean squared error of each row, in float32, of the model as it is now."""
    noised = denoiser.noised(some.clean, some.noise, some.times)
    wanted = denoiser.target(some.clean, some.noise, some.times)
    output = denoiser.predict(noised, some.times, some.prompts)
    return (output.float() - wanted.float()).square().flatten(1).mean(dim=1)


def groups(predictor: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices of trunk and heads decay; norms, the bias and queries do not."""
    apart: Mapping[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in predictor.named_parameters():
        apart[parameter.ndim > 1 and name != "queries"].append(parameter)
    return [
        {"params": apart[True], "weight_decay": weight_decay},
        {"params": apart[False], "weight_decay": 0.0},
    ]


def refuse_half(predictor: nn.Module) -> None:
    """See that what learns is float32: in bfloat16 a small step is rounded to none.

    Raises:
        UsageError: A parameter is of another type.
    """
    for name, parameter in predictor.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise UsageError(
                f"{name} of the predictor is {str(parameter.dtype).removeprefix('torch.')}",
                fix="train it in float32; --dtype is of the frozen model alone",
            )


def refuse_dead(predictor: Predictor) -> None:
    """See that a gradient reaches something: B may be zero, A must not be.

    Raises:
        UsageError: All last matrices are zero.
    """
    if predictor.is_dead:
        raise UsageError(
            "all last matrices of this predictor are zero, so that it would never learn",
            fix="begin from another --init, or without",
        )


def _copy(predictor: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in predictor.named_parameters():
            parameter.copy_(values[name])
