"""Pictures edited one instruction after another, with what the style's words looked at."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import images
from stylecli.artifacts.images import Geometry
from stylecli.backbone import lora
from stylecli.backbone.editors.base import Editor
from stylecli.backbone.experts import Experts as Adapters
from stylecli.backbone.probe.base import Probe
from stylecli.engine.painted import FLAT
from stylecli.engine.route.applying.wishes import Edit
from stylecli.engine.route.experts import Experts
from stylecli.errors import ItemError
from stylecli.methods.regionroute.losses import Forms
from stylecli.methods.regionroute.measures import footprint
from stylecli.methods.regionroute.mixture import mixture
from stylecli.methods.regionroute.spans import locate
from stylecli.recipe.route import Apply, Loss
from stylecli.tensors.regions import feather
from stylecli.tensors.seeds import derive

# A footprint's edge is blurred by this share of a cell of attention.
SOFT_CELLS = 0.5


@dataclass(frozen=True, slots=True)
class Looked:
    """What the words of a style looked at, step by step.

    Attributes:
        maps: In the order of sampling; rows and columns of the attention's grid.
        times: The noise levels, or timesteps, that the steps began at.
        tokens: Places of the words in the prompt.
    """

    maps: Float[Tensor, "steps gh gw"]
    times: Float[Tensor, " steps"]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Edited:
    """A picture after one edit.

    Attributes:
        image: At the model's size.
        looked: None where nobody asked.
        weights: Of the experts that did it.
    """

    image: Float[Tensor, "3 h w"]
    looked: Looked | None
    weights: Mapping[str, float]


def fitted(height: int, width: int, *, side: int, multiple: int) -> Geometry:
    """How a picture comes to a size the model works at, and keeps its shape as well as it can.

    The area is about that of a square, the sides are multiples, and one is at most four times the
    other. Nothing is cut off and no margin is added, as with the pictures that experts learned
    from.

    >>> fitted(480, 640, side=512, multiple=16).resized
    (448, 592)
    """
    ratio = min(max(height / width, 1 / images.MAX_ASPECT), images.MAX_ASPECT)
    ideal = side * math.sqrt(ratio), side / math.sqrt(ratio)
    around = [
        sorted({max(1, math.floor(one / multiple)), max(1, math.ceil(one / multiple))})
        for one in ideal
    ]

    def off(size: tuple[int, int]) -> tuple[float, int]:
        shape = abs(math.log(size[0] / size[1] / ratio))
        area = abs(math.log(size[0] * size[1] * multiple**2 / side**2))
        return shape + area, size[0] * size[1]

    rows, columns = min(((h, w) for h in around[0] for w in around[1]), key=off)
    size = rows * multiple, columns * multiple
    return Geometry((height, width), size, size)


class Retoucher:
    """An editor with the experts that some edits need."""

    def __init__(
        self,
        editor: Editor,
        experts: Experts,
        edits: Sequence[Edit],
        loss: Loss,
    ) -> None:
        """Read the experts, find the words, weigh the mixes.

        Args:
            editor: On its device.
            experts: Where the experts are.
            edits: All that will be asked for.
            loss: Which layers to look at, and how a map is read.

        Raises:
            UsageError: An instruction is longer than the model reads.
            WeightsError: An expert is missing, damaged, or of another model.
        """
        self.editor = editor
        self._loss = loss
        self._adapters = Adapters(editor.model)
        self._tokens = {
            edit: locate(editor.tokenizer, edit.prompt, edit.span, editor.text_length)
            for edit in edits
        }
        self._weights = {edit: self._weighed(edit, experts) for edit in edits}
        for one in dict.fromkeys(one for each in self._weights.values() for one in each):
            tensors, header, _ = lora.opened(experts.file(one))
            self._adapters.load(one, tensors, header)

    def chain(
        self,
        pictures: Float[Tensor, "b 3 h w"],
        edits: Sequence[Edit],
        asked: Apply,
        *,
        seeds: Sequence[int],
        looks: bool,
        settle: Callable[[Sequence[Edited]], Float[Tensor, "b 3 h w"]] | None = None,
        on_step: Callable[[], None] = lambda: None,
    ) -> list[list[Edited]]:
        """What every edit makes of what the one before it made.

        Args:
            pictures: At the model's size.
            edits: In their order.
            asked: Steps and guidance.
            seeds: Of each picture; later edits draw noise of their own from them.
            looks: Record attention.
            settle: Takes what an edit made and gives what it comes to; default: the same.
            on_step: Called after each step of each edit.

        Returns:
            Of each picture, one for each edit.

        Raises:
            ItemError: The model gave nothing that can be seen.
        """
        steps: list[list[Edited]] = []
        for at, edit in enumerate(edits):
            own = [seed if at == 0 else derive(seed, at) for seed in seeds]
            done = self._once(pictures, edit, asked, own, looks=looks, on_step=on_step)
            if settle is not None:
                settled = settle(done)
                done = [replace(one, image=image) for one, image in zip(done, settled, strict=True)]
            pictures = torch.stack([one.image for one in done])
            steps.append(done)
        return [list(one) for one in zip(*steps, strict=True)]

    def footprint(self, one: Edited, geometry: Geometry) -> Float[Tensor, "h w"]:
        """Where an edit is to be seen, by what its words looked at; at the file's own size.

        Raises:
            ValueError: Nobody recorded that.
        """
        looked = looked_at(one)
        forms = Forms(gamma=self._loss.gamma, kappa=self._loss.kappa)
        rows, columns = looked.maps.shape[1:]
        mean = looked.maps.float().mean(dim=0).flatten()[None]
        drawn = footprint(mean, forms).view(1, rows, columns)
        seen = images.scaled(drawn.expand(3, -1, -1), geometry.resized)[0]
        cell_px = min(geometry.resized[0] / rows, geometry.resized[1] / columns)
        soft = feather(seen, SOFT_CELLS * cell_px)
        return images.scaled(soft.expand(3, -1, -1), geometry.original)[0]

    @torch.inference_mode()
    def _once(
        self,
        pictures: Float[Tensor, "b 3 h w"],
        edit: Edit,
        asked: Apply,
        seeds: Sequence[int],
        *,
        looks: bool,
        on_step: Callable[[], None],
    ) -> list[Edited]:
        editor, count = self.editor, len(pictures)
        reference = editor.encode_image(pictures.to(editor.device))
        text = editor.encode_prompt([edit.prompt]).rows([0] * count)
        tokens = self._tokens[edit]
        maps: list[Tensor] = []
        times: list[float] = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._adapters.mixed(self._weights[edit]))
            probe: Probe | None = None
            grid = editor.grid(reference)
            if looks:
                probe = stack.enter_context(editor.probing(self._loss.layers))
                probe.watch([[tokens]] * count, grid)

            def after(_: int, time: float) -> None:
                if probe is not None:
                    maps.append(probe.maps()[..., 0].cpu())
                    times.append(time)
                on_step()

            latents = editor.edit(
                reference,
                text,
                seeds=seeds,
                steps=asked.steps,
                guidance=asked.guidance,
                image_guidance=asked.image_guidance,
                after=after,
            )
            decoded = editor.decode(latents).float().cpu().clamp(0, 1).clone()
        refuse_nothing(pictures, decoded)
        found = []
        for row in range(count):
            looked = None
            if maps:
                own = torch.stack([one[row].view(grid) for one in maps]).clone()
                looked = Looked(own, torch.tensor(times), tokens)
            found.append(Edited(decoded[row], looked, self._weights[edit]))
        return found

    def _weighed(self, edit: Edit, experts: Experts) -> Mapping[str, float]:
        """Which experts do it: the one, or the nearest to what its style is called."""
        if edit.mix is None:
            return dict.fromkeys(edit.experts, 1.0)
        phrases = [experts.of(one).style.text for one in edit.experts]
        query, *keys = self._meanings([edit.style, *phrases])
        chosen = mixture(query, torch.stack(keys), *edit.mix)
        return {edit.experts[at]: weight for at, weight in chosen}

    @torch.inference_mode()
    def _meanings(self, phrases: Sequence[str]) -> list[Float[Tensor, " d"]]:
        """A vector of each: CLIP's own where the model has it, else that of the last token."""
        found = []
        for phrase in phrases:
            text = self.editor.encode_prompt([phrase])
            last = len(self.editor.tokenizer(phrase).input_ids) - 1
            own = text.embeds[0, last] if text.pooled is None else text.pooled[0]
            found.append(own.float().cpu())
        return found


def looked_at(one: Edited) -> Looked:
    """What was recorded of an edit.

    Raises:
        ValueError: Nothing was.
    """
    if one.looked is None:
        raise ValueError("nobody asked what was looked at")
    return one.looked


def refuse_nothing(before: Float[Tensor, "b 3 h w"], after: Float[Tensor, "b 3 h w"]) -> None:
    """See that there is something in every picture.

    Raises:
        ItemError: It is none, or a single colour.
    """
    if not bool(after.isfinite().all()):
        raise ItemError("the model returned NaN or infinity", fix="use --dtype float32")
    for was, now in zip(before, after, strict=True):
        if float(now.std()) < FLAT <= float(was.std()):
            raise ItemError("the result is one flat colour", fix="use --dtype float32")
