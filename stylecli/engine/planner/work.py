"""What a command asks of the model, told without the model: rows, sizes, and how often each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from stylecli.artifacts import images
from stylecli.engine.plan import Input, Job
from stylecli.engine.planner.passes import Handed
from stylecli.errors import ImageError
from stylecli.methods.diffstyler.source import kappa
from stylecli.recipe.schema import Recipe

# So many inputs are looked at for their sizes; of a data set the others will be like them.
LOOKED_AT = 16
NUM_TRAIN_TIMESTEPS = 1000
# Rows that lead latents, which nothing but a gallery has.
LED = "updated"
# Any share between none and all costs the same.
SOME = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Rows of the UNet and what surrounds them, for some items.

    Attributes:
        rows: Of one item, by name, as `Prepared` has them.
        items: How many there are to make.
        contents: How many different pictures they are made from.
        loras: How many LoRAs are learned.
        looks: How many LoRAs pictures are made with.
        height: Of the pictures as the model sees them.
        width: Likewise.
        train_px: Sides of the pictures that LoRAs learn from.
        picture_px: Pixels of the largest file.
    """

    rows: Mapping[str, int]
    items: int
    contents: int
    loras: int
    looks: int
    height: int
    width: int
    train_px: tuple[int, int]
    picture_px: int

    @property
    def is_gallery(self) -> bool:
        return LED in self.rows

    def is_saving(self, recipe: Recipe) -> bool:
        """Whether the recipe keeps less for the gradients of this work."""
        return (recipe.gallery if self.is_gallery else recipe.lora).gradient_checkpointing

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        rows: Mapping[str, int],
        jobs: Sequence[Job],
        *,
        items: int,
        size_px: int | None,
        multiple_px: int,
    ) -> Work:
        """Count what jobs are made of, and look at the sizes of some.

        Args:
            recipe: Of the run.
            rows: UNet rows of one item.
            jobs: All of the plan.
            items: How many of them are left to do.
            size_px: Side of pictures that have no content.
            multiple_px: The model's.
        """
        left = items / len(jobs) if jobs else 0.0
        by_role: dict[str, dict[str, Input]] = {}
        for job in jobs:
            for item in job.inputs:
                by_role.setdefault(item.role, {}).setdefault(item.sha256, item)
        contents = by_role.get("content", {})
        styles = by_role.get("style", {})
        own = recipe.sampling.size if size_px is None else size_px
        seen = _sizes(contents.values())
        learned = _sizes(styles.values())
        height, width = _largest(seen, own, multiple_px)
        crop = recipe.lora.crop_px - recipe.lora.crop_px % multiple_px
        is_lesson = bool(jobs) and jobs[0].command == "train-lora"
        learns = "training" in rows
        return cls(
            rows=rows,
            items=items,
            contents=max(1, round(len(contents) * left)) if contents else items,
            loras=items if is_lesson else len(styles) if learns else 0,
            looks=0 if is_lesson else (len(styles) if learns else 0) + len(by_role.get("lora", {})),
            height=height,
            width=width,
            train_px=(max(crop, multiple_px),) * 2
            if recipe.lora.crop == "random"
            else _largest(learned, recipe.lora.resolution, multiple_px),
            picture_px=max((h * w for h, w in (*seen, *learned)), default=0),
        )


def handed(recipe: Recipe) -> Counter[Handed]:
    """What sampling steps hand from the content to the picture, and how many do.

    Steps that hand over nothing are not among them.
    """
    injection, steps = recipe.injection, recipe.sampling.steps
    counts: Counter[Handed] = Counter()
    for step in range(steps):
        share = kappa(
            step,
            steps=steps,
            injection=injection,
            timestep=round(NUM_TRAIN_TIMESTEPS * (steps - step) / steps),
            num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        )
        if injection.attn_layers == injection.attn_cross == "none":
            share = 1.0
        features = injection.feature_layers != "none" and step < injection.feature_steps
        if features or share < 1:
            counts[Handed(features, share if share in (0.0, 1.0) else SOME)] += 1
    return counts


def _sizes(items: Iterable[Input]) -> list[tuple[int, int]]:
    found = []
    for item in islice(items, LOOKED_AT):
        try:
            found.append(images.size_of(item.path))
        except ImageError:
            continue  # fails as an item, later
    return found


def _largest(
    sizes: Sequence[tuple[int, int]], short_side: int, multiple_px: int
) -> tuple[int, int]:
    """Of pictures at the model's scale, the one with the most pixels; a square where none are."""
    planned = [
        images.Geometry.plan(*size, short_side=short_side, multiple=multiple_px).padded
        for size in sizes or [(short_side, short_side)]
    ]
    return max(planned, key=lambda size: size[0] * size[1])
