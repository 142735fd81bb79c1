"""What `style i2l-predict` makes of its jobs: a LoRA of the references of each."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from stylecli.artifacts import files, images, store
from stylecli.backbone import lora, lora_algebra, lora_layouts
from stylecli.backbone.row_loras import Pairs
from stylecli.engine.contents import read_content
from stylecli.engine.i2l import header
from stylecli.engine.i2l.encoders import DTYPES
from stylecli.engine.i2l.forward import Forward, without_refiners
from stylecli.engine.i2l.header import Header, Kind
from stylecli.engine.i2l.neutral import prefix
from stylecli.engine.lora_files import saving
from stylecli.engine.plan import Input, Job
from stylecli.engine.provenance import Model, provenance
from stylecli.engine.session import Session
from stylecli.methods.i2l.files import Config
from stylecli.recipe.i2l import I2L
from stylecli.tensors.colour import Colours, Moments, moments

Fuse = Literal["tokens", "delta", "factors"]
# Of the section i2l, what decides a predicted LoRA.
DECISIVE = {"scale", "compress_rank", "exclude_refiners", "format", "dtype"}


@dataclass(frozen=True, slots=True)
class Order:
    """What becomes of the references of one job.

    Attributes:
        groups: Each makes one LoRA; several are summed.
        fuse: How.
    """

    groups: tuple[tuple[Input, ...], ...]
    fuse: Fuse = "tokens"

    @property
    def count(self) -> int:
        """References of all groups."""
        return sum(map(len, self.groups))

    @property
    def most(self) -> int:
        """References of the largest group, which the neutral LoRA is to be of."""
        return max(map(len, self.groups))


@dataclass(frozen=True, slots=True)
class Seen:
    """The references of a job as the encoder is to see them, group by group.

    Attributes:
        sizes: Heights and widths of the files, group by group.
        colours: Of the whole files, moments of each.
    """

    squares: list[list[Tensor]] = field(default_factory=list)
    sizes: list[list[tuple[int, int]]] = field(default_factory=list)
    colours: list[Moments] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Predicted:
    """LoRAs ready to be written.

    Attributes:
        pairs: As they are to be, strength and rank included.
        neutral: The same of grey pictures, where it is asked for.
        sizes: As headers have them.
        colours: Those of all references, as those of the pictures that a LoRA is trained on.
    """

    pairs: Pairs
    neutral: Pairs | None
    sizes: tuple[tuple[int, int], ...]
    colours: Colours


class PredictMaker:
    """A predictor at work on the jobs of a plan.

    One at a time: what passes beside it would change the last bits of a LoRA, and a pass is short.
    """

    batch = 1

    def __init__(
        self,
        session: Session,
        forward: Forward,
        sha256: str,
        orders: Mapping[str, Order],
    ) -> None:
        """Take the jobs on.

        Args:
            session: Its model is not loaded.
            forward: The predictor and its encoder.
            sha256: Of the predictor's file.
            orders: Of each job, by its key.
        """
        self._session = session
        self._forward = forward
        self._sha256 = sha256
        self._orders = orders
        self._settings: I2L = session.recipe.i2l

    def load(self, job: Job) -> Seen:
        """Read the references; they are small from here on.

        Raises:
            ImageError: One of them cannot be read.
        """
        seen = Seen()
        for group in self._orders[job.key].groups:
            pixels = [read_content(item).pixels for item in group]
            seen.squares.append([self._forward.prepared(one) for one in pixels])
            seen.sizes.append([(one.shape[0], one.shape[1]) for one in pixels])
            seen.colours.extend(moments(images.to_tensor(one)) for one in pixels)
        return seen

    def bucket(self, job: Job, loaded: Seen) -> Hashable:
        return job.key

    def make(self, group: Sequence[tuple[Job, Seen]]) -> list[Predicted]:
        """The LoRA of every job.

        Raises:
            ItemError: It holds what is no number.
        """
        return [self._made(job, seen) for job, seen in group]

    def save(self, job: Job, made: Predicted) -> Mapping[str, Any]:
        """Write it, and its neutral one where that is asked for; see that both read as they should.

        Raises:
            ItemError: A number does not fit the type, or the file cannot be written.
        """
        order = self._orders[job.key]
        kind: Kind = "style" if order.fuse == "tokens" else "mix"
        entries = {lora.COLOURS: made.colours.to_json()}
        self._write(job, job.output, made.pairs, kind, made.sizes, entries)
        for beside in job.beside:
            if made.neutral is not None:
                self._write(job, beside, made.neutral, "neutral", made.sizes, {})
        norms = lora_algebra.norms(made.pairs).values()
        return {
            "references": order.count,
            "rank": _rank(made.pairs),
            "layers": len(made.pairs),
            "norm": round(sum(norm * norm for norm in norms) ** 0.5, 4),
        }

    def shrink(self) -> None:
        """There is nothing to do without: a pass keeps nothing for later."""

    def _made(self, job: Job, seen: Seen) -> Predicted:
        order, forward = self._orders[job.key], self._forward
        config = forward.config
        found = [forward.pairs(squares) for squares in seen.squares]
        pairs = found[0]
        if len(found) > 1:
            combine = lora_algebra.delta if order.fuse == "delta" else lora_algebra.factors
            pairs = combine([(one, 1 / len(found)) for one in found])
        sizes = header.sizes_that_count(config, max(seen.sizes, key=len))
        neutral = self._finished(forward.neutral(order.most, sizes)) if job.beside else None
        return Predicted(self._finished(pairs), neutral, sizes, Colours.of_moments(seen.colours))

    def _finished(self, pairs: Pairs) -> Pairs:
        if self._settings.exclude_refiners:
            pairs = without_refiners(pairs, self._forward.config)
        rank = self._settings.compress_rank
        smaller = pairs if rank is None else lora_algebra.compressed(pairs, rank)
        return lora_algebra.scaled(smaller, self._settings.scale)

    def _write(
        self,
        job: Job,
        output: Path,
        pairs: Pairs,
        kind: Kind,
        sizes: tuple[tuple[int, int], ...],
        entries: Mapping[str, str],
    ) -> None:
        settings, config = self._settings, self._forward.config
        order = self._orders[job.key]
        said = Header(
            kind=kind,
            predictor_sha256=self._sha256,
            backbone=config.backbone,
            backbone_revision=config.revision,
            rank=_rank(pairs),
            scale_folded=settings.scale,
            n_refs=order.most,
            refs=() if job.strip else tuple(item.sha256 for g in order.groups for item in g),
            sizes=sizes,
            exclude_refiners=settings.exclude_refiners,
            norms={path: float(f"{norm:.4g}") for path, norm in lora_algebra.norms(pairs).items()},
        )
        entries = {**entries, **said.entries()}
        context = self._session.context
        made_by = provenance(
            job,
            self._recorded(config),
            Model(config.backbone, config.fingerprint or "", context.device, context.dtype),
            fuse=order.fuse,
            groups=[len(group) for group in order.groups],
            **({"neutral": True} if kind == "neutral" else {}),
        )
        if made_by is not None:
            entries[store.KEY] = files.to_json(made_by)
        lora_layouts.verify(pairs, config.layers)
        saving.save(
            output,
            pairs,
            prefix=prefix(config),
            layout=settings.format,
            dtype=DTYPES[settings.dtype],
            entries=entries,
        )

    def _recorded(self, config: Config) -> dict[str, Any]:
        own = self._settings.model_dump(include=DECISIVE | {"encoder"})
        own["encoder"]["id"] = Path(own["encoder"]["id"]).name
        # What the predictor's own file says is none of the settings that were in force.
        return {"backbone": {"id": config.backbone, "revision": config.revision}, "i2l": own}


def _rank(pairs: Pairs) -> int:
    return max(len(down) for down, _ in pairs.values())
