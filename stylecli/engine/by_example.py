"""Restyles contents straight after pictures, with StyleID or Attention Distillation.

Nothing is learned. The makers and sheets of `stylecli.engine.painter` work with this one as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.inversion import Trajectory
from stylecli.engine.contents import Canvas, Inverter
from stylecli.engine.context import Task
from stylecli.engine.painted import Painted, pasted
from stylecli.engine.painting import Painting
from stylecli.engine.plan import Input
from stylecli.engine.regions import Masks
from stylecli.engine.session import Session
from stylecli.engine.trajectories import together
from stylecli.methods import attention_distillation, styleid
from stylecli.recipe.schema import Recipe


class ByExample:
    """A loaded model that looks at style pictures."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.backbone = session.backbone
        self.recipe = session.recipe
        self.context = session.context
        self.inverter = Inverter(self.backbone, self.context)
        self._checkpoints = False

    def step_down(self) -> str | None:
        is_distilled = self.recipe.sampling.method == "attn-distill"
        if is_distilled and not (self._checkpoints or self.recipe.distill.gradient_checkpointing):
            self._checkpoints = True
            return "with gradient checkpointing"
        return self.session.step_down()

    def paint_each(
        self, content: Input, paintings: Sequence[Painting], *, recipe: Recipe | None = None
    ) -> list[Painted]:
        """Restyle one content in several ways; see `paint_together`."""
        recipe = recipe or self.recipe
        canvas = self.inverter.open(content, recipe, whole=False)
        return [one for (one,) in self.paint_together([canvas], paintings, recipe)]

    def paint_together(
        self,
        canvases: Sequence[Canvas],
        paintings: Sequence[Painting],
        recipe: Recipe,
        rows: int = 1,
    ) -> list[list[Painted]]:
        """Restyle contents of one size, each after the same pictures.

        The pictures share the contents' inversion and their passes through the model.

        Args:
            canvases: At most `rows` of them.
            paintings: Each of one style picture, everywhere.
            recipe: Of the run, with other settings of the method or of sampling.
            rows: The model always sees so many contents, the last one filling up, so that results
                do not depend on which others there are; for Attention Distillation one.

        Returns:
            For every painting, its result of every canvas.

        Raises:
            ItemError: A style cannot be read, or the model gave nothing that can be seen.
        """
        pictures = [next(painting.parts).look for painting in paintings]
        styles = [self.inverter.open(one, recipe, whole=False) for one in pictures]
        if recipe.sampling.method == "attn-distill":
            latents, at_once = self._distilled(canvases, styles, recipe), 1
        else:
            latents, at_once = self._styleid(canvases, styles, recipe, rows), rows
        return [self._finished(canvases, of_one_style, at_once) for of_one_style in latents]

    def _styleid(
        self, canvases: Sequence[Canvas], styles: Sequence[Canvas], recipe: Recipe, rows: int
    ) -> list[Tensor]:
        content = self.inverter.invert([canvas.view() for canvas in canvases], recipe, rows)
        theirs = [self.inverter.invert([style.view()], recipe) for style in styles]
        lots = content.latents.split(self.backbone.max_rows or rows, dim=1)
        with self._task(canvases, recipe.sampling.steps * len(lots)) as task:
            return _joined(
                styleid.stylise(
                    self.backbone,
                    Trajectory(content.levels, lot),
                    theirs,
                    recipe.styleid,
                    on_step=task.advance,
                )
                for lot in lots
            )

    def _distilled(
        self, canvases: Sequence[Canvas], styles: Sequence[Canvas], recipe: Recipe
    ) -> list[Tensor]:
        encode, settings = self.backbone.encode_image, recipe.distill
        if self._checkpoints:
            settings = settings.model_copy(update={"gradient_checkpointing": True})
        theirs = [encode(style.image) for style in styles]
        with self._task(canvases, recipe.distill.iterations * len(canvases)) as task:
            # One at a time: updates follow signs, so the last bit, in which two shapes of a batch
            # differ, would grow.
            return _joined(
                attention_distillation.distil(
                    self.backbone,
                    encode(canvas.image),
                    theirs,
                    settings,
                    on_step=task.advance,
                )
                for canvas in canvases
            )

    def _task(self, canvases: Sequence[Canvas], steps: int) -> AbstractContextManager[Task]:
        name = together([canvas.name for canvas in canvases])
        return self.context.reporter.task(f"paint {name}", steps)

    def _finished(
        self, canvases: Sequence[Canvas], latents: Float[Tensor, "rows c h w"], at_once: int
    ) -> list[Painted]:
        decoded = torch.cat([self.backbone.decode(some).cpu() for some in latents.split(at_once)])
        return [
            pasted(canvas, Masks(), one[None], self.recipe.sampling, [])
            for canvas, one in zip(canvases, decoded[: len(canvases)], strict=True)
        ]


def _joined(parts: Iterable[Sequence[Tensor]]) -> list[Float[Tensor, "rows c h w"]]:
    """Results of some contents after every style -> of every style, all contents."""
    return [torch.cat(of_one_style) for of_one_style in zip(*parts, strict=True)]
